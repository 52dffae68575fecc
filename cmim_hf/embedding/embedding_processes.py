# SPDX-License-Identifier: Apache-2.0
"""Processes that embed side by side on a CPU, and how many of them a file is worth.

A core that parses waits for no other, and one that multiplies by itself loses nothing where two
would meet at the end of each product. RDKit holds Python's interpreter while it parses, so that
threads in its place are slower than one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ..allocator import keep_freed_memory
from ..data.row_encoder import EncodedRows
from ..data.smiles_files import Row
from .embedder import MoleculeEmbedder

EMBEDDED_ROWS = 2048  # of a process at a time, so that its batches are of similar lengths
_LARGE = 1 << 20  # bytes of files from which on starting processes, five seconds each, is made up
_MOST = 16
_MEMORY = 1 << 30  # bytes that each may take; 760 MiB were seen


class RowEmbedder:
    """Turns rows into tokens and vectors; it can be sent to another process.

    Args:
        embedder: One that this suits.
        sharing: Processes among which torch's threads are shared.

    >>> encoded, vectors = RowEmbedder(MoleculeEmbedder(), 1)([Row("list", 1, "OCC")])
    >>> encoded.number, vectors.shape
    (1, (1, 192))
    """

    def __init__(self, embedder: MoleculeEmbedder, sharing: int) -> None:
        """Keep both."""
        self.embedder, self.encode = embedder, embedder.encoder()
        self.threads = max(1, torch.get_num_threads() // sharing)

    @staticmethod
    def suits(embedder: MoleculeEmbedder) -> bool:
        """Whether torch embeds on a CPU."""
        return embedder.backend == "torch" and embedder.model.device.type == "cpu"

    def __call__(self, rows: list[Row]) -> tuple[EncodedRows, np.ndarray]:
        """What the encoder makes of them, and the vectors of the usable ones, (rows, size)."""
        encoded = self.encode(rows)
        return encoded, self.embedder.embed_encoded(encoded)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in a process, whose threads and memory are set."""
        vars(self).update(state)
        torch.set_num_threads(self.threads)
        keep_freed_memory()


def usual_workers(
    embedder: MoleculeEmbedder, sources: Iterable[str | os.PathLike], sharing: int = 1
) -> int:
    """How many processes `embedded_batches` is best given.

    None for less than a mebibyte of files, for standard input and data sets, whose size is not
    known, and beside onnxruntime. Else on a CPU one for each of torch's threads, and beside an
    accelerator one for each core but its own; 16 at most, and one for each GiB of free memory.

    Args:
        embedder: What embeds.
        sources: Of the molecules, patterns resolved.
        sharing: Processes that embed, each with workers of its own.
    """
    files = [path for path in map(Path, sources) if path.is_file()]
    if sum(path.stat().st_size for path in files) < _LARGE or embedder.backend != "torch":
        return 0
    most = min(_MOST, psutil.virtual_memory().available // _MEMORY)
    if RowEmbedder.suits(embedder):
        workers = min(torch.get_num_threads(), most)
        return workers if workers > 1 else 0
    return max(0, min((os.cpu_count() or 1) // sharing - 1, most))
