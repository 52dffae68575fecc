# SPDX-License-Identifier: Apache-2.0
"""Validity: the share of strings that are molecules."""

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base

DESCRIPTION = """\
The share of predictions that are molecules: `valid / n`. A string is a molecule if it is printable
ASCII without spaces and RDKit reads it and finds its valences and aromatic rings in order; None
and "" are none. Higher is better.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None, at least one.
Returns:
    validity: in [0, 1]; 0 if none is a molecule.
    invalid: how many predictions are no molecule, an integer.
"""


class Validity(base.MoleculeMetric):
    """Validity: the share of strings that are molecules."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=base.MOSES_CITATION,
            inputs_description=INPUTS,
            features=base.PREDICTED,
        )

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        if not predictions:
            raise ValueError("predictions is empty; validity is a share of at least one string.")
        read = chem_moses.read_molecules(predictions, "predictions")
        valid = sum(molecule is not None for molecule in read)
        total = len(predictions)
        return {"validity": valid / total, "invalid": total - valid}
