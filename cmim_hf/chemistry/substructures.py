# SPDX-License-Identifier: Apache-2.0
"""What a chemist means by a pattern: a SMILES, a scaffold with attachment points, or a SMARTS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rdkit import Chem

from ..model.smiles_text_cmim import text_problem, without_extension
from .smiles import MAX_CHARACTERS, SmilesError, parse, read_by

_WITHOUT_BRACKETS = frozenset({5, 6, 7, 8, 9, 16, 17, 35, 53})  # RDKit writes [PH](=O)
_HYDROGENS, _ROOM = "hydrogens", "room"  # an atom of a query must have, and has, at least and most


class Pattern:
    """A substructure to look for, read as whatever it is.

    What parses as a SMILES is one: `C1=CC=CC=C1` is benzene and found in aromatic rings, as
    `c1ccccc1` is (read as SMARTS the former would be found nowhere). Further neighbours may stand
    anywhere. Charges and isotopes that are written must be there; and as many hydrogens, at least,
    as are written as `[H]` or in brackets that SMILES could do without: `C(=O)[OH]` is found in
    acids, not in esters. Those that SMILES cannot leave out, as in `c1cc[nH]c1`, `[C@H]` and
    `[NH3+]`, may be substituted. Aromatic atoms are told by their bonds, as RDKit does: `CO` is
    found in phenol, too (the SMARTS `[CX4]O` is not).

    A SMILES with attachment points, terminal `*`, `[*:1]` or `[1*]`, is a *scaffold*: further heavy
    neighbours may stand at these points only, one at each and by a single bond, and where there is
    none, a hydrogen does. A point with another bond, or at a stereocentre that without it would be
    none, must be taken. (A `*` between atoms is any heavy atom.)

    Anything else is SMARTS. Marks of stereo count in all three, so `C[C@H](N)C(=O)O` is found
    neither in D-alanine nor in an alanine without marks.

        >>> from .smiles import parse
        >>> toluene, xylene = parse("Cc1ccccc1"), parse("Cc1ccc(C)cc1")
        >>> [Pattern(text).kind for text in ("C1=CC=CC=C1", "[*:1]c1ccccc1", "[#6;R]~C")]
        ['SMILES', 'scaffold', 'SMARTS']
        >>> for text in ("C1=CC=CC=C1", "[*:1]c1ccccc1", "*c1ccc(*)cc1"):
        ...     print(Pattern(text).is_in(toluene), Pattern(text).is_in(xylene))
        True True
        True False
        True True

    Args:
        text: The pattern.

    Attributes:
        text: As it was given.
        kind: What it was read as.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty, or neither SMILES nor SMARTS (with RDKit's reason for both).
    """

    def __init__(self, text: str) -> None:
        """Read the pattern."""
        self.text = text
        self.kind: Literal["SMILES", "scaffold", "SMARTS"] = "SMARTS"
        try:
            parse(text)
        except SmilesError as error:
            self._query = _from_smarts(text, error.reason)
        else:
            self._query, scaffold = _from_smiles(text)
            self.kind = "scaffold" if scaffold else "SMILES"
        self._search = Chem.SubstructMatchParameters()
        self._search.useChirality = True
        self._check = None
        if self.kind != "SMARTS":
            self._check = _check_of(self._query, self.kind == "scaffold")
        if self._check is not None:
            self._search.setExtraFinalCheck(self._check)  # which keeps no reference

    def is_in(self, molecule: Chem.Mol) -> bool:
        """Whether a molecule, as `smiles.parse` returns it, has this substructure."""
        return molecule.HasSubstructMatch(self._query, self._search)

    def __repr__(self) -> str:
        """Say what it is."""
        return f"Pattern({self.text!r}), read as {self.kind}"


def _from_smarts(text: str, reason: str) -> Chem.Mol:
    """The query of a SMARTS; `reason` says why the text is no SMILES."""
    text = without_extension(text)
    if text_problem(text) or len(text) > MAX_CHARACTERS:
        raise ValueError(f"The pattern {text!r:.80} {reason}.")
    query, problem = read_by(Chem.MolFromSmarts, text)
    if query is None:
        raise ValueError(
            f"The pattern {text!r:.80} is neither SMILES "
            f"({reason.removeprefix('does not parse: ')}) nor SMARTS ({problem})."
        )
    return query


def _from_smiles(text: str) -> tuple[Chem.Mol, bool]:
    """The query of a SMILES that parses, and whether it has attachment points."""
    query = Chem.RWMol(Chem.MolFromSmiles(without_extension(text), sanitize=False))
    for atom in query.GetAtoms():  # before hydrogens and marks of stereo are lost
        hydrogens = sum(_is_hydrogen(other) for other in atom.GetNeighbors())
        if not _needs_brackets(atom):
            hydrogens += atom.GetNumExplicitHs()
        atom.SetIntProp(_HYDROGENS, hydrogens)
    Chem.SanitizeMol(query)
    Chem.AssignStereochemistry(query, cleanIt=True, force=True)
    points = [atom for atom in query.GetAtoms() if _is_dummy(atom) and atom.GetDegree() == 1]
    open_points = [point for point in points if _may_be_hydrogen(point)]
    for point in open_points:
        (atom,) = point.GetNeighbors()
        atom.SetIntProp(_ROOM, 1 + (atom.GetIntProp(_ROOM) if atom.HasProp(_ROOM) else 0))
        point.SetAtomicNum(1)
        point.SetIsotope(0)
        point.SetFormalCharge(0)
        point.SetAtomMapNum(0)
    removal = Chem.RemoveHsParameters()
    removal.showWarnings = False
    query = Chem.RWMol(Chem.RemoveHs(query, removal))
    for atom in query.GetAtoms():
        atom.SetNumRadicalElectrons(0)  # `[N+](=O)[O-]` means the group, not a radical
        if _is_dummy(atom):
            query.ReplaceAtom(atom.GetIdx(), Chem.AtomFromSmarts("[!#1]"))
    return query.GetMol(), bool(points)


def _is_dummy(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() == 0


def _is_hydrogen(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() == 1 and not atom.GetIsotope()


def _needs_brackets(atom: Chem.Atom) -> bool:
    """Whether a SMILES can write this atom and its hydrogens in brackets only."""
    return bool(
        atom.GetAtomicNum() not in _WITHOUT_BRACKETS
        or (atom.GetIsAromatic() and atom.GetAtomicNum() != 6)
        or atom.GetFormalCharge()
        or atom.GetIsotope()
        or atom.GetAtomMapNum()
        or atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED
    )


def _may_be_hydrogen(point: Chem.Atom) -> bool:
    """Whether a hydrogen in place of an attachment point leaves the rest as it is written."""
    (atom,), (bond,) = point.GetNeighbors(), point.GetBonds()
    if bond.GetBondType() != Chem.BondType.SINGLE or _is_dummy(atom):
        return False
    if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED:
        neighbours = 4
    elif any(other.GetStereo() > Chem.BondStereo.STEREOANY for other in atom.GetBonds()):
        neighbours = 3
    else:
        return True
    alike = atom.GetTotalNumHs(includeNeighbors=True) + sum(map(_is_dummy, atom.GetNeighbors()))
    return atom.GetTotalDegree() == neighbours and alike == 1


def _check_of(query: Chem.Mol, scaffold: bool) -> Callable[[Chem.Mol, Sequence[int]], bool] | None:
    """What a match must fulfil that the query itself does not say; None if there is nothing."""
    needed = [
        (atom.GetIdx(), atom.GetIntProp(_HYDROGENS))
        for atom in query.GetAtoms()
        if atom.HasProp(_HYDROGENS) and atom.GetIntProp(_HYDROGENS)
    ]
    rooms = [
        (
            atom.GetIdx(),
            [other.GetIdx() for other in atom.GetNeighbors()],
            atom.GetIntProp(_ROOM) if atom.HasProp(_ROOM) else 0,
        )
        for atom in query.GetAtoms()
        if scaffold and not atom.HasQuery()
    ]
    if not (needed or rooms):
        return None

    def holds(molecule: Chem.Mol, match: Sequence[int]) -> bool:
        places = list(match)
        inside = set(places)
        for index, number in needed:
            atom = molecule.GetAtomWithIdx(places[index])
            if atom.GetTotalNumHs(includeNeighbors=True) < number:
                return False
        for index, neighbours, room in rooms:
            atom = molecule.GetAtomWithIdx(places[index])
            known = {places[other] for other in neighbours}
            more = [
                bond
                for bond in atom.GetBonds()
                if bond.GetOtherAtomIdx(atom.GetIdx()) not in known
                and bond.GetOtherAtom(atom).GetAtomicNum() != 1
            ]
            if len(more) > room or any(
                bond.GetBondType() != Chem.BondType.SINGLE
                or bond.GetOtherAtomIdx(atom.GetIdx()) in inside
                for bond in more
            ):
                return False
        return True

    return holds
