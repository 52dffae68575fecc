# SPDX-License-Identifier: Apache-2.0
"""Linear maps, on a CPU by the faster of the two libraries that torch brings.

torch multiplies float32 matrices by MKL. oneDNN, which it uses for other things, is 5 to 25 %
faster at the shapes of this model (rows by hidden_size, AMD Zen, AVX-512), except for the gradient
of a weight, and applies GELU while the product is in its registers. Wherever that does not apply
(another device or precision, a compiler, few rows) this is `torch.nn.Linear`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

_FEWEST_ROWS = 128  # below, a kernel made for each new number of rows costs more than it gains
_PARTS = 4  # of the sum over rows that is the gradient of a weight
# Activations to oneDNN's algorithms.
_FUSED = {type(ACT2FN["gelu"]): "none", type(ACT2FN["gelu_pytorch_tanh"]): "tanh"}


class CMIMLinear(nn.Linear):
    """A linear map without bias, (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        """Weight (out_features, in_features)."""
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: torch.Tensor, activation: nn.Module | None = None) -> torch.Tensor:
        """Activated, if there is an activation."""
        return linear(input, self.weight, activation)


def linear(
    x: torch.Tensor, weight: torch.Tensor, activation: nn.Module | None = None
) -> torch.Tensor:
    """activation(x W^T), of x (..., in_features) and W (out_features, in_features)."""
    if not _by_onednn(x, weight):
        product = functional.linear(x, weight)
    elif torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        product = _Linear.apply(x, weight)
    elif type(activation) in _FUSED:
        return _onednn(x, weight, "gelu", _FUSED[type(activation)])
    else:
        product = _onednn(x, weight)
    return product if activation is None else activation(product)


class _Linear(torch.autograd.Function):
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
            of_weight = _of_weight(gradient.flatten(0, -2), x.flatten(0, -2))
        return of_x, of_weight


def _of_weight(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """G^T X, a sum over many rows: in parts, which give each core a product of its own."""
    if len(x) % _PARTS:
        return gradient.t() @ x
    gradient, x = (rows.reshape(_PARTS, -1, rows.shape[-1]) for rows in (gradient, x))
    return (gradient.transpose(1, 2) @ x).sum(dim=0)


def _onednn(
    x: torch.Tensor, weight: torch.Tensor, activation: str = "none", algorithm: str = ""
) -> torch.Tensor:
    # what torch's own compiler calls for linear maps on a CPU
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, activation, [], algorithm)


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and type(x) is torch.Tensor
        and type(weight) in (torch.Tensor, nn.Parameter)
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= _FEWEST_ROWS * x.shape[-1]
        and _available()
        and not torch.is_autocast_enabled("cpu")
    )


def _available() -> bool:
    return (
        torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
