# SPDX-License-Identifier: Apache-2.0
"""The contrastive term beside the losses that others use: time and memory by batch size."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from cmim_hf.training.contrastive import contrastive_log_prob

from .peak_memory import held
from .peers import clip_loss, ntxent_loss
from .roofline import clock

ROOT = Path(__file__).resolve().parents[3]
TEMPERATURE = 0.1
# Rows: of some losses every pair is held, of NT-Xent every pair of pairs.
MOST = {"CLIP, whole": 16384, "NT-Xent, whole": 512}

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ways() -> dict[str, Loss]:
    """Each takes codes and, for those of two views, other codes, both (rows, size)."""
    found: dict[str, Loss] = {
        "ours, tiles": lambda codes, _: contrastive_log_prob(codes, temperature=TEMPERATURE).mean(),
        "CLIP, whole": lambda codes, others: clip_loss(codes, others, TEMPERATURE),
    }
    if (ntxent := ntxent_loss()) is not None:
        found["NT-Xent, whole"] = lambda codes, others: ntxent(codes, others, TEMPERATURE)
    return found


def contrastive(
    size: int, batches: list[int], rounds: int, device: torch.device
) -> list[dict[str, object]]:
    """A row for each batch size and way: milliseconds, times that of tiles, memory.

    Args:
        size: of a code.
        batches: rows.
        rounds: in turns.
        device: where.
    """
    rows: list[dict[str, object]] = []
    for batch in batches:
        codes = [torch.randn(batch, size, device=device, requires_grad=True) for _ in range(2)]
        losses = {name: loss for name, loss in ways().items() if batch <= MOST.get(name, batch)}
        seconds: dict[str, list[float]] = {name: [] for name in losses}
        for turn in range(rounds + 1):
            for name, loss in losses.items():
                took = clock(lambda: loss(*codes).backward())  # noqa: B023
                if turn:  # the first warms up
                    seconds[name].append(took)
        first = seconds["ours, tiles"]
        for name, taken in seconds.items():
            ratio = statistics.median(one / other for one, other in zip(first, taken, strict=True))
            rows.append(
                {
                    "rows": batch,
                    "loss": name,
                    "milliseconds": 1000 * statistics.median(taken),
                    "tiles take": ratio,
                    "extra MiB": extra_mebibytes(name, batch, size, device),
                }
            )
    return rows


def extra_mebibytes(name: str, batch: int, size: int, device: torch.device) -> float | None:
    """Peak memory of one forward and backward pass beside the codes and their gradients.

    Of the accelerator; else of a process of its own, where the system tells (`/proc`).
    """
    if device.type == "cuda":
        return _accelerator_peak(name, batch, size, device)
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-m", __spec__.name, name, str(batch), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout)


def _accelerator_peak(name: str, batch: int, size: int, device: torch.device) -> float:
    codes = [torch.randn(batch, size, device=device, requires_grad=True) for _ in range(2)]
    for tensor in codes:
        tensor.grad = torch.zeros_like(tensor)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    ways()[name](*codes).backward()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _print_peak(name: str, batch: int, size: int) -> None:
    small = [torch.randn(64, size, requires_grad=True) for _ in range(2)]
    ways()[name](*small).backward()  # loads what is loaded once
    codes = [torch.randn(batch, size, requires_grad=True) for _ in range(2)]
    for tensor in codes:
        tensor.grad = torch.ones_like(tensor)
    before = held()
    ways()[name](*codes).backward()
    print(held() - before)


if __name__ == "__main__":
    _print_peak(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
