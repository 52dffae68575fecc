# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are compared on validation rows, by shares and errors as defined."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, root_mean_squared_error

from cmim_hf import MoleculeEmbedder, MoleculeGenerator, list_checkpoints
from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.data.smiles_files import read_smiles
from examples.benchmarks.quality import validation
from examples.benchmarks.quality.molecule_tasks import heads, load_tasks

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
MOLECULES = BENCHMARKS.parent / "data" / "moses_test.smi"

TINY, SMALL = (list_checkpoints()[name] for name in ("tiny", "small"))
COUNT, DRAWS = 20, 31
SPLIT = ["train"] * 30 + ["valid"] * 12 + ["test"] * 8


def frames(smiles):
    """A number and two classes, made up from the text, for 30, 12 and 8 molecules."""
    number = [float(text.lower().count("c")) + len(text) / 7 for text in smiles]
    order = np.random.default_rng(0).permutation(len(smiles))  # test rows are anywhere
    both = {
        "number": pd.DataFrame({"smiles": smiles, "value": number, "split": SPLIT}),
        "class": pd.DataFrame(
            {"smiles": smiles, "is": [row % 2 for row in range(50)], "split": SPLIT}
        ),
    }
    return {name: frame.iloc[order] for name, frame in both.items()}


def run(folder, *more, checkpoints=(TINY, SMALL), data="data"):
    flags = ["--checkpoints", *checkpoints, "--data_dir", folder / data, "--sources",
             folder / "a.validation.smi", folder / "b.validation.smi",
             "--count", COUNT, "--draws", DRAWS, *more]  # fmt: skip
    validation.main(list(map(str, flags)))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The folder of tables and sources, and all molecules of the tables."""
    folder = tmp_path_factory.mktemp("validation")
    smiles = [row.text for row in islice(read_smiles(MOLECULES), 100)]
    (folder / "a.validation.smi").write_text("\n".join(smiles[50:80]) + "\n")
    (folder / "b.validation.smi").write_text("\n".join(smiles[80:85]) + "\n")
    for name, change in (("data", None), ("unlabelled", np.nan), ("other", 1e9)):
        (folder / name).mkdir()
        for task, frame in frames(smiles[:50]).items():
            if change is not None:
                label = frame.columns[1]
                frame[label] = frame[label].astype(float).mask(frame["split"] == "test", change)
            frame.to_csv(folder / name / f"{task}.csv", index=False)
    return folder, smiles


@pytest.fixture(scope="module")
def compared(given):
    """Figures of both checkpoints, the page, and every molecule that was embedded."""
    folder, _ = given
    seen = []
    embed = MoleculeEmbedder.embed

    def spy(self, smiles, **options):
        seen.extend(smiles)
        return embed(self, smiles, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MoleculeEmbedder, "embed", spy)
        run(folder, "--output", folder / "out" / "table.md")
    results = json.loads((folder / "out" / "table.json").read_text())
    return results, (folder / "out" / "table.md").read_text(), seen


def test_only_what_comes_back_exactly_counts(compared, given):
    generator = MoleculeGenerator(TINY, progress=False)
    for name, smiles in (("a", given[1][50:70]), ("b", given[1][80:85])):
        written = generator.reconstruct(smiles)
        hits = sum(canonicalize(old) == new for old, new in zip(smiles, written, strict=True))
        one = compared[0]["checkpoints"]["tiny"]["reconstruction"][name]
        assert one["reconstruction"] == hits / len(smiles)
        assert one["molecules"] == len(smiles)
    assert 0 < hits < len(smiles)


def test_codes_are_of_the_prior_and_at_radius_1_around_all_sources(compared, given):
    found = compared[0]["checkpoints"]["small"]["validity"]
    generator = MoleculeGenerator(SMALL, seed=0, progress=False)
    prior = generator.sample(DRAWS, attempts=1)
    # 31 draws: 16 around the first source, 15 around the second, whose 5 molecules serve thrice.
    seeds = {"a": given[1][50:66], "b": given[1][80:85] * 3}
    valid = {
        name: sum(text is not None for (text,) in generator.sample_around(one, 1.0, 1, attempts=1))
        for name, one in seeds.items()
    }
    assert found["prior"]["validity"] == sum(text is not None for text in prior) / DRAWS
    assert found["around each"] == {"a": valid["a"] / 16, "b": valid["b"] / 15}
    assert found["around"]["validity"] == sum(valid.values()) / DRAWS
    assert found["prior"]["draws"] == found["around"]["draws"] == DRAWS
    assert 0 < found["around"]["interval"][0] < found["around"]["validity"] < 1


def test_no_test_row_is_embedded(compared, given):
    smiles, seen = given[1][:50], compared[2]
    assert set(seen) == set(smiles[:42]) and len(seen) == 42 * 2 * 2 * 2
    for task in load_tasks(str(given[0] / "data"), None):
        kept = validation.without_test(task)
        assert sorted(kept.split) == ["train"] * 30 + ["valid"] * 12
        assert not set(kept.smiles) & set(smiles[42:])
        labels = dict(zip(task.smiles, task.labels, strict=True))
        assert [labels[text] for text in kept.smiles] == list(kept.labels)


def test_labels_of_test_rows_do_not_matter(compared, given, monkeypatch):
    folder, _ = given
    flags = ["--output", folder / "again.md"]
    run(folder, *flags, checkpoints=[TINY], data="unlabelled")
    again = json.loads((folder / "again.json").read_text())["checkpoints"]["tiny"]
    # The same numbers, not nearly.
    assert again["probes"] == compared[0]["checkpoints"]["tiny"]["probes"]


def test_nor_do_they_tell_whether_there_are_two_classes(given):
    for name, binary in (("class", True), ("number", False)):
        kept, other = (
            validation.without_test(load_tasks(str(given[0] / data), [name])[0])
            for data in ("data", "other")
        )
        assert kept.binary is other.binary is binary
        assert kept.smiles == other.smiles and list(kept.labels) == list(other.labels)


def test_validation_rows_are_scored_by_the_head_that_training_rows_chose(compared, given):
    for task in load_tasks(str(given[0] / "data"), None):
        train, valid = (np.flatnonzero(task.split == part) for part in ("train", "valid"))
        embedder = MoleculeEmbedder(TINY, progress=False)
        features = embedder.embed(validation.without_test(task).smiles, representation="latent")
        rows = {text: row for row, text in enumerate(validation.without_test(task).smiles)}
        train_x, valid_x = (
            features[[rows[task.smiles[row]] for row in part]] for part in (train, valid)
        )
        for head in ("svm", "ridge"):
            one = compared[0]["checkpoints"]["tiny"]["probes"][task.name]["latent"][head]
            model = heads(task.binary, 0)[head][one["choice"]]()
            y = task.labels[train]
            if task.binary:
                model.fit(train_x, y)
                expected = roc_auc_score(task.labels[valid], model.decision_function(valid_x))
            else:
                model.fit(train_x, (y - y.mean()) / y.std())
                written = model.predict(valid_x) * y.std() + y.mean()
                expected = root_mean_squared_error(task.labels[valid], written)
            assert one["score"] == pytest.approx(expected, rel=1e-6)


def test_validation_labels_choose_nothing(given):
    """With others the score differs; the candidate and its cross-validation do not."""
    task = validation.without_test(load_tasks(str(given[0] / "data"), ["number"])[0])
    features = np.random.default_rng(1).normal(size=(42, 5))
    first = validation.probe(task, features)
    task.labels = np.where(task.split == "valid", -task.labels, task.labels)
    second = validation.probe(task, features)
    for head in validation.HEADS:
        assert first[head]["score"] != second[head]["score"]
        for name in ("choice", "cross_validation"):
            assert first[head][name] == second[head][name]


def test_the_first_checkpoint_has_error_1(compared):
    tiny, small = (compared[0]["checkpoints"][name] for name in ("tiny", "small"))
    assert list(compared[0]["checkpoints"]) == ["tiny", "small"]
    assert tiny["mean error"] == {"informative": 1.0, "latent": 1.0}
    for name, mean in small["mean error"].items():
        (old, old_auc), (new, new_auc) = (
            [one["probes"][task][name]["svm"]["score"] for task in ("number", "class")]
            for one in (tiny, small)
        )
        assert mean == pytest.approx((new / old + (1 - new_auc) / (1 - old_auc)) / 2)
        assert mean != 1


def test_a_perfect_first_checkpoint_is_still_1():
    def one(score):
        return {"probes": {"class": dict.fromkeys(("informative", "latent"), {"svm": score})}}

    found = {name: one({"score": score}) for name, score in (("a", 1.0), ("b", 0.9), ("c", 1.0))}
    task = validation.Task("class", [], np.empty(0), True, None, 0)
    validation.add_mean_errors(found, [task])
    assert [each["mean error"]["latent"] for each in found.values()] == [1.0, np.inf, 1.0]


def test_the_table_has_a_row_a_checkpoint(compared):
    header, _, *rows = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in compared[1].splitlines()
        if line.startswith("|")
    )
    assert header[:6] == [
        "checkpoint", "exact a / b", "valid, N(0, I)", "valid, radius 1",
        "mean error, informative", "mean error, latent",
    ]  # fmt: skip
    assert header[6] == "class AUC, informative, SVM / linear"
    assert header[9] == "number RMSE, latent, SVM / linear"
    assert [row[0] for row in rows] == ["tiny", "small"]
    for row in rows:
        one = compared[0]["checkpoints"][row[0]]
        shares = [one["reconstruction"][name]["reconstruction"] for name in "ab"]
        assert row[1] == f"{shares[0]:.1%} / {shares[1]:.1%}"
        assert row[3] == f"{one['validity']['around']['validity']:.1%}"
        assert row[4] == f"{one['mean error']['informative']:.3f}"
        scores = [one["probes"]["number"]["latent"][head]["score"] for head in ("svm", "ridge")]
        assert row[9] == f"{scores[0]:.3f} / {scores[1]:.3f}"


def test_many_training_rows_are_sampled(given, monkeypatch):
    task = load_tasks(str(given[0] / "data"), ["number"])[0]
    monkeypatch.setattr(validation, "LARGE", 29)
    monkeypatch.setattr(validation, "SAMPLE", 10)
    one, other = validation.without_test(task), validation.without_test(task)
    assert one.smiles == other.smiles
    assert sorted(one.split) == ["train"] * 10 + ["valid"] * 12


def test_checkpoints_are_told_apart_by_as_much_of_their_path_as_it_takes():
    assert validation.row_names(["runs/a/best/", "runs/b/best"]) == ["a/best", "b/best"]
    assert validation.row_names([TINY]) == ["tiny"]
    with pytest.raises(SystemExit, match="names one twice: runs/a, runs/a/"):
        validation.row_names(["runs/a", "runs/a/"])


def test_what_cannot_be_compared_is_named(given, monkeypatch):
    folder, smiles = given
    with pytest.raises(SystemExit, match="table.txt is the table's file; let its name end in .md"):
        run(folder, "--output", folder / "table.txt")
    with pytest.raises(SystemExit, match="--draws 1 gives 2 sources less than one each"):
        run(folder, "--draws", 1)
    with pytest.raises(SystemExit, match="names in common: .*a.validation.smi, a.test.smi"):
        run(folder, "--sources", folder / "a.validation.smi", "a.test.smi")
    task = load_tasks(str(folder / "data"), ["class"])[0]
    task.labels[task.split == "valid"] = 1
    with pytest.raises(SystemExit, match="class needs 3 training rows and 1 validation row"):
        validation.without_test(task)
    task.split = None
    with pytest.raises(SystemExit, match="class has no column `split`"):
        validation.without_test(task)
