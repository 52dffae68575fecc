# SPDX-License-Identifier: Apache-2.0
"""Read images and their classes from files, folders, a dataset of the Hub, or scikit-learn."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import needed
from ..model.image_processing_cmim import image_array
from .labelled_images import LabelledImages

logger = logging.getLogger(__name__)

_DIGITS_TRAINING = 1437  # four fifths
_ALIASES = {"t10k": "test", "val": "validation", "valid": "validation"}
_IDX_NAME = re.compile(r"[-_]?(train|t10k|test|val|valid|validation)-images[-.]idx3-ubyte(\.gz)?")
_NPZ_NAME = re.compile(r"(\w+)_images")
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)
_AGAIN = "Fetch or write it again."


def load_images(source: str | os.PathLike = "digits", part: str = "train") -> LabelledImages:
    """Read one part of a set of labelled images into memory.

    Args:
        source: one of
            "digits": 1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn. Their
            levels 0 to 16 are brought to 0 to 255, rounded. The last 360 are the test part, since
            rows stand by writer (42 % have their nearest other image within 60 rows, 7 % by
            chance): logistic regression of the pixels has 90 % right there, 98 % of random rows;
            a file `.npz` with arrays `train_images`, `train_labels`, `val_images` and so on, as of
            MedMNIST;
            a folder, or a folder and the beginning of a name, of idx files as of MNIST:
            `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…`, also with .gz;
            a folder for `datasets.load_dataset`: one of images, whose sub-folders name the parts
            and in these the classes, or of Parquet files, or one that `save_to_disk` wrote;
            the name of a dataset on the Hub.
        part: train, test, validation (also written val), or as a dataset calls its own.

    Returns:
        The images, in the order of the source. In a dataset they are its first column of images,
        the labels its first of classes, or a column `label`. Labels that the source does not have
        are None, as are several for each image (with a warning); names of classes too.

    Raises:
        FileNotFoundError: There is no such file, folder or dataset.
        ValueError: There is no such part; a file is damaged or cut off, or not of the form that its
            name says; images differ in size or channels (it names the first that does), are
            transparent or have more than 8 bits; there are no images, or another number of labels.
        ImportError: scikit-learn is not installed.

    >>> images = load_images("digits", "test")
    >>> images.images.shape, images.labels[:5].tolist(), images.classes[9]
    ((360, 8, 8, 1), [2, 3, 4, 5, 6], '9')
    """
    name, path = os.fspath(source), Path(source)
    part = _ALIASES.get(part, part)
    if name == "digits":
        return _named(name, _digits, part)
    if path.suffix == ".npz":
        return _named(name, _npz, path, part)
    if idx := _idx_files(path):
        return _named(name, _idx, idx, part)
    return _named(name, _dataset, path, part)


def _named(name: str, read: Callable[..., tuple], *where: Any) -> LabelledImages:
    """What `read` finds, its errors beginning with the source."""
    try:
        return LabelledImages(*read(*where))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _chosen(part: str, parts: dict[str, Any]) -> Any:
    if part not in parts:
        raise ValueError(f"there is no `part` {part!r}; it has {', '.join(parts) or 'none'}.")
    return parts[part]


def _digits(part: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with needed("The data set 'digits'", "sklearn"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    parts = {"train": slice(_DIGITS_TRAINING), "test": slice(_DIGITS_TRAINING, None)}
    rows = _chosen(part, parts)
    levels = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
    return levels, digits.target[rows], [str(name) for name in digits.target_names]


def _npz(path: Path, part: str) -> tuple[np.ndarray, np.ndarray | None]:
    if path.exists() and not zipfile.is_zipfile(path):
        raise ValueError(f"it is no .npz archive, or was cut off. {_AGAIN}")
    try:
        with np.load(path) as arrays:
            found = filter(None, map(_NPZ_NAME.fullmatch, arrays))
            parts = {_ALIASES.get(match[1], match[1]): match[1] for match in found}
            key = _chosen(part, parts)
            labels = arrays[f"{key}_labels"] if f"{key}_labels" in arrays else None
            images = arrays[f"{key}_images"]
    except (*_DAMAGED, RuntimeError, OSError) as error:
        if _is_of_the_disk(error):
            raise
        raise ValueError(f"cannot be read: {error}. {_AGAIN}") from error
    if labels is None or labels.ndim != 2:
        return images, labels
    if labels.shape[1] > 1:
        logger.warning(f"{path} has {labels.shape[1]} labels for each image; they are left out.")
        return images, None
    return images, labels[:, 0]


def _is_of_the_disk(error: Exception) -> bool:
    """Whether it is the file that cannot be read, not its content."""
    return getattr(error, "errno", None) not in (None, errno.EINVAL)  # seeks before the beginning


def _idx_files(path: Path) -> dict[str, Path]:
    """The files of images by part, where `path` is a folder, or it and a beginning of a name."""
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    if not folder.is_dir():
        return {}
    parts = {}
    for file in sorted(folder.iterdir()):
        match = _IDX_NAME.fullmatch(file.name.removeprefix(prefix))
        if file.name.startswith(prefix) and match:
            parts.setdefault(_ALIASES.get(match[1], match[1]), file)
    return parts


def _idx(files: dict[str, Path], part: str) -> tuple[np.ndarray, np.ndarray | None]:
    file = _chosen(part, files)
    stem = re.sub(r"images([-.])idx3", r"labels\1idx1", file.name).removesuffix(".gz")
    labelled = [file.with_name(stem + ending) for ending in ("", ".gz")]
    labels = next((_idx_array(other, 1) for other in labelled if other.exists()), None)
    return _idx_array(file, 3), labels


def _idx_array(file: Path, axes: int) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8, the number of axes, their lengths (big-endian), the values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            data = stream.read()
    except _DAMAGED as error:
        raise ValueError(f"{file.name} cannot be read: {error}. {_AGAIN}") from error
    magic, start = bytes([0, 0, 8, axes]), 4 + 4 * axes
    if not data.startswith(magic) or len(data) < start:
        raise ValueError(
            f"{file.name} begins with {data[:4].hex(' ')}, not with {magic.hex(' ')} and {axes} "
            f"lengths as an idx file of bytes with {axes} axes does. {_AGAIN}"
        )
    shape = np.frombuffer(data, ">u4", axes, 4).tolist()
    if len(data) - start != int(np.prod(shape)):
        raise ValueError(
            f"{file.name} holds {len(data) - start:,} values, not {' x '.join(map(str, shape))} as "
            f"its head says. {_AGAIN}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _dataset(path: Path, part: str) -> tuple[np.ndarray, list[int] | None, list[str] | None]:
    import datasets

    saved = any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            parts = datasets.load_from_disk(os.fspath(path))
        else:  # a folder is read as it is, without a copy in the cache of `datasets`
            parts = datasets.load_dataset(os.fspath(path), streaming=path.exists())
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{path} is neither a file or folder with images nor a dataset that can be opened: "
            f"{str(error).rstrip('.')}. Check the name, the network, and `hf auth login` for a "
            "private dataset."
        ) from error
    if isinstance(parts, datasets.Dataset):
        parts = {"train": parts}
    rows = _chosen(part, {_ALIASES.get(name, name): rows for name, rows in parts.items()})
    kinds = rows.features or {}
    columns = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not columns:
        raise ValueError(
            f"it has no column of images; its columns are {', '.join(kinds) or 'unknown'}."
        )
    label = next(iter([*classes, *({"label"} & set(kinds))]), None)
    stored = rows.cast_column(columns[0], datasets.Image(decode=False))
    images, labels = _decoded(stored, columns[0], label)
    return images, labels, kinds[label].names if classes else None


def _decoded(
    rows: Iterable[dict[str, Any]], column: str, label: str | None
) -> tuple[np.ndarray, list[int] | None]:
    """Images and labels of all rows."""
    images, labels = [], []
    for number, row in enumerate(rows):
        name = row[column]["path"] or f"row {number}"
        image = _opened(row[column], name)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{name} is of shape {image.shape}, the images before it {images[0].shape}. Bring "
                "them to one size and one number of channels first."
            )
        images.append(image)
        labels.append(row.get(label))
    if not images:
        raise ValueError("there are no images in it.")
    return np.stack(images), None if label is None else labels


def _opened(stored: dict[str, Any], name: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]) as image:
            image.load()
            return image_array(image, name)
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        if _is_of_the_disk(error):
            raise
        raise ValueError(f"{name} cannot be read as an image: {error}. {_AGAIN}") from error
