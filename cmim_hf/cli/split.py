# SPDX-License-Identifier: Apache-2.0
"""Molecules divided into training, validation and test files.

Of each source --validation and --test molecules are held out. What equals one of these, or one of
--exclude, up to marks of stereo, is left out of the training molecules of all sources.
"""

from __future__ import annotations

import argparse

from .options import SOURCE
from .reports import say

WORDS = {"column": "--smiles-column", "num_workers": "--workers"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--sources", nargs="+", required=True, help=f"each {SOURCE}")
    parser.add_argument("-o", "--output", required=True, help="the folder to write")
    parser.add_argument(
        "--exclude", nargs="+", default=[], help="sources of molecules that must stay unseen"
    )
    parser.add_argument(
        "--validation",
        type=int,
        default=2000,
        help="held out of each source to choose by (default: %(default)s)",
    )
    parser.add_argument(
        "--test",
        type=int,
        default=2000,
        help="held out of each source to report (default: %(default)s)",
    )
    parser.add_argument(
        "--max-atoms", "--max_atoms", type=int, help="leave molecules of more heavy atoms out"
    )
    parser.add_argument(
        "--smiles-column", help="the column with SMILES; found by its name if not given"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawing and the shuffling")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that parse beside this one"
    )


def run(options: argparse.Namespace) -> None:
    """Divide the sources into the output."""
    from ..data.split import SplitOptions, split_sources

    names = "exclude validation test max_atoms seed".split()
    settings = {name: getattr(options, name) for name in names}
    counts, rejects = split_sources(
        options.sources,
        options.output,
        SplitOptions(column=options.smiles_column, num_workers=options.workers, **settings),
    )
    for name, steps in counts.items():
        say(f"{name}: " + ", ".join(f"{number:,} {step}" for step, number in steps.items()))
    total = sum(steps["train"] for steps in counts.values())
    say(
        f"{total:,} training molecules in {options.output}; {len(rejects):,} rows do not parse"
        + (": see rejects.tsv." if rejects else ".")
    )


__all__ = ["add_arguments", "run"]
