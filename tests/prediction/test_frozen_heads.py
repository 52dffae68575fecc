# SPDX-License-Identifier: Apache-2.0
"""Heads of scikit-learn on vectors: what they learn, choose, and refuse."""

import numpy as np
import pytest

from cmim_hf.prediction import frozen_heads
from cmim_hf.prediction.frozen_heads import HEADS, fit_head, predict_head

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(3, 5, (240, 4)).astype(np.float32)
NUMBERS = 1000 + 30 * VECTORS[:, 0] - 20 * VECTORS[:, 1] + RANDOM.normal(size=240)
CLASSES = np.digitize(NUMBERS, np.quantile(NUMBERS, [1 / 3, 2 / 3])).astype(float)
YES = (NUMBERS > np.median(NUMBERS)).astype(float)


def parts(labels):
    return (VECTORS[:120], labels[:120]), (VECTORS[120:180], labels[120:180])


@pytest.mark.parametrize("head", HEADS)
def test_each_head_learns_numbers_in_their_unit(head):
    model = fit_head(head, *parts(NUMBERS))
    values, spread = predict_head(model, VECTORS[180:])
    error = np.sqrt(np.mean((values - NUMBERS[180:]) ** 2)) / NUMBERS.std()
    assert error < {"ridge": 0.02, "svm": 0.25, "rf": 0.4, "gp": 0.05}[head]
    if head in ("rf", "gp"):
        far, wide = predict_head(model, VECTORS[180:] + 100)
        assert spread.shape == values.shape and (spread > 0).all()
        assert wide.mean() > spread.mean() or head == "rf"
    else:
        assert spread is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("labels", [YES, CLASSES], ids=["two", "three"])
def test_each_head_learns_classes(head, labels):
    classes = int(labels.max()) + 1
    model = fit_head(head, *parts(labels), classes=classes)
    chances, spread = predict_head(model, VECTORS[180:], classes)
    assert chances.shape == (60, classes) and spread is None
    assert chances.sum(axis=1) == pytest.approx(np.ones(60))
    assert (chances.argmax(axis=1) == labels[180:]).mean() > 0.8


@pytest.mark.parametrize("head", HEADS)
def test_large_numbers_keep_their_digits(head):
    model = fit_head(head, *parts(NUMBERS + 1e8))
    values, _ = predict_head(model, VECTORS[180:])
    small, _ = predict_head(fit_head(head, *parts(NUMBERS)), VECTORS[180:])
    assert np.abs(values - 1e8 - small).mean() < 0.02 * NUMBERS.std()


def test_validation_rows_choose_the_strength():
    train, (vectors, labels) = parts(NUMBERS)
    assert fit_head("ridge", train, (vectors, labels))[-1].alpha == 0.1
    opposite = 2 * labels.mean() - labels
    assert fit_head("ridge", train, (vectors, opposite))[-1].alpha == 1000  # learns the least


def test_balanced_weights_find_the_rare_class():
    rare = (NUMBERS > np.quantile(NUMBERS, 0.95)) * (RANDOM.random(240) < 0.7).astype(float)
    found = [
        predict_head(fit_head("ridge", *parts(rare), classes=2, balanced=one), VECTORS, 2)[0][:, 1]
        for one in (False, True)
    ]
    assert found[1][rare == 1].mean() > found[0][rare == 1].mean() + 0.2


def test_what_cannot_be_learned_is_said(monkeypatch):
    with pytest.raises(ValueError, match="`head` is one of ridge, svm, rf, gp, not 'knn'"):
        fit_head("knn", *parts(NUMBERS))
    with pytest.raises(ValueError, match=r"classes are \[120, 0\]; `head` rf needs at least 1"):
        fit_head("rf", *parts(np.zeros(240)), classes=2)
    one = np.zeros(240)
    one[0] = 1
    with pytest.raises(ValueError, match=r"\[119, 1\]; `head` svm needs at least 2"):
        fit_head("svm", *parts(one), classes=2)
    with pytest.raises(ValueError, match="gp has no class weights"):
        fit_head("gp", *parts(YES), classes=2, balanced=True)
    monkeypatch.setattr(frozen_heads, "MOST_OF_A_PROCESS", 100)
    with pytest.raises(ValueError, match="up to 100 training rows.*there are 120"):
        fit_head("gp", *parts(NUMBERS))
