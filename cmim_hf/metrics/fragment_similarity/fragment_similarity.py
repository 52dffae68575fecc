# SPDX-License-Identifier: Apache-2.0
"""Fragment similarity: the cosine of counts of BRICS fragments."""

from collections.abc import Sequence

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base, cosine

DESCRIPTION = """\
The cosine of two vectors of counts, `Σ_f a_f b_f / (‖a‖ ‖b‖)`: how often each fragment occurs in
the molecules predicted and in a reference set. Fragments are what is left of a molecule cut at its
BRICS bonds, and the parts of a salt. 1 means the same proportions, 0 no fragment in common; higher
is better.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
    reference_smiles: SMILES of the set to compare with, any number; each must be a molecule.
Returns:
    fragment_similarity: in [0, 1].
    invalid: how many predictions are no molecule, an integer.
"""


class FragmentSimilarity(base.MoleculeMetric):
    """Fragment similarity: the cosine of counts of BRICS fragments."""

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
        predicted = chem_moses.fragments(molecules)
        reference = chem_moses.fragments(base.reference_molecules(reference_smiles))
        similarity = cosine.cosine_similarity(predicted, reference, "fragments")
        return {"fragment_similarity": similarity, "invalid": invalid}
