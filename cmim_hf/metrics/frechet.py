# SPDX-License-Identifier: Apache-2.0
"""ChemNet's features of molecules and the Fréchet distance of two sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

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


class Gaussian(NamedTuple):
    """Mean (features,) and covariance (features, features)."""

    mean: np.ndarray
    covariance: np.ndarray


def fit(features: np.ndarray) -> Gaussian:
    """The Gaussian of features (n, features), n at least 2.

    Raises:
        ValueError: Fewer rows.
    """
    if len(features) < 2:
        raise ValueError(
            "The Fréchet distance needs at least 2 molecules in each set, got a set of "
            f"{len(features)}."
        )
    return Gaussian(features.mean(axis=0), np.cov(features, rowvar=False))


@lru_cache(maxsize=2)
def reference_gaussian(smiles: tuple[str, ...]) -> Gaussian:
    """The Gaussian of ChemNet's features of molecules, kept for the next set compared with them.

    Args:
        smiles: As in `chemnet_features`.
    """
    return fit(chemnet_features(smiles))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Fréchet distance of two Gaussians.

    `‖μ₁ - μ₂‖² + Tr(C₁ + C₂ - 2 (C₁ C₂)^½)` with means μ and covariances C. The trace of the root
    is the sum of the singular values of `C₁^½ C₂^½`, here from symmetric matrices alone, so that
    sets smaller than the number of features need no correction.
    """
    shift = first.mean - second.mean
    overlap = np.linalg.svd(_root(first.covariance) @ _root(second.covariance), compute_uv=False)
    spread = np.trace(first.covariance) + np.trace(second.covariance)
    return float(shift @ shift + spread - 2 * overlap.sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance; rounding may have left eigenvalues below 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


__all__ = ["Gaussian", "chemnet_features", "fit", "frechet_distance", "reference_gaussian"]
