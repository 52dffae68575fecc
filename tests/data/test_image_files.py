# SPDX-License-Identifier: Apache-2.0
"""Images from each kind of source, and what is said of files that are not sound."""

import gzip
import struct

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cmim_hf.data.image_files import load_images

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 7), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0, 2, 1])


def test_digits_are_those_of_scikit_learn():
    train, test = load_images("digits"), load_images("digits", "test")
    assert len(train) == 1437 and len(test) == 360
    assert train.images.shape[1:] == (8, 8, 1) and train.classes == list("0123456789")
    own = load_digits()
    joined = np.concatenate([train.images, test.images])[..., 0]
    assert np.array_equal(joined, np.round(own.images * 255 / 16))
    assert joined.max() == 255 and np.bincount(test.labels).min() >= 33
    assert np.array_equal(np.concatenate([train.labels, test.labels]), own.target)
    with pytest.raises(
        ValueError, match="digits: there is no `part` 'validation'; it has train, t"
    ):
        load_images("digits", "val")


def save_images(folder, images, labels, names):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / names[label] / f"{number}.png")


@pytest.fixture
def image_folder(tmp_path):
    save_images(tmp_path / "set" / "train", IMAGES, LABELS, "abc")
    save_images(tmp_path / "set" / "test", IMAGES[:2], LABELS[:2], "abc")
    return tmp_path / "set"


def test_a_folder_of_images(image_folder):
    images = load_images(image_folder)
    assert images.classes == ["a", "b", "c"]
    order = np.argsort(LABELS, kind="stable")  # a folder is read class by class
    assert images.labels.tolist() == LABELS[order].tolist()
    assert np.array_equal(images.images[..., 0], IMAGES[order])
    test = load_images(image_folder, "test")
    assert test.classes == ["a", "b", "c"] and test.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no `part` 'validation'; it has train, test"):
        load_images(image_folder, "validation")


def test_images_without_classes(tmp_path):
    for number, image in enumerate(COLOURS):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    images = load_images(tmp_path)
    assert images.labels is None and images.classes is None
    assert np.array_equal(images.images, COLOURS)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), r"2\.png cannot be read as an im"),
        (lambda path: path.write_text("no image"), r"2\.png cannot be read as an image: .* Fetch"),
        (
            lambda path: Image.new("L", (7, 6)).save(path),
            r"2\.png is of shape \(6, 7\), the .*5, 7",
        ),
        (lambda path: Image.new("RGB", (7, 5)).save(path), r"2\.png is of shape \(5, 7, 3\), the"),
        (lambda path: Image.new("RGBA", (7, 5)).save(path), r"2\.png is of PIL's mode RGBA"),
        (lambda path: Image.new("I;16", (7, 5)).save(path), r"2\.png is of PIL's mode I;16"),
    ],
)
def test_an_image_that_does_not_fit_is_named(image_folder, break_it, message):
    break_it(image_folder / "train" / "b" / "2.png")
    with pytest.raises(ValueError, match=message):
        load_images(image_folder)


@pytest.fixture
def stored(tmp_path):
    kinds = datasets.Features(
        {"y": datasets.ClassLabel(names=["no", "yes", "ab"]), "picture": datasets.Image()}
    )
    rows = {"y": LABELS, "picture": [Image.fromarray(image) for image in COLOURS]}
    train = datasets.Dataset.from_dict(rows, features=kinds)
    return datasets.DatasetDict({"train": train, "validation": train.select([5, 2])})


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_folders_of_datasets(stored, tmp_path, form):
    if form == "saved":
        stored.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
        for part, rows in stored.items():
            rows.to_parquet(tmp_path / "set" / f"{part}.parquet")
    images = load_images(tmp_path / "set")
    assert images.classes == ["no", "yes", "ab"] and images.labels.tolist() == LABELS.tolist()
    assert np.array_equal(images.images, COLOURS)
    for part in ("validation", "val"):
        assert np.array_equal(load_images(tmp_path / "set", part).images, COLOURS[[5, 2]])


def test_a_saved_dataset_without_parts_is_for_training(stored, tmp_path):
    stored["validation"].save_to_disk(tmp_path / "set")
    assert np.array_equal(load_images(tmp_path / "set").images, COLOURS[[5, 2]])
    with pytest.raises(ValueError, match="set: there is no `part` 'test'; it has train"):
        load_images(tmp_path / "set", "test")


def test_columns_of_a_dataset(tmp_path):
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [Image.fromarray(image) for image in IMAGES], "label": LABELS + 5}
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "train.parquet")
    images = load_images(tmp_path)
    assert images.labels.tolist() == (LABELS + 5).tolist() and images.classes is None
    (tmp_path / "train.parquet").unlink()
    datasets.Dataset.from_dict({"a": [1], "b": [2]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="it has no column of images; its columns are a, b"):
        load_images(tmp_path)


def test_no_such_source(tmp_path):
    for source in (tmp_path, tmp_path / "nothing", "nobody/nothing"):
        with pytest.raises(FileNotFoundError, match="neither a file or folder with images nor"):
            load_images(source)
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load_images(tmp_path / "nothing.npz")


def test_arrays_as_of_medmnist(tmp_path, caplog):
    path = tmp_path / "some.npz"
    labels = LABELS[:, None].astype(np.uint8)
    np.savez_compressed(path, train_images=COLOURS, train_labels=labels, val_images=IMAGES,
                        val_labels=np.zeros((6, 14), int))  # fmt: skip
    images = load_images(path)
    assert np.array_equal(images.images, COLOURS) and images.labels.tolist() == LABELS.tolist()
    assert load_images(path, "validation").labels is None
    assert "has 14 labels for each image; they are left out" in caplog.text
    with pytest.raises(
        ValueError, match=r"some\.npz: there is no `part` 'test'; it has train, val"
    ):
        load_images(path, "test")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"some\.npz: it is no \.npz archive, or was cut off"):
        load_images(path)
    path.write_bytes(whole[:200] + bytes(20) + whole[220:])
    with pytest.raises(ValueError, match=r"some\.npz: cannot be read: .* Fetch or write it again"):
        load_images(path)
    entry = whole.index(b"PK\x01\x02")  # the first of the list of contents
    for place, value in ((10, b"\x63"), (42, b"\xff\xff\xff\x7f")):  # compression, offset
        content = whole[: entry + place] + value + whole[entry + place + len(value) :]
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"some\.npz: cannot be read"):
            load_images(path)
    np.savez(path, train_images=IMAGES, train_labels=LABELS[:5])
    with pytest.raises(ValueError, match=r"some\.npz: Labels are int64 \(5,\) for 6 images"):
        load_images(path)
    np.savez(path, train_images=np.zeros((2, 5, 5, 5), np.uint8))
    with pytest.raises(ValueError, match=r"some\.npz: Images are uint8 \(2, 5, 5, 5\)"):
        load_images(path)


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[:2])))
    return folder


def test_files_as_of_mnist(idx_folder):
    images = load_images(idx_folder)
    assert np.array_equal(images.images[..., 0], IMAGES) and images.images.flags.writeable
    assert images.labels.tolist() == LABELS.tolist() and images.classes is None
    test = load_images(str(idx_folder), "test")
    assert np.array_equal(test.images[..., 0], IMAGES[:2]) and test.labels is None
    with pytest.raises(ValueError, match="idx: there is no `part` 'validation'; it has test, tr"):
        load_images(idx_folder, "validation")


def test_files_that_begin_alike(tmp_path):
    for name, rows in (("letters", [1]), ("digits", [2, 3])):
        (tmp_path / f"{name}-train-images-idx3-ubyte").write_bytes(idx(IMAGES[rows]))
        (tmp_path / f"{name}-test-images.idx3-ubyte").write_bytes(idx(IMAGES[rows]))
        (tmp_path / f"{name}-test-labels.idx1-ubyte").write_bytes(idx(LABELS[rows]))
    assert np.array_equal(load_images(tmp_path / "letters").images[..., 0], IMAGES[[1]])
    digits = load_images(f"{tmp_path}/digits-", "test")
    assert np.array_equal(digits.images[..., 0], IMAGES[[2, 3]])
    assert digits.labels.tolist() == [1, 0]


WHOLE = idx(IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], "train-images-idx3-ubyte holds 209 values, not 6 x 5 x 7 as its head says"),
        (WHOLE + b"1", "holds 211 values, not 6 x 5 x 7"),
        (WHOLE[:9], "begins with 00 00 08 03, not with 00 00 08 03 and 3 lengths"),
        (idx(LABELS), "begins with 00 00 08 01, not with 00 00 08 03"),
        (gzip.compress(WHOLE, mtime=0), "begins with 1f 8b 08 00"),
        (b"", "begins with , not with 00 00 08 03"),
        (idx(IMAGES[:0]), "There are no images"),
        (idx(IMAGES[:5]), r"Labels are uint8 \(6,\) for 5 images"),
    ],
)
def test_idx_files_that_are_not_sound(idx_folder, content, message):
    (idx_folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=f"idx: .*{message}"):
        load_images(idx_folder)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(idx(LABELS))[:-9], b"no gzip", gzip.compress(idx(LABELS)) + b"more"],
    ids=["cut off", "none", "with more"],
)
def test_packed_files_that_are_cut_off(idx_folder, content):
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz cannot be read: .* Fetch"):
        load_images(idx_folder)
