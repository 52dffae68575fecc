# SPDX-License-Identifier: Apache-2.0
"""RDKit's 2D descriptors as targets of training: those that cost little."""

from collections.abc import Sequence

import numpy as np
from rdkit.Chem import Descriptors

from .named_properties import property_named
from .smiles import parse

# Of RDKit 2026.9's 217 without the counts of functional groups (fr_*), and without those that take
# two thirds of the time: qed, BCUT2D_*, BertzCT, AvgIpc, SPS, Ipc, BalabanJ.
_CHEAP = """
    MaxAbsEStateIndex MaxEStateIndex MinAbsEStateIndex MinEStateIndex MolWt HeavyAtomMolWt
    ExactMolWt NumValenceElectrons NumRadicalElectrons MaxPartialCharge MinPartialCharge
    MaxAbsPartialCharge MinAbsPartialCharge FpDensityMorgan1 FpDensityMorgan2 FpDensityMorgan3
    Chi0 Chi0n Chi0v Chi1 Chi1n Chi1v Chi2n Chi2v Chi3n Chi3v Chi4n Chi4v HallKierAlpha Kappa1
    Kappa2 Kappa3 LabuteASA PEOE_VSA1 PEOE_VSA10 PEOE_VSA11 PEOE_VSA12 PEOE_VSA13 PEOE_VSA14
    PEOE_VSA2 PEOE_VSA3 PEOE_VSA4 PEOE_VSA5 PEOE_VSA6 PEOE_VSA7 PEOE_VSA8 PEOE_VSA9 SMR_VSA1
    SMR_VSA10 SMR_VSA2 SMR_VSA3 SMR_VSA4 SMR_VSA5 SMR_VSA6 SMR_VSA7 SMR_VSA8 SMR_VSA9 SlogP_VSA1
    SlogP_VSA10 SlogP_VSA11 SlogP_VSA12 SlogP_VSA2 SlogP_VSA3 SlogP_VSA4 SlogP_VSA5 SlogP_VSA6
    SlogP_VSA7 SlogP_VSA8 SlogP_VSA9 TPSA EState_VSA1 EState_VSA10 EState_VSA11 EState_VSA2
    EState_VSA3 EState_VSA4 EState_VSA5 EState_VSA6 EState_VSA7 EState_VSA8 EState_VSA9
    VSA_EState1 VSA_EState10 VSA_EState2 VSA_EState3 VSA_EState4 VSA_EState5 VSA_EState6
    VSA_EState7 VSA_EState8 VSA_EState9 FractionCSP3 HeavyAtomCount NHOHCount NOCount
    NumAliphaticCarbocycles NumAliphaticHeterocycles NumAliphaticRings NumAmideBonds
    NumAromaticCarbocycles NumAromaticHeterocycles NumAromaticRings NumAtomStereoCenters
    NumBridgeheadAtoms NumHAcceptors NumHDonors NumHeteroatoms NumHeterocycles NumRotatableBonds
    NumSaturatedCarbocycles NumSaturatedHeterocycles NumSaturatedRings NumSpiroAtoms
    NumUnspecifiedAtomStereoCenters Phi RingCount MolLogP MolMR
"""

PROPERTY_SETS: dict[str, tuple[str, ...]] = {"rdkit": tuple(_CHEAP.split())}
"""Named sets of descriptors. A set never changes: another choice gets another name."""


def descriptor_names(chosen: Sequence[str]) -> tuple[str, ...]:
    """The descriptors that are meant: names of RDKit's, and of sets in `PROPERTY_SETS`.

    Raises:
        ValueError: A name that is neither.
    """
    names = [name for each in chosen for name in PROPERTY_SETS.get(each, (each,))]
    known = {name for name, _ in Descriptors.descList}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{', '.join(unknown)}: neither a set of properties ({', '.join(PROPERTY_SETS)}) nor a "
            "descriptor of RDKit's (rdkit.Chem.Descriptors)."
        )
    return tuple(dict.fromkeys(names))


def descriptor_values(names: Sequence[str], smiles: Sequence[str]) -> np.ndarray:
    """Values (molecules, descriptors), float32; NaN where a descriptor has no finite value.

    The row of what does not parse is NaN all through.
    """
    functions = [property_named(name) for name in names]
    values = np.full((len(smiles), len(functions)), np.nan, np.float32)
    for row, text in enumerate(smiles):
        try:
            molecule = parse(text)
        except ValueError:
            continue
        with np.errstate(over="ignore"):
            values[row] = [function(molecule) for function in functions]
    values[~np.isfinite(values)] = np.nan
    return values
