# SPDX-License-Identifier: Apache-2.0
"""Rows of all ranks on every rank, with their gradients; and the end of a group."""

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def gather_rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Gather the rows of all ranks, in rank order, and keep the gradient to each of them.

    The backward pass gives a rank the sum, over all ranks, of the gradients of its rows. So when
    each rank takes the mean of a loss over its own rows and DistributedDataParallel averages the
    parameter gradients, the step is that of one process on the global batch: with L_r the loss
    of rank r, (1/W)·Σ_r ∂L_r/∂θ is the gradient of the global mean.

    The row counts go first, since a collective over unequal ones hangs or returns garbage. Without
    a process group, or in a group of one, nothing is communicated and the input is returned.

    Args:
        tensor: (batch, ...), the same shape on all ranks.

    Returns:
        The gathered rows, (ranks · batch, ...), and the position of this rank's first one.

    Raises:
        ValueError: On all ranks, if they hold different numbers of rows.
    """
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if ranks == 1:
        return tensor, 0
    counts = _gather(torch.tensor([len(tensor)], device=tensor.device), ranks).tolist()
    if len(set(counts)) > 1:
        raise ValueError(
            f"Every rank must hold equally many rows, got {counts} on ranks 0 to {ranks - 1}. "
            "Drop the last uneven batch: `dataloader_drop_last=True`."
        )
    return _GatherRows.apply(tensor, ranks), dist.get_rank() * len(tensor)


class _GatherRows(torch.autograd.Function):
    # Of the collectives that would do, the single-tensor ones have another name in each release
    # and torch.distributed.nn is deprecated; all_gather and all_reduce are the lasting ones.

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, ranks: int) -> torch.Tensor:
        ctx.ranks = ranks
        return _gather(tensor, ranks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(ctx.ranks)[dist.get_rank()], None


def _gather(tensor: torch.Tensor, ranks: int) -> torch.Tensor:
    rows = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(ranks)]
    dist.all_gather(rows, tensor.contiguous())
    return torch.cat(rows)


def leave_process_group() -> None:
    """Leave the process group in order, as all its ranks do; at its own exit one may hang."""
    gc.collect()  # of what wraps a model
    dist.barrier()
    dist.destroy_process_group()
