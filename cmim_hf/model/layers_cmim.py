# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the cMIM model: attentions and layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scaling Q K^T + mask) V, and its weights; transformers' interface of attention."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2), weights


def rotary_tables(
    config: PreTrainedConfig, length: int, offset: int | torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tables (length, 1, 1, head_dim) of rotary embeddings (Su et al., arXiv 2104.09864).

    Position t turns the pair (x_i, x_{i + head_dim / 2}) by t * rope_theta ** (-2 i / head_dim):
    the cosines stand twice, the sines with a minus sign in the first half.
    """
    head_dim = config.hidden_size // config.num_attention_heads
    steps = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float32)
    positions = torch.arange(length, device=like.device, dtype=torch.float32) + offset
    angles = positions.view(-1, 1, 1, 1) * config.rope_theta ** (steps * (-1.0 / head_dim))
    cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _rotate(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn (batch, length, parts, heads, head_dim) by the tables of [`rotary_tables`]."""
    cos, sin = rotary
    first, second = states.chunk(2, dim=-1)
    return torch.addcmul(states * cos, torch.cat((second, first), dim=-1), sin)


class Attention(nn.Module):
    """Common ground of the attentions: heads, and transformers' attention interface."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        """`layer_idx` is the layer's place in the cache."""
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.scaling = self.head_dim**-0.5
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def split_heads(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """(batch, length, parts * hidden_size) -> (batch, length, parts, heads, head_dim)."""
        return x.view(*x.shape[:2], parts, self.heads, self.head_dim)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend by the configured implementation and project: (batch, length, hidden_size)."""
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        states, weights = interface(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs
        )
        return self.out_proj(states.flatten(2)), weights


class CMIMSelfAttention(Attention):
    """Multi-head self-attention with rotary positions and one fused projection."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int, is_causal: bool) -> None:
        """`layer_idx` is the layer's place in the cache."""
        super().__init__(config, layer_idx)
        self.is_causal = is_causal
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, length, hidden_size) -> the same, and the weights where there are any."""
        projected = self.split_heads(self.qkv_proj(hidden_states), 3)
        query, key = _rotate(projected[:, :, :2], rotary).transpose(1, 3).unbind(2)
        value = projected[:, :, 2].transpose(1, 2)
        if cache is not None:
            key, value = cache.self_attention_cache.update(key, value, self.layer_idx)
        return self.attend(query, key, value, attention_mask, **kwargs)


class CMIMCrossAttention(Attention):
    """Attention of the decoder to the K > 1 memory tokens."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        """`layer_idx` is the layer's place in the cache."""
        super().__init__(config, layer_idx)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor | None,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keys and values of the memory are computed once and kept in the cache."""
        query = self.split_heads(self.q_proj(self.norm(hidden_states)), 1)[:, :, 0].transpose(1, 2)
        remembered = _remembered(cache, self.layer_idx)
        if remembered is None:
            key, value = self.split_heads(self.kv_proj(memory), 2).transpose(1, 3).unbind(2)
            remembered = _remember(cache, self.layer_idx, key, value)
        # a cache may have been filled under another precision
        key, value = (states.to(query.dtype) for states in remembered)
        return self.attend(query, key, value, None, **kwargs)


class CMIMSingleCrossAttention(nn.Module):
    """Cross-attention to one memory token: its softmax over one key is 1, leaving W_o W_v m."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        """No query, key or norm exists: the result does not depend on the decoder's state."""
        super().__init__()
        self.layer_idx = layer_idx
        self.heads = config.num_attention_heads
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor | None,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(batch, 1, hidden_size), to be added at every position; kept in the cache by heads."""
        remembered = _remembered(cache, self.layer_idx)
        if remembered is None:
            added = self.out_proj(self.v_proj(memory))
            if cache is None:
                return added, None
            by_head = added.unflatten(2, (self.heads, -1)).transpose(1, 2)
            remembered = _remember(cache, self.layer_idx, by_head, by_head)
        # the last one: those before it are prefixes that an adapter put there, which have no part
        return remembered[1][:, :, -1:].transpose(1, 2).flatten(2), None


def _remembered(
    cache: EncoderDecoderCache | None, layer_idx: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Keys and values of a layer's memory (batch, heads, num_latents, head_dim), if cached."""
    if cache is None or not cache.is_updated.get(layer_idx):
        return None
    layer = cache.cross_attention_cache.layers[layer_idx]
    return layer.keys, layer.values


def _remember(
    cache: EncoderDecoderCache | None,
    layer_idx: int,
    key: torch.Tensor,
    value: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    if cache is None:
        return key, value
    cache.is_updated[layer_idx] = True
    return cache.cross_attention_cache.update(key, value, layer_idx)


class CMIMFeedForward(nn.Module):
    """Pre-norm feed-forward block."""

    def __init__(self, config: PreTrainedConfig) -> None:
        """Norm, widen, activate, narrow."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, length, hidden_size) -> the same."""
        return self.down_proj(self.activation(self.up_proj(self.norm(hidden_states))))


class CMIMEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer: self-attention and feed-forward."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        """`layer_idx` counts from 0."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CMIMSelfAttention(config, layer_idx, is_causal=False)
        self.feed_forward = CMIMFeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, length, hidden_size) -> the same."""
        attended, _ = self.self_attn(self.norm(hidden_states), attention_mask, rotary, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(hidden_states))


class CMIMDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer: causal self-attention, the latent code, feed-forward."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        """`layer_idx` counts from 0."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CMIMSelfAttention(config, layer_idx, is_causal=True)
        if config.num_latents == 1:
            self.cross_attn = CMIMSingleCrossAttention(config, layer_idx)
        else:
            self.cross_attn = CMIMCrossAttention(config, layer_idx)
        self.feed_forward = CMIMFeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, length, hidden_size) and memory (batch, num_latents, hidden_size).

        The memory may be missing where the cache has what comes of it.
        """
        attended, _ = self.self_attn(
            self.norm(hidden_states), attention_mask, rotary, cache, **kwargs
        )
        hidden_states = hidden_states + self.dropout(attended)
        attended, _ = self.cross_attn(hidden_states, memory, cache, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(hidden_states))
