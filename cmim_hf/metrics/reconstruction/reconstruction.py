# SPDX-License-Identifier: Apache-2.0
"""The script that `evaluate.load` reads; it must be in a folder of its own."""

from cmim_hf.metrics import measures, molecule_metric


class Reconstruction(molecule_metric.MoleculeMetric):
    """See `cmim_hf.metrics.measures.reconstruction`."""

    measure = staticmethod(measures.reconstruction)
    citation = ""
