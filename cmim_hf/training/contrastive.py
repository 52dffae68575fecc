# SPDX-License-Identifier: Apache-2.0
"""Terms that compare latent codes: the contrastive term of cMIM, InfoNCE, and the mean cosine.

All act on cosines. The anchors are this process's codes; the rows they are compared with may be
those of all processes, gathered by the caller. Similarities are computed in float32 even under
autocast; float64 stays.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Below this largest component a code has no direction: its cosines and their gradient are 0.
_SMALLEST_COMPONENT = 1e-12
_TILE = 1024  # similarities are formed in squares of this edge, never held whole


def contrastive_log_prob(
    anchors: torch.Tensor,
    latents: torch.Tensor | None = None,
    *,
    temperature: float,
    offset: int = 0,
    keys: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log-probability that code and molecule belong together, against the mean of the negatives.

    log k_i = s_ii/τ − log( exp(s_ii/τ) + mean_{j≠i} exp(s_ij/τ) ), s the cosine, so s_ii = 1.
    It is computed as −log(1 + mean_{j≠i} exp((s_ij − 1)/τ)), which is −softplus(logmeanexp(·)):
    as no exponent exceeds 0, nothing overflows and no maximum has to be subtracted. The mean, in
    place of InfoNCE's sum, makes the term insensitive to the number of negatives. A molecule with
    no negative has value and gradient 0.

    Similarities are formed in tiles, and formed again in the backward pass, so that memory grows
    with batch + rows.

    Args:
        anchors: (batch, ...), flattened beyond the first axis.
        latents: (rows, ...), among which the anchors are the rows `offset` to `offset + batch`;
            by default the anchors themselves. Gradients flow to both.
        temperature: τ > 0, in units of the cosine.
        offset: Row of the first anchor in `latents`.
        keys: (rows,) int64, one for each row of `latents`. Rows of equal keys are one molecule
            and not each other's negatives; the mean runs over the rest.

    Returns:
        (batch,), each ≤ 0, in float32 or float64.

    Raises:
        TypeError: If the codes are not floating or the keys not int64.
        ValueError: If shapes, `offset` or `temperature` do not fit.

    Source: cMIM (arXiv:2502.19642).

    >>> contrastive_log_prob(torch.eye(3), temperature=0.5)  # -log(1 + exp(-2))
    tensor([-0.1269, -0.1269, -0.1269])
    """
    latents = anchors if latents is None else latents
    keys = _checked_keys(anchors, latents, temperature, offset, keys)
    with _full_precision(anchors):
        units = unit_rows(anchors)
        all_units = units if latents is anchors else unit_rows(latents)
        return -torch.log1p(_MeanExp.apply(units, all_units, keys, offset, temperature))


def info_nce_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    all_first: torch.Tensor | None = None,
    all_second: torch.Tensor | None = None,
    *,
    temperature: float,
    offset: int = 0,
    keys: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE between two views of the same molecules, the mean of both directions.

    loss_i = −log( exp(s_ii′/τ) / Σ_j exp(s_ij′/τ) ), s_ij′ the cosine of view 1 of molecule i and
    view 2 of molecule j; j runs over all rows, i among them. Then the same with the views
    exchanged, and the mean of the two.

    Args:
        first: (batch, ...), codes of the first view, flattened beyond the first axis.
        second: Codes of the second view, in the same order and of the same shape.
        all_first: (rows, ...), first views among which this batch's are the rows `offset` to
            `offset + batch`; by default `first`.
        all_second: The same for the second views; by default `second`.
        temperature: As in `contrastive_log_prob`, like `offset`.
        offset: Row of the batch's first molecule in `all_first` and `all_second`.
        keys: (rows,) int64, one for each molecule. Other rows with the key of molecule i are left
            out of its sum.

    Returns:
        (batch,), in nats, in float32 or float64.

    Raises:
        TypeError: If the codes are not floating or the keys not int64.
        ValueError: If shapes, `offset` or `temperature` do not fit.

    Source: van den Oord et al. (arXiv:1807.03748); symmetric as in SimCLR (arXiv:2002.05709).
    """
    all_first = first if all_first is None else all_first
    all_second = second if all_second is None else all_second
    _checked_keys(first, all_second, temperature, offset, keys)
    keys = _checked_keys(second, all_first, temperature, offset, keys)
    with _full_precision(first):
        own = torch.arange(offset, offset + len(first), device=first.device)
        excluded = keys[own, None] == keys
        excluded[torch.arange(len(own)), own] = False
        loss = torch.zeros((), device=first.device)
        for view, others in ((first, all_second), (second, all_first)):
            logits = unit_rows(view) @ unit_rows(others).T / temperature
            logits = logits.masked_fill(excluded, -torch.inf)
            loss = loss + 0.5 * F.cross_entropy(logits, own, reduction="none")
        return loss


def mean_cosine(latents: torch.Tensor) -> torch.Tensor:
    """Mean cosine over all pairs of different rows, without forming the pairs.

    mean_{i≠j} s_ij = ( |Σ_i u_i|² − Σ_i |u_i|² ) / (B·(B − 1)), u_i = z_i/|z_i|; O(B·D).

    Args:
        latents: (batch, ...), flattened beyond the first axis.

    Returns:
        A scalar in [−1, 1]; NaN for a batch of one, which has no pair.
    """
    units = unit_rows(latents)
    batch = len(units)
    return (units.sum(0).square().sum() - units.square().sum()) / (batch * (batch - 1) or torch.nan)


def unit_rows(latents: torch.Tensor) -> torch.Tensor:
    """Rows scaled to unit length: (batch, ...) to (batch, size), in float32 or float64.

    A row whose components are all below 1e-12 becomes 0, with gradient 0.

    Raises:
        TypeError: If `latents` is not of a floating type.
        ValueError: If the batch axis is missing.
    """
    if not latents.is_floating_point():
        raise TypeError(f"Codes must be a floating tensor, got {latents.dtype}.")
    if latents.dim() < 2:
        raise ValueError(f"Codes must be (batch, ...), got shape {tuple(latents.shape)}.")
    latents = latents.flatten(1).to(torch.promote_types(latents.dtype, torch.float32))
    # Divided by the largest component first, the squares stay within range.
    largest = latents.detach().abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest >= _SMALLEST_COMPONENT, 1.0 / largest, 0.0)
    return F.normalize(latents * scale, dim=1)


class _MeanExp(torch.autograd.Function):
    """mean_{j a negative of i} exp((s_ij − 1)/τ), (batch,), from tiles formed in both passes.

    With E_ij = exp((s_ij − 1)/τ) and c_i = grad_i/(τ·n_i), n_i the number of negatives, the
    gradients are c_i·Σ_j E_ij·v_j for the anchor u_i and Σ_i E_ij·c_i·u_i for the row v_j.
    """

    @staticmethod
    def forward(
        ctx: Any,
        units: torch.Tensor,
        all_units: torch.Tensor,
        keys: torch.Tensor,
        offset: int,
        temperature: float,
    ) -> torch.Tensor:
        own = keys[offset : offset + len(units)]
        ordered = keys.sort().values
        copies = torch.searchsorted(ordered, own, right=True) - torch.searchsorted(ordered, own)
        negatives = (len(keys) - copies).clamp(min=1).to(units)
        ctx.save_for_backward(units, all_units, own, keys, negatives)
        ctx.temperature = temperature
        total = torch.zeros_like(negatives)
        for rows, _, tile in _tiles(units, all_units, own, keys, temperature):
            total[rows] += tile.sum(1)
        return total / negatives

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        units, all_units, own, keys, negatives = ctx.saved_tensors
        weight = (grad / (ctx.temperature * negatives)).unsqueeze(1)
        grad_units, grad_all = torch.zeros_like(units), torch.zeros_like(all_units)
        with _full_precision(units):
            for rows, columns, tile in _tiles(units, all_units, own, keys, ctx.temperature):
                grad_units[rows].addmm_(tile, all_units[columns])
                grad_all[columns].addmm_(tile.T, weight[rows] * units[rows])
        return grad_units.mul_(weight), grad_all, None, None, None


def _tiles(
    units: torch.Tensor,
    all_units: torch.Tensor,
    own: torch.Tensor,
    keys: torch.Tensor,
    temperature: float,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Tiles of exp((s_ij − 1)/τ), 0 where row j is no negative of anchor i, and their places."""
    for row in range(0, len(units), _TILE):
        for column in range(0, len(all_units), _TILE):
            rows, columns = slice(row, row + _TILE), slice(column, column + _TILE)
            tile = units[rows] @ all_units[columns].T
            # rounding may lift a cosine over 1, which a small temperature would blow up
            tile.clamp_(max=1.0).sub_(1.0).div_(temperature).exp_()
            yield rows, columns, tile.masked_fill_(own[rows, None] == keys[columns], 0.0)


def _full_precision(tensor: torch.Tensor) -> torch.autocast:
    """A region in which autocast does not lower matrix products."""
    return torch.autocast(tensor.device.type, enabled=False)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is a positive finite number."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"`temperature` must be positive and finite, got {temperature}.")


def _checked_keys(
    anchors: torch.Tensor,
    latents: torch.Tensor,
    temperature: float,
    offset: int,
    keys: torch.Tensor | None,
) -> torch.Tensor:
    """The keys, each row's own where none are given; an error where the arguments do not fit."""
    check_temperature(temperature)
    batch, rows = len(anchors), len(latents)
    if anchors.shape[1:] != latents.shape[1:] or not 0 <= offset <= rows - batch:
        raise ValueError(
            f"The anchors must be rows of the codes they are compared with: got anchors of shape "
            f"{tuple(anchors.shape)} at offset {offset} among codes of shape "
            f"{tuple(latents.shape)}. Pass the gathered codes together with their offset."
        )
    if keys is None:
        return torch.arange(rows, device=anchors.device)
    if keys.dtype != torch.int64:
        raise TypeError(f"`keys` must be int64, got {keys.dtype}.")
    if keys.shape != (rows,):
        raise ValueError(
            f"`keys` must hold one key for each of the {rows} rows compared with, got shape "
            f"{tuple(keys.shape)}. Gather the keys as the codes are gathered."
        )
    return keys
