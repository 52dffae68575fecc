# SPDX-License-Identifier: Apache-2.0
"""Images of one size in memory, perhaps with labels: a torch dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


class LabelledImages(Dataset):
    """Images in memory, as [`load_images`] gives them.

    An item is a dict of `image`, uint8 (height, width, channels); `label`, its class, where there
    are labels; `row`, the image's number, which `split` and `take` leave as it is; and `epoch`, as
    `set_epoch` has set it. The epoch lives in shared memory, so data-loader processes that already
    run see it as well.

    Args:
        images: uint8 (images, height, width) or (images, height, width, channels), 1 or 3 channels.
        labels: Whole numbers (images,), or None.
        classes: Their names, `classes[label]`, or None.

    Attributes:
        images: uint8 (images, height, width, channels).
        labels: int64 (images,), or None.
        classes: A list, or None.
        rows: int64 (images,), the number of each image where it was first.

    Raises:
        ValueError: No images, arrays of another type or shape, another number of labels, or labels
            without a name.

    >>> images = LabelledImages(np.zeros((5, 4, 4), np.uint8), [0, 1, 0, 1, 1], ["no", "yes"])
    >>> others, held_out = images.split(2, seed=0)
    >>> len(others), held_out.rows.tolist(), held_out[1]["image"].shape
    (3, [3, 4], (4, 4, 1))
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Check that they belong together."""
        images = images[..., None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(
                f"Images are {images.dtype} {images.shape}, not uint8 (images, height, width) or "
                "(images, height, width, 1 or 3 channels)."
            )
        if images.size == 0:
            raise ValueError(f"There are no images, or none with pixels: {images.shape}.")
        if labels is not None:
            labels = _checked_labels(np.asarray(labels), len(images), classes)
        self.images = images
        self.labels = labels
        self.classes = None if classes is None else list(classes)
        self.rows = np.arange(len(images))
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return image `index`; IndexError beyond the last."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return some images; data loaders fetch a batch by this."""
        epoch = int(self._epoch)
        chosen = np.asarray(indices)
        columns = {"image": self.images[chosen], "row": self.rows[chosen].tolist()}
        if self.labels is not None:
            columns["label"] = self.labels[chosen].tolist()
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True), epoch=epoch) for row in rows]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the items carry, in every process."""
        self._epoch.fill_(epoch)

    def take(self, rows: Sequence[int] | np.ndarray) -> LabelledImages:
        """Return some images by their places here, copied, in the order given."""
        rows = np.asarray(rows)
        labels = None if self.labels is None else self.labels[rows]
        taken = LabelledImages(self.images[rows], labels, self.classes)
        taken.rows = self.rows[rows]
        return taken

    def split(self, held_out: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Hold some images out, the same ones for the same (images, held_out, seed).

        Returns:
            (the others, the held-out ones), each in the order here, copied. Equal images are not
            looked for: they may fall on both sides.

        Raises:
            ValueError: `held_out` leaves one side empty.
        """
        if not 0 < held_out < len(self):
            raise ValueError(f"Cannot hold {held_out} of {len(self)} images out; leave both sides.")
        held = np.zeros(len(self), dtype=bool)
        held[np.random.default_rng(seed).choice(len(self), held_out, replace=False)] = True
        return self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held))


def _checked_labels(labels: np.ndarray, images: int, classes: Sequence[str] | None) -> np.ndarray:
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Labels are {labels.dtype} {labels.shape} for {images} images; give one whole number "
            "for each image."
        )
    if classes is not None and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ValueError(
            f"Labels go from {labels.min()} to {labels.max()}, but there are {len(classes)} names "
            "of classes; they count from 0."
        )
    return labels.astype(np.int64)
