# SPDX-License-Identifier: Apache-2.0
"""Metrics against hand-made cases and scikit-learn's own."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from cmim_hf.data.row_encoder import Rejects
from cmim_hf.prediction.labelled_parts import LabelledParts, Part
from cmim_hf.prediction.prediction_tasks import check_labels, measure, summary


def test_metrics_by_hand():
    nan = float("nan")
    labels = np.array([[1.0, 5, nan], [2, 5, nan], [4, nan, nan]])
    logits = np.array([[1.0, 6, 0], [3, 4, 0], [4, 9, 0]])
    result = measure(logits, labels, "regression", ["a", "b", "c"])
    assert result["by_target"]["a"] == pytest.approx(
        {"rmse": (1 / 3) ** 0.5, "mae": 1 / 3, "r2": 1 - 1 / (14 / 3)}
    )
    assert result["by_target"]["b"] == {"rmse": 1, "mae": 1}
    assert result["by_target"]["c"] == {}
    assert result["undefined"] == {"b": ["r2"], "c": ["rmse", "mae", "r2"]}
    assert result["mean"]["mae"] == pytest.approx(2 / 3)
    assert result["mean"]["r2"] == result["by_target"]["a"]["r2"]
    yes = np.array([[0.0, 1], [1, 1], [0, nan], [1, nan]])
    ranks = np.array([[1.0, 0], [2, 0], [3, 0], [4, 0]])
    result = measure(ranks, yes, "binary", ["a", "b"])
    # sorted by score the labels are 1, 0, 1, 0: precision 1 and 2/3 where a 1 is found
    by_hand = {"roc_auc": 0.75, "average_precision": 5 / 6, "balanced_accuracy": 0.5}
    assert result["mean"] == pytest.approx(by_hand)
    assert result["undefined"] == {"b": list(by_hand)}


def test_the_interval_of_three_seeds():
    found = summary([{"rmse": 1.0}, {"rmse": 2.0}, {"rmse": 4.0}])["rmse"]
    half = 4.302653 * 1.527525 / 3**0.5  # Student's t of two degrees, deviation of the three
    assert found == pytest.approx({"mean": 7 / 3, "low": 7 / 3 - half, "high": 7 / 3 + half})


def test_metrics_of_classes_by_hand():
    labels = np.array([[0.0], [0], [1], [2], [np.nan], [2]])
    logits = np.array([[2.0, 1, 0], [0, 1, 0], [0, 3, 1], [0, 0, 1], [9, 0, 0], [1, 0, 2]])
    found = measure(logits, labels, "multiclass", ["y"])
    assert found["by_target"]["y"] == found["mean"] and not found["undefined"]
    expected = {
        "accuracy": 4 / 5,
        "balanced_accuracy": (1 / 2 + 1 + 1) / 3,
        "f1": (2 / 3 + 2 / 3 + 1) / 3,
        "roc_auc": roc_auc_score(
            labels[[0, 1, 2, 3, 5], 0],
            softmax(logits[[0, 1, 2, 3, 5]], axis=1),
            multi_class="ovr",
            average="macro",
        ),
    }
    assert found["mean"] == pytest.approx(expected)
    few = measure(logits[:3], labels[:3], "multiclass", ["y"])["mean"]
    assert few["roc_auc"] == pytest.approx((1 + 1) / 2) and few["balanced_accuracy"] == 0.75
    alike = measure(logits[:2], labels[:2], "multiclass", ["y"])
    assert alike["mean"] == {"accuracy": 0.5}
    assert alike["undefined"] == {"y": ["roc_auc", "balanced_accuracy", "f1"]}


def test_a_class_without_a_training_row_is_told():
    parts = {
        name: Part([], [], np.array([[label] for label in labels], float), ["C", "CC"])
        for name, labels in (("train", [0, 2]), ("valid", [0, 1]), ("test", [1]))
    }
    data = LabelledParts(parts, "multiclass", ["a", "b", "c"], ("0", "1"), "column", Rejects(), [])
    check_labels(data, ["y"], network=True)
    assert data.notes == ["No training row is of the classes b."]
    parts["valid"].labels[:] = 1
    check_labels(data, ["y"], network=False)  # a head has no epochs
    with pytest.raises(ValueError, match="validation rows cannot choose.*roc_auc"):
        check_labels(data, ["y"], network=True)
