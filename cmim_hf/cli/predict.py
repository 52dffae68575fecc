# SPDX-License-Identifier: Apache-2.0
"""Predictions for molecules, by a model that was fine-tuned.

The folder is what `cmim finetune` wrote. All columns of the input are kept; behind them come
the prediction of each target, what it can be trusted to (an interval or a set of labels), and the
distance to the training molecules as a percentile.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from .options import SOURCE, add_on_invalid_option, add_source_options, checked_outputs, read_source
from .reports import say, say_drawn, say_invalid

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ..data.row_encoder import EncodedRows
    from ..prediction.predictor import MoleculePredictor
    from .molecule_files import Picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", help="the output of `cmim finetune`")
    parser.add_argument("input", nargs="+", help=SOURCE)
    parser.add_argument(
        "-o", "--output", required=True, help="a .csv, .tsv or .parquet file for the predictions"
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.9,
        help="share of molecules whose truth the intervals or labels shall hold "
        "(default: %(default)s)",
    )
    add_on_invalid_option(parser, "keep it with its reason")
    parser.add_argument(
        "--checkpoint", help="whose vectors the heads in the folder read, if it is elsewhere now"
    )
    parser.add_argument("--device", help="such as cuda:1; an accelerator if there is one")
    parser.add_argument(
        "--picture",
        help="draw the molecules, each atom coloured by what it adds to the first target's "
        "prediction: an .svg or .png file, the first 60 at most",
    )
    add_source_options(parser)


def run(options: argparse.Namespace) -> None:
    """Predict for the input into the output."""
    from ..data.invalid_rows import invalid_row
    from ..data.source_files import expanded
    from ..embedding.tables import result_table
    from ..prediction.conformal import checked_level
    from ..prediction.predictor import MoleculePredictor
    from .molecule_files import molecule_writer

    output, picture = checked_outputs(options, expanded(options.input), lines=False)
    level = checked_level(options.level)
    predictor = MoleculePredictor(
        options.folder, checkpoint=options.checkpoint, device=options.device
    )
    encode, kinds, first, rows, far = predictor.encoder(), Counter(), [], Counter(), 0
    with molecule_writer(output, "smiles") as write:
        for batch in read_source(options):
            encoded = encode(batch.rows())
            if encoded.rejects and options.on_invalid == "raise":
                raise invalid_row(encoded.rejects[0])
            columns = predictor.predict_encoded(encoded, level, options.on_invalid)
            results = {name: _column(values) for name, values in columns.items()}
            write(result_table(batch, encoded, results, options.on_invalid))
            kinds.update(reject.kind for reject in encoded.rejects)
            first = (first + encoded.rejects)[:3]
            rows.update(read=encoded.number, predicted=len(encoded.lengths))
            far += int((columns["distance_percentile"] > 99).sum())
            _draw(picture, predictor, encoded)
        picture.save()
    of = rows["predicted"]
    say(f"Predicted {', '.join(predictor.targets)} for {of:,} of {rows['read']:,} rows.")
    if far:
        say(
            f"{far:,} of them are further from the training molecules than 99 % of these are from "
            "one another: do not trust those predictions without a test."
        )
    say_invalid(kinds, first)
    say_drawn(picture)


def _column(values: np.ndarray) -> pa.Array:
    """Text as text, also where a batch has none."""
    import pyarrow as pa

    return pa.array(values, pa.string() if values.dtype == object else None)


def _draw(picture: Picture, predictor: MoleculePredictor, encoded: EncodedRows) -> None:
    """Add the molecules with what their atoms add; the likeliest class's, of several."""
    from .molecule_files import MOST_DRAWN

    if picture.full:
        picture.added += len(encoded.lengths)
        return
    few = encoded.first(MOST_DRAWN)
    values = predictor.outputs(few).values
    for (smiles, weights), own in zip(predictor.contributions_of_encoded(few), values, strict=True):
        place = own.argmax() if predictor.task == "multiclass" else 0
        name = predictor.about["classes"][place] if predictor.task == "multiclass" else ""
        picture.add(smiles, f"{name} {own[place]:.3g}".strip(), weights[place].tolist())
    picture.added += len(encoded.lengths) - len(few.lengths)
