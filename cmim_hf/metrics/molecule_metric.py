# SPDX-License-Identifier: Apache-2.0
"""An `evaluate.Metric` of SMILES, made from one function of molecules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from ..chemistry.moses import Molecule, read_molecules
from ..data.invalid_rows import texts as rows_of

# What a parameter of a measure asks of the user.
_INPUTS = {
    "predictions": "predictions: SMILES, a list of str or None, at least one.",
    "molecules": "predictions: SMILES, a list of str or None; others than molecules are left out.",
    "references": "references: the SMILES they were encoded from, as many, molecules all.",
    "reference": "reference_smiles: SMILES to compare with, any number, molecules all.",
    "k": "k: an integer or several, each from 1 to the number of valid predictions.",
}
_MOSES = "Polykovskiy et al., Front. Pharmacol. 11, 565644 (2020), doi 10.3389/fphar.2020.565644"
_SETTINGS = ("k", "reference_smiles")


class MoleculeMetric(evaluate.Metric):
    """A metric over SMILES, of which any may be None, NaN or no molecule.

    A subclass has its `measure`, a function from molecules to figures, whose docstring is the
    description and whose parameters say what it is given: `predictions` (None where one is no
    molecule) or `molecules` (the valid ones, at least one), `references` (one for each prediction)
    or `reference` (a set of any size), `k`. Arguments of other metrics are let through, so that
    `evaluate.combine` can hand the same ones to all.
    """

    measure: ClassVar[Callable[..., dict[str, float]]]

    def _info(self) -> evaluate.MetricInfo:
        description, _, returns = (inspect.getdoc(self.measure) or "").partition("\n\nReturns:\n")
        columns = {"predictions", "references"} & {"predictions", *self._parameters()}
        arguments = "\n".join(f"    {_INPUTS[name]}" for name in self._parameters())
        return evaluate.MetricInfo(
            description=description,
            citation=_MOSES,
            inputs_description=f"\nArgs:\n{arguments}\nReturns:\n{returns}\n"
            "    invalid: how many predictions are no molecule, an integer.\n",
            features=datasets.Features(
                {name: datasets.Value("string") for name in sorted(columns)}
            ),
        )

    def compute(
        self, *, predictions: Any = None, references: Any = None, **settings: Any
    ) -> dict[str, Any] | None:
        """Compute the metric over `predictions` and what was added before.

        Raises:
            TypeError: One string in place of a list, a row that is neither string nor None, or an
                unknown keyword argument.
            ValueError: No prediction, or none for which the metric is defined.
        """
        if unknown := sorted(set(settings) - set(_SETTINGS)):
            raise TypeError(
                f"{self.name} got the unknown argument {', '.join(unknown)}; beside predictions "
                f"and references, metrics take {' and '.join(_SETTINGS)}."
            )
        if predictions is None and self.writer is None:
            raise ValueError(f"{self.name} got no predictions; pass predictions=[...], SMILES.")
        return super().compute(predictions=predictions, references=references, **settings)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **_: Any) -> None:
        """Add predictions, and their references if the metric has any."""
        given = {"predictions": predictions, "references": references}
        columns = {name: texts(given[name], name) for name in self._feature_names()}
        if len({len(column) for column in columns.values()}) > 1:
            counts = " and ".join(f"{len(column)} {name}" for name, column in columns.items())
            raise ValueError(f"{self.name} got {counts}; give one reference for each prediction.")
        super().add_batch(**columns)

    def add(self, *, prediction: Any = None, reference: Any = None, **_: Any) -> None:
        """Add one prediction, and its reference if the metric has any."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(
        self,
        predictions: list[str],
        references: list[str] | None = None,
        reference_smiles: Sequence[str] | None = None,
        k: int | Sequence[int] = (),
    ) -> dict[str, float]:
        read = list(read_molecules(predictions, "predictions"))
        molecules = [molecule for molecule in read if molecule is not None]
        given = {
            "predictions": read,
            "molecules": molecules,
            "references": reference_molecules(references, "references"),
            "reference": reference_molecules(reference_smiles, "reference_smiles"),
            "k": k,
        }
        if "molecules" in self._parameters() and not molecules:
            raise ValueError(
                f"None of {len(read)} predictions is a molecule; this metric is defined over "
                "molecules only (validity is defined for such lists)."
            )
        figures = self.measure(**{name: given[name] for name in self._parameters()})
        return {**figures, "invalid": read.count(None)}

    def _parameters(self) -> list[str]:
        return list(inspect.signature(self.measure).parameters)


def texts(smiles: Any, name: str) -> list[str]:
    """`smiles` as a list of strings that Arrow takes: "" for None and NaN, surrogates escaped.

    Raises:
        TypeError: It is no list, or a row is neither string nor None nor NaN.
    """
    rows = []
    for row, text in enumerate(rows_of(smiles), start=1):
        if text is None or (isinstance(text, float) and math.isnan(text)):
            text = ""
        if not isinstance(text, str):
            raise TypeError(
                f"{name} row {row} is {text!r} of type {type(text).__name__}; it must be a SMILES, "
                "or None for what did not decode to one."
            )
        rows.append(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return rows


def reference_molecules(smiles: Sequence[str] | None, name: str) -> Iterator[Molecule]:
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
                f"{name} row {row}, {rows[row - 1][:80]!r}, is no molecule; remove or fix it."
            )
        yield molecule
