# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated molecules as modules of Hugging Face's `evaluate`, without network.

    >>> from cmim_hf import metrics
    >>> snn = metrics.load("snn")
    >>> snn.compute(predictions=["CCO", "CC(", None], reference_smiles=["CCO", "CCN"])
    {'snn': 1.0, 'invalid': 2}

`predictions` are SMILES; None, NaN and strings that are no molecule may be among them. A set to
compare with, of any length, is the argument `reference_smiles` of `compute`, and each of its rows
must be a molecule.

| name | keys | range | better | needs |
|---|---|---|---|---|
| `validity` | `validity` | 0 to 1 | high | |
| `uniqueness` | `uniqueness`, `uniqueness@<k>` | 0 to 1 | high | `k=`, optional |
| `novelty` | `novelty` | 0 to 1 | high | `reference_smiles` |
| `reconstruction` | `reconstruction`, `reconstruction_without_stereo`, `reconstruction_tanimoto` \
| 0 to 1 | high | `references`, one for each prediction |
| `internal_diversity` | `internal_diversity`, `internal_diversity_2` | 0 to 1 | high | |
| `snn` | `snn` | 0 to 1 | high | `reference_smiles` |
| `fragment_similarity` | `fragment_similarity` | 0 to 1 | high | `reference_smiles` |
| `scaffold_similarity` | `scaffold_similarity` | 0 to 1 | high | `reference_smiles` |
| `moses_filters` | `moses_filters` | 0 to 1 | high | |
| `fcd` | `fcd` | 0 and more | low | `reference_smiles`; `pip install 'cmim-hf[fcd]'` |

Each returns `invalid` as well, how many predictions are no molecule. `validity` and
`reconstruction` count these as failures; the others leave them out and raise ValueError if nothing
remains. Formulas and sources: `measures` and `frechet`, and each module's `description`.

`evaluate.combine` takes loaded modules and hands each the arguments that it knows.
"""

from __future__ import annotations

import evaluate

from . import measures
from .frechet import fcd
from .molecule_metric import MoleculeMetric

_MEASURES = {
    measure.__name__: measure
    for measure in (
        fcd,
        measures.fragment_similarity,
        measures.internal_diversity,
        measures.moses_filters,
        measures.novelty,
        measures.reconstruction,
        measures.scaffold_similarity,
        measures.snn,
        measures.uniqueness,
        measures.validity,
    )
}


def list_metrics() -> list[str]:
    """The names that [`load`] knows, sorted."""
    return list(_MEASURES)


def load(name: str) -> evaluate.EvaluationModule:
    """One of [`list_metrics`].

    Predictions stay in memory, so that any number of processes may compute at once.

    Raises:
        ValueError: An unknown name.
    """
    if name not in _MEASURES:
        raise ValueError(f"No metric is named {name!r}; there are {', '.join(_MEASURES)}.")
    parts = {"measure": staticmethod(_MEASURES[name]), "__module__": __name__}
    kind = type(name.title().replace("_", ""), (MoleculeMetric,), parts)  # by which it is called
    return kind(keep_in_memory=True)
