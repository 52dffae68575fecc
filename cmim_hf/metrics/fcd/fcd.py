# SPDX-License-Identifier: Apache-2.0
"""FCD: the Fréchet ChemNet Distance to a reference set."""

from collections.abc import Sequence

import evaluate

from cmim_hf import chem_moses
from cmim_hf.metrics import base, frechet

CITATION = """\
@article{preuer2018fcd,
  title = {Fr{\\'e}chet {ChemNet} Distance: A Metric for Generative Models for Molecules in Drug
    Discovery},
  author = {Preuer, Kristina and Renz, Philipp and Unterthiner, Thomas and Hochreiter, Sepp and
    Klambauer, G{\\"u}nter},
  journal = {Journal of Chemical Information and Modeling},
  volume = {58},
  number = {9},
  pages = {1736--1741},
  year = {2018}
}
"""

DESCRIPTION = """\
The squared Fréchet distance of Gaussians fitted to the activations of ChemNet's last hidden layer
over the molecules predicted and over a reference set:
`‖μ₁ - μ₂‖² + Tr(C₁ + C₂ - 2 (C₁ C₂)^½)`. Lower is better; 0 for equal sets. It depends on the sizes
of the sets and falls as they grow, so compare equal sizes, of thousands. ChemNet sees a SMILES up
to its first dot only. Needs `pip install 'cmim-hf[fcd]'`, which brings the network's weights; they
are opened as tensors, without running code of the file.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
    reference_smiles: SMILES of the set to compare with, at least 2; each must be a molecule.
Returns:
    fcd: at least 0, up to rounding.
    invalid: how many predictions are no molecule, an integer.
"""


class FCD(base.MoleculeMetric):
    """FCD: the Fréchet ChemNet Distance to a reference set."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=base.PREDICTED,
        )

    def _compute(
        self, predictions: list[str], reference_smiles: Sequence[str] | None = None
    ) -> dict[str, float]:
        molecules, invalid = base.valid_molecules(predictions)
        reference = base.reference_molecules(reference_smiles)
        predicted = frechet.chemnet_features([chem_moses.canonical_smiles(m) for m in molecules])
        known = tuple(chem_moses.canonical_smiles(molecule) for molecule in reference)
        distance = frechet.frechet_distance(
            frechet.fit(predicted), frechet.reference_gaussian(known)
        )
        return {"fcd": distance, "invalid": invalid}
