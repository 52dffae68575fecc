# SPDX-License-Identifier: Apache-2.0
"""What the commands that write molecules share: their outputs, the generator, what they report."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic_files import check_output
from .molecule_files import LINE_SUFFIX, PICTURE_SUFFIXES, TABLE_SUFFIXES, Picture

if TYPE_CHECKING:
    from ..data.row_encoder import EncodedRows, Reject
    from ..data.smiles_files import Row
    from ..generation.generator import MoleculeGenerator

BATCH_ROWS = 16384
"""Rows of a source, or codes, that are worked on at once."""

CELLS = 4
"""Columns of a picture, but for one of paths."""


def add_outputs(command: argparse.ArgumentParser, lines: str) -> None:
    """Add `-o` and `--picture`; `lines` says what a line of SMILES holds."""
    command.add_argument(
        "-o",
        "--output",
        required=True,
        help="a .csv, .tsv or .parquet file; a .smi file or - (standard output) for the molecules "
        f"alone: {lines}",
    )
    command.add_argument(
        "--picture", help="draw the molecules, too: an .svg or .png file, the first 60 at most"
    )


def checked_outputs(
    options: argparse.Namespace, inputs: list[str], columns: int
) -> tuple[Path | None, Picture]:
    """Where to write (None is standard output) and what to draw, checked before any work."""
    output = None
    if options.output != "-":
        output = check_output(options.output, (LINE_SUFFIX, *TABLE_SUFFIXES), inputs)
    picture = options.picture and check_output(options.picture, PICTURE_SUFFIXES, inputs)
    return output, Picture(picture or None, columns)


def in_its_words(run: Callable[[argparse.Namespace], Any]) -> Callable[[argparse.Namespace], Any]:
    """A command whose ValueErrors name its own options, not the arguments of the library."""

    @wraps(run)
    def reworded(options: argparse.Namespace) -> Any:
        try:
            return run(options)
        except ValueError as error:
            raise ValueError(_reworded(str(error), options)) from error

    return reworded


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


def encode_rows(generator: MoleculeGenerator, rows: list[Row], on_invalid: str) -> EncodedRows:
    """Rows as the generator's model reads them; a ValueError for the first invalid at `"raise"`."""
    from ..data.invalid_rows import invalid_row
    from ..data.row_encoder import RowEncoder

    encode = RowEncoder(generator.tokenizer, generator.model.config.max_position_embeddings, True)
    encoded = encode(rows)
    if encoded.rejects and on_invalid == "raise":
        raise invalid_row(encoded.rejects[0])
    return encoded


def given_rows(where: str, texts: list[str]) -> list[Row]:
    """SMILES of the command line as rows, numbered from 1; `where` is what errors call them."""
    from ..data.smiles_files import Row

    return [Row(where, number, text) for number, text in enumerate(texts, 1)]


def canonical_texts(generator: MoleculeGenerator, encoded: EncodedRows) -> list[str]:
    """The usable molecules as canonical SMILES."""
    ids, ends = encoded.tokens.tolist(), encoded.lengths.cumsum().tolist()
    rows = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return generator.tokenizer.batch_decode(rows, skip_special_tokens=True)


def similarity_or_none(first: str, second: str | None) -> float | None:
    """Tanimoto similarity to a molecule that may be missing."""
    from ..chemistry.smiles import similarity

    return None if second is None else similarity(first, second)


def two_digits(value: float | None) -> str:
    """A similarity as legends show it."""
    return "" if value is None else f"{value:.2f}"


def share(number: int, of: int) -> str:
    """A part in per cent; of nothing it is "none"."""
    return f"{number / of:.1%}" if of else "none"


def say(text: str) -> None:
    """Report on standard error, which leaves standard output to molecules."""
    print(text, file=sys.stderr)


def say_invalid(kinds: Counter[str], first: list[Reject]) -> None:
    """Report the invalid rows by kind, and the first of them with their reasons."""
    if not first:
        return
    say(f"Invalid: {', '.join(f'{number:,} {kind}' for kind, number in kinds.most_common())}.")
    for reject in first:
        say(f"  row {reject.row.number}, {reject.row.text!r:.80}: {reject.reason}")


def say_drawn(picture: Picture) -> None:
    """Report what a picture does not show."""
    if picture.path is None:
        return
    if not picture.drawn:
        say(f"There is nothing to draw; {picture.path} is not written.")
    elif picture.drawn < picture.added:
        say(f"{picture.path} shows the first {picture.drawn} of {picture.added:,} molecules.")


def _reworded(message: str, options: argparse.Namespace) -> str:
    """A message of the library; advice that the command has no option for is left out."""
    column = "--columns" if hasattr(options, "columns") else "--column"
    policy = ", or choose what becomes of such rows by --on-invalid."
    kind = "Else say the type by --file-type." if hasattr(options, "file_type") else "Rename it."
    for pattern, words in (
        (r"the argument `column`", column),
        (r"Else say the type by the argument `file_type`\.", kind),
        (r"^file_type is", "--file-type is"),
        (
            r", or choose what becomes of such rows by on_invalid.*",
            policy if hasattr(options, "on_invalid") else ".",
        ),
    ):
        message = re.sub(pattern, words, message)
    return message


__all__ = [
    "BATCH_ROWS",
    "CELLS",
    "add_outputs",
    "canonical_texts",
    "checked_outputs",
    "encode_rows",
    "given_rows",
    "in_its_words",
    "load_generator",
    "say",
    "say_drawn",
    "say_invalid",
    "share",
    "similarity_or_none",
    "two_digits",
]
