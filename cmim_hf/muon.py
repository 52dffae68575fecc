# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of the layers, AdamW for everything else, as one optimiser.

Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/) takes the momentum of a matrix,
replaces its singular values by about 1 (five steps of a Newton-Schulz iteration) and goes that way:

    B ← μB + (1 − μ)G,   U = (1 − μ)G + μB,   W ← (1 − ηλ)W − η·√max(1, rows / columns)·NS(U)

as `torch.optim.Muon` does, whose iteration always runs in bfloat16: hundreds of times slower on a
CPU that has no unit for it. Here it runs in the precision that suits the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_MOMENTUM = 0.95


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values driven to about 1 (.7 to 1.2), in its own dtype.

    Args:
        matrix: (rows, columns); in bfloat16 on a GPU, in float32 on a CPU.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class MuonAdamW(torch.optim.Optimizer):
    """Muon in the groups that say `muon=True`, AdamW in the others.

    Args:
        groups: Of `params`, each with `lr`, `weight_decay` and `muon`; see `parameter_groups`.
        betas: AdamW's.
        eps: AdamW's.
        momentum: Muon's μ.
    """

    def __init__(
        self,
        groups: list[dict],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = _MOMENTUM,
    ) -> None:
        """Keep the groups; ValueError where Muon is given anything but matrices."""
        defaults = {"betas": betas, "eps": eps, "momentum": momentum, "muon": False}
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0, **defaults})
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["muon"] and parameter.ndim != 2:
                    raise ValueError(
                        f"Muon takes matrices, got a parameter of {tuple(parameter.shape)}."
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One step; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if group["muon"]:
                for parameter in parameters:
                    self._muon(parameter, group)
            elif parameters:
                self._adamw(parameters, group)
        return loss

    def _muon(self, parameter: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(average, group["momentum"])
        dtype = torch.bfloat16 if parameter.device.type == "cuda" else update.dtype
        update = orthogonalized(update.to(dtype)).to(parameter.dtype)
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))

    def _adamw(self, parameters: list[torch.Tensor], group: dict) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        first, second = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=first,
            beta2=second,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def parameter_groups(
    model: nn.Module, *, lr: float, muon_lr: float, weight_decay: float, decayed: set[str]
) -> list[dict]:
    """The groups of `MuonAdamW`: Muon takes the matrices of the layers.

    Layers are what stands in an `nn.ModuleList`, as in every model of transformers; embeddings,
    norms, learned queries, the posterior and the heads are AdamW's.

    Args:
        model: Whose parameters are trained.
        lr: AdamW's learning rate.
        muon_lr: Muon's.
        weight_decay: Of Muon's matrices, and of those of AdamW's parameters that are `decayed`.
        decayed: Names of the parameters that decay.
    """
    layers = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for parameter in module.parameters()
        if parameter.ndim == 2
    }
    matrices, decaying, others = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if id(parameter) in layers:
                matrices.append(parameter)
            else:
                (decaying if name in decayed else others).append(parameter)
    groups = [  # trainers log the rate of the first
        {"params": decaying, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
        {"params": matrices, "lr": muon_lr, "weight_decay": weight_decay, "muon": True},
    ]
    return [group for group in groups if group["params"]]


__all__ = ["MuonAdamW", "orthogonalized", "parameter_groups"]
