# SPDX-License-Identifier: Apache-2.0
"""Uniqueness: the share of molecules that differ from each other."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import evaluate
import numpy as np

from cmim_hf import chem_moses
from cmim_hf.metrics import base

DESCRIPTION = """\
The share of different molecules, by canonical SMILES, among those that are molecules:
`|set(valid)| / |valid|`; uniqueness@k is the same over the first k of them, which makes lists of
different lengths comparable. Higher is better.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
    k: an integer or several, each at least 1 and at most the number of valid predictions.
Returns:
    uniqueness: over all valid predictions, in (0, 1].
    uniqueness@<k>: over the first k valid predictions, for each k.
    invalid: how many predictions are no molecule, an integer.
"""


class Uniqueness(base.MoleculeMetric):
    """Uniqueness: the share of molecules that differ from each other."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=base.MOSES_CITATION,
            inputs_description=INPUTS,
            features=base.PREDICTED,
        )

    def _compute(self, predictions: list[str], k: int | Sequence[int] = ()) -> dict[str, float]:
        numbers = whole_numbers(k)
        molecules, invalid = base.valid_molecules(predictions)
        smiles = [chem_moses.canonical_smiles(molecule) for molecule in molecules]
        result = {"uniqueness": len(set(smiles)) / len(smiles)}
        for first in numbers:
            if not 1 <= first <= len(smiles):
                raise ValueError(
                    f"k is {first}, with {len(smiles)} valid of {len(predictions)} predictions; "
                    f"uniqueness@k needs k from 1 to {len(smiles)}."
                )
            result[f"uniqueness@{first}"] = len(set(smiles[:first])) / first
        return {**result, "invalid": invalid}


def whole_numbers(k: Any) -> list[int]:
    """One or several k as integers; a TypeError for anything else, True and False included."""
    several = isinstance(k, Iterable) and not isinstance(k, str | bytes)
    numbers = []
    for one in k if several else [k]:
        try:
            if isinstance(one, bool | np.bool_):
                raise TypeError
            numbers.append(operator.index(one))
        except TypeError:
            raise TypeError(
                f"k is an integer or several, got {one!r} of type {type(one).__name__}."
            ) from None
    return numbers
