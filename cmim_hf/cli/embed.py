# SPDX-License-Identifier: Apache-2.0
"""Molecules to vectors.

Embed the molecules of a file, of standard input or of a dataset.
"""

from __future__ import annotations

import argparse

from .options import (
    SOURCE,
    add_model_options,
    add_on_invalid_option,
    add_source_options,
    add_standardize_option,
    read_source,
)
from .reports import say, say_invalid

WORDS = {"num_workers": "--workers", "canonicalize": "--no-canonicalize"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", nargs="+", help=SOURCE)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="a .parquet file (the input's columns and `embedding`) or a .npy file (vectors only)",
    )
    parser.add_argument(
        "--representation",
        default="informative",
        choices=("informative", "latent", "both"),
        help="pooled decoder states (the default), latent codes, or one beside the other",
    )
    parser.add_argument(
        "--pooling",
        default="mean",
        choices=("mean", "last", "max"),
        help="of informative embeddings (default: %(default)s)",
    )
    parser.add_argument(
        "--dim",
        type=int,
        help="so many numbers, along the principal axes beside the weights (64 of 192 are enough "
        "to search, and too few for linear models)",
    )
    add_on_invalid_option(parser, "give it a vector of NaN and its reason")
    parser.add_argument(
        "--no-canonicalize",
        dest="canonicalize",
        action="store_false",
        help="take the SMILES as they are: faster, for rows that RDKit wrote",
    )
    add_standardize_option(parser)
    parser.add_argument(
        "--batch-tokens",
        type=int,
        help="most tokens of a batch, if memory is short or plenty (default: 8,192 on a CPU, 512 "
        "there by onnx, 65,536 elsewhere)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that share the work: on a CPU all but reading and writing files, else to "
        "canonicalise (default: %(default)s, all in this one)",
    )
    parser.add_argument(
        "--backend",
        default="torch",
        choices=("torch", "onnx"),
        help="onnx runs what `cmim export` wrote, by onnxruntime on the CPU: name its folder by "
        "--checkpoint (default: %(default)s)",
    )
    add_source_options(parser)
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Embed the input into the output."""
    from ..atomic_files import check_output
    from ..data.source_files import expanded
    from ..embedding.embedder import MoleculeEmbedder
    from ..embedding.embedding_files import OUTPUT_SUFFIXES, save_embeddings

    output = check_output(options.output, OUTPUT_SUFFIXES, expanded(options.input))
    names = "device dtype representation pooling dim canonicalize standardize on_invalid"
    names += " batch_tokens backend"
    settings = {name: getattr(options, name) for name in names.split()}
    embedder = MoleculeEmbedder(options.checkpoint, **settings)
    done = save_embeddings(
        read_source(options, every_column=output.suffix != ".npy"),
        embedder,
        options.output,
        num_workers=options.workers,
    )
    say(
        f"Embedded {done.read - done.invalid.total():,} of {done.read:,} rows into "
        f"{options.output}: {done.written:,} rows of {embedder.size} numbers."
    )
    say_invalid(done.invalid, done.first_rejects)
    if done.invalid and output.suffix == ".npy" and options.on_invalid == "skip":
        say(
            "A .npy file does not say which rows were left out: to know, choose --on-invalid none, "
            "or a .parquet file."
        )
