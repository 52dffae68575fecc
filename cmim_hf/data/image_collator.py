# SPDX-License-Identifier: Apache-2.0
"""From images to a batch for training: pixels, levels, keys, and altered views for InfoNCE."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..model.image_processing_cmim import CMIMImageProcessor

SHIFT = 0.1  # of height and width
ANGLE = 10.0  # degrees
SCALE = 0.1


class CMIMImageCollator:
    """Makes examples with an `image` to one batch, with a key for each image.

    A batch of B examples becomes, with R = views · B rows of P = channels · height · width pixels:
    `pixel_values` (R, channels, height, width), float32; `labels` (R, P), int64, what is to be
    decoded: the level from 0 to 255 of each pixel; and `keys` (B,), int64, a hash of each image as
    it came (BLAKE2b of its values): equal images, equal keys, in any process.

    With two views rows 0 to B are a first and rows B to 2B a second altered view of each image, and
    each row's labels are its own. Both are moved, turned and scaled by [`altered`], by draws that
    are a function of (seed, epoch, row, view) alone, so a resumed run sees the same ones.

    Args:
        processor: Says the size, the channels and whether pixels are binarised.
        views: 1, or 2 for InfoNCE, which needs uint8 images of one size, with `row` and `epoch`.
        seed: Of the draws.

    Raises:
        ValueError: Another number of views.

    >>> images = [{"image": np.full((4, 4), level, np.uint8)} for level in (51, 255)]
    >>> batch = CMIMImageCollator(CMIMImageProcessor(image_size=4))(images)
    >>> batch["pixel_values"][:, 0, 0, 0].tolist(), batch["labels"][:, 0].tolist()
    ([0.20000000298023224, 1.0], [51, 255])
    """

    def __init__(self, processor: CMIMImageProcessor, *, views: int = 1, seed: int = 0) -> None:
        """Keep the arguments."""
        if views not in (1, 2):
            raise ValueError(f"views is 1, or 2 for InfoNCE, not {views!r}.")
        self.processor = processor
        self.views = views
        self.seed = seed

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some examples, in their order."""
        images = [example["image"] for example in examples]
        keys = _digests([np.asarray(image).tobytes() for image in images], size=8)
        if self.views == 2:
            images = self._views(images, examples)
        pixels = self.processor(images)["pixel_values"]
        return {
            "pixel_values": pixels,
            "labels": (255 * pixels).round_().long().flatten(1),
            "keys": torch.from_numpy(keys.view(np.int64)[:, 0].copy()),
        }

    def _views(self, images: list[Any], examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """First views, then second ones (2 batch, height, width, channels)."""
        arrays = [np.asarray(image) for image in images]
        kinds = sorted({f"{array.dtype} {array.shape}" for array in arrays})
        if len(kinds) > 1 or arrays[0].dtype != np.uint8:
            raise ValueError(f"views=2 needs uint8 images of one size, got {', '.join(kinds)}.")
        if not all("row" in example and "epoch" in example for example in examples):
            raise ValueError(
                f"views=2 needs examples with 'row' and 'epoch', got {sorted(examples[0])}. Use "
                "LabelledImages."
            )
        stacked = np.stack(arrays)
        stacked = stacked[..., None] if stacked.ndim == 3 else stacked
        names = [f"{self.seed},{each['epoch']},{each['row']}".encode() for each in examples]
        draws = _digests(names, size=64) / 2.0**64  # (batch, 8), uniform in [0, 1)
        return np.concatenate([altered(stacked, draws[:, :4]), altered(stacked, draws[:, 4:])])


def altered(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Images moved by up to a tenth each way, turned by up to 10 degrees, scaled by up to a tenth.

    Interpolated bilinearly and rounded; what comes in from outside repeats the border. Nothing is
    mirrored.

    Args:
        images: uint8 (batch, height, width, channels).
        draws: (batch, 4), in [0, 1): the move to the right and down, the turn clockwise, the scale;
            0.5 leaves each as it is.

    Returns:
        uint8 (batch, height, width, channels).

    >>> image = np.zeros((1, 10, 10, 1), np.uint8)
    >>> image[0, 4, 4] = 200
    >>> moved = altered(image, np.array([[1.0, 0.5, 0.5, 0.5]]))  # one pixel to the right
    >>> int(moved[0, 4, 5, 0]), int(moved.sum())
    (200, 200)
    """
    height, width = images.shape[1:3]
    right, down, turn, scale = torch.from_numpy(2 * draws.T - 1).float()
    angle, size = turn * math.radians(ANGLE), 1 + scale * SCALE
    cosine, sine = angle.cos() / size, angle.sin() / size
    # where in the image, from -1 to 1 each way, each pixel of the result comes from
    rows = [
        torch.stack([cosine, sine * height / width], dim=1),
        torch.stack([-sine * width / height, cosine], dim=1),
    ]
    matrix = torch.stack(rows, dim=1)
    offset = -(matrix @ torch.stack([right, down], dim=1)[..., None]) * 2 * SHIFT
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    places = functional.affine_grid(
        torch.cat([matrix, offset], dim=2), list(pixels.shape), align_corners=False
    )
    result = functional.grid_sample(pixels, places, padding_mode="border", align_corners=False)
    return result.round_().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _digests(contents: Sequence[bytes], size: int) -> np.ndarray:
    """BLAKE2b of some contents, as unsigned 64-bit numbers (contents, size / 8)."""
    joined = b"".join(hashlib.blake2b(each, digest_size=size).digest() for each in contents)
    return np.frombuffer(joined, "<u8").reshape(len(contents), -1)
