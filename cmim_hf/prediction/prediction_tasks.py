# SPDX-License-Identifier: Apache-2.0
"""Regression and yes-or-no prediction: which of them labels are for, and how it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error

from .labelled_parts import Part

PROBLEMS = {"regression": "regression", "binary": "multi_label_classification"}
CHOSEN_BY = {"regression": "r2", "binary": "roc_auc"}  # neither depends on a target's unit
_METRICS = {"regression": ("rmse", "mae", "r2"), "binary": ("roc_auc",)}
_FEW_CLASSES = 20


def guess_task(parts: dict[str, Part]) -> str:
    """Binary if every label is 0 or 1, or -1 or 1 (then -1 becomes 0); else regression.

    Raises:
        ValueError: A few whole numbers from 0, which may be classes.
    """
    labels = np.concatenate([part.labels.ravel() for part in parts.values()])
    values = set(labels[~np.isnan(labels)])
    if values == {-1.0, 1.0}:
        print("The labels are -1 and 1: -1 is read as 0.")
        for part in parts.values():
            part.labels[part.labels == -1] = 0.0
        return "binary"
    if values <= {0.0, 1.0}:
        return "binary"
    if len(values) <= _FEW_CLASSES and values == set(range(len(values))):
        raise ValueError(
            f"The labels are the whole numbers 0 to {len(values) - 1}: amounts, or classes? Pass "
            "--task regression for amounts. Several classes this script does not learn: see "
            "CMIMForSequenceClassification, problem_type='single_label_classification'."
        )
    return "regression"


def check_task(parts: dict[str, Part], task: str, targets: Sequence[str]) -> None:
    """Stop where the task and the labels do not go together."""
    if task == "binary" and guess_task(parts) != "binary":
        raise ValueError(
            "--task binary needs labels 0 and 1 (or -1 and 1), or nothing where one is missing; "
            "leave --task out to guess."
        )
    if np.isnan(parts["train"].labels).all():
        raise ValueError("No training row has a label.")
    valid = parts["valid"]
    if CHOSEN_BY[task] not in measure(valid.labels, valid.labels, task, targets)["mean"]:
        raise ValueError(
            f"The validation rows cannot choose the epoch: {CHOSEN_BY[task]} is defined for no "
            "target, because all labels of each are alike or missing."
        )


def measure(
    logits: np.ndarray, labels: np.ndarray, task: str, targets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics by target, over the labels that are there, and their means over the targets.

    Args:
        logits: (rows, targets), numbers or log-odds.
        labels: (rows, targets), NaN where missing.
        task: `"regression"`: RMSE, MAE, R². `"binary"`: ROC-AUC.
        targets: their names.

    Returns:
        `mean`: metric to mean; `by_target`: target to metric to value; `undefined`: target to the
        metrics that its labels do not define (all alike, or none), which no mean counts.
    """
    by_target: dict[str, dict[str, float]] = {}
    undefined: dict[str, list[str]] = {}
    names = _METRICS[task]
    for target, predicted, expected in zip(targets, logits.T, labels.T, strict=True):
        there = ~np.isnan(expected)
        predicted, expected = predicted[there], expected[there]
        values: dict[str, float] = {}
        varies = len(set(expected)) > 1
        if task == "binary" and varies:
            values["roc_auc"] = float(roc_auc_score(expected, predicted))
        elif task == "regression" and len(expected):
            values["rmse"] = float(root_mean_squared_error(expected, predicted))
            values["mae"] = float(mean_absolute_error(expected, predicted))
            if varies:
                values["r2"] = float(r2_score(expected, predicted))
        by_target[target] = values
        if gaps := [name for name in names if name not in values]:
            undefined[target] = gaps
    found = {name: [v[name] for v in by_target.values() if name in v] for name in names}
    mean = {name: float(np.mean(values)) for name, values in found.items() if values}
    return {"mean": mean, "by_target": by_target, "undefined": undefined}


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
