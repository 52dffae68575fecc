# SPDX-License-Identifier: Apache-2.0
"""Encoded molecules in batches: of similar lengths, and each distinct molecule once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .row_encoder import EncodedRows

_CPU_TOKENS, _CPU_ROWS = 8192, 512  # an accelerator wants more at once
_ACCELERATOR_TOKENS, _ACCELERATOR_ROWS = 65536, 4096


def batch_tokens(device: torch.device) -> int:
    """Most tokens of a batch that is encoded, padding included, where a caller names none."""
    return _CPU_TOKENS if device.type == "cpu" else _ACCELERATOR_TOKENS


def batch_rows(device: torch.device) -> int:
    """Codes decoded at once, where a caller names no number."""
    return _CPU_ROWS if device.type == "cpu" else _ACCELERATOR_ROWS


def padded_batches(
    encoded: EncodedRows, rows: np.ndarray, max_tokens: int, pad_token_id: int
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    """Batches of similar lengths, the longest first, each of at most `max_tokens` with padding.

    Args:
        encoded: The molecules.
        rows: (n,), which of its usable rows to batch.
        max_tokens: A longer molecule is a batch by itself.
        pad_token_id: At the end of shorter rows.

    Yields:
        Places in `rows` (batch,), ids (batch, length) and mask, None where nothing is padded.
    """
    starts = (np.cumsum(encoded.lengths) - encoded.lengths)[rows]
    lengths = encoded.lengths[rows]
    last = len(encoded.tokens) - 1
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        chosen = order[begin : begin + max(1, max_tokens // longest)]
        begin += len(chosen)
        column = np.arange(longest)
        real = column < lengths[chosen, None]
        ids = encoded.tokens[np.minimum(starts[chosen, None] + column, last)].astype(np.int64)
        if real.all():
            yield chosen, torch.from_numpy(ids), None
        else:
            ids[~real] = pad_token_id
            yield chosen, torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


def distinct_rows(encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    """First rows of distinct molecules; for each row, the place of its molecule among them."""
    content = encoded.tokens.tobytes()
    width = encoded.tokens.itemsize
    places: dict[bytes, int] = {}
    first, place = [], np.empty(len(encoded.lengths), np.int64)
    ends = (np.cumsum(encoded.lengths) * width).tolist()
    start = 0
    for row, end in enumerate(ends):
        known = places.setdefault(content[start:end], len(first))
        if known == len(first):
            first.append(row)
        place[row] = known
        start = end
    return np.array(first, np.int64), place


__all__ = ["batch_rows", "batch_tokens", "distinct_rows", "padded_batches"]
