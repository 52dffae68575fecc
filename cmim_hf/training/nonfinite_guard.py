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
_NAMED_ROWS = 5
_OF_ALL_ROWS = ("log_contrastive",)  # one bad code makes it bad for every molecule of every rank

logger = logging.get_logger(__name__)


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
        """Nothing seen yet; ValueError for another policy."""
        if on_nonfinite not in ON_NONFINITE:
            raise ValueError(f"on_nonfinite is raise or skip, not {on_nonfinite!r}.")
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self._in_a_row = 0
        self._batches: list[tuple[Mapping[str, torch.Tensor], dict[str, torch.Tensor]]] = []

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
        bad = _bad_rows(batches)
        named = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
        norms = _norms([gradient for _, gradient in named]) if gradients and named else None
        if _finite_everywhere(bad, norms, next(model.parameters()).device):
            self._in_a_row = 0
            return
        reason = _reason(bad, norms, [name for name, _ in named])
        if bad and bad.keys() - set(_OF_ALL_ROWS) and self.skipped < _SAVED_BATCHES:
            path = Path(output_dir, FOLDER, f"step-{step}-rank-{rank}.safetensors")
            reason += _save(batches, path)
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


def _bad_rows(
    batches: list[tuple[Mapping[str, torch.Tensor], dict[str, torch.Tensor]]],
) -> dict[str, list[int]]:
    """The terms that are not finite, with rows of their batch.

    The contrastive term is blamed only where no molecule's own terms are.
    """
    terms = [term for _, of_batch in batches for term in of_batch.values()]
    if not terms or torch.stack([term.isfinite().all() for term in terms]).all():
        return {}
    bad: dict[str, list[int]] = {}
    for _, of_batch in batches:
        for name, term in of_batch.items():
            if rows := (~term.isfinite()).nonzero()[:, 0].tolist():
                bad[name] = bad.get(name, []) + rows
    own = {name: rows for name, rows in bad.items() if name not in _OF_ALL_ROWS}
    return own or bad


def _norms(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of each gradient, of this rank's part where it is sharded."""
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    return torch.stack([norm.to(local[0].device) for norm in torch._foreach_norm(local)])


def _finite_everywhere(
    bad: dict[str, list[int]], norms: torch.Tensor | None, device: torch.device
) -> bool:
    """Whether this step is sound on all ranks, which thereby agree."""
    sound = torch.tensor(not bad, device=device)
    if norms is not None:
        sound = sound & norms.isfinite().all()
    sound = sound.int()
    if distributed.is_initialized():
        distributed.all_reduce(sound, distributed.ReduceOp.MIN)
    return bool(sound)


def _reason(bad: dict[str, list[int]], norms: torch.Tensor | None, names: list[str]) -> str:
    if bad:
        parts = []
        for name, rows in bad.items():
            more = f" and {len(rows) - _NAMED_ROWS} more" if len(rows) > _NAMED_ROWS else ""
            parts.append(f"{name} (rows {', '.join(map(str, rows[:_NAMED_ROWS]))}{more})")
        return f"not finite are {'; '.join(parts)} of its batch"
    if norms is not None and not norms.isfinite().all():
        first = names[int((~norms.isfinite()).nonzero()[0])]
        return f"its terms are finite here, but the gradient of {first} is not"
    return "terms or gradients of another process are not finite"


def _save(
    batches: list[tuple[Mapping[str, torch.Tensor], dict[str, torch.Tensor]]], path: Path
) -> str:
    """Write the batches whose terms are not finite, what went in and each term; say where."""
    tensors = {}
    for place, (inputs, terms) in enumerate(batches):
        if all(term.isfinite().all() for term in terms.values()):
            continue
        named = {**inputs, **{f"term_{name}": term for name, term in terms.items()}}
        for name, tensor in named.items():
            tensors[f"{place}.{name}"] = tensor.detach().cpu().contiguous().clone()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    except (OSError, SafetensorError) as error:  # what matters is the step, not its copy
        return f" (its batch could not be kept in {path}: {error})"
    return f" (kept in {path})"
