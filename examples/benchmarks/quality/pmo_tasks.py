# SPDX-License-Identifier: Apache-2.0
"""Scores of the benchmark for practical molecular optimisation (PMO) that need no trained model.

Twenty of the 23 tasks of Gao et al. 2022 (arXiv 2206.12411), in [0, 1], higher is better; drd2,
gsk3b and jnk3 are forests to be downloaded and are left out. Most come from GuacaMol (Brown et al.
2019, arXiv 1811.09621), with the constants that PyTDC gives them, from which PMO takes its scores.
Where two writings disagree, this is PyTDC from 0.3.7 on (2022-08): sitagliptin_mpo, zaleplon_mpo
and both isomer tasks (`CHANGED`) were other functions before, which counted atoms in the text of
the SMILES, and the paper's own figures for these four stand on that.

    >>> round(TASKS["celecoxib_rediscovery"]("Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F"))
    1
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, GraphDescriptors, rdMolDescriptors
from rdkit.Chem import rdFingerprintGenerator as fingerprints
from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

from cmim_hf.chemistry.smiles import parse

Value = Callable[[Chem.Mol], float]
Change = Callable[[float], float]

CHANGED = ("isomers_c7h8n2o2", "isomers_c9h10n2o2pf2cl", "sitagliptin_mpo", "zaleplon_mpo")
"""Tasks that PyTDC defines otherwise since the paper."""

ECFP4 = fingerprints.GetMorganGenerator(radius=2).GetSparseCountFingerprint
ECFP6 = fingerprints.GetMorganGenerator(radius=3).GetSparseCountFingerprint
FCFP4 = fingerprints.GetMorganGenerator(
    radius=2, atomInvariantsGenerator=fingerprints.GetMorganFeatureAtomInvGen()
).GetSparseCountFingerprint
PAIRS = fingerprints.GetAtomPairGenerator(maxDistance=10).GetSparseCountFingerprint


def pharmacophores(molecule: Chem.Mol) -> DataStructs.SparseBitVect:
    """Pairs and triples of pharmacophore points (Gobbi and Poppinger 1998)."""
    return Generate.Gen2DFingerprint(molecule, Gobbi_Pharm2D.factory)


def similar(target: str, fingerprint: Callable[[Chem.Mol], object]) -> Value:
    """Tanimoto similarity to a molecule, of counts where the fingerprint counts."""
    of_target = fingerprint(parse(target))
    return lambda molecule: DataStructs.TanimotoSimilarity(of_target, fingerprint(molecule))


def has(smarts: str) -> Value:
    """1 for a molecule with the substructure, else 0."""
    pattern = Chem.MolFromSmarts(smarts)
    return lambda molecule: float(molecule.HasSubstructMatch(pattern))


def lacks(smarts: str) -> Value:
    """0 for a molecule with the substructure, else 1."""
    found = has(smarts)
    return lambda molecule: 1 - found(molecule)


def fluorines(molecule: Chem.Mol) -> int:
    """How many atoms are fluorine."""
    return sum(atom.GetSymbol() == "F" for atom in molecule.GetAtoms())


def clipped(upper: float) -> Change:
    """The share of an upper bound, from 0 to 1."""
    return lambda x: min(max(x / upper, 0.0), 1.0)


def near(mean: float, width: float) -> Change:
    """A bell of height 1, exp(-½ ((x - mean) / width)²)."""
    return lambda x: math.exp(-0.5 * ((x - mean) / width) ** 2)


def at_least(mean: float, width: float) -> Change:
    """1 from the mean on, below as `near`."""
    return lambda x: near(mean, width)(min(x, mean))


def at_most(mean: float, width: float) -> Change:
    """1 up to the mean, above as `near`."""
    return lambda x: near(mean, width)(max(x, mean))


def changed(value: Value, change: Change) -> Value:
    """A value, then what is made of it."""
    return lambda molecule: change(value(molecule))


def arithmetic(*values: Value) -> Value:
    """Mean of several values."""
    return lambda molecule: sum(value(molecule) for value in values) / len(values)


def geometric(*values: Value) -> Value:
    """Geometric mean of several values."""
    return lambda molecule: geometric_mean([value(molecule) for value in values])


def geometric_mean(numbers: list[float]) -> float:
    """By the mean logarithm, so that small ones keep their order; 0 where one of them is."""
    if min(numbers) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def isomer(formula: str) -> Value:
    """How near a molecule's formula is: geometric mean over elements, and over all atoms.

    Numbers of each element of the formula count by `near(·, 1)`, that of all atoms, hydrogen
    included, by `near(·, 2)`.
    """
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    wanted = {element: int(number or 1) for element, number in parts}

    def value(molecule: Chem.Mol) -> float:
        atoms = Counter(atom.GetSymbol() for atom in Chem.AddHs(molecule).GetAtoms())
        closeness = [near(number, 1)(atoms[element]) for element, number in wanted.items()]
        return geometric_mean([*closeness, near(sum(wanted.values()), 2)(atoms.total())])

    return value


def like(target: str, descriptor: Callable[[Chem.Mol], float], width: float) -> Value:
    """A descriptor, by its distance from that of a molecule."""
    return changed(descriptor, near(descriptor(parse(target)), width))


ALBUTEROL = "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1"
AMLODIPINE = r"Clc1ccccc1C2C(=C(/N/C(=C2/C(=O)OCC)COCCN)C)\C(=O)OC"
CAMPHOR = "CC1(C)C2CCC1(C)C(=O)C2"
CELECOXIB = "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F"
FEXOFENADINE = "CC(C)(C(=O)O)c1ccc(cc1)C(O)CCCN2CCC(CC2)C(O)(c3ccccc3)c4ccccc4"
HOPPED = "CCCOc1cc2ncnc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C"
MENTHOL = "CC(C)C1CCC(C)CC1O"
MESTRANOL = "COc1ccc2[C@H]3CC[C@@]4(C)[C@@H](CC[C@@]4(O)C#C)[C@@H]3CCc2c1"
OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34"
PERINDOPRIL = "O=C(OCC)C(NC(C(=O)N1C(C(=O)O)CC2CCCCC12)C)CCC"
RANOLAZINE = "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2"
SILDENAFIL = "CCCC1=NN(C2=C1N=C(NC2=O)C3=C(C=CC(=C3)S(=O)(=O)N4CCN(CC4)C)OCC)C"
SITAGLIPTIN = "Fc1cc(c(F)cc1F)CC(N)CC(=O)N3Cc2nnc(n2CC3)C(F)(F)F"
TADALAFIL = "O=C1N(CC(N2C1CC3=C(C2C4=CC5=C(OCO5)C=C4)NC6=C3C=CC=C6)=O)C"
THIOTHIXENE = "CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1"
TROGLITAZONE = "Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O"
ZALEPLON = "O=C(C)N(CC)C1=CC=CC(C2=CC=NC3=C(C=NN23)C#N)=C1"

HOPPED_CORE = "[#7]-c1n[c;h1]nc2[c;h1]c(-[#8])[c;h0][c;h1]c12"
HOPPED_CHAIN = "[#6]-[#6]-[#6]-[#8]-[#6]~[#6]~[#6]~[#6]~[#6]-[#7]-c1ccc2ncsc2c1"

logp, tpsa, bertz = Crippen.MolLogP, Descriptors.TPSA, GraphDescriptors.BertzCT
aromatic_rings, rings = rdMolDescriptors.CalcNumAromaticRings, rdMolDescriptors.CalcNumRings

VALUES: dict[str, Value] = {
    "albuterol_similarity": changed(similar(ALBUTEROL, FCFP4), clipped(0.75)),
    "amlodipine_mpo": geometric(similar(AMLODIPINE, ECFP4), changed(rings, near(3, 0.5))),
    "celecoxib_rediscovery": similar(CELECOXIB, ECFP4),
    "deco_hop": arithmetic(
        changed(similar(HOPPED, pharmacophores), clipped(0.85)),
        lacks("CS([#6])(=O)=O"),
        lacks("[#7]-c1ccc2ncsc2c1"),
        has(HOPPED_CORE),
    ),
    "fexofenadine_mpo": geometric(
        changed(similar(FEXOFENADINE, PAIRS), clipped(0.8)),
        changed(tpsa, at_least(90, 10)),
        changed(logp, at_most(4, 1)),
    ),
    "isomers_c7h8n2o2": isomer("C7H8N2O2"),
    "isomers_c9h10n2o2pf2cl": isomer("C9H10N2O2PF2Cl"),
    "median1": geometric(similar(CAMPHOR, ECFP4), similar(MENTHOL, ECFP4)),
    "median2": geometric(similar(TADALAFIL, ECFP6), similar(SILDENAFIL, ECFP6)),
    "mestranol_similarity": changed(similar(MESTRANOL, PAIRS), clipped(0.75)),
    "osimertinib_mpo": geometric(
        changed(similar(OSIMERTINIB, FCFP4), clipped(0.8)),
        changed(similar(OSIMERTINIB, ECFP6), at_most(0.85, 0.1)),
        changed(tpsa, at_least(100, 10)),
        changed(logp, at_most(1, 1)),
    ),
    "perindopril_mpo": geometric(
        similar(PERINDOPRIL, ECFP4), changed(aromatic_rings, near(2, 0.5))
    ),
    "qed": QED.qed,
    "ranolazine_mpo": geometric(
        changed(similar(RANOLAZINE, PAIRS), clipped(0.7)),
        changed(logp, at_least(7, 1)),
        changed(tpsa, at_least(95, 20)),
        changed(fluorines, near(1, 1)),
    ),
    "scaffold_hop": arithmetic(
        changed(similar(HOPPED, pharmacophores), clipped(0.75)),
        has(HOPPED_CHAIN),
        lacks(HOPPED_CORE),
    ),
    "sitagliptin_mpo": geometric(
        changed(similar(SITAGLIPTIN, ECFP4), near(0, 0.1)),
        like(SITAGLIPTIN, logp, 0.2),
        like(SITAGLIPTIN, tpsa, 5),
        isomer("C16H15F6N5O"),
    ),
    "thiothixene_rediscovery": similar(THIOTHIXENE, ECFP4),
    "troglitazone_rediscovery": similar(TROGLITAZONE, ECFP4),
    "valsartan_smarts": geometric(
        has("CN(C=O)Cc1ccc(c2ccccc2)cc1"),
        like(SITAGLIPTIN, logp, 0.2),
        like(SITAGLIPTIN, tpsa, 5),
        like(SITAGLIPTIN, bertz, 30),
    ),
    "zaleplon_mpo": geometric(similar(ZALEPLON, ECFP4), isomer("C19H17N3O2")),
}
"""Of RDKit's molecules."""


def _of_smiles(name: str, value: Value) -> Callable[[str], float]:
    def score(smiles: str) -> float:
        return float(value(parse(smiles)))

    score.__name__ = score.__qualname__ = name
    score.__doc__ = f"The score of the task {name}; raises what `parse` does."
    return score


TASKS = {name: _of_smiles(name, value) for name, value in VALUES.items()}
"""Functions from a SMILES to a number, by the names that PMO gives them."""
