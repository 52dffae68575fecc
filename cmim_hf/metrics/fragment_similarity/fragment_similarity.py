# SPDX-License-Identifier: Apache-2.0
"""The script that `evaluate.load` reads; it must be in a folder of its own."""

from cmim_hf.metrics import measures, molecule_metric


class FragmentSimilarity(molecule_metric.MoleculeMetric):
    """See `cmim_hf.metrics.measures.fragment_similarity`."""

    measure = staticmethod(measures.fragment_similarity)
