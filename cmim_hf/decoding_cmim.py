# SPDX-License-Identifier: Apache-2.0
"""Codes to tokens, fast: the loop of `generate` without what it pays for each token.

A step computes what `CMIMModel.forward` computes for one more token, straight from the weights of
its decoder. What the codes add to a layer is computed once, caches are blocks of memory that rows
leave when they end, the rotation of queries and keys is one complex product, and residuals are
added by the matrix products. Greedy decoding gives the tokens of `CMIMModel.generate`, except where
two logits are equal to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from .layers_cmim import CMIMDecoderLayer, pair_order, rotary_turns
from .linear_cmim import linear

_FIRST_ROOM = 16  # tokens a cache holds before it first grows
_IN_CACHE, _FEWEST_ROWS = 1 << 20, 64  # numbers of a block of keys, and rows, worth a call
_DROP_BELOW = 0.7  # share of unfinished rows at which those that ended are dropped


@torch.inference_mode()
def decode_latents(
    model: PreTrainedModel,
    latents: torch.Tensor,
    *,
    max_length: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.LongTensor:
    """Decode a batch of codes to tokens.

    Args:
        model: A [`CMIMModel`], in `eval()`.
        latents: (batch, num_latents, latent_size).
        max_length: Longest row, the start token included; by default the longest the model knows.
        temperature: 0 takes the most probable token (greedy); above, tokens are drawn from
            softmax(logits / temperature).
        top_k: Draw among the `top_k` most probable tokens only.
        generator: Of the draws, on the CPU; the global one by default. A row's draws depend on its
            place in `latents` and not on the other rows.

    Returns:
        Token ids (batch, length) like those of `generate`: the start token first, padding behind
        the end token; a row that did not end within `max_length` has no end token.

    Raises:
        ValueError: Latents of the wrong shape, or an argument outside its range.
    """
    config = model.config
    longest = config.max_position_embeddings + 1
    max_length = longest if max_length is None else max_length
    _check(model, latents, max_length, longest, temperature, top_k)
    latents = latents.to(model.device)
    written = torch.full(
        (len(latents), max_length), config.pad_token_id, dtype=torch.long, device=model.device
    )
    draws = None
    if temperature > 0:
        draws = torch.rand(written.shape, generator=generator).to(model.device)
    ends = torch.as_tensor(config.eos_token_id).reshape(-1).tolist()
    batch = _Batch(model, latents, max_length)
    length = 1
    while batch.size and length < max_length:
        logits = batch.logits(length - 1)
        if draws is None:
            tokens = logits.argmax(dim=-1)
        else:
            tokens = _draw(logits, temperature, top_k, draws[batch.rows, length])
        batch.write(tokens, length, ends)
        length += 1
        batch.drop_ended(written, length)
    written[batch.rows, :length] = batch.tokens[: batch.size, :length]
    return _padded_behind(written[:, :length], ends, config.pad_token_id)


class _Batch:
    """The rows being decoded, in slots 0 to `size`: their tokens, caches and constants.

    The slots of rows that have ended are filled by the last unfinished ones, so that for each row
    at most one is copied.
    """

    def __init__(self, model: PreTrainedModel, latents: torch.Tensor, max_length: int) -> None:
        config, decoder = model.config, model.decoder
        self.size = len(latents)
        self.embeddings, self.head = model.embed_tokens.weight, model.lm_head.weight.t()
        self.norm = _Norm(decoder.norm)
        self.rows = torch.arange(self.size, device=latents.device)
        self.tokens = self.rows.new_empty(self.size, max_length)
        self.tokens[:, 0] = config.decoder_start_token_id
        self.ended = torch.zeros_like(self.rows, dtype=torch.bool)
        memory = decoder.memory_proj(latents.to(decoder.memory_proj.weight.dtype))
        if config.num_latents > 1:
            memory = memory + decoder.memory_positions
        head_dim = config.hidden_size // config.num_attention_heads
        turns = _rotation(max_length, head_dim, config.rope_theta, memory.device, memory.dtype)
        attend = _Attention()
        self.layers = [_Layer(module, memory, turns, attend) for module in decoder.layers]

    def logits(self, position: int) -> torch.Tensor:
        """Read the tokens at a position, from 0: logits (size, vocab_size) of the next."""
        states = functional.embedding(self.tokens[: self.size, position], self.embeddings)
        for layer in self.layers:
            states = layer(states, position)
        return torch.mm(self.norm(states), self.head)

    def write(self, tokens: torch.Tensor, position: int, ends: Sequence[int]) -> None:
        """Put tokens (size,) at a position; what follows an end token is of no account."""
        self.tokens[: self.size, position] = tokens
        for end in ends:
            self.ended |= tokens == end

    def drop_ended(self, written: torch.Tensor, length: int) -> None:
        """Move the rows that have ended to `written` (rows, max_length), if they are many."""
        going = self.size - int(self.ended.sum())
        if going > _DROP_BELOW * self.size:
            return
        ended = self.ended.nonzero().squeeze(1)
        written[self.rows[ended], :length] = self.tokens[ended, :length]
        holes = ended[ended < going]
        movers = (~self.ended[going:]).nonzero().squeeze(1) + going
        self.rows[holes] = self.rows[movers]
        self.tokens[holes, :length] = self.tokens[movers, :length]
        for layer in self.layers:
            layer.move(movers, holes, length)
        self.size = going
        self.rows = self.rows[:going]
        self.ended = self.ended.new_zeros(going)


class _Layer:
    """A decoder layer at work on one batch: its weights, its cache, and what the codes add.

    `cache` (2, room, batch, heads, head_dim) holds rotated keys, and values; what a step adds to it
    is one block of memory, and so is what it reads. `constant` (batch, hidden_size) is the
    cross-attention to a single latent, `memory` (2, batch, heads, num_latents, head_dim) the keys
    and values of several.
    """

    def __init__(
        self,
        module: CMIMDecoderLayer,
        memory: torch.Tensor,
        turns: torch.Tensor,
        attend: _Attention,
    ) -> None:
        attention, cross = module.self_attn, module.cross_attn
        self.turns, self.attend = turns, attend
        self.heads, self.head_dim = attention.config.num_attention_heads, attention.head_dim
        self.norm, self.wide = _Norm(module.norm), module.feed_forward
        self.wide_norm = _Norm(self.wide.norm)
        weight = attention.qkv_proj.weight
        paired = weight[pair_order(self.heads, self.head_dim, weight.device)]
        self.qkv, self.out = paired, attention.out_proj.weight.t()
        self.up, self.down = self.wide.up_proj.weight, self.wide.down_proj.weight.t()
        self.cross = cross
        room = min(len(turns), _FIRST_ROOM)
        self.cache = weight.new_empty(2, room, len(memory), self.heads, self.head_dim)
        self.constant = self.memory = None
        if memory.shape[1] == 1:
            self.constant = cross(memory, memory)[0].squeeze(1)
        else:
            self.memory = torch.stack(cross.split_heads(cross.kv_proj(memory), 2))

    def __call__(self, states: torch.Tensor, position: int) -> torch.Tensor:
        """(size, hidden_size), which is changed -> the same, for the slots 0 to size."""
        size = len(states)
        query = self._remember(self.norm(states), position)
        attended = self.attend(query, *self.cache[:, : position + 1, :size])
        states = states.addmm_(attended.view(size, -1), self.out)
        if self.constant is not None:
            states = states.add_(self.constant[:size])
        else:
            cross = self.cross
            query = cross.q_proj(cross.norm(states)).view(size, self.heads, 1, self.head_dim)
            attended = functional.scaled_dot_product_attention(query, *self.memory[:, :size])
            states = states.addmm_(attended.view(size, -1), cross.out_proj.weight.t())
        activated = linear(self.wide_norm(states), self.up, self.wide.activation)
        return states.addmm_(activated, self.down)

    def move(self, sources: torch.Tensor, slots: torch.Tensor, length: int) -> None:
        """Put the rows of some slots into others."""
        if len(slots) == 0:
            return
        self.cache[:, :length, slots] = self.cache[:, :length, sources]
        if self.constant is not None:
            self.constant[slots] = self.constant[sources]
        else:
            self.memory[:, slots] = self.memory[:, sources]

    def _remember(self, states: torch.Tensor, position: int) -> torch.Tensor:
        """Cache the keys and values of normed states; queries (size, heads, head_dim)."""
        size = len(states)
        room = self.cache.shape[1]
        if position == room:
            shape = list(self.cache.shape)
            shape[1], shape[2] = min(2 * room, len(self.turns)), size
            grown = self.cache.new_empty(shape)
            grown[:, :room] = self.cache[:, :, :size]
            self.cache = grown
        pairs = linear(states, self.qkv).to(self.turns.real.dtype)
        pairs = pairs.view(size, 3, self.heads, self.head_dim // 2, 2)
        pairs = torch.view_as_complex(pairs).transpose(0, 1)
        turns = self.turns[position][:, None]
        slots = self.cache[:, position, :size]
        if slots.dtype == turns.real.dtype:
            torch.mul(pairs[1:], turns[1:], out=torch.view_as_complex(slots.unflatten(-1, (-1, 2))))
        else:  # half precision has no complex numbers
            slots.copy_(torch.view_as_real(pairs[1:] * turns[1:]).flatten(-2))
        return torch.view_as_real(pairs[0] * turns[0]).flatten(-2).to(states.dtype)


class _Attention:
    """Attention of one query a row, the layers' common room for it.

    A CPU's fused attention is made for many queries; for one, sums over whole blocks of memory take
    half the time or less, where the memory is at hand already.
    """

    def __init__(self) -> None:
        self.room: torch.Tensor | None = None

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """(size, heads, head_dim), of keys and values (length, size, heads, head_dim)."""
        if query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64):
            if keys.numel() <= _IN_CACHE:
                return self._sums(query, keys, values)
            rows = max(_IN_CACHE * len(query) // keys.numel(), _FEWEST_ROWS)
            blocks = query.split(rows), keys.split(rows, dim=1), values.split(rows, dim=1)
            return torch.cat([self._sums(*block) for block in zip(*blocks, strict=True)])
        keys, values = keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3)
        query = query[:, :, None]
        return functional.scaled_dot_product_attention(query, keys, values, scale=1.0).squeeze(2)

    def _sums(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        room = self._room(keys)
        weights = torch.mul(keys, query, out=room).sum(dim=-1).softmax(dim=0)
        return torch.mul(values, weights[..., None], out=room).sum(dim=0)

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        if self.room is None or self.room.numel() < like.numel():
            self.room = like.new_empty(like.numel() + _FIRST_ROOM * like[0].numel())
        return self.room[: like.numel()].view(like.shape)


@lru_cache(maxsize=8)
def _rotation(
    length: int, head_dim: int, theta: float, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Complex factors (length, 3, 1, head_dim / 2) of queries, keys and values.

    The attention's 1 / sqrt(head_dim) stands in those of the queries.
    """
    like = torch.empty(0, device=device, dtype=dtype)
    turns = rotary_turns(length, 0, head_dim, theta, like=like)
    turns[:, 0] *= head_dim**-0.5
    return turns


def _padded_behind(tokens: torch.Tensor, ends: Sequence[int], pad_token_id: int) -> torch.Tensor:
    """The rows with padding behind their first end token."""
    end = torch.isin(tokens, torch.tensor(ends, device=tokens.device))
    return tokens.masked_fill(end.cumsum(dim=1) - end.long() > 0, pad_token_id)


class _Norm:
    """A layer norm without what a module's call costs."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.arguments = norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(states, *self.arguments)


def _draw(
    logits: torch.Tensor, temperature: float, top_k: int | None, uniform: torch.Tensor
) -> torch.Tensor:
    """Tokens (batch,) by inverting the distribution function at `uniform` (batch,)."""
    logits = logits.float()
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        least = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    cumulated = scaled.softmax(dim=-1).cumsum(dim=-1)
    target = uniform[:, None] * cumulated[:, -1:]
    drawn = torch.searchsorted(cumulated, target, right=True).squeeze(1)
    return drawn.clamp(max=scaled.shape[1] - 1)


def _check(
    model: PreTrainedModel,
    latents: torch.Tensor,
    max_length: int,
    longest: int,
    temperature: float,
    top_k: int | None,
) -> None:
    expected = (model.config.num_latents, model.config.latent_size)
    if latents.ndim != 3 or tuple(latents.shape[1:]) != expected:
        raise ValueError(
            f"latents must be (batch, num_latents, latent_size) = (batch, {expected[0]}, "
            f"{expected[1]}), got {tuple(latents.shape)}."
        )
    if not 1 < max_length <= longest:
        raise ValueError(
            f"max_length is from 2 to {longest} (the start token and what the model was built "
            f"for), not {max_length}."
        )
    if not temperature >= 0:
        raise ValueError(f"temperature is 0 (greedy) or above, not {temperature}.")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k is a whole number from 1, not {top_k!r}.")
    if top_k is not None and temperature == 0:
        raise ValueError(f"top_k = {top_k} draws, which needs a temperature above 0.")


__all__ = ["decode_latents"]
