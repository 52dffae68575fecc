# SPDX-License-Identifier: Apache-2.0
"""Molecules to codes and back.

Write molecules as the model reconstructs them: the input's columns, then `reconstruction` (empty
where the decoder wrote no molecule) and `exact` (whether it is the same molecule).
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from .options import (
    SOURCE,
    add_decoding_options,
    add_generation_options,
    add_on_invalid_option,
    add_source_options,
    add_standardize_option,
    checked_outputs,
    load_generator,
    read_source,
)
from .reports import say, say_drawn, say_invalid, share, two_digits
from .seeds import encode_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.row_encoder import EncodedRows
    from ..data.smiles_files import Batch
    from .molecule_files import Picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", nargs="+", help=SOURCE)
    add_on_invalid_option(parser, "keep it with its reason in `reconstruction_error`")
    add_standardize_option(parser)
    add_source_options(parser)
    add_decoding_options(parser)
    add_generation_options(parser, "reconstruction, tab, input")


def run(options: argparse.Namespace) -> None:
    """Reconstruct the input into the output."""
    from ..data.source_files import expanded
    from .molecule_files import molecule_writer

    output, picture = checked_outputs(options, expanded(options.input))
    generator = load_generator(options, standardize=options.standardize)
    counts, kinds, first = Counter(), Counter(), []
    with molecule_writer(output, "reconstruction", name="input") as write:
        for batch in read_source(options):
            encoded = encode_rows(generator, batch.rows(), options.on_invalid)
            texts = generator.texts(encoded, on_invalid="skip")
            how = {"attempts": options.attempts, "candidates": options.candidates}
            written = generator.reconstruct(encoded, on_invalid="skip", **how)
            if output is None or output.suffix.lower() == ".smi":
                write(_lines(batch, encoded, written))
            else:
                write(_with_reconstructions(batch, encoded, texts, written, options.on_invalid))
            _draw(picture, texts, written)
            counts["read"] += len(batch.smiles)
            counts["molecules"] += len(written)
            counts["valid"] += sum(one is not None for one in written)
            counts["exact"] += sum(one == text for one, text in zip(written, texts, strict=True))
            kinds.update(reject.kind for reject in encoded.rejects)
            first = (first + encoded.rejects)[:3]
        picture.save()
    of = counts["molecules"]
    say(
        f"Reconstructed {of:,} of {counts['read']:,} rows: {share(counts['exact'], of)} exactly, "
        f"{share(counts['valid'], of)} as a valid molecule."
    )
    say_invalid(kinds, first)
    say_drawn(picture)


def _lines(batch: Batch, encoded: EncodedRows, written: list[str | None]) -> pa.Table:
    import pyarrow as pa

    given = [batch.smiles[place] for place in encoded.kept]
    return pa.table({"reconstruction": pa.array(written, pa.string()), "input": given})


def _with_reconstructions(
    batch: Batch,
    encoded: EncodedRows,
    texts: list[str],
    written: list[str | None],
    on_invalid: str,
) -> pa.Table:
    """The columns of the source and those of the result."""
    import pyarrow as pa

    from ..data.invalid_rows import items_in_place
    from ..embedding.tables import result_table

    exact = [one == text for one, text in zip(written, texts, strict=True)]
    results = {
        "reconstruction": pa.array(items_in_place(written, encoded, on_invalid), pa.string()),
        "exact": pa.array(items_in_place(exact, encoded, on_invalid), pa.bool_()),
    }
    return result_table(batch, encoded, results, on_invalid)


def _draw(picture: Picture, texts: list[str], written: list[str | None]) -> None:
    from ..chemistry.smiles import similarity

    for text, one in zip(texts, written, strict=True):
        if picture.full:
            legend = ""
        elif one is None or one == text:
            legend = "exact" if one else "no molecule"
        else:
            legend = f"similarity {two_digits(similarity(text, one))}"
        picture.add(text, "input")
        picture.add(one, legend)
