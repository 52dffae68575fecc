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
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_MOMENTUM = 0.95


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices with their singular values driven to about 1 (.7 to 1.2), in their own dtype.

    Args:
        matrices: (number, rows, columns); in bfloat16 on a GPU, in float32 on a CPU.
    """
    a, b, c = _COEFFICIENTS
    is_wide = matrices.shape[1] <= matrices.shape[2]
    wide = matrices if is_wide else matrices.mT
    wide = wide / wide.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_STEPS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if is_wide else wide.mT


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
                by_shape = defaultdict(list)
                for parameter in parameters:
                    by_shape[parameter.shape].append(parameter)
                for alike in by_shape.values():
                    self._muon(alike, group)
            elif parameters:
                self._adamw(parameters, group)
        return loss

    def _muon(self, parameters: list[torch.Tensor], group: dict) -> None:
        """One step of matrices of one shape, whose products are taken together."""
        averages = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            averages.append(state["momentum"])
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        updates = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"]))
        if updates.device.type == "cuda":
            updates = updates.bfloat16()
        updates = orthogonalized(updates).to(parameters[0].dtype)
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-rate)

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
