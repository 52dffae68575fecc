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

`evaluate.combine` takes loaded modules and hands each the arguments that it knows. A module's
folder, `cmim_hf/metrics/<name>`, loads by `evaluate.load`, too, with evaluate's options.
"""

from __future__ import annotations

from pathlib import Path

import evaluate

_FOLDER = Path(__file__).parent


def list_metrics() -> list[str]:
    """The names that [`load`] knows, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*/*.py") if path.stem == path.parent.name)


def load(name: str) -> evaluate.EvaluationModule:
    """Load one of [`list_metrics`] from its script in this package.

    Predictions stay in memory, so that any number of processes may compute at once.

    Raises:
        ValueError: An unknown name.
    """
    known = list_metrics()
    if name not in known:
        raise ValueError(f"No metric is named {name!r}; there are {', '.join(known)}.")
    return evaluate.load(str(_FOLDER / name), keep_in_memory=True)
