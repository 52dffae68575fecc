# SPDX-License-Identifier: Apache-2.0
"""The example of fine-tuning, on a dozen molecules whose labels are counted by hand."""

import csv
import importlib.util
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cmim_hf import CMIMForSequenceClassification, MoleculeEmbedder, list_checkpoints
from cmim_hf.prediction.fine_tuning import ATTENTION
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments
from cmim_hf.prediction.labelled_parts import Part, leave_out_copies, random_split, read_parts
from cmim_hf.prediction.prediction_tasks import guess_task, measure, summary

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune.py"
HEAVY_ATOMS = {
    "C": 1,
    "CO": 2,
    "CCO": 3,
    "CC(C)O": 4,
    "CCOCC": 5,
    "c1ccccc1": 6,
    "Cc1ccccc1": 7,
    "CCc1ccccc1": 8,
    "CC(=O)c1ccccc1": 9,
    "COC(=O)c1ccccc1": 10,
    "CCOC(=O)c1ccccc1": 11,
    "CC(C)OC(=O)c1ccccc1": 12,
}
TINY = list_checkpoints()["tiny"]
QUIET = ["--batch_size", "4", "--checkpoint", TINY, "--copies", "true"]


@pytest.fixture(scope="module")
def finetune():
    spec = importlib.util.spec_from_file_location("finetune_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses looks for the annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def write(path, header, rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def table(path):
    with open(path) as stream:
        return list(csv.DictReader(stream))


def predict(model, smiles):
    batch = AutoTokenizer.from_pretrained(TINY)(smiles, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits.numpy()


@pytest.fixture(scope="module")
def counted(finetune, tmp_path_factory):
    """A run that learns to count heavy atoms, from one table with bad rows in it."""
    folder = tmp_path_factory.mktemp("counted")
    rows = []
    for part in ("train", "valid", "test"):
        rows += [[smiles, count, part] for smiles, count in HEAVY_ATOMS.items()]
    rows.insert(12, ["C(C", 2, "train"])
    rows.insert(13, ["CCC", "", "train"])
    rows.append(["not a molecule", 3, "test"])
    rows.append(["CCCC", "nan", "test"])
    data = write(folder / "atoms.csv", ["SMILES", "atoms", "split"], rows)
    options = ["--epochs", "40", "--patience", "40", "--output", str(folder / "run")]
    finetune.main(["--data", data, "--targets", "atoms", *options, *QUIET])
    return folder / "run"


def test_it_learns_to_count_atoms_in_their_unit(counted):
    report = json.loads((counted / "metrics.json").read_text())
    assert report["task"] == "regression" and report["chosen_by"] == "r2"
    assert report["runs"][0]["test"]["mean"]["r2"] > 0.9
    rows = [row for row in table(counted / "seed-0" / "predictions.csv") if row["atoms"]]
    assert [float(row["atoms"]) for row in rows] == list(HEAVY_ATOMS.values())
    errors = [float(row["atoms_predicted"]) - float(row["atoms"]) for row in rows]
    assert max(map(abs, errors)) < 3
    measured = report["test"]
    assert measured["rmse"]["mean"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)
    assert measured["mae"]["mean"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    spread = np.var(list(HEAVY_ATOMS.values()))
    assert measured["r2"]["mean"] == pytest.approx(1 - np.mean(np.square(errors)) / spread)
    assert measured["rmse"]["low"] is None


def test_the_figures_name_the_command_that_gives_them(counted):
    report = json.loads((counted / "metrics.json").read_text())
    script, *words = shlex.split(report["command"])[1:]
    assert script == "examples/finetune.py"
    assert words[:4] == ["--data", "atoms.csv", "--targets", "atoms"] and "/" not in words[1]
    assert torch.__version__.startswith(report["versions"]["torch"])  # less +cu130
    assert report["weights"] == MoleculeEmbedder(TINY).fingerprint


def test_rows_that_cannot_be_used_are_listed_and_counted(counted):
    report = json.loads((counted / "metrics.json").read_text())
    assert report["rows"] == {"train": 13, "valid": 12, "test": 13}
    assert sum(report["rejected"].values()) == 2
    with open(counted / "rejects.tsv") as stream:
        rejects = list(csv.DictReader(stream, delimiter="\t"))
    assert [(int(row["row"]), row["text"]) for row in rejects] == [
        (13, "C(C"),
        (39, "not a molecule"),
    ]
    predictions = table(counted / "seed-0" / "predictions.csv")
    assert [int(row["row"]) for row in predictions] == [*range(27, 39), 40]
    assert predictions[-1]["atoms"] == "" and float(predictions[-1]["atoms_predicted"]) > 0


def test_the_saved_model_predicts_the_same(counted):
    model = AutoModelForSequenceClassification.from_pretrained(counted / "seed-0" / "model")
    assert type(model) is CMIMForSequenceClassification
    assert model.config.id2label == {0: "atoms"}
    labels = [*HEAVY_ATOMS.values()]
    assert model.classifier.label_mean.item() == pytest.approx(np.mean(labels))
    assert model.classifier.label_std.item() == pytest.approx(np.std(labels))
    rows = table(counted / "seed-0" / "predictions.csv")[:12]
    expected = [[float(row["atoms_predicted"])] for row in rows]
    logits = predict(model, [row["smiles"] for row in rows])
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert AutoTokenizer.from_pretrained(counted / "seed-0" / "model").model_max_length == 512


def test_the_epoch_that_is_best_in_validation_is_kept(finetune, tmp_path):
    """Validation labels that contradict the training labels are fitted best at the beginning."""
    rows = [[smiles, count, "train"] for smiles, count in HEAVY_ATOMS.items()]
    rows += [[smiles, 13 - count, "val"] for smiles, count in HEAVY_ATOMS.items()]
    rows += [["CCC", 3, "test"]]
    data = write(tmp_path / "a.csv", ["smiles", "atoms", "split"], rows)
    options = ["--epochs", "30", "--patience", "4", "--output", str(tmp_path / "run")]
    finetune.main(["--data", data, "--targets", "atoms", *options, *QUIET])
    (run,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"]
    history = run["history"]
    assert run["best_epoch"] + 4 == len(history) < 30
    assert max(history) == history[run["best_epoch"] - 1] > history[-1] + 0.05
    assert run["valid"]["mean"]["r2"] == pytest.approx(max(history), abs=1e-4)
    assert run["test"]["undefined"] == {"atoms": ["r2"]}


def test_two_yes_or_no_targets_with_lora_and_two_seeds(finetune, tmp_path):
    rows = [[smiles, int("c" in smiles), int("O" in smiles), ""] for smiles in HEAVY_ATOMS]
    rows[3][1] = ""
    header = ["smiles", "ring", "oxygen", "note"]
    train, valid = (write(tmp_path / f"{name}.csv", header, rows) for name in ("a", "b"))
    test = write(tmp_path / "c.csv", header, [[*row[:2], 1, ""] for row in rows])
    options = ["--lora", "4", "--seeds", "2", "--epochs", "12", "--output", str(tmp_path / "run")]
    files = ["--train", train, "--validation", valid, "--test", test]
    finetune.main([*files, "--targets", "ring", "oxygen", *options, *QUIET])
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["task"] == "binary"
    values = [run["test"]["by_target"]["ring"]["roc_auc"] for run in report["runs"]]
    for run in report["runs"]:
        assert run["test"]["undefined"] == {"oxygen": ["roc_auc"]}
        assert run["valid"]["by_target"].keys() == {"ring", "oxygen"}
        assert run["valid"]["by_target"]["ring"]["roc_auc"] > 0.9
    assert report["test"]["roc_auc"]["mean"] == pytest.approx(np.mean(values))
    models = []
    for seed in range(2):
        folder = tmp_path / "run" / f"seed-{seed}"
        written = table(folder / "predictions.csv")
        smiles = [row["smiles"] for row in written]
        expected = [[float(row[f"{name}_predicted"]) for name in header[1:3]] for row in written]
        merged = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        base = CMIMForSequenceClassification.from_pretrained(
            TINY, num_labels=2, problem_type="multi_label_classification"
        )
        for name, value in base.cmim.state_dict().items():
            same = torch.equal(value, merged.cmim.state_dict()[name])
            assert same != (name.split(".")[-2] in ATTENTION), name
        for model in (merged, PeftModel.from_pretrained(base, folder / "adapter")):
            logits = predict(model, smiles)
            np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, atol=1e-4)
        models.append(merged.classifier.dense.weight)
    assert not torch.allclose(models[0], models[1])
    options = ["--lora", "4", "--epochs", "12", "--output", str(tmp_path / "again")]
    finetune.main([*files, "--targets", "ring", "oxygen", *options, *QUIET])
    first, again = (
        [float(row["ring_predicted"]) for row in table(folder / "seed-0" / "predictions.csv")]
        for folder in (tmp_path / "run", tmp_path / "again")
    )
    assert again == pytest.approx(first, abs=1e-3)


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
    assert result["mean"] == {"roc_auc": 0.75} and result["undefined"] == {"b": ["roc_auc"]}


def test_the_interval_of_three_seeds():
    found = summary([{"rmse": 1.0}, {"rmse": 2.0}, {"rmse": 4.0}])["rmse"]
    half = 4.302653 * 1.527525 / 3**0.5  # Student's t of two degrees, deviation of the three
    assert found == pytest.approx({"mean": 7 / 3, "low": 7 / 3 - half, "high": 7 / 3 + half})


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[text, 1, "train"] for text in ("C", "N")], [], "valid: The rows to prepare are empty"),
        ([["C", "1", "train"]], ["--seeds", "0"], "--seeds is at least 1, not 0"),
        ([["C", "low", "train"]], [], "row 1: column 'y' holds 'low'"),
        ([["C", "1", "hold"]], [], r"holds \['hold'\]"),
        ([["C", "1", "train"]], ["--test", "x.csv"], "not both"),
        ([["C", "1", "train"]], ["--targets", "z"], "no column 'z'.*`--targets`"),
        ([["C", "", "train"], ["N", "1", "val"], ["O", "1", "test"]], [], "No training row"),
        ([["C", "1", "train"], ["(", "1", "val"], ["C", "1", "test"]], [], "valid: None of the 1"),
        ([["C", "1", "train"], ["N", "1", "val"], ["O", "1", "test"]], [], "roc_auc is defined"),
        ([["C", "1", "train"], ["C", "1", "val"], ["C", "1", "test"]], [], "--copies true"),
        (
            [["C", "2", "train"], ["N", "1", "val"], ["O", "1", "test"]],
            ["--task", "binary"],
            "needs labels 0 and 1",
        ),
    ],
)
def test_data_that_cannot_be_learned_from_is_named(finetune, tmp_path, rows, options, message):
    data = write(tmp_path / "a.csv", ["smiles", "y", "split"], rows)
    with pytest.raises(ValueError, match=message):
        finetune.main(
            ["--data", data, "--targets", "y", "--output", str(tmp_path / "run"), *options]
        )
    assert not (tmp_path / "run").exists()


def test_too_few_molecules_to_divide_are_counted(finetune, tmp_path):
    data = write(tmp_path / "seven.csv", ["smiles", "y"], [["C" * n, n] for n in range(1, 8)])
    with pytest.raises(ValueError, match="seven.csv has 7 molecules and no column split.*least 10"):
        finetune.main(["--data", data, "--targets", "y"])


def test_a_table_of_which_nothing_parses_says_so(finetune, tmp_path):
    rows = [[f"no molecule {n}", n] for n in range(20)]
    data = write(tmp_path / "bad.csv", ["smiles", "y"], rows)
    with pytest.raises(ValueError, match="None of the [0-9]+ rows is usable.*bad.csv row"):
        finetune.main(["--data", data, "--targets", "y"])


def test_without_a_column_split_a_tenth_each_is_held_out():
    keys = ["C" * number for number in range(1, 26)]
    parts = random_split(keys).tolist()
    assert [parts.count(name) for name in ("train", "valid", "test")] == [21, 2, 2]
    assert parts == random_split(keys).tolist() != sorted(parts)


def test_no_table_at_all_is_freesolv(finetune, tmp_path):
    finetune.main(["--epochs", "1", "--checkpoint", TINY, "--output", str(tmp_path / "run")])
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["rows"] == {"train": 514, "valid": 64, "test": 64}
    assert report["arguments"]["targets"] == ["expt"] and not report["rejected"]
    assert report["test"]["rmse"]["mean"] < 4  # their spread is 3.8 kcal/mol
    for half, message in ((["--data", "a.csv"], "--targets"), (["--targets", "y"], "No data")):
        with pytest.raises(ValueError, match=message):
            finetune.main([*half, "--output", str(tmp_path / "other")])


def parts_of(data):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    return read_parts(FineTuningArguments(data=data, targets=["y"]), tokenizer)[0]


def test_all_writings_of_a_molecule_go_to_one_part(tmp_path):
    molecules = [f"{'C' * i}{tail}" for i in range(1, 31) for tail in ("O", "N")]
    rows = [[text, 1.0 + len(text)] for text in molecules]
    rows += [[text[::-1], 1.0 + len(text)] for text in molecules]  # OCC for CCO
    parts = parts_of(write(tmp_path / "twice.csv", ["SMILES", "y"], rows))
    assert [len(part.rows) for part in parts.values()] == [96, 12, 12]
    own = {name: {tuple(ids) for ids in part.tokens} for name, part in parts.items()}
    assert not own["train"] & own["test"] and not own["train"] & own["valid"]


def test_molecules_of_later_parts_are_left_out_of_earlier_ones(tmp_path):
    rows = [["CCO", 1, "train"], ["CCN", 2, "train"], ["CCCl", 3, "train"], ["OCC", 4, "test"]]
    rows += [["CCF", 5, "test"], ["NCC", 6, "valid"], ["CCBr", 7, "valid"]]
    parts = parts_of(write(tmp_path / "leaks.csv", ["SMILES", "y", "split"], rows))
    assert leave_out_copies(parts) == 2
    assert [row.text for row in parts["train"].rows] == ["CCCl"]
    assert parts["train"].labels.tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("values", "task", "becomes"),
    [((-1, 1), "binary", {0, 1}), ((0, 1), "binary", {0, 1}), ((1.5, 2), "regression", {1.5, 2})],
)
def test_the_task_is_read_off_the_labels(values, task, becomes):
    part = Part([], [], np.array([[value] for value in values * 3], float))
    assert guess_task({"train": part}) == task
    assert set(part.labels.ravel()) == becomes


def test_whole_numbers_may_be_classes():
    part = Part([], [], np.array([[0.0], [1.0], [2.0]]))
    with pytest.raises(ValueError, match="0 to 2: amounts, or classes.*--task regression"):
        guess_task({"train": part})
