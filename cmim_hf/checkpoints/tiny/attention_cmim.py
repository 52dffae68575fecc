# SPDX-License-Identifier: Apache-2.0
"""Self-attention of short rows on a CPU, a few molecules at a time.

torch's fused attention on a CPU is made for long rows: at the 10 to 60 tokens of a molecule plain
batched products of matrices take half to three quarters of its time, as long as the weights of the
rows in hand stay in a core's cache. Like it, this keeps no weights for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

LONGEST = 80  # tokens; beyond, torch's fused attention is as fast
_IN_CACHE = 150_000  # attention weights at a time


def short_attention(
    packed: torch.Tensor, attention_mask: torch.Tensor | None, is_causal: bool
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V of each head.

    Args:
        packed: Q, K and V (batch, length, 3, heads, head_dim).
        attention_mask: (batch or 1, 1, length or 1, length), True where a key takes part.
        is_causal: Whether later keys take no part; only looked at without a mask.

    Returns:
        (batch, length, heads, head_dim).
    """
    bias = None
    never = torch.finfo(packed.dtype).min  # finite: a row without any key stays free of NaN
    if attention_mask is not None:
        bias = packed.new_zeros(()).masked_fill(~attention_mask, never)
    elif is_causal:
        length = packed.shape[1]
        bias = packed.new_full((length, length), never).triu(1)
    return _ShortAttention.apply(packed, bias)


class _ShortAttention(torch.autograd.Function):
    """Attention of packed Q, K, V under a bias that is added to the scores."""

    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(packed, bias)
        attended = torch.empty_like(packed[:, :, 0])
        for rows, (_, _, value, weights) in _blocks(packed, bias):
            _put(attended[rows], weights @ value)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        packed, bias = ctx.saved_tensors
        of_packed = torch.empty_like(packed)
        scale = packed.shape[-1] ** -0.5
        for rows, (query, key, value, weights) in _blocks(packed, bias):
            of_query, of_key, of_value = of_packed[rows].unbind(2)
            of_attended = _heads(gradient[rows])
            _put(of_value, weights.transpose(1, 2) @ of_attended)
            of_weights = of_attended @ value.transpose(1, 2)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_scores *= scale
            _put(of_query, of_scores @ key)
            _put(of_key, of_scores.transpose(1, 2) @ query)
        return of_packed, None


def _blocks(
    packed: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
    """Which rows, and their queries, keys, values and weights, by (row, head)."""
    batch, length, _, heads, head_dim = packed.shape
    step = max(1, _IN_CACHE // (heads * length**2))
    for start in range(0, batch, step):
        rows = slice(start, min(start + step, batch))
        query, key, value = (_heads(part) for part in packed[rows].unbind(2))
        scores = torch.bmm(query, key.transpose(1, 2)).mul_(head_dim**-0.5)
        if bias is not None:
            shared = bias.ndim == 2 or len(bias) == 1
            by_head = scores.view(-1, heads, length, length)
            by_head += bias if shared else bias[rows]
        yield rows, (query, key, value, scores.softmax(dim=-1))


def _heads(part: torch.Tensor) -> torch.Tensor:
    """(rows, length, heads, head_dim) -> (rows * heads, length, head_dim)."""
    return part.transpose(1, 2).flatten(0, 1)


def _put(target: torch.Tensor, values: torch.Tensor) -> None:
    """Values by (row, head) into (rows, length, heads, head_dim)."""
    rows, length, heads, head_dim = target.shape
    target.copy_(values.view(rows, heads, length, head_dim).transpose(1, 2))
