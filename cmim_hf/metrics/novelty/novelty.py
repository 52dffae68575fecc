# SPDX-License-Identifier: Apache-2.0
"""Novelty: the share of molecules that a reference set does not hold."""

from collections.abc import Sequence

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base

DESCRIPTION = """\
The share of the different molecules predicted that a reference set, usually the training set, does
not hold: `|set(valid) - set(reference)| / |set(valid)|`, all by canonical SMILES. (molsets 0.3.1
takes the reference strings as they are written; ours makes them canonical, too.) High values mean
little copying, but random strings of atoms are novel, too.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
    reference_smiles: SMILES of the set to compare with, any number; each must be a molecule.
Returns:
    novelty: in [0, 1].
    invalid: how many predictions are no molecule, an integer.
"""


class Novelty(base.MoleculeMetric):
    """Novelty: the share of molecules that a reference set does not hold."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=base.MOSES_CITATION,
            inputs_description=INPUTS,
            features=base.PREDICTED,
        )

    def _compute(
        self, predictions: list[str], reference_smiles: Sequence[str] | None = None
    ) -> dict[str, float]:
        molecules, invalid = base.valid_molecules(predictions)
        different = {chem_moses.canonical_smiles(molecule) for molecule in molecules}
        novel = set(different)
        for known in base.reference_molecules(reference_smiles):
            novel.discard(chem_moses.canonical_smiles(known))
        return {"novelty": len(novel) / len(different), "invalid": invalid}
