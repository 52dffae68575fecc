# SPDX-License-Identifier: Apache-2.0
"""Work for processes that embed side by side on a CPU.

A core that parses waits for no other, and one that multiplies by itself loses nothing where two
would meet at the end of each product. RDKit holds Python's interpreter while it parses, so that
threads in the place of processes are slower than one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..allocator import keep_freed_memory
from ..data.row_encoder import EncodedRows
from ..data.smiles_files import Row
from .embedder import MoleculeEmbedder

EMBEDDED_ROWS = 2048  # of a process at a time, so that its batches are of similar lengths


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
