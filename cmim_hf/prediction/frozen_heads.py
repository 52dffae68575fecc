# SPDX-License-Identifier: Apache-2.0
"""Models of scikit-learn on frozen vectors, which often win where molecules are few."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from .fine_tuning_arguments import HEADS

MOST_OF_A_PROCESS = 2000
"""Training rows of a Gaussian process, whose time grows with their cube."""

_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
_FOLDS = 5  # of an SVM's training rows, to turn its decisions into probabilities

Rows = tuple[np.ndarray, np.ndarray]
"""Vectors (rows, size), and labels (rows,) without gaps: numbers, or classes from 0."""


def fit_head(
    head: str, train: Rows, valid: Rows, *, classes: int = 0, balanced: bool = False, seed: int = 0
) -> BaseEstimator:
    """Fit each candidate to `train`, and return the one with the lowest error on `valid`.

    The error is the mean squared one of numbers, the cross-entropy of classes.

    Args:
        head: One of `HEADS`.
        train: To fit to.
        valid: To choose by.
        classes: How many there are; 0 where labels are numbers.
        balanced: Weigh classes by their inverse frequency.
        seed: Of a forest.

    Raises:
        ValueError: An unknown head, too many rows for a Gaussian process or weights, which it
            cannot have, or too few training rows of a class.
    """
    if head not in HEADS:
        raise ValueError(f"`head` is one of {', '.join(HEADS)}, not {head!r}.")
    vectors, labels = train[0].astype(float), train[1]  # of float32 large labels lose digits
    if classes:
        counts = np.bincount(labels.astype(int), minlength=classes)
        least = 2 if head == "svm" else 1
        if (counts < least).any():
            raise ValueError(
                f"The training rows of the classes are {counts.tolist()}; `head` {head} needs at "
                f"least {least} of each."
            )
    if head == "gp" and len(labels) > MOST_OF_A_PROCESS:
        raise ValueError(
            f"`head` gp takes up to {MOST_OF_A_PROCESS:,} training rows, as its time grows with "
            f"their cube; there are {len(labels):,}. Choose another."
        )
    if head == "gp" and balanced:
        raise ValueError("`head` gp has no class weights; choose another, or leave them out.")
    candidates = _classifiers(head, balanced, seed, train) if classes else _regressors(head, seed)
    models = [make_pipeline(StandardScaler(), one).fit(vectors, labels) for one in candidates]
    return min(models, key=lambda model: _error(model, valid, classes)) if models[1:] else models[0]


def predict_head(
    model: BaseEstimator, vectors: np.ndarray, classes: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers (rows,) or the classes' probabilities (rows, classes), and the spread of numbers.

    The spread is a Gaussian process's standard deviation, or that of a forest's trees; else None.
    """
    vectors = vectors.astype(float)
    if classes:
        return model.predict_proba(vectors), None
    scaled, last = model[0].transform(vectors), model[-1]
    if isinstance(last, GaussianProcessRegressor):
        return last.predict(scaled, return_std=True)
    values = last.predict(scaled)
    if isinstance(last, RandomForestRegressor):
        return values, np.std([tree.predict(scaled) for tree in last], axis=0)
    return values, None


def _error(model: BaseEstimator, valid: Rows, classes: int) -> float:
    vectors, labels = valid
    if not classes:
        return mean_squared_error(labels, model.predict(vectors))
    return log_loss(labels, model.predict_proba(vectors), labels=range(classes))


def _regressors(head: str, seed: int) -> list[Any]:
    if head == "ridge":
        return [Ridge(alpha=10 / strength) for strength in _STRENGTHS]
    if head == "svm":  # whose tolerance is in units of the labels
        machines = [SVR(C=strength, epsilon=0.05) for strength in _STRENGTHS]
        return [TransformedTargetRegressor(one, transformer=StandardScaler()) for one in machines]
    if head == "rf":
        shares = ("sqrt", 0.3)
        return [
            RandomForestRegressor(300, max_features=share, random_state=seed) for share in shares
        ]
    kernel = _kernel() + WhiteKernel(0.1, (1e-6, 10.0))
    return [GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)]


def _classifiers(head: str, balanced: bool, seed: int, train: Rows) -> list[Any]:
    weights = "balanced" if balanced else None
    if head == "ridge":
        return [
            LogisticRegression(C=strength / 10, class_weight=weights, max_iter=2000)
            for strength in _STRENGTHS
        ]
    if head == "svm":
        folds = min(_FOLDS, np.unique(train[1], return_counts=True)[1].min())
        machines = [SVC(C=strength, class_weight=weights) for strength in _STRENGTHS]
        return [CalibratedClassifierCV(one, cv=folds, ensemble=False) for one in machines]
    if head == "rf":
        settings = {"class_weight": weights, "random_state": seed}
        return [
            RandomForestClassifier(300, max_features=share, **settings) for share in ("sqrt", 0.3)
        ]
    return [GaussianProcessClassifier(_kernel(), random_state=seed)]


def _kernel() -> Any:
    """Of standardised vectors of some hundred coordinates, whose distances are 20 or so."""
    return ConstantKernel(1.0, (1e-3, 1e6)) * RBF(20.0, (0.5, 1e4))
