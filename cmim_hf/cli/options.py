# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import DEFAULT_CHECKPOINT
from ..model.parent_molecule_cmim import STANDARDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..data.smiles_files import Batch
    from ..generation.generator import MoleculeGenerator
    from .molecule_files import Picture

BATCH_ROWS = 16384
"""Rows of a source, or codes, that are worked on at once."""

SOURCE = (
    "a .smi, .cxsmiles, .txt, .csv, .tsv, .parquet, .sdf or .mol2 file (each also .gz, .bz2, .xz "
    "or .zst), a dataset of the Hub, 'moses', or - for standard input; several, or a pattern as "
    "'part-*.smi', are read one after the other"
)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add how an input is read."""
    parser.add_argument("--column", help="the column with SMILES; found by its name if not given")
    parser.add_argument("--split", default="train", help="of a dataset (default: %(default)s)")
    parser.add_argument(
        "--file-type",
        help="read the input as .smi, .csv, .tsv, .parquet, .sdf or .mol2, whatever its name",
    )


def add_standardize_option(parser: argparse.ArgumentParser) -> None:
    """Add what molecules are brought to before they are read."""
    parser.add_argument(
        "--standardize",
        default="none",
        choices=STANDARDS,
        help="parent takes the largest fragment of each molecule, neutral, so that a salt is its "
        "acid or base (default: %(default)s)",
    )


def add_on_invalid_option(
    parser: argparse.ArgumentParser, kept: str = "", what: str = "row"
) -> None:
    """Add what becomes of invalid rows; `kept` says how one stays, where it can."""
    kept = kept and f"{kept}, "
    parser.add_argument(
        "--on-invalid",
        default="raise",
        choices=("raise", "none", "skip") if kept else ("raise", "skip"),
        help=f"stop at an invalid {what} (the default), {kept}or leave it out",
    )


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        help="folder, Hub id or name of a model that ships (default: small, which ships)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the model and where it works."""
    add_checkpoint_option(parser)
    parser.add_argument("--device", help="such as cuda:1; an accelerator if there is one")
    parser.add_argument("--dtype", help="such as bfloat16; the checkpoint's, float32 on a CPU")


def add_generation_options(parser: argparse.ArgumentParser, lines: str) -> None:
    """Add the model and the outputs of molecules; `lines` says what a line of SMILES holds."""
    add_model_options(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        help="codes decoded at once, if memory is short or plenty (default: 512 on a CPU, 4,096 "
        "elsewhere)",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="a .csv, .tsv or .parquet file; a .smi file or - (standard output) for the molecules "
        f"alone: {lines}",
    )
    parser.add_argument(
        "--picture", help="draw the molecules, too: an .svg or .png file, the first 60 at most"
    )


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Add how a code becomes a molecule."""
    parser.add_argument(
        "--attempts",
        type=int,
        default=16,
        help="decode a code so often at most until its text is a molecule; 1 is once, greedily "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=1,
        help="where the first text is not a molecule of just this code, take among so many most "
        "probable ones that whose own code is nearest; 10 is much more faithful, and slower "
        "(default: %(default)s)",
    )


def checked_outputs(
    options: argparse.Namespace, inputs: list[str], lines: bool = True
) -> tuple[Path | None, Picture]:
    """Where to write and what to draw, checked before any work.

    `lines`: a file or standard output (None) may hold lines of SMILES, too.
    """
    from ..atomic_files import check_output
    from .molecule_files import LINE_SUFFIX, PICTURE_SUFFIXES, TABLE_SUFFIXES, Picture

    output, suffixes = options.output, (LINE_SUFFIX, *TABLE_SUFFIXES) if lines else TABLE_SUFFIXES
    output = None if lines and output in (None, "-") else check_output(output, suffixes, inputs)
    picture = options.picture and check_output(options.picture, PICTURE_SUFFIXES, inputs)
    return output, Picture(picture or None, columns=4)


def read_source(options: argparse.Namespace, every_column: bool = True) -> Iterator[Batch]:
    """Batches of the command's input; inputs of several layouts only without `every_column`."""
    from ..data.smiles_files import read_batches

    return read_batches(
        options.input,
        column=options.column,
        split=options.split,
        file_type=options.file_type,
        batch_rows=BATCH_ROWS,
        every_column=every_column,
    )


def load_generator(options: argparse.Namespace, **more: Any) -> MoleculeGenerator:
    """The generator of the options; `more` goes to it as it is."""
    from ..generation.generator import MoleculeGenerator

    return MoleculeGenerator(
        options.checkpoint,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        **more,
    )
