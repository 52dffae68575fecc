# SPDX-License-Identifier: Apache-2.0
"""The script that `evaluate.load` reads; it must be in a folder of its own."""

from cmim_hf.metrics import frechet, molecule_metric


class FCD(molecule_metric.MoleculeMetric):
    """See `cmim_hf.metrics.frechet.fcd`."""

    measure = staticmethod(frechet.fcd)
    citation = (
        "Preuer et al., Journal of Chemical Information and Modeling 58, 1736 (2018), "
        "doi 10.1021/acs.jcim.8b00234"
    )
