# SPDX-License-Identifier: Apache-2.0
"""Options that are the fields of a dataclass, beside those that transformers makes of it."""

import argparse

import pytest
from transformers import HfArgumentParser

from cmim_hf.cli.dataclass_options import add_dataclass_options, read_dataclass
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments

TABLE = "--data a.csv --targets y z "


def parser():
    made = argparse.ArgumentParser()
    add_dataclass_options(made, FineTuningArguments)
    return made


def read(words):
    return read_dataclass(FineTuningArguments, parser().parse_args(words.split()))


@pytest.mark.parametrize(
    "words",
    [
        TABLE,
        TABLE + "--copies --batch-size 4 --learning_rate 1e-4 -o there",
        TABLE + "--copies false --class_weights balanced --checkpoint tiny --lora 8 --seeds 3",
        TABLE + "--split time --time-column when --fractions 0.5 0.25 0.25 --task regression",
        "--train a --validation b --test c --targets y --smiles_column s --head gp --copies yes",
    ],
)
def test_they_read_what_those_of_transformers_read(words):
    (expected,) = HfArgumentParser(FineTuningArguments).parse_args_into_dataclasses(words.split())
    assert read(words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--head tree", "argument --head: invalid choice: 'tree'"),
        ("--class_weights some", "argument --class_weights: invalid choice: 'some'"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'"),
        ("--copies perhaps", "argument --copies: 'perhaps' is neither true nor false"),
        ("--datta a.csv", "unrecognized arguments: --datta a.csv"),
    ],
)
def test_what_cannot_be_read_is_named(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        read(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_help_has_each_option_once_with_its_default():
    shown = " ".join(parser().format_help().split())
    for told in ("(default: small)", "(default: 0.8 0.1 0.1)", "(default: false)"):
        assert told in shown
    assert "--batch-size" in shown and "--batch_size" not in shown and "None" not in shown
