# SPDX-License-Identifier: Apache-2.0
"""Cheap models of the scores: where to look, and what is worth a call of the scorer."""

from __future__ import annotations

import numpy as np

from ..chemistry.tanimoto import tanimoto

NOISE = 0.05
"""Variance of the scores about what their fingerprints say, where their own variance is 1."""

RIDGE = 10.0
"""Penalty of the slope's squared norm, for each square root of the number of codes."""


def rank_targets(values: np.ndarray) -> np.ndarray:
    """Each column of (n, columns) by -log of its ranks from the top, (rank + 1/2) / n.

    So only the order of values matters, and the best are told apart best. Equals share their mean
    rank.

        >>> rank_targets(np.array([[3.0], [-7.0]])).round(2).tolist()
        [[1.39], [0.29]]
    """
    above = (values[:, None] > values[None]).sum(axis=0)
    equal = (values[:, None] == values[None]).sum(axis=0)
    return -np.log((above + equal / 2) / len(values))


def uphill(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Directions (columns, size), of length 1, in which `rank_targets` of the values grow fastest.

    They are the slopes b of a ridge regression, (X'X + RIDGE √n I) b = X'y with X the centred codes
    and y the centred targets; 0 where all values are equal.

    Args:
        codes: (n, size), in units of their spread.
        values: (n, columns), finite; higher is better.
    """
    centred = codes - codes.mean(axis=0)
    targets = rank_targets(values)
    penalty = RIDGE * np.sqrt(len(codes)) * np.eye(codes.shape[1])
    slopes = np.linalg.solve(
        centred.T @ centred + penalty, centred.T @ (targets - targets.mean(axis=0))
    )
    return slopes.T / np.maximum(np.linalg.norm(slopes, axis=0), 1e-12)[:, None]


class ScoreModel:
    """Gaussian process regression with the Tanimoto kernel, from fingerprints to values.

    The prediction is the posterior mean k(x, X) (k(X, X) + NOISE I)⁻¹ y of `rank_targets` y
    (Ralaivola et al. 2005 show that this similarity is a kernel).

        >>> prints = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]])
        >>> model = ScoreModel(prints, np.array([[3.0], [2.0], [-7.0]]))
        >>> model.predict(np.array([[1, 1, 0, 0], [0, 0, 0, 1]])).ravel().argsort().tolist()
        [1, 0]

    Args:
        prints: (n, bits) of 0 and 1.
        values: (n, columns), finite; higher is better.
    """

    def __init__(self, prints: np.ndarray, values: np.ndarray) -> None:
        """Fit, in O(n³)."""
        targets = rank_targets(values)
        self._prints, self._mean = prints, targets.mean(axis=0)
        kernel = tanimoto(prints, prints)
        kernel[np.diag_indices_from(kernel)] += NOISE
        self._weights = np.linalg.solve(kernel, targets - self._mean)

    def predict(self, prints: np.ndarray) -> np.ndarray:
        """Values expected of fingerprints (m, bits), on the scale of ranks: (m, columns)."""
        return self._mean + tanimoto(prints, self._prints) @ self._weights
