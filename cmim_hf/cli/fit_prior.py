# SPDX-License-Identifier: Apache-2.0
"""The distribution of your molecules' codes, to draw new ones from.

Write a prior for `cmim sample --prior`. Some thousands of molecules will do, and more than a
hundred thousand give nothing more.
"""

from __future__ import annotations

import argparse
from collections import Counter

from .options import (
    SOURCE,
    add_model_options,
    add_on_invalid_option,
    add_source_options,
    add_standardize_option,
    read_source,
)
from .reports import say, say_invalid
from .seeds import encode_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", nargs="+", help=SOURCE)
    parser.add_argument("-o", "--output", required=True, help="a .safetensors file")
    parser.add_argument(
        "--bandwidth",
        type=float,
        help="from 0, which draws the molecules' own codes, to 1, their Gaussian: more is newer "
        "and less like them (default: 0.7)",
    )
    parser.add_argument("--most", type=int, help="codes to keep (default: 20,000, of 2 MB)")
    parser.add_argument("--seed", type=int, help="of the choice of these, to choose the same again")
    add_on_invalid_option(parser)
    add_standardize_option(parser)
    add_source_options(parser)
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Fit the prior and save it."""
    from ..atomic_files import check_output
    from ..checkpoints.companions import SUFFIX
    from ..data.row_encoder import EncodedRows
    from ..data.source_files import expanded
    from ..generation.generator import MoleculeGenerator

    check_output(options.output, (SUFFIX,), expanded(options.input))
    names = ("bandwidth", "most")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    settings = {name: getattr(options, name) for name in ("device", "dtype", "seed", "standardize")}
    generator = MoleculeGenerator(options.checkpoint, **settings)
    parts, kinds, first = [], Counter(), []
    for batch in read_source(options, every_column=False):
        parts.append(encode_rows(generator, batch.rows(), options.on_invalid))
        kinds.update(reject.kind for reject in parts[-1].rejects)
        first = (first + parts[-1].rejects)[:3]
    encoded = EncodedRows.concatenate(parts)
    prior = generator.fit_prior(encoded, on_invalid="skip", **chosen)
    prior.save(options.output)
    say(
        f"Fitted a prior to {len(encoded.lengths):,} of {encoded.number:,} rows, in "
        f"{options.output}: {len(prior.codes):,} codes in {len(prior.basis)} directions, bandwidth "
        f"{prior.bandwidth}."
    )
    say_invalid(kinds, first)
