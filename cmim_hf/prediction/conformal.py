# SPDX-License-Identifier: Apache-2.0
"""Split-conformal prediction: intervals, and sets of labels, that hold the truth so often.

Rows that took no part in training say how large errors are. If new molecules are drawn as these
were, a share of at least `level` of them lies within what is told, whatever the model (Vovk et al.
2005; Lei et al. 2018, arXiv 1604.04173). For molecules of another kind nothing is promised.
"""

from __future__ import annotations

import math

import numpy as np


def checked_level(level: float) -> float:
    """ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"`level` is between 0 and 1, as .9 for nine in ten, not {level}.")
    return level


def bound(scores: np.ndarray, level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest of n scores; infinite where there are fewer.

    >>> bound(np.arange(1.0, 20.0), 0.9)
    18.0
    >>> bound(np.arange(1.0, 9.0), 0.9)
    inf

    Args:
        scores: (n,), how wrong the model was for each row of the calibration: |y - ŷ| for a number,
            1 - p(y) for a label. NaN, where the truth is unknown, does not count.
        level: Share of new rows whose score shall not be above the bound.
    """
    known = np.sort(scores[~np.isnan(scores)])
    rank = max(1, math.ceil((len(known) + 1) * level - 1e-9))
    return float(known[rank - 1]) if rank <= len(known) else math.inf


def label_bounds(probabilities: np.ndarray, labels: np.ndarray, level: float) -> np.ndarray:
    """For each of k labels the bound of its own rows, (k,), so that rare ones are covered, too.

    A row's set holds the labels c with 1 - p(c) at most the bound of c (Mondrian sets).

    Args:
        probabilities: (n, k).
        labels: (n,), from 0; NaN where unknown.
        level: As in `bound`.
    """
    return np.array(
        [
            bound(1 - probabilities[labels == label, label], level)
            for label in range(probabilities.shape[1])
        ]
    )
