# SPDX-License-Identifier: Apache-2.0
"""Codes to tokens, fast: the loop of `generate` without what it pays for each token.

Every token is one call of the model's own decoder, whatever stands in the place of its modules
(adapters, hooks, quantised layers), unless the decoder brings steps of its own. What is saved is
around it: the cache has room before it is needed, rows that have ended are dropped, and nothing is
looked up or checked between two tokens.
Greedy decoding gives the tokens of `CMIMModel.generate`, except where two logits are equal to
rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

_FIRST_ROOM = 16  # tokens a cache holds before it first grows
_DROP_BELOW = 0.7  # share of unfinished rows at which those that ended are dropped


@torch.inference_mode()
def decode_latents(
    model: PreTrainedModel,
    latents: torch.Tensor,
    *,
    max_length: int | torch.Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    uniform: torch.Tensor | None = None,
    rules: Any | None = None,
) -> torch.LongTensor:
    """Decode a batch of codes to tokens.

    Args:
        model: A [`CMIMModel`], in `eval()`.
        latents: (batch, num_latents, latent_size).
        max_length: Longest row, the start token included, or that of each row (batch,); by default
            the longest the model knows.
        temperature: 0 takes the most probable token (greedy); above, tokens are drawn from
            softmax(logits / temperature).
        top_k: Draw among the `top_k` most probable tokens only.
        generator: Of the draws, on the CPU; the global one by default. A row's draws depend on its
            place in `latents` and not on the other rows.
        uniform: (batch, max_length), the draws themselves, from [0, 1), in place of `generator`'s.
        rules: Which tokens may come next, as `SmilesRules` of the package says it. In place of one
            that may not, another is chosen in the same way: the most probable, or a draw, among the
            rest; after finitely many refusals at one place some token of a row is not refused.

    Returns:
        Token ids (batch, length) like those of `generate`: the start token first, padding behind
        the end token; a row that did not end within `max_length` has no end token.

    Raises:
        ValueError: Latents of the wrong shape, or an argument outside its range.
    """
    config = model.config
    longest = config.max_position_embeddings + 1
    limits = None
    if torch.is_tensor(max_length):
        limits, max_length = max_length.to(model.device), int(max_length.max())
    max_length = longest if max_length is None else max_length
    model.check_latents(latents)
    _check(max_length, longest, temperature, top_k)
    latents = latents.to(model.device)
    tokens = torch.full(
        (len(latents), max_length), config.pad_token_id, dtype=torch.long, device=model.device
    )
    tokens[:, 0] = config.decoder_start_token_id
    if temperature > 0:
        drawn = torch.rand(tokens.shape, generator=generator) if uniform is None else uniform
        uniform = drawn.to(model.device)
    if rules is not None:
        rules.start(len(latents))
    ends = torch.as_tensor(config.eos_token_id).reshape(-1).tolist()
    steps = getattr(model.decoder, "steps", ModuleSteps)(model, latents)
    rows = torch.arange(len(latents), device=model.device)  # which are still written
    ended = torch.zeros_like(rows, dtype=torch.bool)
    last, length = tokens[:, 0], 1
    while len(rows) and length < max_length:
        logits = steps(last)
        draws = uniform[rows, length] if temperature > 0 else None
        last, draws = _choose(logits, temperature, top_k, draws)
        if rules is not None:
            going = (~ended).nonzero().squeeze(1)
            wrong = going[rules.refused(rows[going], last[going])]
            while len(wrong):
                logits[wrong, last[wrong]] = -torch.inf
                left = None if draws is None else draws[wrong]
                last[wrong], left = _choose(logits[wrong], temperature, top_k, left)
                if left is not None:
                    draws[wrong] = left
                wrong = wrong[rules.refused(rows[wrong], last[wrong])]
            rules.advance(rows[going], last[going])
        tokens[rows, length] = last
        length += 1
        for end in ends:
            ended |= last == end
        if limits is not None:
            ended |= limits[rows] <= length
        if int(ended.sum()) >= (1 - _DROP_BELOW) * len(rows):
            going = (~ended).nonzero().squeeze(1)
            rows, last, ended = rows[going], last[going], ended[going]
            steps.keep(going)
    tokens = tokens[:, :length]
    if limits is not None:  # a row may have been written on, until it was dropped
        beyond = torch.arange(length, device=tokens.device) >= limits[:, None]
        tokens = tokens.masked_fill(beyond, config.pad_token_id)
    end = torch.isin(tokens, torch.tensor(ends, device=tokens.device))
    return tokens.masked_fill(end.cumsum(dim=1) - end.long() > 0, config.pad_token_id)


class ModuleSteps:
    """Token after token by the model's own modules.

    Args:
        model: A [`CMIMModel`].
        latents: (rows, num_latents, latent_size), on its device.
    """

    def __init__(self, model: PreTrainedModel, latents: torch.Tensor) -> None:
        """Begin with an empty cache."""
        self.model, self.latents = model, latents
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.cache.self_attention_cache.layer_class_to_replicate = _RoomyLayer

    def __call__(self, last: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocab_size) behind the tokens (rows,) that were written last."""
        embedded = self.model.embed_tokens(last[:, None])
        found = self.model.decoder(embedded, self.latents, cache=self.cache, use_cache=True)
        return self.model.lm_head(found.last_hidden_state[:, 0])

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only."""
        self.latents = self.latents[rows]
        self.cache.batch_select_indices(rows)


class TokenMemory:
    """Keys and values of the tokens so far, and room for others: one block, token by token."""

    def __init__(self) -> None:
        """Nothing is filled."""
        self._block: torch.Tensor | None = None
        self._length = 0

    def append(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Put (tokens, rows, heads, head_dim) behind what is there: (2, all tokens, ...)."""
        begin, end = self._length, self._length + len(key)
        if self._block is None:
            self._block = key.new_empty(2, max(_FIRST_ROOM, end), *key.shape[1:])
        if end > self._block.shape[1]:
            room = max(2 * self._block.shape[1], end)
            grown = key.new_empty(2, room, *key.shape[1:])
            grown[:, :begin] = self._block[:, :begin]
            self._block = grown
        self._block[0, begin:end] = key
        self._block[1, begin:end] = value
        self._length = end
        return self._block[:, :end]

    def keep(self, rows: torch.Tensor) -> torch.Tensor:
        """Keep these rows, and say what is left: (2, all tokens, ...)."""
        shape = list(self._block.shape)
        shape[2] = len(rows)
        kept, filled = self._block.new_empty(shape), (slice(None), slice(self._length))
        torch.index_select(self._block[filled], 2, rows, out=kept[filled])
        self._block = kept
        return kept[filled]


class _RoomyLayer(DynamicLayer):
    """A layer's cache with room for tokens to come.

    `keys` and `values` (batch, heads, length, head_dim), as of every cache, are views of what is
    filled.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """See the base class; nothing is filled."""
        super().lazy_initialization(key_states, value_states)
        self._memory = TokenMemory()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the states of tokens (batch, heads, tokens, head_dim) behind those that are there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        states = (x.permute(2, 0, 1, 3) for x in (key_states, value_states))
        return self._show(self._memory.append(*states))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows with these indices."""
        self._show(self._memory.keep(indices))

    def _show(self, filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = filled.permute(0, 2, 3, 1, 4).unbind(0)
        return self.keys, self.values


def _choose(
    logits: torch.Tensor, temperature: float, top_k: int | None, uniform: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens (batch,), the most probable ones or by inverting the distribution at `uniform`.

    What is left of a uniform number once it has chosen, its place within the share of the token, is
    uniform again and independent of the choice: the second result, for another one.
    """
    if uniform is None:
        return logits.argmax(dim=-1), None
    logits = logits.float()
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        least = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    cumulated = scaled.softmax(dim=-1).cumsum(dim=-1)
    target = uniform[:, None] * cumulated[:, -1:]
    drawn = torch.searchsorted(cumulated, target, right=True).clamp(max=scaled.shape[1] - 1)
    above = cumulated.gather(1, drawn)
    below = torch.where(drawn > 0, cumulated.gather(1, (drawn - 1).clamp(min=0)), 0.0)
    rest = ((target - below) / (above - below)).clamp(0, 1 - 2**-24)
    return drawn.squeeze(1), rest.squeeze(1)


def _check(max_length: int, longest: int, temperature: float, top_k: int | None) -> None:
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
