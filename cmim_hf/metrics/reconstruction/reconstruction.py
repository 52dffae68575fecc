# SPDX-License-Identifier: Apache-2.0
"""Reconstruction: the share of molecules that come back from their code."""

import evaluate

from cmim_hf import chem, chem_moses
from cmim_hf.metrics import base

DESCRIPTION = """\
How well predictions give back their references, pair by pair: the share of equal molecules by
canonical SMILES, the same share with all marks of stereo removed from both, and the mean Tanimoto
similarity of Morgan fingerprints (radius 2, 2,048 bits, no stereo). Different writings of one
molecule are equal. A prediction that is no molecule counts as different and with similarity 0.
Higher is better.
"""

INPUTS = """
Args:
    predictions: SMILES decoded, a list of str or None, at least one.
    references: the SMILES they were encoded from, as many; each must be a molecule.
Returns:
    reconstruction: share of equal molecules, in [0, 1].
    reconstruction_without_stereo: the same without marks of stereo, in [0, 1], never below it.
    reconstruction_tanimoto: mean similarity, in [0, 1].
    invalid: how many predictions are no molecule, an integer.
"""


class Reconstruction(base.MoleculeMetric):
    """Reconstruction: the share of molecules that come back from their code."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=base.PREDICTED_AND_TRUE,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        exact = flat = invalid = 0
        similarity = 0.0
        read = chem_moses.read_molecules(predictions, "predictions")
        true = base.reference_molecules(references, "references")
        for row, (molecule, reference) in enumerate(zip(read, true, strict=True)):
            if molecule is None:
                invalid += 1
                continue
            one, other = (chem_moses.canonical_smiles(each) for each in (molecule, reference))
            exact += one == other
            one, other = (chem_moses.smiles_without_stereo(each) for each in (molecule, reference))
            flat += one == other
            similarity += chem.similarity(predictions[row], references[row])
        return {
            "reconstruction": exact / len(references),
            "reconstruction_without_stereo": flat / len(references),
            "reconstruction_tanimoto": similarity / len(references),
            "invalid": invalid,
        }
