# SPDX-License-Identifier: Apache-2.0
"""Batches of images for training: exact tensors, keys, altered views."""

import hashlib
import math

import numpy as np
import pytest
import torch
from PIL import Image

from cmim_hf.data.image_collator import ANGLE, SCALE, SHIFT, CMIMImageCollator, altered
from cmim_hf.data.image_files import load_images
from cmim_hf.data.labelled_images import LabelledImages
from cmim_hf.model.image_processing_cmim import CMIMImageProcessor

COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def test_exact_tensors():
    images = LabelledImages(COLOURS[[0, 1, 0]], [4, 5, 6])
    batch = CMIMImageCollator(CMIMImageProcessor(4, num_channels=3))(list(images))
    assert list(batch) == ["pixel_values", "labels", "keys"]
    assert batch["labels"].dtype == batch["keys"].dtype == torch.int64
    levels = COLOURS[[0, 1, 0]].transpose(0, 3, 1, 2)  # channel by channel, as pixel_values
    assert batch["labels"].tolist() == levels.reshape(3, 48).tolist()
    expected = torch.from_numpy(levels / np.float32(255)).float()
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["keys"][0] == batch["keys"][2] != batch["keys"][1]
    digest = hashlib.blake2b(COLOURS[0].tobytes(), digest_size=8).digest()
    assert batch["keys"][0] == int.from_bytes(digest, "little", signed=True)


def test_every_level_is_its_own_label():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    batch = CMIMImageCollator(CMIMImageProcessor(16))([{"image": levels}])
    assert batch["labels"][0].tolist() == list(range(256))


def test_labels_of_a_binarising_processor_are_the_lowest_and_the_highest_level(digits):
    batch = CMIMImageCollator(CMIMImageProcessor(8, binarize=0.5))(digits.__getitems__(range(9)))
    assert torch.equal(batch["labels"], 255 * batch["pixel_values"].flatten(1).long())
    white = torch.from_numpy(digits.images[:9] > 127).flatten(1)
    assert torch.equal(batch["labels"], 255 * white.long())


def test_keys_tell_images_apart_and_do_not_depend_on_their_form(digits):
    collate = CMIMImageCollator(CMIMImageProcessor(8))
    keys = collate(list(digits))["keys"]
    assert len(keys.unique()) == len(np.unique(digits.images.reshape(len(digits), -1), axis=0))
    assert collate([{"image": Image.fromarray(digits.images[5, ..., 0])}])["keys"] == keys[5]


def test_views_are_a_function_of_seed_epoch_and_row(digits):
    collate = CMIMImageCollator(CMIMImageProcessor(8), views=2, seed=7)
    examples = digits.__getitems__(range(64))
    batch = collate(examples)
    assert batch["pixel_values"].shape == (128, 1, 8, 8) and batch["labels"].shape == (128, 64)
    plain = CMIMImageCollator(CMIMImageProcessor(8))(examples)
    assert torch.equal(batch["keys"], plain["keys"])
    # Each view is to be decoded to itself.
    assert torch.equal(batch["labels"], (255 * batch["pixel_values"]).round().long().flatten(1))
    first, second = batch["labels"].chunk(2)
    for one, other in ((first, second), (first, plain["labels"]), (second, plain["labels"])):
        assert (one != other).any(dim=1).float().mean() > 0.95
    alone = collate([examples[10]])["labels"]
    assert torch.equal(alone, torch.stack([first[10], second[10]]))
    for changed in (
        CMIMImageCollator(CMIMImageProcessor(8), views=2, seed=8)([examples[10]]),
        collate([examples[10] | {"epoch": 1}]),
        collate([examples[10] | {"row": 9999}]),
    ):
        assert (changed["labels"] != alone).any(dim=1).all()


def test_views_are_binarised_after_they_were_altered(digits):
    collate = CMIMImageCollator(CMIMImageProcessor(8, binarize=0.5), views=2)
    batch = collate(digits.__getitems__(range(16)))
    assert batch["pixel_values"].unique().tolist() == [0, 1]
    grey = CMIMImageCollator(CMIMImageProcessor(8), views=2)(digits.__getitems__(range(16)))
    assert torch.equal(batch["pixel_values"], (grey["pixel_values"] > 0.5).float())


def turned(image, right, down, turn, scale):
    """`altered` pixel by pixel, by the formula."""
    height, width, channels = image.shape
    angle, size = math.radians(ANGLE) * turn, 1 + SCALE * scale
    result = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            to_x = x + 0.5 - width / 2 - right * SHIFT * width
            to_y = y + 0.5 - height / 2 - down * SHIFT * height
            from_x = (math.cos(angle) * to_x + math.sin(angle) * to_y) / size + width / 2 - 0.5
            from_y = (math.cos(angle) * to_y - math.sin(angle) * to_x) / size + height / 2 - 0.5
            from_x, from_y = min(max(from_x, 0), width - 1), min(max(from_y, 0), height - 1)
            left, top = min(int(from_x), width - 2), min(int(from_y), height - 2)
            a, b = from_x - left, from_y - top
            result[y, x] = (
                (1 - a) * (1 - b) * image[top, left] + a * (1 - b) * image[top, left + 1]
                + (1 - a) * b * image[top + 1, left] + a * b * image[top + 1, left + 1]
            )  # fmt: skip
    return result


def test_altered_images_are_moved_turned_and_scaled():
    images = np.random.default_rng(1).integers(0, 256, (12, 9, 12, 3), dtype=np.uint8)
    draws = np.random.default_rng(2).random((12, 4))
    draws[0], draws[1] = 0.5, (1, 0, 1, 0)
    found = altered(images, draws)
    assert found.dtype == np.uint8 and np.array_equal(found[0], images[0])
    expected = [turned(image, *(2 * row - 1)) for image, row in zip(images, draws, strict=True)]
    assert np.abs(found - np.stack(expected)).max() <= 0.51


def test_draws_spread_over_their_range(digits):
    """Of many rows and epochs: centres of gravity move evenly, by at most a tenth of the width."""
    dot = np.zeros((20, 20), np.uint8)
    dot[9:11, 9:11] = 255
    collate = CMIMImageCollator(CMIMImageProcessor(20), views=2)
    examples = [{"image": dot, "row": row, "epoch": epoch} for row in range(50) for epoch in (0, 1)]
    pixels = collate(examples)["pixel_values"][:, 0].numpy()
    places = np.arange(20) - 9.5
    moves = [(pixels.sum(axis) @ places) / pixels.sum((1, 2)) for axis in (1, 2)]
    for move in moves:
        assert np.abs(move).max() < 2.2 and move.min() < -1.7 and move.max() > 1.7
        assert abs(move.mean()) < 0.3 and 0.9 < move.std() < 1.4  # of 2 / sqrt(3) = 1.15
    assert abs(np.corrcoef(*moves)[0, 1]) < 0.25


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([COLOURS[0] / 255], r"views=2 needs uint8 images of one size, got float64 \(4, 4, 3\)"),
        ([COLOURS[0], COLOURS[1, :3]], r"got uint8 \(3, 4, 3\), uint8 \(4, 4, 3\)"),
    ],
)
def test_second_views_need_levels_of_one_size(images, message):
    collate = CMIMImageCollator(CMIMImageProcessor(4, num_channels=3), views=2)
    with pytest.raises(ValueError, match=message):
        collate([{"image": image, "row": 0, "epoch": 0} for image in images])


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="views is 1, or 2 for InfoNCE, not 3"):
        CMIMImageCollator(CMIMImageProcessor(4), views=3)
    collate = CMIMImageCollator(CMIMImageProcessor(4, num_channels=3), views=2)
    with pytest.raises(ValueError, match=r"'row' and 'epoch', got \['image'\]"):
        collate([{"image": COLOURS[0]}])
