# SPDX-License-Identifier: Apache-2.0
"""What makes a CPU faster, put into a loaded model from outside.

The model is plain torch. [`speed_up`] gives its modules, where they are what the model made them
(no hook, no adapter, no quantised weight), classes that compute the same by faster means:

- Products of matrices in float32 by oneDNN, which torch brings beside MKL: 5 to 25 % faster at the
  shapes of this model (rows by hidden_size, AMD Zen, AVX-512), except for the gradient of a weight;
  in float32 and bfloat16 with GELU applied while the product is in the registers.
- Self-attention of short rows, and of a single query: see `cpu_attention`.
- Rotary embeddings in one pass over memory.
- Token after token in decoding by functions, without a call of each module.

Each looks at its inputs, and is torch's own wherever the faster means do not apply (another device
or precision, a compiler, few rows). Parameters, their names and what is saved stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import EncoderDecoderCache

from .cpu_attention import ATTENTION, attended_by_sums, is_plain
from .model.decoding_cmim import ModuleSteps, TokenMemory
from .model.encoder_decoder_cmim import CMIMDecoder
from .model.layers_cmim import (
    CMIMDecoderLayer,
    CMIMFeedForward,
    CMIMSelfAttention,
    CMIMSingleCrossAttention,
    rotary_tables,
)

_FEWEST_ROWS = 128  # below, a kernel made for each new number of rows costs more than it gains
_PARTS = 4  # of the sum over rows that is the gradient of a weight
# Activations to oneDNN's algorithms.
_FUSED = {type(ACT2FN["gelu"]): "none", type(ACT2FN["gelu_pytorch_tanh"]): "tanh"}


def speed_up(model: PreTrainedModel) -> None:
    """Let a model on a CPU compute by the faster means, in place; elsewhere nothing is changed."""
    if model.device.type != "cpu":
        return
    for module in model.modules():
        faster = _FASTER.get(type(module))
        if faster is not None and not _is_hooked(module) and getattr(module, "bias", None) is None:
            module.__class__ = faster
        if isinstance(module, CMIMDecoder):
            module.steps = _steps
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


def slow_down(model: PreTrainedModel) -> None:
    """Make a model plain again, in place."""
    for module in model.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
        if isinstance(module, CMIMDecoder):
            vars(module).pop("steps", None)
    if model.config._attn_implementation == ATTENTION:
        model.set_attn_implementation("sdpa")


@contextmanager
def sped_up(model: PreTrainedModel) -> Iterator[None]:
    """[`speed_up`] for a time; a model that is so already stays so."""
    was_faster = any(type(module) in _PLAIN for module in model.modules())
    speed_up(model)
    try:
        yield
    finally:
        if not was_faster:
            slow_down(model)


class _Linear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight)


class _FeedForward(CMIMFeedForward):
    """The feed-forward block, activated within the first product where no gradient is needed."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.widened(self.norm(hidden_states)))

    def widened(self, states: torch.Tensor) -> torch.Tensor:
        """What the block does between its norm and its second product."""
        up, algorithm = self.up_proj, _FUSED.get(type(self.activation))
        if algorithm and _is_fused(up, states) and not _is_hooked(self.activation):
            if not _is_differentiated(states, up.weight):
                return _onednn(states, up.weight, "gelu", algorithm)
        return self.activation(up(states))


class _SelfAttention(CMIMSelfAttention):
    """Self-attention with the rotation as one product of complex numbers, where nothing is cached.

    Components i and i + head_dim / 2 of each head of queries and keys, which turn together, become
    neighbours by the order of the projection's rows. That leaves the dot products as they are; a
    cache, which others read, is filled by the plain model's order.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if cache is not None or not _is_faster(self.qkv_proj, hidden_states):
            return super().forward(hidden_states, attention_mask, rotary, cache, **kwargs)
        shape = 3, self.heads, self.head_dim // 2
        paired = linear(hidden_states, _paired_rows(self))
        turn = _turns(rotary)
        turns = torch.cat((turn, turn, torch.ones_like(turn)), dim=1)
        numbers = torch.view_as_complex(paired.view(*paired.shape[:2], *shape, 2)) * turns
        query, key, value = torch.view_as_real(numbers).flatten(4).transpose(1, 3).unbind(2)
        return self.attend(query, key, value, attention_mask, **kwargs)


def _paired_rows(attention: CMIMSelfAttention) -> torch.Tensor:
    """The projection's weight, its rows in the order of [`_SelfAttention`]."""
    rows = torch.arange(3 * attention.heads * attention.head_dim).view(3, attention.heads, 2, -1)
    order = torch.cat((rows[:2].transpose(2, 3).flatten(), rows[2].flatten()))
    return attention.qkv_proj.weight[order]


def _turns(rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The rotation at each position as complex numbers (length, 1, 1, head_dim / 2)."""
    cos, sin = (table[..., table.shape[-1] // 2 :] for table in rotary)
    return torch.complex(cos.contiguous(), sin.contiguous())


def _steps(model: PreTrainedModel, latents: torch.Tensor) -> ModuleSteps | _Steps:
    """What writes token after token of a batch of codes."""
    decoder = model.decoder
    parts = [model.embed_tokens, model.lm_head, *decoder.modules()]
    weights = [weight for part in parts for weight in part.parameters(recurse=False)]
    suits = (
        type(decoder) is CMIMDecoder
        and not any(_is_hooked(part) or part.training for part in parts)
        and not torch.nn.modules.module._has_any_global_hook()
        and all(type(x) is nn.Parameter and x.dtype == torch.float32 for x in weights)
        and [type(model.embed_tokens), type(model.lm_head)] == [nn.Embedding, _Linear]
        and [type(decoder.memory_proj), type(decoder.norm)] == [_Linear, nn.LayerNorm]
        and all(_is_as_made(layer) for layer in decoder.layers)
        and model.config._attn_implementation == ATTENTION
        and is_plain(latents)
    )
    return (_Steps if suits else ModuleSteps)(model, latents)


def _is_as_made(layer: nn.Module) -> bool:
    """Whether it is a decoder's layer for one code, with a module of its kind in each place."""
    kinds = {name: type(module) for name, module in layer.named_modules()}
    kinds.pop("feed_forward.activation", None)  # it is called
    return kinds.pop("dropout", None) in (nn.Dropout, nn.Identity) and kinds == _LAYER


class _Steps:
    """Token after token by functions alone, as [`ModuleSteps`] does it by modules.

    Of a few rows the calls of modules cost as much as the numbers.
    """

    def __init__(self, model: PreTrainedModel, latents: torch.Tensor) -> None:
        decoder, longest = model.decoder, model.config.max_position_embeddings
        self.embeddings, self.norm = model.embed_tokens.weight, decoder.norm
        memory = decoder.memory_proj(latents.float())
        self.turns = iter(_turns(rotary_tables(model.config, longest, 0, like=memory)))
        self.layers = [_LayerSteps(layer, memory) for layer in decoder.layers]
        self.head = _Map(model.lm_head.weight)

    def __call__(self, last: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocab_size) behind the tokens (rows,) that were written last."""
        x, turn = functional.embedding(last, self.embeddings), next(self.turns)
        for layer in self.layers:
            x = layer(x, turn)
        return self.head(_normed(x, self.norm))

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only."""
        for layer in self.layers:
            layer.added = layer.added[rows]
            layer.memory.keep(rows)


class _LayerSteps:
    """A layer of the decoder, for one more token of each row."""

    def __init__(self, layer: CMIMDecoderLayer, memory: torch.Tensor) -> None:
        attention, block = layer.self_attn, layer.feed_forward
        self.norm, self.block = layer.norm, block
        self.shape = 3, attention.heads, attention.head_dim
        self.qkv, self.out = _Map(_paired_rows(attention)), _Map(attention.out_proj.weight)
        self.up, self.down = _Map(block.up_proj.weight), _Map(block.down_proj.weight)
        self.added = layer.cross_attn(memory, memory)[0][:, 0]
        self.memory = TokenMemory()

    def __call__(self, x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """(rows, hidden_size) -> the same."""
        states = self.qkv(_normed(x, self.norm)).view(len(x), *self.shape)
        torch.view_as_complex(states[:, :2].unflatten(-1, (-1, 2))).mul_(turn)
        query, key, value = states.unbind(1)
        attended = attended_by_sums(query, *self.memory.append(key[None], value[None]))
        x = self.out(attended.flatten(1), plus=x + self.added)
        states, few = _normed(x, self.block.norm), len(x) < _FEWEST_ROWS
        states = self.block.activation(self.up(states)) if few else self.block.widened(states)
        return self.down(states, plus=x)


class _Map:
    """x W^T; of few rows it is faster by a W^T that lies in memory row by row."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    @cached_property
    def turned(self) -> torch.Tensor:
        return self.weight.t().contiguous()

    def __call__(self, x: torch.Tensor, plus: torch.Tensor | None = None) -> torch.Tensor:
        """(rows, in_features) -> (rows, out_features), `plus` another one of these."""
        if len(x) >= _FEWEST_ROWS:
            product = linear(x, self.weight)
            return product if plus is None else product.add_(plus)
        return torch.mm(x, self.turned) if plus is None else torch.addmm(plus, x, self.turned)


def _normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return torch.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


_FASTER = {
    nn.Linear: _Linear,
    CMIMFeedForward: _FeedForward,
    CMIMSelfAttention: _SelfAttention,
}
_LAYER = {
    "": CMIMDecoderLayer,
    "norm": nn.LayerNorm,
    "self_attn": _SelfAttention,
    "self_attn.qkv_proj": _Linear,
    "self_attn.out_proj": _Linear,
    "cross_attn": CMIMSingleCrossAttention,
    "cross_attn.v_proj": _Linear,
    "cross_attn.out_proj": _Linear,
    "feed_forward": _FeedForward,
    "feed_forward.norm": nn.LayerNorm,
    "feed_forward.up_proj": _Linear,
    "feed_forward.down_proj": _Linear,
}
_PLAIN = {faster: plain for plain, faster in _FASTER.items()}


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)  # accelerate's offloading
    )


def _is_faster(projection: nn.Module, x: torch.Tensor) -> bool:
    """Whether a product goes by oneDNN, and nobody listens to the module that makes it."""
    return x.dtype == torch.float32 and _is_fused(projection, x)


def _is_fused(projection: nn.Module, x: torch.Tensor) -> bool:
    """Whether oneDNN can activate within a product that nobody listens to."""
    return (
        type(projection) is _Linear
        and _is_known_to_onednn(x, projection.weight)
        and not _is_hooked(projection)
    )


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """X W^T, of x (..., in_features) and W (out_features, in_features)."""
    if not _by_onednn(x, weight):
        return functional.linear(x, weight)
    if _is_differentiated(x, weight):
        return _Product.apply(x, weight)
    return _onednn(x, weight)


class _Product(torch.autograd.Function):
    """x W^T and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = linear(gradient, weight.t())
        if ctx.needs_input_grad[1]:
            # G^T X, a sum over many rows: in parts, which give each core a product of its own
            parts = 1 if gradient[..., 0].numel() % _PARTS else _PARTS
            gradient, x = (rows.reshape(parts, -1, rows.shape[-1]) for rows in (gradient, x))
            of_weight = (gradient.transpose(1, 2) @ x).sum(dim=0)
        return of_x, of_weight


def _onednn(
    x: torch.Tensor, weight: torch.Tensor, activation: str = "none", algorithm: str = ""
) -> torch.Tensor:
    # what torch's own compiler calls for linear maps on a CPU
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, activation, [], algorithm)


def _is_differentiated(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and _is_known_to_onednn(x, weight)


def _is_known_to_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.numel() >= _FEWEST_ROWS * x.shape[-1]
        and is_plain(x)
        and type(weight) in (torch.Tensor, nn.Parameter)
        and x.dtype == weight.dtype
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (
            x.dtype == torch.float32
            or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )
