# SPDX-License-Identifier: Apache-2.0
"""SNN: similarity to the nearest neighbour in a reference set."""

from collections.abc import Sequence

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base, tanimoto

DESCRIPTION = """\
The mean over the molecules predicted of the similarity to the most similar molecule of a reference
set: `SNN = 1/n Σ_i max_j T(i, j)`, with the Tanimoto similarity T of Morgan fingerprints (radius 2,
1,024 bits). High values mean molecules like those of the reference; 1 if each is in it.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
    reference_smiles: SMILES of the set to compare with, any number; each must be a molecule.
Returns:
    snn: in [0, 1].
    invalid: how many predictions are no molecule, an integer.
"""


class SNN(base.MoleculeMetric):
    """SNN: similarity to the nearest neighbour in a reference set."""

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
        reference = chem_moses.fingerprints(base.reference_molecules(reference_smiles))
        nearest = tanimoto.nearest_similarity(chem_moses.fingerprints(molecules), reference)
        return {"snn": float(nearest.mean()), "invalid": invalid}
