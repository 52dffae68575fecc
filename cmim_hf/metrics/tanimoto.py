# SPDX-License-Identifier: Apache-2.0
"""Tanimoto similarities of all pairs of two sets of fingerprints, in blocks.

T(a, b) = |a ∩ b| / |a ∪ b| over the bits set. The intersections of a block are one matrix product
of zeros and ones, exact in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from tqdm.auto import tqdm

BLOCK = 3000


def nearest_similarity(fingerprints: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The similarity of each fingerprint to the nearest of a reference set, (rows,).

    Args:
        fingerprints: Packed bits, uint8 (rows, bytes), at least one bit set in each.
        reference: The same, (reference rows, bytes).
    """
    nearest = torch.zeros(len(fingerprints))
    for rows, similarity in _blocks(fingerprints, reference):
        nearest[rows] = torch.maximum(nearest[rows], similarity.amax(dim=1))
    return nearest.double().numpy()


def mean_similarity(fingerprints: np.ndarray, powers: tuple[int, ...]) -> np.ndarray:
    """Power means of each fingerprint's similarities to all of its set, itself included.

    `M_p(i) = (1/n Σ_j T(i, j)^p)^(1/p)`.

    Args:
        fingerprints: Packed bits, uint8 (n, bytes), at least one bit set in each.
        powers: The p.

    Returns:
        (len(powers), n).
    """
    sums = torch.zeros(len(powers), len(fingerprints), dtype=torch.float64)
    for rows, similarity in _blocks(fingerprints, fingerprints):
        for at, power in enumerate(powers):
            sums[at, rows] += similarity.pow(power).sum(dim=1)
    exponents = 1 / torch.tensor(powers, dtype=torch.float64)
    return (sums / len(fingerprints)).pow(exponents[:, None]).numpy()


def _blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of `first` and their similarities (rows, columns) to a block of `second`."""
    starts = [(j, i) for j in range(0, len(second), BLOCK) for i in range(0, len(first), BLOCK)]
    for column, row in tqdm(starts, desc="Comparing", unit=" blocks", delay=5.0, leave=False):
        rows, columns = _unpacked(first, row), _unpacked(second, column)
        shared = rows @ columns.T
        union = (rows.sum(dim=1)[:, None] + columns.sum(dim=1)).sub_(shared)
        yield slice(row, row + BLOCK), shared.div_(union)


def _unpacked(fingerprints: np.ndarray, start: int) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(fingerprints[start : start + BLOCK], axis=1)).float()


__all__ = ["mean_similarity", "nearest_similarity"]
