# SPDX-License-Identifier: Apache-2.0
"""Conditions on molecules as options of `cmim sample` and `cmim optimize`."""

import csv
import re

import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from cmim_hf.cli.main import main

SEED = "Cc1ccc(C(=O)O)cc1"
PARA = Chem.MolFromSmarts("[cH]1[cH]c([!#1])[cH][cH]c1")


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_sample_writes_as_many_molecules_as_asked_for(tmp_path, capfd):
    output = tmp_path / "near.csv"
    command = ["sample", "-n", "6", "--around", SEED, "Oc1ccc(CC)cc1", "--radius", "1.0"]
    command += [
        "--seed",
        "1",
        "--keep",
        "*c1ccc(*)cc1",
        "--range",
        "mw=:200",
        "--range",
        "qed=0.3:",
    ]
    command += ["--forbid", "[Br]", "--forbid", "I", "--unique", "-o", str(output)]
    assert main(command) == 0
    rows = read(output)
    assert [row["seed"] for row in rows] == [SEED] * 6 + ["Oc1ccc(CC)cc1"] * 6
    assert len({row["smiles"] for row in rows}) == 12
    for row in rows:
        molecule = Chem.MolFromSmiles(row["smiles"])
        assert molecule.HasSubstructMatch(PARA) and Descriptors.MolWt(molecule) <= 200
    report = capfd.readouterr().err
    assert "Found 12 of 12 molecules that hold what was asked; draws were lost to: " in report
    assert "% keep *c1ccc(*)cc1" in report and "Warning" not in report
    drawn = int(re.search(r"Drew ([\d,]+) codes", report)[1].replace(",", ""))
    assert 12 < drawn <= 1200


def test_sample_says_what_a_spent_budget_was_lost_to(tmp_path, capfd):
    output = tmp_path / "none.smi"
    command = ["sample", "-n", "2", "--keep", "[Si]", "--max-draws", "3", "-o", str(output)]
    assert main(command) == 0
    report = capfd.readouterr().err
    assert output.read_text() == "" and "Drew 6 codes" in report
    assert "Found 0 of 2 molecules" in report and "% keep [Si]" in report
    assert "more --max-draws" in report and "Warning" not in report


def test_optimize_keeps_a_scaffold(tmp_path, capfd):
    table, output = tmp_path / "all.csv", tmp_path / "best.csv"
    command = ["optimize", SEED, "--scorer", "qed", "--budget", "15", "--keep", "*c1ccc(*)cc1"]
    command += ["--range", "mw=140:250", "--table", str(table), "-o", str(output)]
    assert main(command) == 0
    scored = [row["smiles"] for row in read(table)]
    assert scored[0] == SEED and len(scored) == 15
    for one in scored[1:]:
        molecule = Chem.MolFromSmiles(one)
        assert molecule.HasSubstructMatch(PARA) and 140 <= Descriptors.MolWt(molecule) <= 250
    assert "keep *c1ccc(*)cc1" in capfd.readouterr().err
    assert main([*command, "--forbid", "N"]) == 1
    assert "made with other settings: constraints was" in capfd.readouterr().err


AROUND = ["--around", SEED, "--radius", "1"]
BAD = [
    (["--keep", "C1CC"], "--keep: The pattern 'C1CC' is neither SMILES (unclosed ring)"),
    (["--forbid", ""], "--forbid: The pattern '' cannot be read: the text is empty"),
    (["--range", "mw"], "--range is NAME=LOWEST:HIGHEST"),
    (["--range", "mw=5"], "not 'mw=5'"),
    (["--range", "mw=1:2:3"], "not 'mw=1:2:3'"),
    (["--range", "mw=a:b"], "not 'mw=a:b'"),
    (["--range", "mw=:"], "The range of mw in --range is without limits"),
    (["--range", "mw=nan:1"], "The range of mw in --range is (nan, 1.0)"),
    (["--range", "mw=2:1"], "The range of mw in --range is empty: 2 is above 1"),
    (["--range", "weight=:1"], "--range: There is no property 'weight'"),
    (["--range", "mw=:1", "--range", "mw=0:"], "--range gives mw twice"),
    ([*AROUND, "--keep", "[Si]"], f"The seed {SEED} (row 0) has no match of the pattern '[Si]' in"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
@pytest.mark.parametrize("command", [["sample", "-n", "2"], ["optimize", SEED, "--scorer", "qed"]])
def test_bad_conditions_are_one_line_and_no_output(command, arguments, message, tmp_path, capfd):
    if command[0] == "optimize":
        arguments = arguments[-2:] if arguments[0] == "--around" else arguments
    assert main([*command, *arguments, "-o", str(tmp_path / "out.csv")]) == 1
    shown = capfd.readouterr().err
    assert shown.startswith(f"cmim {command[0]}: ") and message in shown
    assert shown.count("\n") == 1 and "`" not in shown and not list(tmp_path.iterdir())


def test_what_else_excludes_conditions(tmp_path, capfd):
    command = ["sample", "-n", "2", "--keep", "C", "-o", str(tmp_path / "out.csv")]
    assert main([*command, "--keep-invalid"]) == 1
    assert "--keep-invalid and --keep, --forbid or --range exclude" in capfd.readouterr().err
    assert main([*command, "--max-draws", "0"]) == 1
    assert "--max-draws is a whole number from 1, not 0" in capfd.readouterr().err
