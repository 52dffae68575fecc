# SPDX-License-Identifier: Apache-2.0
"""The Fréchet ChemNet Distance, with the network and weights of the package `fcd-torch`.

The package's own distance needs what scipy 1.18 and numpy are about to remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..chemistry.moses import Molecule
from ..chemistry.smiles import write as canonical_smiles
from ..extras import needed

BATCH_SIZE = 256


def fcd(molecules: Sequence[Molecule], reference: Iterable[Molecule]) -> dict[str, float]:
    """FCD: the squared Fréchet distance of Gaussians fitted to ChemNet's last hidden layer.

    `‖μ₁ - μ₂‖² + Tr(C₁ + C₂ - 2 (C₁ C₂)^½)` with means μ and covariances C of the activations (512)
    over the molecules predicted and over a reference set, at least 2 molecules each (Preuer et al.,
    J. Chem. Inf. Model. 2018, 58, 1736). Lower is better; 0 for equal sets. It depends on the sizes
    of the sets and falls as they grow, so compare equal sizes, of thousands. ChemNet sees a SMILES
    up to its first dot and its first 349 symbols. Needs `pip install 'cmim-hf[fcd]'`, which brings
    the network's weights; they are opened as tensors, without running code of the file.

    Returns:
        fcd: at least 0, up to rounding.
    """
    known, predicted = (tuple(map(canonical_smiles, each)) for each in (reference, molecules))
    return {"fcd": frechet_distance(chemnet_features(predicted), chemnet_features(known))}


@lru_cache(maxsize=4)
def chemnet_features(smiles: tuple[str, ...]) -> np.ndarray:
    """Activations of ChemNet's last hidden layer of canonical SMILES, float32 (molecules, 512).

    The last four sets are kept: among them may be the reference of the next comparison.

    Raises:
        ImportError: `fcd-torch` is not installed.
    """
    with needed("The Fréchet ChemNet Distance", "fcd"):
        from fcd_torch import FCD
        from fcd_torch.utils import SmilesDataset
    network = FCD().model
    batches = DataLoader(SmilesDataset(smiles, canonize=False), batch_size=BATCH_SIZE)
    features = []
    with torch.inference_mode():
        for batch in tqdm(batches, desc="ChemNet", unit=" batches", delay=5.0, leave=False):
            found = network(batch.transpose(1, 2).float())
            features.append(found.numpy().copy())  # it is a view of all places, 88 times as large
    return np.concatenate(features)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared Fréchet distance of Gaussians fitted to two sets, each (molecules, features).

    The trace of the root of `C₁ C₂` is the sum of the roots of its eigenvalues, which are none
    below 0 but for rounding.

    Raises:
        ValueError: A set of fewer than 2.
    """
    if (least := min(len(first), len(second))) < 2:
        raise ValueError(
            f"The Fréchet distance needs at least 2 molecules in each set, got a set of {least}."
        )
    shift = first.mean(axis=0, dtype=float) - second.mean(axis=0, dtype=float)
    covariances = [np.cov(features, rowvar=False, dtype=float) for features in (first, second)]
    eigenvalues = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(min=0)
    spread = sum(map(np.trace, covariances))
    return float(shift @ shift + spread - 2 * np.sqrt(eigenvalues).sum())
