# SPDX-License-Identifier: Apache-2.0
"""A cheap model of the scores, which chooses what is worth a call of the scorer."""

from __future__ import annotations

import numpy as np

NOISE = 0.05
"""Variance of the scores about what their fingerprints say, where their own variance is 1."""


def tanimoto(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tanimoto similarities |A ∩ B| / |A ∪ B| of rows of bits: (n, bits), (m, bits) to (n, m).

    0 where neither row has a bit.

        >>> tanimoto(np.array([[1, 1, 0]]), np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0]])).tolist()
        [[0.5, 0.0, 1.0]]
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    both = (first @ second.T).astype(float)
    either = first.sum(axis=1, dtype=float)[:, None] + second.sum(axis=1, dtype=float) - both
    return both / np.maximum(either, 1)


class ScoreModel:
    """Gaussian process regression with the Tanimoto kernel, from fingerprints to values.

    Each column of the values is replaced by -log of its rank from the top, (rank + 1/2) / n, so
    that only their order matters and the best are told apart best. The prediction is the posterior
    mean k(x, X) (k(X, X) + NOISE I)⁻¹ y (Ralaivola et al. 2005 show the kernel to be one).

        >>> prints = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]])
        >>> model = ScoreModel(prints, np.array([[3.0], [2.0], [-7.0]]))
        >>> model.predict(np.array([[1, 1, 0, 0], [0, 0, 0, 1]])).ravel().argmax()
        0

    Args:
        prints: (n, bits) of 0 and 1.
        values: (n, columns), finite; higher is better.
    """

    def __init__(self, prints: np.ndarray, values: np.ndarray) -> None:
        """Fit, in O(n³)."""
        below = (values[:, None] > values[None]).sum(axis=0)  # how many are better
        ties = (values[:, None] == values[None]).sum(axis=0)
        ranks = (below + ties / 2) / len(values)
        targets = -np.log(ranks)
        self._prints, self._mean = prints, targets.mean(axis=0)
        kernel = tanimoto(prints, prints)
        kernel[np.diag_indices_from(kernel)] += NOISE
        scale = np.maximum(targets.std(axis=0), 1e-12)
        self._weights = scale * np.linalg.solve(kernel, (targets - self._mean) / scale)

    def predict(self, prints: np.ndarray) -> np.ndarray:
        """Values expected of fingerprints (m, bits), on the scale of ranks: (m, columns)."""
        return self._mean + tanimoto(prints, self._prints) @ self._weights
