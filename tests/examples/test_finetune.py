# SPDX-License-Identifier: Apache-2.0
"""The example of fine-tuning, on a dozen molecules whose labels are counted by hand."""

import csv
import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cmim_hf import (
    CMIMForSequenceClassification,
    MoleculeEmbedder,
    MoleculePredictor,
    list_checkpoints,
)
from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.prediction.fine_tuning import ATTENTION
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments

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


def test_the_folder_is_a_predictor_with_a_report(counted):
    predictor = MoleculePredictor(counted, progress=False)
    found = predictor.predict(["OCC", "CCCCCC"], level=0.5)
    model = AutoModelForSequenceClassification.from_pretrained(counted / "seed-0" / "model")
    expected = predict(model, ["CCO", "CCCCCC"])[:, 0]
    assert found["atoms_predicted"].to_numpy() == pytest.approx(expected, abs=1e-4)
    valid = json.loads((counted / "metrics.json").read_text())["runs"][0]["valid"]["mean"]
    radius = (found["atoms_high"] - found["atoms_low"])[0] / 2
    assert 0 < radius < 2 * valid["mae"]
    page = (counted / "report.html").read_text()
    assert "<td>rmse<td>" in page and page.count("<svg") == 1 and "python examples/finetune" in page


@pytest.mark.parametrize(
    ("head", "task"),
    [("ridge", "regression"), ("rf", "regression"), ("svm", "binary"), ("ridge", "multiclass")],
)
def test_a_head_on_frozen_vectors_by_the_same_command(finetune, head, task, tmp_path):
    names = {"regression": str, "binary": lambda n: "yes" if n > 6 else "No"}
    name = names.get(task, lambda n: "small" if n < 5 else "middle" if n < 9 else "large")
    rows = [
        [smiles, name(count), part]
        for part in ("train", "valid", "test")
        for smiles, count in HEAVY_ATOMS.items()
    ]
    data = write(tmp_path / "atoms.csv", ["SMILES", "size", "split"], rows)
    output = tmp_path / "run"
    words = ["--data", data, "--targets", "size", "--head", head, "--output", str(output)]
    finetune.main([*words, *QUIET])
    report = json.loads((output / "metrics.json").read_text())
    assert report["task"] == task and len(report["runs"]) == 1
    best = report["test"]["r2" if task == "regression" else "roc_auc"]["mean"]
    assert best > 0.7
    told = table(output / "predictions.csv")
    found = MoleculePredictor(output, progress=False).predict([row["smiles"] for row in told])
    if task == "multiclass":
        assert [row["size_predicted"] for row in told] == found["size_predicted"].tolist()
    else:
        values = [float(row["size_predicted"]) for row in told]
        assert found["size_predicted"].to_numpy() == pytest.approx(values, abs=1e-5)
    assert ("size_std" in found) == (task == "regression" and head == "rf")
    assert "<svg" in (output / "report.html").read_text()


def run_head(finetune, folder, rows, *words, header=("SMILES", "size", "split"), name="atoms"):
    data = write(folder / f"{name}.csv", header, rows)
    output = folder / name
    finetune.main(["--data", data, "--head", "ridge", "--output", str(output), *words, *QUIET])
    return output


def three_times(label):
    return [
        [smiles, label(count), part]
        for part in ("train", "valid", "test")
        for smiles, count in HEAVY_ATOMS.items()
    ]


def test_a_mean_over_targets_says_that_it_is_one(finetune, tmp_path, capsys):
    rows = [[*row[:2], 1000 * int(row[1]), row[2]] for row in three_times(str)]
    header = ("SMILES", "size", "thousandth", "split")
    run_head(finetune, tmp_path, rows, "--targets", "size", "thousandth", header=header)
    errors = json.loads((tmp_path / "atoms" / "metrics.json").read_text())["test"]
    told = "test rmse, mean over 2 targets, whatever their units (metrics.json has each): "
    told += f"{errors['rmse']['mean']:.4f}"
    assert told in capsys.readouterr().out
    run_head(finetune, tmp_path, three_times(str), "--targets", "size", name="one")
    assert "test rmse: " in capsys.readouterr().out


def test_rows_without_any_label_take_no_part(finetune, tmp_path, capsys):
    rows = three_times(str)
    plain = run_head(finetune, tmp_path, rows, "--targets", "size")
    more = [["N" * number, "", "train"] for number in range(1, 9)]
    output = run_head(finetune, tmp_path, [*rows, *more], "--targets", "size", name="more")
    assert "8 usable rows without any label are left out." in capsys.readouterr().out
    own, other = (MoleculePredictor(one, progress=False) for one in (plain, output))
    assert own.about["rows"] == other.about["rows"]
    assert own.predict(["NNNN"]).equals(other.predict(["NNNN"]))


def test_names_that_would_be_lost_are_refused(finetune, tmp_path):
    for targets, lost in ((["size", "size_predicted"], "size_predicted"), (["row"], "row")):
        with pytest.raises(
            ValueError, match=f"columns of their own that are called {lost}; rename"
        ):
            FineTuningArguments(data="a.csv", targets=targets)
    rows = three_times(lambda count: "a|b" if count < 5 else "c" if count < 9 else "d")
    with pytest.raises(ValueError, match="'a|b' has a | in its name".replace("|", "[|]")):
        run_head(finetune, tmp_path, rows, "--targets", "size")


def test_yes_and_no_come_back_as_written_and_a_dollar_is_a_dollar(finetune, tmp_path):
    rows = three_times(lambda count: "Active" if count > 6 else "inactive")
    header = ("SMILES", "IC50_$nM_$", "split")
    output = run_head(finetune, tmp_path, rows, "--targets", "IC50_$nM_$", header=header)
    found = MoleculePredictor(output, progress=False).predict(list(HEAVY_ATOMS), level=0.6)
    assert set(found["IC50_$nM_$_labels"]) <= {"Active", "inactive", "inactive|Active", "none"}
    assert "IC50_$nM_$" in (output / "report.html").read_text()


def test_another_runs_models_do_not_stay_beside_new_ones(finetune, tmp_path):
    rows = three_times(str)
    output = run_head(finetune, tmp_path, rows, "--targets", "size")
    run_head(finetune, tmp_path, rows, "--targets", "size")  # the same again is fine
    (output / "seed-0").mkdir()
    with pytest.raises(ValueError, match="holds seed-0 of another run; give a new folder"):
        run_head(finetune, tmp_path, rows, "--targets", "size")


def test_a_relative_checkpoint_is_found_from_elsewhere(finetune, tmp_path, monkeypatch):
    shutil.copytree(TINY, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    words = ["--targets", "size"]
    data = write(tmp_path / "a.csv", ("SMILES", "size", "split"), three_times(str))
    finetune.main(["--data", data, "--head", "ridge", "--output", "run", *words, *QUIET[:-4],
                   "--checkpoint", "mine", "--copies", "true"])  # fmt: skip
    monkeypatch.chdir("/")
    assert len(MoleculePredictor(tmp_path / "run", progress=False).predict(["CCO"])) == 1


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
    assert report["rows"] == {"train": 12, "valid": 12, "test": 12}
    assert sum(report["rejected"].values()) == 2
    with open(counted / "rejects.tsv") as stream:
        rejects = list(csv.DictReader(stream, delimiter="\t"))
    assert [(int(row["row"]), row["text"]) for row in rejects] == [
        (13, "C(C"),
        (39, "not a molecule"),
    ]
    predictions = table(counted / "seed-0" / "predictions.csv")
    assert [int(row["row"]) for row in predictions] == [*range(27, 39)]  # 40 has no label


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
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "seed-0" / "model")
    atoms = 13 - np.array([*HEAVY_ATOMS.values()])
    errors = predict(kept, [canonicalize(text) for text in HEAVY_ATOMS])[:, 0] - atoms
    of_the_kept = 1 - np.square(errors).mean() / atoms.var()
    assert of_the_kept == pytest.approx(max(history), abs=1e-3)
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
        assert run["test"]["undefined"] == {
            "oxygen": ["roc_auc", "average_precision", "balanced_accuracy"]
        }
        assert run["valid"]["by_target"].keys() == {"ring", "oxygen"}
        assert run["valid"]["by_target"]["ring"]["roc_auc"] > 0.9
        assert run["valid"]["mean"]["roc_auc"] == pytest.approx(max(run["history"]))
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


@pytest.mark.parametrize("head", ["network", "ridge"])
def test_parents_of_molecules_are_learned_and_predicted_alike(finetune, tmp_path, head):
    acids = ["C" * length + "C(=O)O" for length in range(1, 6)]
    salts = [f"{acid[:-1]}[O-].[Na+]" for acid in acids]
    rows = [[acid, 2.5 * len(acid), "train"] for acid in (*acids, *HEAVY_ATOMS)]
    rows += [[salt, 2.5 * len(salt), "test"] for salt in salts[:2]]
    rows += [[salt, 2.5 * len(salt), "valid"] for salt in salts[2:4]]
    data = write(tmp_path / "salts.csv", ["smiles", "y", "split"], rows)
    run = tmp_path / "run"
    options = ["--epochs", "1", "--checkpoint", TINY, "--head", head, "--output", str(run)]
    finetune.main(["--data", data, "--targets", "y", *options, "--standardize", "parent"])
    report = json.loads((run / "metrics.json").read_text())
    assert report["arguments"]["standardize"] == "parent"
    assert report["rows"] == {"train": 13, "valid": 2, "test": 2}  # the acids of four salts are out
    folder = run / "seed-0" if head == "network" else run
    written = table(folder / "predictions.csv")
    assert [row["smiles"] for row in written] == salts[:2]
    expected = pytest.approx([float(row["y_predicted"]) for row in written], abs=1e-3)
    predictor = MoleculePredictor(run, progress=False)
    assert predictor.about["standardize"] == "parent"
    found = predictor.predict(salts[:2] + acids[:2])
    assert found["y_predicted"][:2].tolist() == expected
    assert found[:2].equals(found[2:].reset_index(drop=True))
    if head == "network":
        config = json.loads((folder / "model" / "config.json").read_text())
        assert config["standardize"] == "parent"
        predict = pipeline("molecule-prediction", model=str(folder / "model"))
        assert [one["y"] for one in predict(salts[:2])] == expected


KINDS = {"chain": range(1, 6), "arene": range(6, 10), "ester": range(10, 13)}  # of heavy atoms


def kind(count):
    return next(name for name, counts in KINDS.items() if count in counts)


def test_one_class_of_several(finetune, tmp_path, capsys):
    rows = []
    for part in ("train", "valid", "test"):
        rows += [[smiles, kind(count), part] for smiles, count in HEAVY_ATOMS.items()]
    rows.append(["CCC", "", "test"])  # of no use
    data = write(tmp_path / "kinds.csv", ["smiles", "kind", "split"], rows)
    options = ["--epochs", "15", "--class_weights", "balanced", "--output", str(tmp_path / "run")]
    finetune.main(["--data", data, "--targets", "kind", *options, *QUIET])
    assert "The classes are arene, chain, ester." in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["task"] == "multiclass" and report["classes"] == ["arene", "chain", "ester"]
    (run,) = report["runs"]
    assert run["valid"]["mean"]["roc_auc"] == pytest.approx(max(run["history"]))
    assert max(run["history"]) > 0.9
    written = table(tmp_path / "run" / "seed-0" / "predictions.csv")
    assert len(written) == 12 and {row["kind_predicted"] for row in written} <= set(KINDS)
    names = [f"kind_probability_{name}" for name in report["classes"]]
    found = np.array([[float(row[name]) for name in names] for row in written])
    assert found.sum(axis=1) == pytest.approx(1)
    right = np.mean([row["kind"] == row["kind_predicted"] for row in written])
    assert report["test"]["accuracy"]["mean"] == right
    assert [row["kind"] for row in written] == [kind(count) for count in HEAVY_ATOMS.values()]
    model = str(tmp_path / "run" / "seed-0" / "model")
    predicted = pipeline("molecule-prediction", model=model)([row["smiles"] for row in written])
    again = [[row[name] for name in report["classes"]] for row in predicted]
    np.testing.assert_allclose(again, found, atol=1e-3)


def test_balanced_weights_lift_the_rare_class(finetune, tmp_path):
    rows = [[smiles, int(count > 10)] for smiles, count in HEAVY_ATOMS.items()]
    files = [write(tmp_path / f"{name}.csv", ["smiles", "big"], rows) for name in "abc"]
    options = ["--train", files[0], "--validation", files[1], "--test", files[2]]
    means = {}
    for weights in ("none", "balanced"):
        folder = tmp_path / weights
        finetune.main([*options, "--targets", "big", "--epochs", "1", "--class_weights", weights,
                       "--output", str(folder), *QUIET])  # fmt: skip
        written = table(folder / "seed-0" / "predictions.csv")
        means[weights] = np.mean([float(row["big_predicted"]) for row in written])
    assert means["none"] + 0.05 < means["balanced"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[text, 1, "train"] for text in ("C", "N")], [], "valid: The rows to prepare are empty"),
        ([["C", "1", "train"]], ["--seeds", "0"], "`seeds` is at least 1, not 0"),
        ([["C", "low", "train"]], [], "Column 'y' holds 'low', and which is yes"),
        (
            [["C", "1", "train"], ["N", ">2", "val"]],
            [],
            "row 2: column 'y' holds '>2', which is no",
        ),
        ([["C", "yes", "train"], ["N", "1", "val"]], [], "row 2: column 'y' holds '1', which is a"),
        ([["C", "1", "train"]], ["--split", "time"], "`split` time and `time_column` go together"),
        (
            [["C", "1", "train"]],
            ["--fractions", "0.5", "0.5"],
            "three numbers above 0.*not 0.5 0.5",
        ),
        ([["C", "1", "train"]], ["--fractions", "0.5", "0.3", "0.2"], "divided here: pass `split`"),
        ([["C", "1.5", "train"]], ["--class_weights", "balanced"], "is for classes"),
        ([["C", "1", "train"]], ["--targets", "y", "y"], "`targets` names y twice"),
        ([["C", "1", "hold"]], [], r"holds \['hold'\]"),
        ([["C", "1", "train"]], ["--test", "x.csv"], "not both"),
        ([["C", "1", "train"]], ["--targets", "z"], "no column 'z'.*`targets`"),
        (
            [["C", "", "train"], ["N", "1", "val"], ["O", "1", "test"]],
            [],
            "none of its 1 rows has a label",
        ),
        ([["C", "1", "train"], ["(", "1", "val"], ["C", "1", "test"]], [], "valid: None of the 1"),
        ([["C", "1", "train"], ["N", "1", "val"], ["O", "1", "test"]], [], "roc_auc is defined"),
        ([["C", "1", "train"], ["C", "1", "val"], ["C", "1", "test"]], [], "`copies` true"),
        (
            [["C", "2", "train"], ["N", "1", "val"], ["O", "1", "test"]],
            ["--task", "binary"],
            "`task` binary needs yes and no, 0 and 1 or -1 and 1.*'y' holds '1', '2'",
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
    with pytest.raises(
        ValueError, match="seven.csv has 7 molecules.*0.8 0.1 0.1 they leave none for valid and"
    ):
        finetune.main(["--data", data, "--targets", "y"])


def test_a_table_of_which_nothing_parses_says_so(finetune, tmp_path):
    rows = [[f"no molecule {n}", n] for n in range(20)]
    data = write(tmp_path / "bad.csv", ["smiles", "y"], rows)
    with pytest.raises(ValueError, match="None of the [0-9]+ rows is usable.*bad.csv row"):
        finetune.main(["--data", data, "--targets", "y"])


def test_no_table_at_all_is_freesolv(finetune, tmp_path):
    finetune.main(["--epochs", "1", "--checkpoint", TINY, "--output", str(tmp_path / "run")])
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["rows"] == {"train": 516, "valid": 63, "test": 63}
    assert report["arguments"]["targets"] == ["expt"] and not report["rejected"]
    assert report["test"]["rmse"]["mean"] < 4  # their spread is 3.8 kcal/mol
    for half, message in ((["--data", "a.csv"], "`targets`"), (["--targets", "y"], "No data")):
        with pytest.raises(ValueError, match=message):
            finetune.main([*half, "--output", str(tmp_path / "other")])
