# SPDX-License-Identifier: Apache-2.0
"""What a training step does when its loss or its gradient is not finite: stop, or be left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import distributed, nn
from transformers.utils import logging

ON_NONFINITE = ("raise", "skip")
FOLDER = "_nonfinite"  # the Hub's client leaves folders with such names out of a run's upload
MOST_IN_A_ROW = 100
_SAVED_BATCHES = 3  # a run that leaves out thousands of steps must not fill the disk

logger = logging.get_logger(__name__)

Batch = tuple[Mapping[str, torch.Tensor], dict[str, torch.Tensor]]  # what went in, and its terms


class FiniteGuard:
    """Looks at the terms and the gradients of a step before they are clipped and used.

    With `"raise"` training stops with FloatingPointError on every rank, and the weights are those
    before the step. With `"skip"` the step changes nothing, is warned of and counted in `skipped`;
    after `MOST_IN_A_ROW` in a row training stops all the same. A rank with bad molecules saves
    their batch, of its first few such steps, with the terms of each molecule, in
    `<output_dir>/_nonfinite/step-<step>-rank-<rank>.safetensors`.

    Where gradients are scaled (fp16) they may overflow, and their scaler leaves such steps out by
    itself: only the terms are looked at. DeepSpeed's engine steps before this can look.

    Args:
        on_nonfinite: `"raise"` or `"skip"`.
    """

    def __init__(self, on_nonfinite: str) -> None:
        """Nothing seen yet."""
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self._in_a_row = 0
        self._batches: list[Batch] = []

    def watch(self, inputs: Mapping[str, torch.Tensor], terms: Mapping[str, torch.Tensor]) -> None:
        """Remember a batch of this step and its terms, each (batch,)."""
        self._batches.append((inputs, dict(terms)))

    def check(
        self, model: nn.Module, step: int, output_dir: str, rank: int, gradients: bool
    ) -> None:
        """Stop, or leave the step out, where something is not finite on any rank.

        Args:
            model: After the last backward pass of the step.
            step: Its number, from 1.
            output_dir: Where the run writes.
            rank: Of this process.
            gradients: Whether to look at them.

        Raises:
            FloatingPointError: See the class.
        """
        batches, self._batches = self._batches, []
        named = [
            (n, p.grad) for n, p in model.named_parameters() if gradients and p.grad is not None
        ]
        norms = _norms([gradient for _, gradient in named])
        looked_at = [term for _, terms in batches for term in terms.values()] + norms
        sound = torch.stack([values.isfinite().all() for values in looked_at]).all().int()
        if distributed.is_initialized():
            distributed.all_reduce(sound, distributed.ReduceOp.MIN)
        if sound:
            self._in_a_row = 0
            return
        reason = "terms or gradients of another process are not finite"
        if bad := [
            name for (name, _), norm in zip(named, norms, strict=True) if not norm.isfinite()
        ]:
            reason = f"its terms are finite here, but the gradient of {bad[0]} is not"
        for inputs, terms in batches:
            if bad := [name for name, term in terms.items() if not term.isfinite().all()]:
                rows = (~terms[bad[0]].isfinite()).nonzero()[:, 0].tolist()
                reason = f"not finite is {bad[0]} of its batch (rows {str(rows[:5])[1:-1]})"
                # one bad code makes the contrastive term bad for every molecule of every rank
                if bad != ["log_contrastive"] and self.skipped < _SAVED_BATCHES:
                    path = Path(output_dir, FOLDER, f"step-{step}-rank-{rank}.safetensors")
                    reason += _save(inputs, terms, path)
                break
        self._in_a_row += 1
        if self.on_nonfinite == "raise" or self._in_a_row == MOST_IN_A_ROW:
            again = f" and so were the {self._in_a_row - 1} before" if self._in_a_row > 1 else ""
            raise FloatingPointError(
                f"Training stopped before step {step} changed the weights: {reason}{again}. Lower "
                "learning_rate, clip by max_grad_norm, go on from an earlier checkpoint, or leave "
                "single steps out and have them counted with --on_nonfinite skip."
            )
        self.skipped += 1
        logger.warning(f"Step {step} is left out ({self.skipped} so far): {reason}.")
        for parameter in model.parameters():
            parameter.grad = None


def _norms(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """The norm of each gradient, of this rank's part where it is sharded."""
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    return [norm.to(local[0].device) for norm in torch._foreach_norm(local)] if local else []


def _save(inputs: Mapping[str, torch.Tensor], terms: Mapping[str, torch.Tensor], path: Path) -> str:
    """Write what went in and each term; say where."""
    named = {**inputs, **{f"term_{name}": term for name, term in terms.items()}}
    tensors = {name: each.detach().cpu().contiguous().clone() for name, each in named.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    except (OSError, SafetensorError) as error:  # what matters is the step, not its copy
        return f" (its batch could not be kept in {path}: {error})"
    return f" (kept in {path})"
