# SPDX-License-Identifier: Apache-2.0
"""Structures with atoms and bonds in a table (molfile, Tripos mol2) to SMILES."""

import logging
from functools import cache

from rdkit import Chem

from .smiles import read_by, write

_PARSERS = {".sdf": Chem.MolFromMolBlock, ".mol2": Chem.MolFromMol2Block}
_tell_once = cache(logging.getLogger(__name__).warning)
_POLYMERS = {"SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "ANY"}


def read_block(block: str, kind: str) -> tuple[str | None, str]:
    """The canonical SMILES of a structure, or None and why it has none.

    Stereo is that of the coordinates and marks, hydrogens become implicit, an R-group becomes `*`.
    What stands for several molecules (lists of atoms or bonds, polymers) has no SMILES, nor has a
    mol2 structure without its hydrogens, whose atoms would be radicals.

    Args:
        block: Of a molfile (V2000 or V3000) up to its end, or from one `@<TRIPOS>MOLECULE` to the
            next.
        kind: .sdf or .mol2.

    >>> read_block(Chem.MolToMolBlock(Chem.MolFromSmiles("OCC")), ".sdf")
    ('CCO', '')
    """
    molecule, reason = read_by(_PARSERS[kind], block)
    if molecule is None:
        return None, f"does not parse: {reason}"
    if what := _several(molecule):
        return None, f"stands for several molecules: it has {what}"
    if kind == ".mol2":
        for atom in molecule.GetAtoms():
            if atom.GetNumRadicalElectrons():
                where = f"atom {atom.GetIdx() + 1}, {atom.GetSymbol()}"
                return None, f"lacks hydrogens ({where}), all of which a mol2 file needs"
    absolute = Chem.StereoGroupType.STEREO_ABSOLUTE
    if any(group.GetGroupType() != absolute for group in molecule.GetStereoGroups()):
        _tell_once(
            "Of structures with groups of racemic or relative centres (V3000) the centres are read "
            "as they are drawn: that they come in groups is left out."
        )
    return write(molecule), ""


def _several(molecule: Chem.Mol) -> str | None:
    for atom in molecule.GetAtoms():
        if atom.HasQuery() and not atom.DescribeQuery().startswith("AtomNull"):
            return f"a choice of atoms (atom {atom.GetIdx() + 1})"
    for bond in molecule.GetBonds():
        if bond.HasQuery():
            return f"a choice of bonds (bond {bond.GetIdx() + 1})"
    groups = Chem.GetMolSubstanceGroups(molecule)
    return "a polymer" if any(group.GetProp("TYPE") in _POLYMERS for group in groups) else None
