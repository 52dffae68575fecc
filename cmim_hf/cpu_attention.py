# SPDX-License-Identifier: Apache-2.0
"""Self-attention on a CPU, where torch's fused one is slow: short rows, and one query a row.

Torch's is made for long rows. Up to 80 tokens plain batched products of a few molecules at a
time take half to three quarters of its time, as long as the weights of the rows in hand stay in a
core's cache. Like it, this keeps none for the backward pass. A single query, as in decoding, is
attended by sums over whole blocks of memory. Under autocast, where the gradients of torch's fused
attention take longer than all else, short rows go this way in training alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "cmim_cpu"  # its name among the implementations of transformers

_LONGEST = 80  # tokens; beyond, torch's fused attention is as fast
_IN_CACHE = 150_000  # attention weights at a time
_KEYS_IN_CACHE, _FEWEST_QUERIES = 1 << 20, 64  # numbers of a block of keys, and rows, worth a call


def is_plain(x: torch.Tensor) -> bool:
    """Whether these are numbers on a CPU, and nothing rewrites what is done with them."""
    return _is_on_cpu(x) and not torch.is_autocast_enabled("cpu")


def _is_on_cpu(x: torch.Tensor) -> bool:
    return not torch.compiler.is_compiling() and type(x) is torch.Tensor and x.device.type == "cpu"


def cpu_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the way that fits the lengths: (batch, length, heads, head_dim), no weights.

    transformers' interface: `query` (batch, heads, length, head_dim), `key` and `value` (batch,
    heads, keys, head_dim), `attention_mask` (batch or 1, 1, length or 1, keys), True where a key
    takes part; where there is none, `module.is_causal` is looked at.
    """
    length, keys = query.shape[2], key.shape[2]
    differentiated = query.requires_grad or key.requires_grad or value.requires_grad
    is_short = length == keys <= _LONGEST
    is_short &= attention_mask is None or attention_mask.dtype == torch.bool
    if is_plain(query) and query.dtype in (torch.float32, torch.float64):
        if length == 1 and attention_mask is None and not differentiated:
            return one_query_attention(query, key, value), None
        if is_short:
            return short_attention(query, key, value, attention_mask, module.is_causal), None
    elif is_short and differentiated and _is_on_cpu(query) and torch.is_autocast_enabled("cpu"):
        # torch's gradients of fused attention are eight times as slow in bfloat16 as in float32
        with torch.autocast("cpu", enabled=False):
            states = (x.float() for x in (query, key, value))
            attended = short_attention(*states, attention_mask, module.is_causal)
        return attended.to(value.dtype), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(ATTENTION, cpu_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def one_query_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attention of one query a row: sums over whole blocks of memory, as decoding keeps keys.

    Shapes as in [`cpu_attention`], length 1; fastest where keys lie in memory as (keys, batch,
    heads, head_dim).
    """
    return attended_by_sums(query[:, :, 0], key.permute(2, 0, 1, 3), value.permute(2, 0, 1, 3))[
        :, None
    ]


def attended_by_sums(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Of queries (batch, heads, head_dim) to keys and values (keys, batch, heads, head_dim)."""
    query = query * query.shape[-1] ** -0.5
    attended = torch.empty_like(query)
    rows = len(query)
    if key.numel() > _KEYS_IN_CACHE:
        rows = max(_KEYS_IN_CACHE * rows // key.numel(), _FEWEST_QUERIES)
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        room = key[:, part] * query[part]
        weights = room.sum(dim=-1).softmax(dim=0)
        torch.mul(value[:, part], weights[..., None], out=room)
        torch.sum(room, dim=0, out=attended[part])
    return attended


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    is_causal: bool,
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V of each head; shapes as in [`cpu_attention`]."""
    bias = None
    never = torch.finfo(query.dtype).min  # finite: a row without any key stays free of NaN
    if attention_mask is not None:
        bias = query.new_zeros(()).masked_fill(~attention_mask, never)
    elif is_causal:
        bias = query.new_full((query.shape[2],) * 2, never).triu(1)
    return _ShortAttention.apply(query, key, value, bias)


class _ShortAttention(torch.autograd.Function):
    """Attention under a bias that is added to the scores."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, bias)
        attended = torch.empty_like(value.transpose(1, 2), memory_format=torch.contiguous_format)
        for rows, (_, _, values, weights) in _blocks(query, key, value, bias):
            target = attended[rows].transpose(1, 2)
            target.copy_((weights @ values).view(target.shape))
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))
        scale = query.shape[-1] ** -0.5
        for rows, (queries, keys, values, weights) in _blocks(query, key, value, bias):
            of_attended = gradient[rows].transpose(1, 2).flatten(0, 1)
            of_value[rows] = (weights.transpose(1, 2) @ of_attended).view_as(of_value[rows])
            of_weights = of_attended @ values.transpose(1, 2)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_scores *= scale
            of_query[rows] = (of_scores @ keys).view_as(of_query[rows])
            of_key[rows] = (of_scores.transpose(1, 2) @ queries).view_as(of_key[rows])
        return of_query, of_key, of_value, None


def _blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[slice, tuple[torch.Tensor, ...]]]:
    """Which rows, and their queries, keys, values and weights, by (row, head)."""
    batch, heads, length, head_dim = query.shape
    step = max(1, _IN_CACHE // (heads * length**2))
    for start in range(0, batch, step):
        rows = slice(start, min(start + step, batch))
        queries, keys, values = (part[rows].flatten(0, 1) for part in (query, key, value))
        scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(head_dim**-0.5)
        if bias is not None:
            by_head = scores.view(-1, heads, length, length)
            by_head += bias if bias.ndim == 2 or len(bias) == 1 else bias[rows]
        yield rows, (queries, keys, values, scores.softmax(dim=-1))
