# SPDX-License-Identifier: Apache-2.0
"""The command `cmim`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from transformers.utils import logging

from ..allocator import keep_freed_memory
from ..atomic_files import check_output
from ..checkpoints import DEFAULT_CHECKPOINT
from ..model.informative_embeddings_cmim import POOLINGS
from ..version import __version__
from . import search
from .common import BATCH_ROWS, in_its_words
from .exit_status import exit_status
from .generation import add_generation_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors of the user's input are one message and exit status 1."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    logging.disable_progress_bar()
    interrupted = "interrupted" + ("." if options.output == "-" else "; nothing was written.")
    return exit_status(f"cmim {options.command}", partial(options.run, options), interrupted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cmim", description="cMIM for molecules.")
    parser.add_argument("--version", action="version", version=f"cmim-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    source_options, model_options = _source_options(), _model_options()
    _add_embed(commands, [source_options, model_options])
    add_generation_commands(commands, source_options, model_options)
    command = commands.add_parser("search", help=search.__doc__.splitlines()[0])
    search.add_arguments(command)
    command.set_defaults(run=search.run)
    return parser


def _source_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--column", help="the column with SMILES; found by its name if not given")
    options.add_argument("--split", default="train", help="of a dataset (default: %(default)s)")
    options.add_argument(
        "--file-type", help="read the input as .smi, .csv, .tsv or .parquet, whatever its name"
    )
    return options


def _model_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        help="folder or Hub id (default: the model that ships)",
    )
    options.add_argument("--device", help="such as cuda:1; an accelerator if there is one")
    options.add_argument("--dtype", help="such as bfloat16; the checkpoint's, float32 on a CPU")
    return options


def _add_embed(commands: argparse._SubParsersAction, parents: list) -> None:
    command = commands.add_parser(
        "embed",
        parents=parents,
        help="molecules to vectors",
        description="Embed the molecules of a file, of standard input or of a dataset.",
    )
    command.set_defaults(run=in_its_words(_embed))
    command.add_argument(
        "input",
        help="a .smi, .txt, .csv, .tsv (each also .gz) or .parquet file, a dataset of the Hub, "
        "'moses', or - for standard input",
    )
    command.add_argument(
        "-o",
        "--output",
        required=True,
        help="a .parquet file (the input's columns and `embedding`) or a .npy file (vectors only)",
    )
    command.add_argument(
        "--representation",
        default="informative",
        choices=("informative", "latent", "both"),
        help="pooled decoder states (the default), latent codes, or one beside the other",
    )
    command.add_argument(
        "--pooling",
        default="mean",
        choices=POOLINGS,
        help="of informative embeddings (default: %(default)s)",
    )
    command.add_argument(
        "--on-invalid",
        default="raise",
        choices=("raise", "none", "skip"),
        help="stop at an invalid row (the default), give it a vector of NaN and its reason, or "
        "leave it out",
    )
    command.add_argument(
        "--no-canonicalize",
        dest="canonicalize",
        action="store_false",
        help="take the SMILES as they are: faster, for rows that RDKit wrote",
    )
    command.add_argument(
        "--batch-tokens", type=int, help="most tokens of a batch, if memory is short or plenty"
    )
    command.add_argument(
        "--workers", type=int, default=0, help="processes that canonicalise beside this one"
    )


def _embed(options: argparse.Namespace) -> None:
    from ..data.smiles_files import read_batches
    from ..embedding.embedder import MoleculeEmbedder
    from ..embedding.embedding_files import OUTPUT_SUFFIXES, save_embeddings

    output = check_output(options.output, OUTPUT_SUFFIXES, [options.input])
    if options.workers < 0:
        raise ValueError(f"--workers is at least 0, not {options.workers}.")
    embedder = MoleculeEmbedder(
        options.checkpoint,
        device=options.device,
        dtype=options.dtype,
        representation=options.representation,
        pooling=options.pooling,
        canonicalize=options.canonicalize,
        on_invalid=options.on_invalid,
        batch_tokens=options.batch_tokens,
    )
    batches = read_batches(
        options.input,
        column=options.column,
        split=options.split,
        file_type=options.file_type,
        batch_rows=BATCH_ROWS,
    )
    done = save_embeddings(batches, embedder, options.output, num_workers=options.workers)
    print(
        f"Embedded {done.read - done.invalid.total():,} of {done.read:,} rows into "
        f"{options.output}: {done.written:,} rows of {embedder.size} numbers.",
        file=sys.stderr,
    )
    if done.invalid:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in done.invalid.most_common())
        print(f"Invalid: {kinds}. The first:", file=sys.stderr)
        for reject in done.first_rejects:
            text = f"{reject.row.text!r:.80}"
            print(f"  row {reject.row.number}, {text}: {reject.reason}", file=sys.stderr)
        if output.suffix == ".npy" and options.on_invalid == "skip":
            print(
                "A .npy file does not say which rows were left out: to know, choose --on-invalid "
                "none, or a .parquet file.",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
