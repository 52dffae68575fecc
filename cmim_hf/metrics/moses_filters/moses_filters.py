# SPDX-License-Identifier: Apache-2.0
"""Filters of MOSES: the share of molecules without alerts."""

import evaluate
from tqdm.auto import tqdm

from cmim_hf import chem_moses
from cmim_hf.metrics import base

DESCRIPTION = """\
The share of the molecules predicted that pass the filters by which MOSES chose its own: no ring of
eight atoms or more, no charged atom, no element but H, C, N, O, F, S, Cl, Br, none of 22 medicinal
chemistry alerts (MCF) and 480 pan-assay interference patterns (PAINS). Higher is better; about 4 ms
a molecule.
"""

INPUTS = """
Args:
    predictions: SMILES, a list of str or None; what is no molecule is left out and counted.
Returns:
    moses_filters: in [0, 1].
    invalid: how many predictions are no molecule, an integer.
"""


class MosesFilters(base.MoleculeMetric):
    """Filters of MOSES: the share of molecules without alerts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=base.MOSES_CITATION,
            inputs_description=INPUTS,
            features=base.PREDICTED,
        )

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        molecules, invalid = base.valid_molecules(predictions)
        bar = tqdm(molecules, desc="Filtering", unit=" molecules", delay=5.0, leave=False)
        passed = sum(chem_moses.passes_filters(molecule) for molecule in bar)
        return {"moses_filters": passed / len(molecules), "invalid": invalid}
