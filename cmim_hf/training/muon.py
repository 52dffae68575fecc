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


class MuonAdamW(torch.optim.AdamW):
    """Muon in the groups that say `muon=True`, AdamW in the others.

    Args:
        groups: Of `params`, each with `lr`, `weight_decay` and `muon`; see `parameter_groups`.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self, groups: list[dict], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        """Keep the groups; ValueError where Muon is given anything but matrices."""
        super().__init__(groups, betas=betas, eps=eps, weight_decay=0.0)
        for group in self.param_groups:
            group.setdefault("muon", False)
            shapes = [tuple(parameter.shape) for parameter in group["params"]]
            if group["muon"] and (others := [shape for shape in shapes if len(shape) != 2]):
                raise ValueError(f"Muon takes matrices, got a parameter of {others[0]}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One step; parameters without a gradient stay as they are."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            by_shape = defaultdict(list)
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for alike in by_shape.values():
                self._muon(alike, group)
        return loss

    def _muon(self, parameters: list[torch.Tensor], group: dict) -> None:
        """One step of matrices of one shape, whose products are taken together."""
        for each in parameters:
            if not self.state[each]:  # AdamW looks for a step when a state is loaded
                self.state[each] = {"step": torch.zeros(()), "momentum": torch.zeros_like(each)}
        averages = [self.state[each]["momentum"] for each in parameters]
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - _MOMENTUM)
        updates = torch.stack(torch._foreach_lerp(gradients, averages, _MOMENTUM))
        if updates.device.type == "cuda":
            updates = updates.bfloat16()
        updates = orthogonalized(updates).to(parameters[0].dtype)
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-rate)


def parameter_groups(
    model: nn.Module, *, lr: float, muon_lr: float, weight_decay: float, decayed: set[str]
) -> list[dict]:
    """The groups of `MuonAdamW`: Muon takes the matrices of the layers.

    Layers are what stands in an `nn.ModuleList`, as in every model of transformers; embeddings,
    norms, learned queries, the posterior and the heads are AdamW's.

    `lr` is AdamW's; `weight_decay` is of Muon's matrices, and of those of AdamW's parameters whose
    names are `decayed`.
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
