# SPDX-License-Identifier: Apache-2.0
"""Fit heads to a checkpoint's vectors, in place of fine-tuning it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..embedding.embedder import MoleculeEmbedder
from .frozen_heads import fit_head
from .labelled_parts import Part
from .members import Heads


def fit_heads(
    embedder: MoleculeEmbedder,
    head: str,
    task: str,
    classes: int,
    parts: dict[str, Part],
    targets: Sequence[str],
    *,
    balanced: bool = False,
) -> Heads:
    """A head for each target, from the rows that have its label.

    Args:
        embedder: Of the vectors.
        head: One of [`~cmim_hf.prediction.frozen_heads.HEADS`].
        task: `"regression"`, `"binary"` or `"multiclass"`.
        classes: How many there are, 2 of each binary target, 0 of numbers.
        parts: `train`, to fit to, and `valid`, to choose by.
        targets: Names of the labels, for errors.
        balanced: See `fit_head`.

    Raises:
        ValueError: A target that cannot be learned from these rows.
    """
    vectors = {name: embedder.embed_encoded(parts[name].encoded()) for name in ("train", "valid")}
    estimators = []
    for place, target in enumerate(targets):
        rows = {}
        for name, found in vectors.items():
            labels = parts[name].labels[:, place]
            known = ~np.isnan(labels)
            rows[name] = found[known], labels[known]
            if not known.any():
                raise ValueError(f"{target}: no row of {name} has a label.")
        try:
            estimators.append(
                fit_head(head, rows["train"], rows["valid"], classes=classes, balanced=balanced)
            )
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from error
    return Heads(embedder, estimators, task, classes)
