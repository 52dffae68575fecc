# SPDX-License-Identifier: Apache-2.0
"""Orders by one value or by several at once."""

from __future__ import annotations

import numpy as np

from ..extras import needed


def best_first(values: np.ndarray) -> np.ndarray:
    """Rows of values (n, columns), the best first; higher is better, equals keep their order.

    Of one column the largest is best. Several are ordered as in NSGA-II (Deb et al. 2002): by
    fronts, of which the first holds the rows that no other dominates (is nowhere worse and
    somewhere better), the second those that only rows of the first dominate, and so on; within a
    front by how far a row is from its neighbours in each column.

        >>> best_first(np.array([[1.0], [3.0], [2.0]])).tolist()
        [1, 2, 0]
        >>> best_first(np.array([[0.0, 0.0], [3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])).tolist()
        [1, 3, 2, 0]

    Raises:
        ImportError: Several columns, without the package moocore.
    """
    if values.shape[1] == 1:
        return np.argsort(-values[:, 0], kind="stable")
    ranks = front_ranks(values)
    crowding = np.empty(len(values))
    for rank in np.unique(ranks):
        rows = np.flatnonzero(ranks == rank)
        crowding[rows] = _distances(values[rows])
    return np.lexsort((-crowding, ranks))


def front_ranks(values: np.ndarray) -> np.ndarray:
    """The front, from 0, of each row of values (n, columns); equal rows share one.

    Raises:
        ImportError: The package moocore is not installed.
    """
    with needed("`pareto`", "optimize"):
        import moocore
    return np.asarray(moocore.pareto_rank(-values) if len(values) else (), dtype=int)


def _distances(values: np.ndarray) -> np.ndarray:
    """Of each row of one front, Σ of the gap between its two neighbours over the column's range."""
    found = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        scale = (ordered[-1] - ordered[0]) or 1.0
        padded = np.concatenate([[-np.inf], ordered, [np.inf]])
        found[order] += (padded[2:] - padded[:-2]) / scale
    return found
