# SPDX-License-Identifier: Apache-2.0
"""What a training step does when its loss or its gradient is not finite: stop, or be left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

ON_NONFINITE = ("raise", "skip")
_SAVED_BATCHES = 3  # of the steps left out; a run that skips thousands must not fill the disk
_NAMED_ROWS = 5


class FiniteGuard(TrainerCallback):
    """Looks at the terms and the gradients of each step before the optimiser sees them.

    With `"raise"` training stops with FloatingPointError on every rank, and the weights are those
    before the step. With `"skip"` the step changes nothing and is counted in `skipped`. Each rank
    saves its batch, if that is where the fault is, with the terms of each molecule in
    `<output_dir>/nonfinite-<step>-<rank>.safetensors`.

    Under fp16 gradients may overflow: their scaler leaves such steps out by itself, so only the
    terms are looked at.

    Args:
        on_nonfinite: `"raise"` or `"skip"`.
    """

    def __init__(self, on_nonfinite: str) -> None:
        """Nothing seen yet; ValueError for another policy."""
        if on_nonfinite not in ON_NONFINITE:
            raise ValueError(f"on_nonfinite is raise or skip, not {on_nonfinite!r}.")
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self._batches: list[tuple[Mapping[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def watch(self, inputs: Mapping[str, torch.Tensor], terms: Mapping[str, torch.Tensor]) -> None:
        """Remember a batch of this step and its terms, each (batch,)."""
        self._batches.append((inputs, dict(terms)))

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Forget the step before."""
        self._batches = []

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Stop, or leave the step out, where something is not finite on any rank."""
        bad = self._bad_terms()
        gradients = [] if args.fp16 else [p.grad for p in model.parameters() if p.grad is not None]
        if _finite_everywhere(bad, gradients, args.device):
            return
        step = state.global_step + 1
        path = self._save(args, step) if bad else None
        reason = _reason(bad, gradients, model)
        if self.on_nonfinite == "raise":
            kept = f" The batch is kept in {path}." if path else ""
            raise FloatingPointError(
                f"Training stopped before step {step} changed the weights: {reason}.{kept} Lower "
                "learning_rate, clip by max_grad_norm, go on from an earlier checkpoint, or leave "
                "such steps out and have them counted with --on_nonfinite skip."
            )
        self.skipped += 1
        for parameter in model.parameters():
            parameter.grad = None

    def _bad_terms(self) -> dict[str, list[int]]:
        """The terms that are not finite, with the rows of the batch, if there are any."""
        terms = [term for _, of_batch in self._batches for term in of_batch.values()]
        if not terms or torch.stack([term.isfinite().all() for term in terms]).all():
            return {}
        bad: dict[str, list[int]] = {}
        for _, of_batch in self._batches:
            for name, term in of_batch.items():
                rows = (~term.isfinite()).nonzero()[:, 0].tolist()
                bad[name] = bad.get(name, []) + rows
        return {name: rows for name, rows in bad.items() if rows}

    def _save(self, args: TrainingArguments, step: int) -> Path | None:
        """Write the batches whose terms are not finite: what went in, and each term."""
        if self.skipped >= _SAVED_BATCHES:
            return None
        tensors = {}
        for place, (inputs, terms) in enumerate(self._batches):
            if all(term.isfinite().all() for term in terms.values()):
                continue
            named = {**inputs, **{f"term_{name}": term for name, term in terms.items()}}
            for name, tensor in named.items():
                tensors[f"{place}.{name}"] = tensor.detach().cpu().contiguous().clone()
        path = Path(args.output_dir, f"nonfinite-{step}-{args.process_index}.safetensors")
        save_file(tensors, path, metadata={"step": str(step)})
        return path


def _finite_everywhere(
    bad: dict[str, list[int]], gradients: list[torch.Tensor], device: torch.device
) -> bool:
    """Whether this step is sound on all ranks, which thereby agree."""
    sound = torch.tensor(not bad, device=device)
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients)).to(device)
        sound = sound & norms.isfinite().all()
    sound = sound.int()
    if distributed.is_initialized():
        distributed.all_reduce(sound, distributed.ReduceOp.MIN)
    return bool(sound)


def _reason(bad: dict[str, list[int]], gradients: list[torch.Tensor], model: nn.Module) -> str:
    if bad:
        parts = []
        for name, rows in bad.items():
            more = f" and {len(rows) - _NAMED_ROWS} more" if len(rows) > _NAMED_ROWS else ""
            parts.append(f"{name} (rows {', '.join(map(str, rows[:_NAMED_ROWS]))}{more})")
        return f"not finite in its batch are {'; '.join(parts)}"
    for name, parameter in model.named_parameters():
        if gradients and parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"its terms are finite here, but the gradient of {name} is not"
    return "terms or gradients of another process are not finite"


__all__ = ["ON_NONFINITE", "FiniteGuard"]
