# SPDX-License-Identifier: Apache-2.0
"""ChemNet's features of molecules and the Fréchet distance of two sets of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

BATCH_SIZE = 256


def chemnet_features(smiles: Sequence[str]) -> np.ndarray:
    """Activations of ChemNet's last hidden layer, float64 (molecules, 512).

    The network and its weights come with the package `fcd-torch`, which opens them with
    `torch.load`: from torch 2.6 on, tensors and plain containers only, no code. ChemNet reads a
    SMILES up to its first dot and its first 349 symbols.

    Args:
        smiles: Canonical SMILES.

    Raises:
        ImportError: `fcd-torch` is not installed.
    """
    try:
        from fcd_torch import FCD
        from fcd_torch.utils import SmilesDataset
    except ImportError as error:
        raise ImportError(
            "The Fréchet ChemNet Distance needs fcd-torch: pip install 'cmim-hf[fcd]'."
        ) from error
    network = FCD().model
    batches = DataLoader(SmilesDataset(list(smiles), canonize=False), batch_size=BATCH_SIZE)
    features = []
    with torch.inference_mode():
        for batch in tqdm(batches, desc="ChemNet", unit=" batches", delay=5.0, leave=False):
            features.append(network(batch.transpose(1, 2).float()).double().numpy())
    return np.concatenate(features)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared Fréchet distance of Gaussians fitted to two sets of features.

    `‖μ₁ - μ₂‖² + Tr(C₁ + C₂ - 2 (C₁ C₂)^½)` with means μ and covariances C. The trace of the root
    is the sum of the singular values of `C₁^½ C₂^½`, here from symmetric matrices alone, so that
    sets smaller than the number of features need no correction.

    Args:
        first: (n, features), n at least 2.
        second: (m, features), m at least 2.

    Raises:
        ValueError: A set has fewer than two rows.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(
            "The Fréchet distance needs at least 2 molecules in each set, got "
            f"{len(first)} and {len(second)}."
        )
    shift = first.mean(axis=0) - second.mean(axis=0)
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    roots = [_root(covariance) for covariance in covariances]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    return float(shift @ shift + sum(map(np.trace, covariances)) - 2 * overlap)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance; rounding may have left eigenvalues below 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


__all__ = ["chemnet_features", "frechet_distance"]
