# SPDX-License-Identifier: Apache-2.0
"""Regression, yes or no, one class of several: what each is for the model, and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special, stats
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

from .labelled_parts import LabelledParts

PROBLEMS = {
    "regression": "regression",
    "binary": "multi_label_classification",
    "multiclass": "single_label_classification",
}
CHOSEN_BY = {"regression": "r2", "binary": "roc_auc", "multiclass": "roc_auc"}
"""By what the epoch is chosen: neither depends on a target's unit or on a threshold."""

ERRORS = {
    "regression": "mean squared error",
    "binary": "cross-entropy",
    "multiclass": "cross-entropy",
}
"""By what the strength of a head is chosen."""

_METRICS = {
    "regression": ("rmse", "mae", "r2"),
    "binary": ("roc_auc", "average_precision", "balanced_accuracy"),
    "multiclass": ("roc_auc", "accuracy", "balanced_accuracy", "f1"),
}


def check_labels(data: LabelledParts, targets: Sequence[str], network: bool) -> None:
    """Note classes without a training row; ValueError where nothing can be learned or chosen."""
    train, valid = data.parts["train"].labels, data.parts["valid"].labels
    if gaps := [name for name, one in zip(targets, np.isnan(train).T, strict=True) if one.all()]:
        raise ValueError(f"No training row has a label in {', '.join(gaps)}.")
    if network and not any(_varies(column[~np.isnan(column)]) for column in valid.T):
        raise ValueError(
            f"The validation rows cannot choose the epoch: {CHOSEN_BY[data.task]} is defined for "
            "no target, because all labels of each are alike or missing."
        )
    if len(set(data.parts["train"].keys)) < 2:
        raise ValueError("All training rows are one molecule; give at least two different ones.")
    unseen = [name for number, name in enumerate(data.classes) if number not in train]
    if unseen:
        data.notes.append(f"No training row is of the classes {', '.join(unseen)}.")


def measure(
    logits: np.ndarray, labels: np.ndarray, task: str, targets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics by target, over the labels that are there, and their means over the targets.

    Args:
        logits: (rows, targets), numbers or log-odds; (rows, classes), unnormalised, of the one
            target of `multiclass`.
        labels: (rows, targets), NaN where missing.
        task: `"regression"`: RMSE, MAE, R². `"binary"`: ROC-AUC, average precision, and at
            probability .5 the mean of the two classes' recalls. `"multiclass"`: the mean over the
            classes of the ROC-AUC of each against the others; accuracy of the likeliest class,
            mean of the classes' recalls, mean of their F1. Classes that no label is of have no
            ROC-AUC and no recall.
        targets: their names.

    Returns:
        `mean`: metric to mean; `by_target`: target to metric to value; `undefined`: target to the
        metrics that its labels do not define (all alike, or none), which no mean counts.
    """
    of_task = {"regression": _of_numbers, "binary": _of_yes_and_no, "multiclass": _of_classes}[task]
    by_target: dict[str, dict[str, float]] = {}
    undefined: dict[str, list[str]] = {}
    names = _METRICS[task]
    predictions = [logits] if task == "multiclass" else logits.T
    for target, predicted, expected in zip(targets, predictions, labels.T, strict=True):
        there = ~np.isnan(expected)
        values = of_task(predicted[there], expected[there]) if there.any() else {}
        by_target[target] = {name: float(value) for name, value in values.items()}
        if gaps := [name for name in names if name not in values]:
            undefined[target] = gaps
    found = {name: [v[name] for v in by_target.values() if name in v] for name in names}
    mean = {name: float(np.mean(values)) for name, values in found.items() if values}
    return {"mean": mean, "by_target": by_target, "undefined": undefined}


def as_logits(values: np.ndarray, task: str) -> np.ndarray:
    """What `measure` takes, of numbers or probabilities as predictors give them.

    >>> as_logits(np.array([[0.5]]), "binary").tolist()
    [[0.0]]
    """
    if task == "regression":
        return values
    clipped = np.clip(values, 1e-12, 1 - 1e-12)
    return special.logit(clipped) if task == "binary" else np.log(clipped)


def _varies(labels: np.ndarray) -> bool:
    return len(set(labels)) > 1


def _of_numbers(predicted: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    values = {
        "rmse": root_mean_squared_error(expected, predicted),
        "mae": mean_absolute_error(expected, predicted),
    }
    return values | ({"r2": r2_score(expected, predicted)} if _varies(expected) else {})


def _of_yes_and_no(log_odds: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    if not _varies(expected):
        return {}
    return {
        "roc_auc": roc_auc_score(expected, log_odds),
        "average_precision": average_precision_score(expected, log_odds),
        "balanced_accuracy": balanced_accuracy_score(expected, log_odds > 0),
    }


def _of_classes(logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    probabilities, likeliest = special.softmax(logits, axis=1), logits.argmax(axis=1)
    expected = expected.astype(int)
    values = {"accuracy": accuracy_score(expected, likeliest)}
    if not _varies(expected):
        return values
    known = np.unique(expected)
    each = [roc_auc_score(expected == number, probabilities[:, number]) for number in known]
    recall = recall_score(expected, likeliest, labels=known, average="macro")
    f1 = f1_score(expected, likeliest, average="macro")
    return {"roc_auc": np.mean(each), **values, "balanced_accuracy": recall, "f1": f1}


def summary(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean over the seeds, and its 95 % interval by Student's t where there are several."""
    result: dict[str, dict[str, float | None]] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        low = high = None
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            low, high = float(np.mean(values) - half), float(np.mean(values) + half)
        result[name] = {"mean": float(np.mean(values)), "low": low, "high": high}
    return result
