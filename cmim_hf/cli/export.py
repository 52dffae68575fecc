# SPDX-License-Identifier: Apache-2.0
"""A checkpoint for onnxruntime.

Write a checkpoint as ONNX graphs, compared with torch before they are kept: tokens to codes,
informative embeddings, and one step of decoding. `cmim embed --backend onnx` runs the folder.
"""

from __future__ import annotations

import argparse

from .options import add_checkpoint_option
from .reports import say

WORDS = {"folder": "--output"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_checkpoint_option(parser)
    parser.add_argument("-o", "--output", required=True, help="a new folder")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="keep weights as int8: a quarter of the size, faster on CPUs with int8 products, "
        "less exact",
    )


def run(options: argparse.Namespace) -> None:
    """Export into the folder."""
    from ..export.onnx_folder import export_onnx

    done = export_onnx(options.checkpoint, options.output, int8=options.int8)
    for name, size in done.sizes.items():
        say(f"{options.output}/{name}: {size / 1e6:.1f} MB")
    say(f"In float32 they differ from torch by {done.difference:.1e} of the greatest value.")
    if done.cosine is not None:
        say(f"In int8 a molecule's vector has a cosine of {done.cosine:.4f} to it, or more.")
