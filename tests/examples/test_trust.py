# SPDX-License-Identifier: Apache-2.0
"""Coverage and errors by distance, counted on vectors that are known."""

import json

import numpy as np
import pytest

from cmim_hf import list_checkpoints
from examples.benchmarks.quality import trust
from examples.benchmarks.quality.molecule_tasks import Task


def test_errors_grow_with_the_distance_and_intervals_hold_what_they_say():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2000, 4))
    far = np.linalg.norm(vectors, axis=1)
    labels = vectors @ [1, 2, 3, 4] + 0.3 * far**2 * random.normal(size=2000)
    found = trust.measure(vectors, Task("made", [], labels, False, None, 0), "ridge", False, 0)
    assert found["covered"] == pytest.approx(trust.LEVELS, abs=0.07)
    assert np.all(np.diff(found["size"]) > 0) and sum(found["numbers"]) == 200
    means = np.array(found["errors"]) / found["numbers"]
    assert means[-1] > 2 * means[0] and found["rank_correlation_of_distance"] > 0.3


def test_of_the_rarer_class_few_are_left():
    labels = np.array([1.0] * 700 + [0.0] * 600)
    found = trust.rare(Task("made", list(map(str, range(1300))), labels, True, None, 0))
    assert found.name == "made-few-0" and found.labels.sum() == 700
    assert (found.labels == 0).mean() == pytest.approx(0.0758, abs=1e-3)
    assert [labels[int(text)] for text in found.smiles] == found.labels.tolist()


def test_weights_find_the_rare_class():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2000, 2))
    labels = (vectors[:, 0] + random.normal(size=2000) > 2.2).astype(float)
    task = Task("made", [], labels, True, None, 0)
    plain, balanced = (trust.measure(vectors, task, "ridge", one, 0) for one in (False, True))
    assert balanced["balanced_accuracy"] > plain["balanced_accuracy"] + 0.1
    assert balanced["score"] == pytest.approx(plain["score"], abs=0.02)
    nine = trust.LEVELS.index(0.9)
    assert min(plain["covered_by_class"][nine]) > 0.7


def test_the_page(tmp_path, capsys):
    words = [
        "--tasks",
        "freesolv",
        "--heads",
        "ridge",
        "gp",
        "--seeds",
        "1",
        "--workers",
        "1",
        "--atoms",
        "3",
    ]
    tiny = list_checkpoints()["tiny"]
    trust.main([*words, "--checkpoint", tiny, "--output", str(tmp_path)])
    text = (tmp_path / "trust.md").read_text()
    assert "| freesolv | gp |" in text and "## Class weights" not in text
    figures = json.loads((tmp_path / "trust.json").read_text())
    assert len(figures["runs"]) == 2
    assert all(
        -1 <= figures["atoms"]["heads"][head]["correlation"][0] <= 1 for head in ("ridge", "svm")
    )
    assert (tmp_path / "trust.png").stat().st_size > 10_000
