# SPDX-License-Identifier: Apache-2.0
"""The model of the scores against the formula, and what it is good for."""

import numpy as np
import pytest

from cmim_hf.chemistry.smiles import fingerprints, similarities
from cmim_hf.optimization.score_model import NOISE, RIDGE, ScoreModel, uphill

SMILES = ["CCO", "CCN", "CCCO", "c1ccccc1O", "c1ccccc1N", "CC(=O)O", "CCOCC"]


def test_predictions_are_the_posterior_mean_of_ranks():
    prints, score = fingerprints(SMILES), np.array([3.0, -1.0, 3.0, 0.5, 100.0, -7.0, 2.0])
    n = len(score)
    target = []
    for one in score:  # (rank + 1/2) / n, the ranks of equals averaged
        above, equal = sum(score > one), sum(score == one)
        target.append(-np.log((above + (equal - 1) / 2 + 0.5) / n))
    target = np.array(target)
    kernel = np.array([similarities(one, SMILES) for one in SMILES]) + NOISE * np.eye(n)
    new = fingerprints(["CCCN", "c1ccccc1"])
    cross = np.array([similarities(one, SMILES) for one in ("CCCN", "c1ccccc1")])
    expected = target.mean() + cross @ np.linalg.inv(kernel) @ (target - target.mean())
    found = ScoreModel(prints, np.stack([score, -score], axis=1)).predict(new)
    assert found[:, 0] == pytest.approx(expected, rel=1e-9)
    assert found.shape == (2, 2)


def test_equal_scores_predict_one_value():
    model = ScoreModel(fingerprints(SMILES), np.ones((len(SMILES), 1)))
    assert model.predict(fingerprints(["CCCN", "[Na+]"])) == pytest.approx(np.log(2))


def test_uphill_is_the_slope_of_a_ridge_regression():
    random = np.random.default_rng(0)
    codes = random.standard_normal((200, 5))
    along = codes @ [3.0, -4.0, 0.0, 0.0, 0.0]
    values = np.stack([along, np.exp(-along), np.zeros(200)], axis=1)
    slopes = uphill(codes, values)
    assert slopes[0, :2] == pytest.approx([0.6, -0.8], abs=0.1)
    assert slopes[1] == pytest.approx(-slopes[0], abs=0.2) and np.abs(slopes[2]).max() < 1e-12
    assert np.linalg.norm(slopes, axis=1) == pytest.approx([1, 1, 0], abs=1e-9)
    order = np.argsort(-along)
    target = np.empty(200)
    target[order] = -np.log((np.arange(200) + 0.5) / 200)
    centred, right = codes - codes.mean(axis=0), target - target.mean()
    solved = np.linalg.inv(centred.T @ centred + RIDGE * 200**0.5 * np.eye(5)) @ centred.T @ right
    assert slopes[0] == pytest.approx(solved / np.linalg.norm(solved), rel=1e-9)
