# SPDX-License-Identifier: Apache-2.0
"""Training in which a rare class counts as much as a common one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional


def balanced_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Weights of the classes by target, (targets, classes): `labels / (classes * labels of c)`.

    The mean weight of a target's labels is 1, and each class has the same sum. Only classes that
    occur count; others have the weight 1.

    Args:
        labels: (rows, targets) of the training molecules, whole numbers from 0, NaN where missing.
        classes: 2 of yes and no.

    >>> balanced_weights(np.array([[0.0], [0], [0], [1], [np.nan]]), 2)
    tensor([[0.6667, 2.0000]])
    """
    weights = np.ones((labels.shape[1], classes), np.float32)
    for row, column in zip(weights, labels.T, strict=True):
        numbers = np.bincount(column[~np.isnan(column)].astype(int), minlength=classes)
        occurs = numbers > 0
        row[occurs] = numbers.sum() / (occurs.sum() * numbers[occurs])
    return torch.from_numpy(weights)


def weighted_loss(
    outputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Mean over the labels that are there of weight times cross-entropy; 0 where there are none.

    Args:
        outputs: The model's, of which it takes `logits`: (batch, targets) log-odds, or (batch,
            classes) of one target.
        labels: (batch, targets) of 1, 0 and NaN where missing; or whole numbers (batch, 1), -100
            where missing.
        num_items_in_batch: What `Trainer` gives a `compute_loss_func`; no gradients are summed up
            over batches here, so that it is not needed.
        weights: (targets, classes), as `balanced_weights` gives them.
    """
    logits = outputs["logits"]
    weights = weights.to(logits)
    if not labels.is_floating_point():
        numbers = labels.flatten()
        total = functional.cross_entropy(logits, numbers, weights[0], reduction="sum")
        return total / (numbers != -100).sum().clamp(min=1)
    there = ~labels.isnan()
    expected = labels.to(logits.dtype).masked_fill(~there, 0.0)
    weight = torch.where(expected == 1, weights[:, 1], weights[:, 0])
    each = functional.binary_cross_entropy_with_logits(logits, expected, weight, reduction="none")
    return each.masked_fill(~there, 0.0).sum() / there.sum().clamp(min=1)
