# SPDX-License-Identifier: Apache-2.0
"""Internal diversity: how little alike the molecules of a set are."""

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base, tanimoto

DESCRIPTION = """\
One minus the average similarity in the set predicted, each molecule's with itself included:
`IntDiv_p = 1 - 1/n Σ_i (1/n Σ_j T(i, j)^p)^(1/p)` for p = 1 and 2, with the Tanimoto similarity T
of Morgan fingerprints (radius 2, 1,024 bits). The root is taken for each molecule before averaging,
as molsets 0.3.1 does; in the article it is taken once, of the average of all pairs (the same for
p = 1). Higher means more diverse; repeats count as often as they occur.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
Returns:
    internal_diversity: p = 1, in [0, 1).
    internal_diversity_2: p = 2, in [0, 1), never above the former.
    invalid: how many predictions are no molecule, an integer.
"""


class InternalDiversity(base.MoleculeMetric):
    """Internal diversity: how little alike the molecules of a set are."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=base.MOSES_CITATION,
            inputs_description=INPUTS,
            features=base.PREDICTED,
        )

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        molecules, invalid = base.valid_molecules(predictions)
        means = tanimoto.mean_similarity(chem_moses.fingerprints(molecules), powers=(1, 2))
        first, second = (1 - means.mean(axis=1)).tolist()
        return {"internal_diversity": first, "internal_diversity_2": second, "invalid": invalid}
