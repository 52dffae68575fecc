# SPDX-License-Identifier: Apache-2.0
"""Properties that RDKit computes, by the names that chemists use or by RDKit's own."""

import math
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from rdkit import Chem
from rdkit.Chem import Descriptors

from .properties import difficulty

Property = Callable[[Chem.Mol], float]

_SHORT = {
    "mw": "MolWt",
    "logp": "MolLogP",
    "tpsa": "TPSA",
    "hbd": "NumHDonors",
    "hba": "NumHAcceptors",
    "rotatable_bonds": "NumRotatableBonds",
    "rings": "RingCount",
    "heavy_atoms": "HeavyAtomCount",
    "qed": "qed",
}
NAMED: dict[str, Property] = {
    **{name: getattr(Descriptors, descriptor) for name, descriptor in _SHORT.items()},
    "charge": Chem.GetFormalCharge,
    "sa_score": difficulty,
}
"""Properties with a short name; `charge` is that of the whole molecule."""


def property_named(name: str) -> Property:
    """The function, of a molecule as `smiles.parse` returns it, that computes a property.

    Names are those of `NAMED` (mw in g/mol, logp, tpsa in Å², hbd, hba, rotatable_bonds, rings,
    heavy_atoms, charge, qed, sa_score) and of RDKit's descriptors (`rdkit.Chem.Descriptors`). A
    molecule of which there is no such property has NaN.

        >>> from .smiles import parse
        >>> [round(property_named(name)(parse("CCO")), 2) for name in ("mw", "hbd", "FractionCSP3")]
        [46.07, 1, 1.0]

    Raises:
        ValueError: There is no such property.
    """
    known = NAMED | dict(Descriptors.descList)
    if name in known:
        return partial(_value, known[name])
    lower = {one.lower(): one for one in known}
    near = [lower[one] for one in get_close_matches(str(name).lower(), lower, 3, cutoff=0.6)]
    hint = f"near it are {', '.join(near)}; " if near else ""
    raise ValueError(
        f"There is no property {name!r}: {hint}the names are {', '.join(NAMED)}, and those of "
        "RDKit's descriptors."
    )


def _value(function: Property, molecule: Chem.Mol) -> float:
    try:
        return function(molecule)
    except (ArithmeticError, ValueError, RuntimeError):  # SPS divides by the heavy atoms of [H+]
        return math.nan
