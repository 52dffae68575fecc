# SPDX-License-Identifier: Apache-2.0
"""A predictor as a folder: what it tells of other molecules, and what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from transformers import AutoTokenizer, set_seed

from cmim_hf import (
    CMIMForSequenceClassification,
    MoleculeEmbedder,
    MoleculePredictor,
    list_checkpoints,
)
from cmim_hf.cli.main import main
from cmim_hf.prediction.labelled_parts import Part
from cmim_hf.prediction.members import Heads, Networks, save_heads
from cmim_hf.prediction.predictor_files import ABOUT, ARRAYS, save_calibrated

TINY = list_checkpoints()["tiny"]
TARGETS = ["atoms", "rings"]


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(TINY, representation="both", progress=False)


@pytest.fixture(scope="module")
def whole(sample, embedder):
    """The first molecules of the sample, with two numbers that their SMILES show."""
    rows = sample[:240]
    encoded = embedder.encoder()(rows)
    tokens = np.split(encoded.tokens, np.cumsum(encoded.lengths))[:-1]
    found = [Chem.MolFromSmiles(row.text) for row in rows]
    labels = [[one.GetNumHeavyAtoms(), one.GetRingInfo().NumRings()] for one in found]
    keys = [row.text for row in rows]
    return Part(rows, [ids.tolist() for ids in tokens], np.array(labels, float), keys)


def parts_of(whole, labels):
    part = Part(whole.rows, whole.tokens, labels, whole.keys)
    return {"train": part.take(range(140)), "valid": part.take(range(140, 200))}


def saved_heads(folder, embedder, task, classes, names, labels, whole):
    parts, targets = parts_of(whole, labels), TARGETS[: labels.shape[1]]
    heads = Heads.fit(embedder, "ridge", task, classes, parts, targets)
    about = {
        "task": task,
        "targets": targets,
        "classes": names,
        "heads": save_heads(folder, heads.estimators),
        "checkpoint": "tiny",
        "weights": embedder.fingerprint,
        "representation": "both",
        "standardize": "none",
    }
    save_calibrated(folder, about, heads, parts["train"], parts["valid"])
    return folder


@pytest.fixture(scope="module")
def numbers(whole, embedder, tmp_path_factory):
    labels = whole.labels.copy()
    labels[:5, 0] = np.nan  # missing in training
    labels[150:155, 1] = np.nan  # and in the calibration
    folder = tmp_path_factory.mktemp("numbers")
    return saved_heads(folder, embedder, "regression", 0, [], labels, whole)


def test_numbers_come_with_intervals_that_hold_the_truth_and_with_a_distance(numbers, whole):
    test, predictor = whole.take(range(200, 240)), MoleculePredictor(numbers, progress=False)
    found = predictor.predict([row.text for row in test.rows], level=0.8)
    expected = [f"{t}_{what}" for t in TARGETS for what in ("predicted", "low", "high")]
    assert found.columns.tolist() == [*expected, "distance_percentile"]
    for place, target in enumerate(TARGETS):
        truth = test.labels[:, place]
        predicted, low, high = (found[f"{target}_{what}"] for what in ("predicted", "low", "high"))
        assert np.corrcoef(predicted, truth)[0, 1] > 0.1
        assert ((low <= truth) & (truth <= high)).mean() > 0.6
        assert (predicted - low).to_numpy() == pytest.approx((high - predicted).to_numpy())
        wider = predictor.predict([test.rows[0].text], level=0.95)
        assert (wider[f"{target}_high"] > high[0]).all()
    near = predictor.predict([row.text for row in whole.rows[:140]])["distance_percentile"]
    far = predictor.predict(["[Xe]", "C" * 80])["distance_percentile"]
    assert near.median() < 50 < 99 < far.min()
    assert predictor.predict([whole.rows[0].text], level=0.99).isin([np.inf]).any(axis=None)


def test_a_molecule_is_read_as_in_training_and_what_is_none_is_refused(numbers):
    predictor = MoleculePredictor(numbers, progress=False)
    one, other = predictor.predict(["OCC", "CCO"]).to_dict("records")
    assert one == other
    with pytest.raises(ValueError, match="Row 1 of the molecules.*'C.C', cannot be used"):
        predictor.predict(["CCO", "C(C"])
    rows = predictor.predict(["CCO", "C(C"], on_invalid="none")
    assert rows.iloc[0].to_dict() == pytest.approx(one) and rows.iloc[1].isna().all()
    rows = predictor.predict(["C(C", "CCO"], on_invalid="skip")
    assert rows.index.tolist() == [1] and rows.iloc[0].to_dict() == pytest.approx(one)
    assert predictor.predict(["C(C"], on_invalid="none").isna().all(axis=None)
    assert predictor.predict([]).columns.tolist() == rows.columns.tolist()
    with pytest.raises(ValueError, match="`level` is between 0 and 1"):
        predictor.predict(["CCO"], level=90)
    with pytest.raises(TypeError, match="pass \\[it\\]"):
        predictor.predict("CCO")


def test_yes_or_no_comes_with_the_labels_that_cannot_be_ruled_out(whole, embedder, tmp_path):
    labels = (whole.labels > np.median(whole.labels, axis=0)).astype(float)
    saved_heads(tmp_path, embedder, "binary", 2, ["0", "1"], labels, whole)
    predictor = MoleculePredictor(tmp_path, progress=False)
    test = [row.text for row in whole.rows[200:]]
    sure, wary = (predictor.predict(test, level=level) for level in (0.5, 0.95))
    truth = labels[200:, 0].astype(int).astype(str)
    assert sure["atoms_predicted"].between(0, 1).all()
    held = [
        np.mean([one in told.split("|") for one, told in zip(truth, rows, strict=True)])
        for rows in (sure["atoms_labels"], wary["atoms_labels"])
    ]
    assert 0.3 < held[0] < held[1] and held[1] > 0.8
    assert wary["atoms_labels"].isin(["0|1"]).any() and set(sure["atoms_labels"]) >= {"0", "1"}


def test_several_classes_come_by_name_with_the_probability_of_each(whole, embedder, tmp_path):
    labels = np.digitize(whole.labels[:, :1], [20, 24]).astype(float)
    saved_heads(tmp_path, embedder, "multiclass", 3, ["small", "middle", "large"], labels, whole)
    found = MoleculePredictor(tmp_path, progress=False).predict(["C", "CCO"])
    chances = found[[f"atoms_probability_{name}" for name in ("small", "middle", "large")]]
    assert chances.sum(axis=1).tolist() == pytest.approx([1, 1])
    best = chances.to_numpy().argmax(axis=1)
    names = np.array(["small", "middle", "large"])
    assert found["atoms_predicted"].tolist() == names[best].tolist()


@pytest.fixture(scope="module")
def networks(whole, tmp_path_factory):
    """Two networks with heads of random weights."""
    folder, models = tmp_path_factory.mktemp("networks"), []
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    for seed in range(2):
        set_seed(seed)
        model = CMIMForSequenceClassification.from_pretrained(
            TINY, num_labels=2, problem_type="regression", dtype=torch.float32
        ).eval()
        model.save_pretrained(folder / f"seed-{seed}")
        tokenizer.save_pretrained(folder / f"seed-{seed}")
        models.append(model)
    about = {"task": "regression", "targets": TARGETS, "classes": [], "standardize": "none"}
    about["networks"] = ["seed-0", "seed-1"]
    parts = parts_of(whole, whole.labels)
    save_calibrated(folder, about, Networks(models, tokenizer), parts["train"], parts["valid"])
    return folder


def test_networks_are_averaged_and_their_spread_is_told(networks, whole):
    smiles = [row.text for row in whole.rows[:6]]
    found = MoleculePredictor(networks, progress=False).predict(smiles)
    batch = AutoTokenizer.from_pretrained(TINY)(smiles, padding=True, return_tensors="pt")
    each = []
    for seed in range(2):
        model = CMIMForSequenceClassification.from_pretrained(networks / f"seed-{seed}").eval()
        with torch.no_grad():
            each.append(model(**batch).logits.numpy())
    for place, target in enumerate(TARGETS):
        values = np.stack(each)[:, :, place]
        assert found[f"{target}_predicted"].to_numpy() == pytest.approx(values.mean(0), abs=1e-4)
        assert found[f"{target}_std"].to_numpy() == pytest.approx(values.std(0, ddof=1), abs=1e-4)


@pytest.mark.parametrize("which", ["numbers", "networks"])
def test_atoms_carry_predictions(which, request):
    predictor = MoleculePredictor(request.getfixturevalue(which), progress=False)
    found = predictor.atom_contributions(["OCC", "C(C", "c1ccccc1"], on_invalid="none")
    assert [one and one.smiles for one in found] == ["CCO", None, "c1ccccc1"]
    assert found[0].values.shape == (2, 3) and found[2].values.shape == (2, 6)
    assert (np.abs(found[0].values) > 1e-6).all()
    again = predictor.atom_contributions(["CCO"])[0].values
    assert again == pytest.approx(found[0].values, abs=1e-5)


def test_the_command_keeps_the_columns_and_warns_of_distance(numbers, tmp_path, capsys):
    source, output = tmp_path / "library.csv", tmp_path / "out.csv"
    source.write_text("id,smiles\na,OCC\nb,C(C\nc,[Xe]\n")
    words = ["predict", str(numbers), str(source), "-o", str(output), "--level", ".8"]
    assert main(words) == 1
    assert f"Row 2 of {source}" in capsys.readouterr().err and not output.exists()
    picture = tmp_path / "atoms.svg"
    assert main([*words, "--on-invalid", "none", "--picture", str(picture)]) == 0
    assert "<svg" in picture.read_text()
    told = capsys.readouterr().err
    assert "Predicted atoms, rings for 2 of 3 rows." in told and "do not trust" in told
    found = pd.read_csv(output)
    own = MoleculePredictor(numbers, progress=False).predict(["CCO", "[Xe]"], level=0.8)
    assert found["id"].tolist() == ["a", "b", "c"]
    kept = found.drop(index=1)[own.columns].to_numpy(float)
    assert kept == pytest.approx(own.to_numpy(float), abs=1e-4)
    assert "parse" in found["atoms_predicted_error"][1]
    assert main([*words[:-1], "80"]) == 1
    assert "--level is between 0 and 1" in capsys.readouterr().err
    assert main(["predict", str(tmp_path), str(source), "-o", str(output)]) == 1
    assert f"{tmp_path} holds no predictor: there is no {ABOUT} in it" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["numbers", "networks"])
def test_one_flipped_byte_anywhere_is_found(which, request, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(request.getfixturevalue(which), folder)
    files = [name for name in json.loads((folder / ABOUT).read_text())["files"]]
    assert ARRAYS in files and len(files) > 2
    for name in [ABOUT, *files]:
        whole = (folder / name).read_bytes()
        for place in (len(whole) // 3, len(whole) - 3):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            (folder / name).write_bytes(damaged)
            with pytest.raises(ValueError, match="damaged|not what was saved|newer|missing"):
                MoleculePredictor(folder)
        (folder / name).write_bytes(whole)
    (folder / files[-1]).unlink()
    with pytest.raises(ValueError, match="is missing, which predictor.json names"):
        MoleculePredictor(folder)


def test_another_base_model_and_a_newer_form_are_refused(numbers, networks, tmp_path):
    with pytest.raises(ValueError, match="Give theirs by `checkpoint`"):
        MoleculePredictor(numbers, checkpoint="small")
    assert MoleculePredictor(numbers, checkpoint=TINY).targets == TARGETS
    shutil.copytree(numbers, tmp_path / "copy")
    about = json.loads((tmp_path / "copy" / ABOUT).read_text())
    (tmp_path / "copy" / ABOUT).write_text(json.dumps({**about, "format": 2, "cmim_hf": "9.0"}))
    with pytest.raises(ValueError, match="written by cmim-hf 9.0, in a form.*pip install -U"):
        MoleculePredictor(tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="holds no predictor"):
        MoleculePredictor(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match="checkpoint /nowhere/at/all, which cannot be opened.*Say by"
    ):
        MoleculePredictor(numbers, checkpoint="/nowhere/at/all")
    with pytest.raises(ValueError, match="holds networks, which need no `checkpoint`"):
        MoleculePredictor(networks, checkpoint=TINY)


@pytest.mark.parametrize("which", ["numbers", "networks"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_of_invalid_rows_alone_is_no_obstacle(which, kind, request, tmp_path):
    for name, text in (("a.smi", "CCO\n"), ("b.smi", "C(C\n")):
        (tmp_path / name).write_text(text)
    output = tmp_path / f"out.{kind}"
    folder = request.getfixturevalue(which)
    words = ["predict", str(folder), f"{tmp_path}/*.smi", "-o", str(output), "--on-invalid", "none"]
    assert main(words) == 0
    found = pd.read_csv(output) if kind == "csv" else pd.read_parquet(output)
    assert found["atoms_predicted"].isna().tolist() == [False, True]
