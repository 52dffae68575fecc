# SPDX-License-Identifier: Apache-2.0
"""Encoded molecules in padded batches: of similar lengths, and each distinct molecule once."""

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


def padded(
    tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray, pad_token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows `tokens[start : start + length]` as ids (rows, longest), int64, and what is real.

    >>> ids, real = padded(np.array([7, 8, 9]), np.array([0, 2]), np.array([2, 1]), 0)
    >>> ids.tolist(), real.tolist()
    ([[7, 8], [9, 0]], [[True, True], [True, False]])
    """
    column = np.arange(lengths.max())
    real = column < lengths[:, None]
    ids = tokens.take(starts[:, None] + column, mode="clip").astype(np.int64, copy=False)
    ids[~real] = pad_token_id
    return ids, real


def padded_batches(
    encoded: EncodedRows,
    rows: np.ndarray,
    max_tokens: int,
    pad_token_id: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    """Batches of similar lengths, the longest first, each of at most `max_tokens` with padding.

    `rows` (n,) are those of the usable ones to batch; a molecule of more than `max_tokens` is a
    batch by itself.

    Yields:
        Places in `rows` (batch,), ids (batch, length) and mask, None where nothing is padded.
    """
    starts = (np.cumsum(encoded.lengths) - encoded.lengths)[rows]
    lengths = encoded.lengths[rows]
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        chosen = order[begin : begin + max(1, max_tokens // longest)]
        begin += len(chosen)
        ids, real = padded(encoded.tokens, starts[chosen], lengths[chosen], pad_token_id)
        mask = None if real.all() else torch.from_numpy(real.astype(np.int64)).to(device)
        yield chosen, torch.from_numpy(ids).to(device), mask


def distinct_rows(encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    """First rows of distinct molecules; for each row, the place of its molecule among them."""
    content = encoded.tokens.tobytes()
    ends = (np.cumsum(encoded.lengths) * encoded.tokens.itemsize).tolist()
    places: dict[bytes, int] = {}
    first, place = [], np.empty(len(ends), np.int64)
    for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        known = places.setdefault(content[start:end], len(first))
        if known == len(first):
            first.append(row)
        place[row] = known
    return np.array(first, np.int64), place
