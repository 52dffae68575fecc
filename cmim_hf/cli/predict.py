# SPDX-License-Identifier: Apache-2.0
"""Predictions for molecules, by a model that was fine-tuned.

The folder is what examples/finetune.py wrote. All columns of the input are kept; behind them come
the prediction of each target, what it can be trusted to (an interval or a set of labels), and the
distance to the training molecules as a percentile.
"""

from __future__ import annotations

import argparse
from collections import Counter

from .options import SOURCE, add_source_options, read_source
from .reports import say, say_invalid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", help="the output of fine-tuning")
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
    parser.add_argument(
        "--on-invalid",
        default="raise",
        choices=("raise", "none", "skip"),
        help="stop at an invalid row (the default), keep it with its reason, or leave it out",
    )
    parser.add_argument(
        "--checkpoint", help="whose vectors the heads in the folder read, if it is elsewhere now"
    )
    parser.add_argument("--device", help="such as cuda:1; an accelerator if there is one")
    add_source_options(parser)


def run(options: argparse.Namespace) -> None:
    """Predict for the input into the output."""
    import pyarrow as pa

    from ..atomic_files import check_output
    from ..data.invalid_rows import invalid_row
    from ..data.source_files import expanded
    from ..embedding.tables import result_table
    from ..prediction.conformal import checked_level
    from ..prediction.predictor import MoleculePredictor
    from .molecule_files import TABLE_SUFFIXES, molecule_writer

    output = check_output(options.output, TABLE_SUFFIXES, expanded(options.input))
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
            results = {name: pa.array(values) for name, values in columns.items()}
            write(result_table(batch, encoded, results, options.on_invalid))
            kinds.update(reject.kind for reject in encoded.rejects)
            first = (first + encoded.rejects)[:3]
            rows.update(read=encoded.number, predicted=len(encoded.lengths))
            far += int((columns["distance_percentile"] > 99).sum())
    of = rows["predicted"]
    say(f"Predicted {', '.join(predictor.targets)} for {of:,} of {rows['read']:,} rows.")
    if far:
        say(
            f"{far:,} of them are further from the training molecules than 99 % of these are from "
            "one another: do not trust those predictions without a test."
        )
    say_invalid(kinds, first)
