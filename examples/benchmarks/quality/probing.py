# SPDX-License-Identifier: Apache-2.0
"""Probes of frozen embeddings: candidates are fitted, validation rows choose, test rows score."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

Score = Callable[[Any, np.ndarray, np.ndarray], float]
Rows = tuple[np.ndarray, np.ndarray]


def chosen_by_validation(
    candidates: Sequence[Callable[[], Any]], train: Rows, valid: Rows, test: Rows, score: Score
) -> dict[str, float]:
    """Fit each candidate on the training rows, choose by validation, score the test rows once.

    Args:
        candidates: makers of scikit-learn models.
        train: features (rows, size) and labels (rows,).
        valid: likewise.
        test: likewise.
        score: of a fitted model, features and labels; higher is better.

    Returns:
        `valid` and `test`, the score, and `choice`, the candidate's place; of equal ones the first.
    """
    best: tuple[float, int, Any] | None = None
    for place, make in enumerate(candidates):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = make().fit(*train)
        reached = score(model, *valid)
        if best is None or reached > best[0]:
            best = reached, place, model
    if best is None:
        raise ValueError("There are no candidates to choose from.")
    reached, choice, model = best
    return {"valid": reached, "test": score(model, *test), "choice": choice}
