# SPDX-License-Identifier: Apache-2.0
"""Tables divided into parts: no molecule on two sides, however it is written."""

import csv

import numpy as np
import pytest
from transformers import AutoTokenizer

from cmim_hf import list_checkpoints
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments
from cmim_hf.prediction.labelled_parts import leave_out_copies, read_parts

TINY = list_checkpoints()["tiny"]


def write(path, header, rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def data_of(path, **settings):
    return read_parts(
        FineTuningArguments(data=path, targets=["y"], **settings),
        AutoTokenizer.from_pretrained(TINY),
    )


def texts(data, name):
    return [row.text for row in data.parts[name].rows]


def test_all_writings_of_a_molecule_go_to_one_part(tmp_path):
    molecules = [f"{'C' * i}{tail}" for i in range(1, 31) for tail in ("O", "N")]
    rows = [[text, 1.5 + len(text)] for text in molecules]
    rows += [[text[::-1], 1.5 + len(text)] for text in molecules]  # OCC for CCO
    data = data_of(write(tmp_path / "twice.csv", ["SMILES", "y"], rows))
    assert data.split == "random" and "twice.csv has no column split: train" in data.notes[0]
    parts = data.parts
    assert [len(part.rows) for part in parts.values()] == [96, 12, 12]
    own = {name: {tuple(ids) for ids in part.tokens} for name, part in parts.items()}
    assert not own["train"] & own["test"] and not own["train"] & own["valid"]


def test_stereoisomers_go_to_one_part_unless_asked(tmp_path):
    pairs = [[f"{'C' * n}[C@{at}H](F)Cl", 0.5 + n] for n in range(1, 31) for at in ("", "@")]
    path = write(tmp_path / "stereo.csv", ["smiles", "y"], pairs)
    for split in ("random", "scaffold"):
        data = data_of(path, split=split)
        keys = [set(part.keys) for part in data.parts.values()]
        assert [len(each) for each in keys] == [24, 3, 3]
        assert sum(map(len, keys)) == len(set.union(*keys)) == 30
    apart = data_of(path, split="random", copies=True).parts
    assert [len(part.rows) for part in apart.values()] == [48, 6, 6]
    assert set(apart["train"].keys) & set(apart["test"].keys)


def test_molecules_of_later_parts_are_left_out_of_earlier_ones(tmp_path):
    rows = [["CCO", 1, "train"], ["CCN", 2, "train"], ["CCCl", 3, "train"], ["OCC", 4, "test"]]
    rows += [["CCF", 5, "test"], ["NCC", 6, "valid"], ["CCBr", 7, "valid"]]
    rows += [["C[C@H](F)Cl", 8, "train"], ["C[C@@H](F)Cl", 9, "test"], ["F/C=C/F", 1, "valid"]]
    rows += [["FC=CF", 2, "test"]]
    data = data_of(write(tmp_path / "leaks.csv", ["SMILES", "y", "Split"], rows))
    assert data.split == "column" and leave_out_copies(data.parts) == 4
    assert texts(data, "train") == ["CCCl"] and texts(data, "valid") == ["NCC", "CCBr"]
    assert data.parts["train"].labels.tolist() == [[3.0]]


def test_a_column_split_is_passed_over_where_another_is_asked_for(tmp_path):
    rows = [[f"{'C' * n}O", n + 0.5, "train", 2000 + n % 10] for n in range(1, 41)]
    path = write(tmp_path / "a.csv", ["smiles", "y", "split", "year"], rows)
    data = data_of(path, split="time", time_column="year", fractions=[0.6, 0.2, 0.2])
    years = {
        name: {2000 + int(label - 0.5) % 10 for label in part.labels[:, 0]}
        for name, part in data.parts.items()
    }
    assert years == {"train": {*range(2000, 2006)}, "valid": {2006, 2007}, "test": {2008, 2009}}
    assert data.split == "time" and "latest by year in test" in data.notes[0]
    with pytest.raises(ValueError, match="no column 'week'.*`time_column`"):
        data_of(path, split="time", time_column="week")
    with pytest.raises(ValueError, match="no column split, as `split` column needs"):
        data_of(write(tmp_path / "b.csv", ["smiles", "y"], [["C", 1]]), split="column")
    with pytest.raises(ValueError, match="Unknown `split` 'thirds'"):
        data_of(path, split="thirds")
    with pytest.raises(ValueError, match="`split` divides one table"):
        FineTuningArguments(train="a", validation="b", test="c", targets=["y"], split="random")
    with pytest.raises(ValueError, match="by `split` scaffold.*leave none for valid and test"):
        rings = [[f"{'C' * n}c1ccccc1", n + 0.5] for n in range(1, 13)]
        data_of(write(tmp_path / "c.csv", ["smiles", "y"], rings), split="scaffold")


def test_missing_classes_are_none_in_training(tmp_path):
    rows = [["C", "low", "train"], ["CCC", "mid", "valid"]]
    rows += [["CCO", "high", "test"]]
    data = data_of(write(tmp_path / "a.csv", ["smiles", "y", "split"], rows))
    assert data.task == "multiclass" and data.classes == ["high", "low", "mid"]
    examples = data.parts["train"].examples(data.task)
    assert [example["labels"] for example in examples] == [[1]]
    data.parts["train"].labels[:] = np.nan
    assert data.parts["train"].examples(data.task)[0]["labels"] == [-100]
    assert data.parts["test"].examples("regression")[0]["labels"] == [0.0]
