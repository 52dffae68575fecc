# SPDX-License-Identifier: Apache-2.0
"""An order of molecules in which batches have nearly equal lengths, and waste little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from .packed_molecules import PackedMolecules

MEGA = 50
"""Batches in a mega-batch; more of them means less padding and less mixing."""


class LengthBucketSampler(Sampler[int]):
    """Yields rows so that each `batch_size` consecutive ones have nearly equal lengths.

    Rows are permuted, cut into mega-batches of `MEGA * batch_size`, sorted by length within each,
    cut into batches, and the batches are shuffled. The rows beyond the last whole batch are left
    out, others in each epoch: a short batch has fewer negatives, and unequal ones on several
    devices cannot be compared. The order is a function of (seed, epoch) alone, so a run can be
    resumed, and every process sees the same.

    Args:
        lengths: Tokens of each row (rows,).
        batch_size: The global batch: rows a device × devices.
        seed: Of the order.
        bucket: False gives a plain permutation.
        dataset: Told each new epoch, which trainers tell the sampler, but not always it.

    >>> lengths = np.array([5, 9, 5, 9, 5, 9])
    >>> lengths[list(LengthBucketSampler(lengths, batch_size=3))].reshape(2, 3).max(axis=1)
    array([9, 5])
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        bucket: bool = True,
        dataset: PackedMolecules | None = None,
    ) -> None:
        """Keep the arguments."""
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.bucket = bucket
        self.dataset = dataset
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, of the dataset as well."""
        self.epoch = epoch
        if self.dataset is not None:
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch."""
        random = np.random.default_rng([self.seed, self.epoch])
        if self.bucket:
            order = bucketed_order(self.lengths, self.batch_size, random)
        else:
            order = random.permutation(len(self.lengths))
        yield from map(int, order[: len(self)])


def bucketed_order(lengths: np.ndarray, batch_size: int, random: np.random.Generator) -> np.ndarray:
    """The order of `LengthBucketSampler`: rows in whole batches; a random rest is left out."""
    order = random.permutation(len(lengths))
    whole = len(order) - len(order) % batch_size
    batches = [np.empty((0, batch_size), np.int64)]
    for start in range(0, whole, MEGA * batch_size):
        rows = order[start : min(start + MEGA * batch_size, whole)]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches.append(rows.reshape(-1, batch_size))
    return random.permutation(np.concatenate(batches)).reshape(-1)
