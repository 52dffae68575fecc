# SPDX-License-Identifier: Apache-2.0
"""Molecules parsed and tokenised once, for training runs.

Training on the folder needs neither RDKit nor datasets. With labels, from columns of the tables
or RDKit's descriptors, training also learns to predict them.
"""

from __future__ import annotations

import argparse

from .options import SOURCE
from .reports import say

WORDS = {"column": "--smiles-column", "num_workers": "--workers"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--sources", nargs="+", required=True, help=f"each {SOURCE}; or a folder prepared before"
    )
    parser.add_argument("-o", "--output", required=True, help="the folder to write")
    parser.add_argument(
        "--tokenizer",
        help="folder of a tokenizer, a checkpoint or prepared molecules, whose scale of properties "
        "is taken, too (default: the package's own tokenizer)",
    )
    parser.add_argument(
        "--merges",
        type=int,
        default=0,
        help="train a tokenizer with this many multi-atom tokens on the molecules",
    )
    parser.add_argument(
        "--smiles-column",
        "--smiles_column",
        help="the column with SMILES; found by its name if not given",
    )
    parser.add_argument("--split", default="train", help="of a dataset (default: %(default)s)")
    parser.add_argument(
        "--no-canonicalize",
        dest="canonicalize",
        action="store_false",
        help="take the SMILES as they are: faster, for rows that RDKit wrote",
    )
    parser.add_argument(
        "--max-length",
        "--max_length",
        type=int,
        default=512,
        help="most tokens of a molecule, its end included (default: %(default)s)",
    )
    parser.add_argument(
        "--property-columns",
        "--property_columns",
        nargs="+",
        default=[],
        help="columns with numbers to label molecules with, empty where unknown",
    )
    parser.add_argument(
        "--properties",
        nargs="+",
        default=[],
        help="or descriptors to compute: rdkit (118 that cost little), or RDKit's names",
    )
    parser.add_argument(
        "--property-rows",
        "--property_rows",
        type=int,
        help="compute them for so many molecules only, at random",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that parse beside this one"
    )


def run(options: argparse.Namespace) -> None:
    """Prepare the sources into the output."""
    from transformers import AutoTokenizer

    from ..data.labelling import read_property_scale
    from ..data.prepare import SourceOptions, prepare_folder
    from ..model.tokenization_cmim import default_tokenizer

    scale = None
    if options.tokenizer is None:
        tokenizer = default_tokenizer(options.max_length)
    else:
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        scale = read_property_scale(options.tokenizer)
    settings = SourceOptions(
        max_length=options.max_length,
        canonicalize=options.canonicalize,
        column=options.smiles_column,
        split=options.split,
        num_workers=options.workers,
        property_columns=options.property_columns,
        properties=options.properties,
        property_rows=options.property_rows,
        property_scale=scale,
    )
    molecules, rejects = prepare_folder(
        options.sources, options.output, tokenizer, settings, merges=options.merges
    )
    say(f"{len(molecules):,} molecules of {molecules.lengths.mean():.1f} tokens: {options.output}")
    if (labels := molecules.labels()) is not None:
        say(f"{len(labels.codes):,} are labelled with {len(labels.scale.names)} properties.")
    if rejects:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in rejects.counts.items())
        say(f"{len(rejects):,} rows could not be used ({kinds}): see rejects.tsv there.")


__all__ = ["add_arguments", "run"]
