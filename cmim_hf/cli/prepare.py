# SPDX-License-Identifier: Apache-2.0
"""Molecules parsed and tokenised once, for training runs.

Training on the folder needs neither RDKit nor datasets. With labels, from columns of the tables
or RDKit's descriptors, training also learns to predict them.
"""

from __future__ import annotations

import argparse

from .options import add_standardize_option
from .reports import say

WORDS = {
    "column": "--smiles-column",
    "num_workers": "--workers",
    "canonicalize": "--no-canonicalize",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--sources", nargs="+", required=True, help="files, datasets of the Hub, moses, folders")
    add("-o", "--output", required=True, help="the folder to write")
    add(
        "--tokenizer",
        help="folder of a tokenizer, a checkpoint or prepared molecules, whose scale of properties "
        "is taken, too; the package's own tokenizer if not given",
    )
    add("--merges", type=int, default=0, help="train a tokenizer with so many multi-atom tokens")
    add(
        "--smiles-column",
        "--smiles_column",
        help="the column with SMILES; found by its name if not given",
    )
    add("--split", default="train", help="of a dataset (%(default)s)")
    add(
        "--no-canonicalize",
        dest="canonicalize",
        action="store_false",
        help="take the SMILES as they are: faster, for rows that RDKit wrote",
    )
    add_standardize_option(parser)
    add(
        "--max-length",
        "--max_length",
        type=int,
        default=512,
        help="most tokens of a molecule, its end included (%(default)s)",
    )
    add(
        "--property-columns",
        "--property_columns",
        nargs="+",
        default=[],
        help="columns with numbers to label molecules with, empty where unknown",
    )
    add(
        "--properties",
        nargs="+",
        default=[],
        help="or descriptors to compute: rdkit (118 that cost little), or RDKit's names",
    )
    add("--property-rows", "--property_rows", type=int, help="compute them for so many molecules")
    add("--workers", type=int, default=0, help="processes that parse beside this one")


def run(options: argparse.Namespace) -> None:
    """Prepare the sources into the output."""
    from ..checkpoints import checkpoint_path
    from ..data.labelling import read_property_scale
    from ..data.prepare import SourceOptions, prepare_folder
    from ..model.tokenization_cmim import CMIMTokenizer, default_tokenizer

    tokenizer, scale = options.tokenizer, None
    if tokenizer is None:
        tokenizer = default_tokenizer(options.max_length)
    else:
        tokenizer = checkpoint_path(tokenizer)
        scale = read_property_scale(tokenizer)
        tokenizer = CMIMTokenizer.from_pretrained(tokenizer)
    names = "max_length canonicalize standardize split property_columns properties property_rows"
    settings = {name: getattr(options, name) for name in names.split()}
    settings |= {"column": options.smiles_column, "num_workers": options.workers}
    molecules, rejects = prepare_folder(
        options.sources,
        options.output,
        tokenizer,
        SourceOptions(**settings, property_scale=scale),
        merges=options.merges,
    )
    told = f"{len(molecules):,} molecules of {molecules.lengths.mean():.1f} tokens"
    if (labels := molecules.labels()) is not None:
        told += f", {len(labels.codes):,} labelled with {len(labels.scale.names)} properties"
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in rejects.counts.items())
    told += f", in {options.output}; {len(rejects):,} rows could not be used"
    say(told + (f" ({kinds}): see rejects.tsv." if kinds else "."))
