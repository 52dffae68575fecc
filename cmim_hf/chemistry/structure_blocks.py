# SPDX-License-Identifier: Apache-2.0
"""Structures with atoms and bonds in a table (molfile, Tripos mol2) to SMILES."""

import io
import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDepictor

from .smiles import parse, read_by, write

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


def write_sdf(rows: Iterable[Mapping[str, Any]]) -> str:
    r"""The text of an SD file of molecules with plane coordinates.

    Args:
        rows: `smiles`, and what else is to be kept of each; None is left out.

    Raises:
        ValueError: A SMILES that does not parse.

    >>> text = write_sdf([{"smiles": "OCC", "score": 0.5}])
    >>> read_block(text, ".sdf"), "<score>" in text, text[-5:]
    (('CCO', ''), True, '$$$$\n')
    """
    stream = io.StringIO()
    writer = Chem.SDWriter(stream)
    for row in rows:
        molecule = parse(row["smiles"])
        rdDepictor.Compute2DCoords(molecule)
        for name, value in row.items():
            if value is not None:
                molecule.SetProp(_field_name(name), _field(value))
        writer.write(molecule)
    writer.close()
    return stream.getvalue()


def _field_name(name: str) -> str:
    """Without what ends a name in the file; RDKit keeps names with a line before them to itself."""
    return " ".join(re.sub("[<>]", " ", name).split()).lstrip("_ ") or "unnamed"


def _field(value: Any) -> str:
    """In one line, as an empty one ends the field, and none that ends the record."""
    text = " ".join(str(value).split())
    return f" {text}" if text.startswith(("$$$$", ">")) else text


def _several(molecule: Chem.Mol) -> str | None:
    for atom in molecule.GetAtoms():
        if atom.HasQuery() and not atom.DescribeQuery().startswith("AtomNull"):
            return f"a choice of atoms (atom {atom.GetIdx() + 1})"
    for bond in molecule.GetBonds():
        if bond.HasQuery():
            return f"a choice of bonds (bond {bond.GetIdx() + 1})"
    groups = Chem.GetMolSubstanceGroups(molecule)
    return "a polymer" if any(group.GetProp("TYPE") in _POLYMERS for group in groups) else None
