# SPDX-License-Identifier: Apache-2.0
"""Molecules divided into training, validation and test files.

Of each source --validation and --test molecules are held out. What equals one of these, or one of
--exclude, up to marks of stereo, is left out of the training molecules of all sources.
"""

from __future__ import annotations

import argparse

from .reports import say

WORDS = {"column": "--smiles-column", "num_workers": "--workers"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--sources", nargs="+", required=True, help="files, datasets of the Hub, moses")
    add("-o", "--output", required=True, help="the folder to write")
    add("--exclude", nargs="+", default=[], help="sources of molecules that must stay unseen")
    add("--validation", type=int, default=2000, help="held out of each source (%(default)s)")
    add("--test", type=int, default=2000, help="likewise (%(default)s)")
    add("--max-atoms", "--max_atoms", type=int, help="most heavy atoms of a molecule in any file")
    add("--smiles-column", help="the column with SMILES; found by its name if not given")
    add("--seed", type=int, default=0, help="of the drawing and the shuffling (%(default)s)")
    add("--workers", type=int, default=0, help="processes that parse beside this one")


def run(options: argparse.Namespace) -> None:
    """Divide the sources into the output."""
    from ..data.split import SplitOptions, split_sources

    names = "exclude validation test max_atoms seed".split()
    settings = {name: getattr(options, name) for name in names}
    settings |= {"column": options.smiles_column, "num_workers": options.workers}
    counts, rejects = split_sources(options.sources, options.output, SplitOptions(**settings))
    for name, steps in counts.items():
        told = ", ".join(f"{number:,} {step}" for step, number in steps.items())
        say(f"{name}: {told}")
    total = sum(steps["train"] for steps in counts.values())
    told = f"{total:,} training molecules in {options.output}"
    say(f"{told}; {len(rejects):,} rows do not parse, see rejects.tsv.")
