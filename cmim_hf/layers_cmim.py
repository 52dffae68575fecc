# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the cMIM model: attentions, layers, and the posterior."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_cmim import LONGEST, short_attention
from .configuration_cmim import CMIMConfig
from .linear_cmim import CMIMLinear, linear


def _eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2), weights


def rotary_tables(
    length: int, offset: int | torch.Tensor, head_size: int, theta: float, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (length, head_size) of rotary embeddings (Su et al., arXiv 2104.09864)."""
    steps = torch.arange(0, head_size, 2, device=like.device, dtype=torch.float32)
    positions = torch.arange(length, device=like.device) + offset
    angles = positions.float()[:, None] * theta ** (-steps / head_size)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotary_turns(
    length: int, offset: int | torch.Tensor, head_size: int, theta: float, like: torch.Tensor
) -> torch.Tensor:
    """The same as complex factors (length, 3, 1, head_size / 2) of queries, keys and values.

    Rotary embeddings turn the pair (x_i, x_{i + head_size / 2}) by an angle: as a complex number it
    is multiplied by cos + i sin, in one pass over memory. Values are multiplied by 1. In float32 at
    least: half precision has no complex product.
    """
    like = torch.empty(0, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    cos, sin = rotary_tables(length, offset, head_size, theta, like=like)
    turn = torch.complex(cos, sin)[:, : head_size // 2]
    return torch.stack((turn, turn, torch.ones_like(turn)), dim=1)[:, :, None]


def pair_order(heads: int, head_size: int, device: torch.device) -> torch.Tensor:
    """Rows (3 * hidden_size,) of a fused projection, in the order that `rotary_turns` multiplies.

    Components i and i + head_size / 2 of each head of queries and keys become neighbours, which
    leaves their dot products as they are; values stay in place.
    """
    rows = torch.arange(3 * heads * head_size, device=device).view(3, heads, 2, head_size // 2)
    return torch.cat((rows[:2].transpose(2, 3).flatten(), rows[2].flatten()))


def rotary_positions(
    config: CMIMConfig, length: int, offset: int | torch.Tensor, like: torch.Tensor
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Rotary embeddings in the faster of two forms: `rotary_turns` on a CPU, else the tables.

    Compilers fuse the tables' arithmetic, and know no complex numbers.
    """
    size = config.hidden_size // config.num_attention_heads
    kind = like.device.type
    plain = kind == "cpu" and like.dtype in (torch.float32, torch.float64)
    if plain and not torch.is_autocast_enabled(kind) and not torch.compiler.is_compiling():
        return rotary_turns(length, offset, size, config.rope_theta, like)
    return rotary_tables(length, offset, size, config.rope_theta, like)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _without_autocast(device_type: str) -> AbstractContextManager:
    if device_type == "meta":  # has no autocast to turn off
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


class _Attention(nn.Module):
    """Common ground of the attentions: heads, and transformers' attention interface."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: CMIMConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.out_proj = CMIMLinear(config.hidden_size, config.hidden_size)

    def split_heads(self, x: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """(batch, length, parts * hidden_size) -> `parts` of (batch, heads, length, head_dim)."""
        x = x.view(*x.shape[:2], parts, self.config.num_attention_heads, self.head_dim)
        return x.transpose(1, 3).unbind(2)

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
            self.config._attn_implementation, _eager_attention
        )
        states, weights = interface(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs
        )
        return self.out_proj(states.flatten(2)), weights


class CMIMSelfAttention(_Attention):
    """Multi-head self-attention with rotary positions and one fused projection."""

    def __init__(self, config: CMIMConfig, layer_idx: int, is_causal: bool) -> None:
        """`layer_idx` is the layer's place in the cache."""
        super().__init__(config, layer_idx)
        self.is_causal = is_causal
        self.qkv_proj = CMIMLinear(config.hidden_size, 3 * config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, length, hidden_size) -> the same, and the weights where there are any."""
        if isinstance(rotary, tuple):
            query, key, value = self.split_heads(self.qkv_proj(hidden_states), 3)
            query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        else:
            turned = self._turned(hidden_states, rotary)
            if past_key_values is None and self._is_short(turned, attention_mask):
                attended = short_attention(turned, attention_mask, self.is_causal)
                return self.out_proj(attended.flatten(2)), None
            query, key, value = turned.transpose(1, 3).unbind(2)
        if past_key_values is not None:
            key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
        return self.attend(query, key, value, attention_mask, **kwargs)

    def _turned(self, hidden_states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values (batch, length, 3, heads, head_dim); see `rotary_turns`."""
        heads, size = self.config.num_attention_heads, self.head_dim
        order = pair_order(heads, size, hidden_states.device)
        if type(self.qkv_proj) is CMIMLinear:
            projected = linear(hidden_states, self.qkv_proj.weight[order])
        else:  # an adapter in its place is to be called
            projected = self.qkv_proj(hidden_states)[..., order]
        pairs = projected.view(*projected.shape[:2], 3, heads, size // 2, 2)
        return torch.view_as_real(torch.view_as_complex(pairs) * rotary).flatten(4)

    def _is_short(self, turned: torch.Tensor, attention_mask: torch.Tensor | None) -> bool:
        if self.config._attn_implementation != "sdpa" or turned.shape[1] > LONGEST:
            return False
        return attention_mask is None or attention_mask.dtype == torch.bool


class CMIMCrossAttention(_Attention):
    """Attention of the decoder to the K > 1 memory tokens."""

    def __init__(self, config: CMIMConfig, layer_idx: int) -> None:
        """`layer_idx` is the layer's place in the cache."""
        super().__init__(config, layer_idx)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.q_proj = CMIMLinear(config.hidden_size, config.hidden_size)
        self.kv_proj = CMIMLinear(config.hidden_size, 2 * config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keys and values of the memory are computed once and kept in the cache."""
        (query,) = self.split_heads(self.q_proj(self.norm(hidden_states)), 1)
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            key, value = self.split_heads(self.kv_proj(memory), 2)
            if past_key_values is not None:
                cache = past_key_values.cross_attention_cache
                key, value = cache.update(key, value, self.layer_idx)
                past_key_values.is_updated[self.layer_idx] = True
        return self.attend(query, key, value, None, **kwargs)


class CMIMSingleCrossAttention(nn.Module):
    """Cross-attention to one memory token: its softmax over one key is 1, leaving W_o W_v m."""

    def __init__(self, config: CMIMConfig) -> None:
        """No query, key or norm exists: the result does not depend on the decoder's state."""
        super().__init__()
        self.v_proj = CMIMLinear(config.hidden_size, config.hidden_size)
        self.out_proj = CMIMLinear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, memory: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None]:
        """(batch, 1, hidden_size), to be added at every position."""
        return self.out_proj(self.v_proj(memory)), None


class CMIMFeedForward(nn.Module):
    """Pre-norm feed-forward block."""

    def __init__(self, config: CMIMConfig) -> None:
        """Norm, widen, activate, narrow."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up_proj = CMIMLinear(config.hidden_size, config.intermediate_size)
        self.down_proj = CMIMLinear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, length, hidden_size) -> the same."""
        states = self.norm(hidden_states)
        if type(self.up_proj) is CMIMLinear:
            return self.down_proj(self.up_proj(states, self.activation))
        return self.down_proj(self.activation(self.up_proj(states)))  # an adapter in its place


class CMIMEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer: self-attention and feed-forward."""

    def __init__(self, config: CMIMConfig, layer_idx: int) -> None:
        """`layer_idx` counts from 0."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CMIMSelfAttention(config, layer_idx, is_causal=False)
        self.feed_forward = CMIMFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, length, hidden_size) -> the same."""
        attended, _ = self.self_attn(self.norm(hidden_states), attention_mask, rotary, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(hidden_states))


class CMIMDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer: causal self-attention, the latent code, feed-forward."""

    def __init__(self, config: CMIMConfig, layer_idx: int) -> None:
        """`layer_idx` counts from 0."""
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CMIMSelfAttention(config, layer_idx, is_causal=True)
        if config.num_latents == 1:
            self.cross_attn = CMIMSingleCrossAttention(config)
        else:
            self.cross_attn = CMIMCrossAttention(config, layer_idx)
        self.feed_forward = CMIMFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, length, hidden_size) and memory (batch, num_latents, hidden_size)."""
        attended, _ = self.self_attn(
            self.norm(hidden_states), attention_mask, rotary, past_key_values, **kwargs
        )
        hidden_states = hidden_states + self.dropout(attended)
        attended, _ = self.cross_attn(hidden_states, memory, past_key_values, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.feed_forward(hidden_states))


class CMIMPosterior(_Attention):
    """Attention pooling by K learned queries, then mean and log-std of q(z | x)."""

    def __init__(self, config: CMIMConfig) -> None:
        """A sampled posterior has no log-std projection."""
        super().__init__(config, layer_idx=0)
        hidden_size = config.hidden_size
        self.queries = nn.Parameter(torch.empty(config.num_latents, hidden_size))
        self.kv_proj = CMIMLinear(hidden_size, 2 * hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mean_proj = nn.Linear(hidden_size, config.latent_size)
        if config.posterior == "learned":
            self.log_std_proj = nn.Linear(hidden_size, config.latent_size)
        # mean and spread of the training molecules' codes, zero until they are measured
        shape = (config.num_latents, config.latent_size)
        self.register_buffer("aggregate_mean", torch.zeros(shape))
        self.register_buffer("aggregate_std", torch.zeros(shape))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states (batch, length, hidden_size) -> two (batch, num_latents, latent_size).

        Both are float32 at least, also under autocast: cosines and densities are taken of them.
        """
        queries = functional.layer_norm(self.queries, self.queries.shape[-1:])
        queries = queries.to(hidden_states.dtype).expand(len(hidden_states), -1, -1).contiguous()
        mask = create_bidirectional_mask(
            self.config, queries, attention_mask, encoder_hidden_states=hidden_states
        )
        (query,) = self.split_heads(queries, 1)
        key, value = self.split_heads(self.kv_proj(hidden_states), 2)
        pooled = self.norm(self.attend(query, key, value, mask)[0])
        with _without_autocast(pooled.device.type):
            pooled = pooled.to(self.mean_proj.weight.dtype)
            mean = self.mean_proj(pooled)
            mean = mean if mean.dtype == torch.float64 else mean.float()
            return mean, self.log_std(pooled, mean)

    def log_std(self, pooled: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """The log-std: a smooth floor keeps a gradient where a clamp would have none."""
        floor = self.config.min_log_std
        if self.config.posterior == "learned":
            return floor + functional.softplus(self.log_std_proj(pooled).to(mean.dtype))
        if self.training:
            draw = torch.rand(len(mean), 1, 1, device=mean.device, dtype=mean.dtype)
            return (floor * draw).expand_as(mean)
        return torch.full_like(mean, 0.5 * floor)
