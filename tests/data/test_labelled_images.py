# SPDX-License-Identifier: Apache-2.0
"""Images in memory: items, splits, epochs, what is refused."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from cmim_hf.data.labelled_images import LabelledImages

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 5), dtype=np.uint8)


def make(**kwargs):
    return LabelledImages(IMAGES, np.arange(20) % 3, ["a", "b", "c"], **kwargs)


def test_items_are_images_with_label_row_and_epoch():
    images = make()
    assert len(images) == 20 and images.images.shape == (20, 4, 5, 1)
    assert images.labels.dtype == np.int64 and images.classes == ["a", "b", "c"]
    item = images[4]
    assert list(item) == ["image", "row", "label", "epoch"]
    assert np.array_equal(item.pop("image"), IMAGES[4, :, :, None])
    assert item == {"label": 1, "row": 4, "epoch": 0}
    assert images[-1]["row"] == 19
    with pytest.raises(IndexError):
        images[20]
    assert len(list(images)) == 20
    assert "label" not in LabelledImages(IMAGES)[0]


def test_many_items_at_once_are_those_one_by_one():
    images = make()
    images.set_epoch(7)
    for one, index in zip(images.__getitems__([3, 0, 3]), (3, 0, 3), strict=True):
        alone = images[index]
        assert np.array_equal(one.pop("image"), alone.pop("image"))
        assert one == alone == {"label": index % 3, "row": index, "epoch": 7}


def test_taken_images_keep_their_rows():
    taken = make().take([7, 2]).take([1, 0])
    assert taken.rows.tolist() == [2, 7] and taken.labels.tolist() == [2, 1]
    assert np.array_equal(taken.images[..., 0], IMAGES[[2, 7]])
    assert taken[0]["row"] == 2 and taken.classes == ["a", "b", "c"]


def test_a_split_is_one_of_seed_and_size():
    others, held = make().split(6, seed=3)
    assert len(others) == 14 and len(held) == 6
    assert sorted([*others.rows, *held.rows]) == list(range(20))
    assert held.rows.tolist() == sorted(held.rows) != list(range(14, 20))
    assert np.array_equal(held.images[..., 0], IMAGES[held.rows])
    assert np.array_equal(held.labels, held.rows % 3)
    assert make().split(6, seed=3)[1].rows.tolist() == held.rows.tolist()
    assert make().split(6, seed=4)[1].rows.tolist() != held.rows.tolist()
    for size in (0, 20, -1):
        with pytest.raises(ValueError, match=f"Cannot hold {size} of 20 images out"):
            make().split(size, seed=0)


def test_the_epoch_reaches_workers_that_run():
    images = make()
    loader = DataLoader(images, num_workers=1, persistent_workers=True, batch_size=20,
                        collate_fn=lambda rows: {row["epoch"] for row in rows})  # fmt: skip
    seen = []
    for epoch in (0, 4):
        images.set_epoch(epoch)
        seen += list(loader)
    assert seen == [{0}, {4}]


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (IMAGES / 255, None, None, r"Images are float64 \(20, 4, 5, 1\), not uint8"),
        (IMAGES[0], None, None, r"Images are uint8 \(4, 5\)"),
        (np.zeros((2, 4, 4, 4), np.uint8), None, None, r"Images are uint8 \(2, 4, 4, 4\)"),
        (IMAGES[:0], None, None, "There are no images"),
        (IMAGES[:, :0], None, None, "none with pixels"),
        (IMAGES, np.zeros(19, int), None, r"Labels are int64 \(19,\) for 20 images"),
        (IMAGES, np.zeros(20), None, r"Labels are float64 \(20,\)"),
        (IMAGES, [None] * 20, None, r"Labels are object \(20,\)"),
        (IMAGES, np.zeros((20, 2), int), None, r"Labels are int64 \(20, 2\)"),
        (IMAGES, np.arange(20), ["a"] * 19, "Labels go from 0 to 19, but there are 19 names"),
        (IMAGES, np.arange(20) - 1, ["a"] * 20, "Labels go from -1 to 18"),
    ],
)
def test_what_does_not_belong_together_is_refused(images, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        LabelledImages(images, labels, classes)
