# SPDX-License-Identifier: Apache-2.0
"""Scaffold similarity: the cosine of counts of Bemis-Murcko scaffolds."""

from collections.abc import Sequence

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base, cosine

DESCRIPTION = """\
The cosine of two vectors of counts, `Σ_s a_s b_s / (‖a‖ ‖b‖)`: how many of the molecules predicted
and of a reference set have each Bemis-Murcko scaffold (the rings and what links them). As in MOSES,
scaffolds of fewer than two rings are not counted. 1 means the same proportions, 0 no scaffold in
common; higher is better. Undefined, a ValueError, where a set has no such scaffold.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
    reference_smiles: SMILES of the set to compare with, any number; each must be a molecule.
Returns:
    scaffold_similarity: in [0, 1].
    invalid: how many predictions are no molecule, an integer.
"""


class ScaffoldSimilarity(base.MoleculeMetric):
    """Scaffold similarity: the cosine of counts of Bemis-Murcko scaffolds."""

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
        predicted = chem_moses.scaffolds(molecules)
        reference = chem_moses.scaffolds(base.reference_molecules(reference_smiles))
        what = f"scaffolds of {chem_moses.SCAFFOLD_RINGS} rings or more"
        similarity = cosine.cosine_similarity(predicted, reference, what)
        return {"scaffold_similarity": similarity, "invalid": invalid}
