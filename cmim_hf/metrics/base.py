# SPDX-License-Identifier: Apache-2.0
"""What the metrics share: an `evaluate.Metric` of SMILES, and how predictions are read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import evaluate

from ..chemistry.moses import Molecule, read_molecules

PREDICTED = datasets.Features({"predictions": datasets.Value("string")})
PREDICTED_AND_TRUE = datasets.Features(
    {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
)
SETTINGS = ("k", "reference_smiles")
MOSES_CITATION = """\
@article{polykovskiy2020moses,
  title = {Molecular Sets ({MOSES}): A Benchmarking Platform for Molecular Generation Models},
  author = {Polykovskiy, Daniil and Zhebrak, Alexander and Sanchez-Lengeling, Benjamin and others},
  journal = {Frontiers in Pharmacology},
  volume = {11},
  year = {2020},
  doi = {10.3389/fphar.2020.565644}
}
"""


class MoleculeMetric(evaluate.Metric):
    """A metric over SMILES, of which any may be None or no molecule.

    Keyword arguments that another metric takes are let through, so that `evaluate.combine` can
    hand the same ones to all.
    """

    def compute(
        self, *, predictions: Any = None, references: Any = None, **settings: Any
    ) -> dict[str, Any] | None:
        """Compute the metric over `predictions` and what was added before.

        Raises:
            TypeError: One string in place of a list, a row that is neither string nor None, or an
                unknown keyword argument.
            ValueError: No prediction, or none for which the metric is defined.
        """
        if unknown := sorted(set(settings) - set(SETTINGS)):
            raise TypeError(
                f"{self.name} got the unknown argument {', '.join(unknown)}; beside predictions "
                f"and references, metrics take {' and '.join(SETTINGS)}."
            )
        if predictions is None and self.writer is None:
            raise ValueError(f"{self.name} got no predictions; pass predictions=[...], SMILES.")
        taken = inspect.signature(self._compute).parameters
        settings = {name: value for name, value in settings.items() if name in taken}
        return super().compute(predictions=predictions, references=references, **settings)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **others: Any) -> None:
        """Add predictions, and their references if the metric has any."""
        given = {"predictions": predictions, "references": references, **others}
        columns = {name: texts(given[name], name) for name in self._feature_names()}
        if len({len(column) for column in columns.values()}) > 1:
            counts = " and ".join(f"{len(column)} {name}" for name, column in columns.items())
            raise ValueError(f"{self.name} got {counts}; give one reference for each prediction.")
        super().add_batch(**columns)

    def add(self, *, prediction: Any = None, reference: Any = None, **others: Any) -> None:
        """Add one prediction, and its reference if the metric has any."""
        given = {"predictions": [prediction], "references": [reference], **others}
        self.add_batch(**given)


def texts(smiles: Any, name: str) -> list[str]:
    """`smiles` as a list of strings that Arrow takes.

    "" stands in place of None and of a float NaN, and lone surrogates, which have no encoding, are
    written as escapes, which no SMILES holds.

    Raises:
        TypeError: It is one string, a table, no iterable, or holds something else than strings,
            None and NaN.
    """
    if isinstance(smiles, Mapping) or hasattr(smiles, "columns"):
        raise TypeError(
            f"{name} is a list of SMILES, got a {type(smiles).__name__}; pass its column of SMILES."
        )
    if isinstance(smiles, str) or not isinstance(smiles, Iterable):
        raise TypeError(
            f"{name} is a list of SMILES, got {type(smiles).__name__}"
            + (f" {smiles[:40]!r}; wrap it in a list." if isinstance(smiles, str) else ".")
        )
    rows = [None if _is_nan(text) else text for text in smiles]
    for row, text in enumerate(rows, start=1):
        if text is not None and not isinstance(text, str):
            raise TypeError(
                f"{name} row {row} is {text!r} of type {type(text).__name__}; it must be a SMILES, "
                "or None for what did not decode to one."
            )
    return ["" if text is None else _encodable(text) for text in rows]


def valid_molecules(predictions: Sequence[str]) -> tuple[list[Molecule], int]:
    """The molecules among `predictions`, in their order, and how many are none.

    Raises:
        ValueError: There is no molecule among them.
    """
    read = list(read_molecules(predictions, "predictions"))
    molecules = [molecule for molecule in read if molecule is not None]
    if not molecules:
        raise ValueError(
            f"None of {len(predictions)} predictions is a molecule; this metric is defined over "
            "molecules only (validity is defined for such lists)."
        )
    return molecules, len(read) - len(molecules)


def reference_molecules(
    smiles: Sequence[str] | None, name: str = "reference_smiles"
) -> Iterator[Molecule]:
    """The molecules of a reference set, one at a time.

    Raises:
        TypeError: As in `texts`.
        ValueError: No set was given, it is empty, or a row is no molecule.
    """
    if smiles is None:
        raise ValueError(
            f"This metric compares with a set of molecules; pass {name}=[...], SMILES of any "
            "number (`references` would be paired with the predictions)."
        )
    rows = texts(smiles, name)
    if not rows:
        raise ValueError(f"{name} is empty; give at least one SMILES.")
    for row, molecule in enumerate(read_molecules(rows, name), start=1):
        if molecule is None:
            raise ValueError(
                f"{name} row {row}, {rows[row - 1][:80]!r}, is no molecule; remove or mend it."
            )
        yield molecule


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


__all__ = [
    "MOSES_CITATION",
    "PREDICTED",
    "PREDICTED_AND_TRUE",
    "MoleculeMetric",
    "reference_molecules",
    "texts",
    "valid_molecules",
]
