# SPDX-License-Identifier: Apache-2.0
"""SMILES through RDKit: read, written canonically or at random, compared.

Every call that parses holds one lock while RDKit's log is captured, because that log belongs to
the process: so the reason of a failure is the caller's own, whatever other threads parse, and
nothing reaches the standard error stream.
"""

import re
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeVar

import numpy as np
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator

from ..model.smiles_text_cmim import text_problem, without_extension

MAX_CHARACTERS = 10_000
"""Longest SMILES that is parsed: RDKit's time grows with the square of the length (1 s here)."""

Given = TypeVar("Given", str, Chem.Mol)

_LOCK = threading.Lock()
_POSITION = re.compile(r"around position (\d+)")
_FINGERPRINTS = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


class SmilesError(ValueError):
    """A text that is no molecule; `reason` says why, the message also which text it is."""

    def __init__(self, smiles: str, reason: str) -> None:
        """Keep both."""
        super().__init__(smiles, reason)
        self.reason = reason

    def __str__(self) -> str:
        """Say what was read, and why it could not be."""
        smiles, reason = self.args
        return f"SMILES {smiles if len(smiles) <= 80 else smiles[:77] + '...'!r} {reason}."


def parse(smiles: str) -> Chem.Mol:
    """Return RDKit's molecule of a SMILES, without the extension of a CXSMILES.

    Raises:
        TypeError: `smiles` is not a string.
        SmilesError: it is empty, not printable ASCII without spaces, longer than `MAX_CHARACTERS`,
            or RDKit cannot read it (its own reason is given).
    """
    smiles = without_extension(smiles)
    if problem := text_problem(smiles):
        kind, reason = problem
        if kind == "not text":
            raise TypeError(f"A SMILES is a string: {reason}.")
        raise SmilesError(smiles, f"cannot be read: {reason}")
    if (number := len(smiles)) > MAX_CHARACTERS:
        raise SmilesError(smiles, f"has {number} characters; at most {MAX_CHARACTERS} are parsed")
    molecule, reason = read_by(Chem.MolFromSmiles, smiles)
    if molecule is None:
        raise SmilesError(smiles, f"does not parse: {reason}")
    return molecule


def read_by(
    parser: Callable[[Given], Chem.Mol | None], given: Given
) -> tuple[Chem.Mol | None, str]:
    """What RDKit makes of a text or of a molecule, and its reason where that is None."""
    with _LOCK, rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        molecule = parser(given)
        messages = log.messages
    return molecule, "" if molecule is not None else _reason(messages)


def canonicalize(smiles: str) -> str:
    """Return RDKit's canonical isomeric SMILES of a molecule; a fixed point of this function.

    Explicit hydrogens become implicit where RDKit removes them by default, Kekule writings become
    aromatic; stereo marks, charges, isotopes and separate fragments are kept.

    Two writings of one molecule give one string, as far as RDKit's perception of stereo goes: it
    misses about one in 100,000 random writings (marks on atoms that are no stereo centres), and
    cages such as `C[C@H]1[C@H]2[C@H]3[C@@H]1[C@@H]2[C@]3(C)O`, of which 60 writings give four
    strings. RDKit's newer perception gives two, and is unstable for one of 3,000 molecules of ZINC
    and ChEMBL where this one is for none.

    Takes and raises what `parse` does.

    >>> canonicalize("OCC")
    'CCO'
    """
    return write(parse(smiles))


def write(molecule: Chem.Mol) -> str:
    """Return RDKit's canonical isomeric SMILES of one of its molecules."""
    return Chem.MolToSmiles(molecule)


def randomize(smiles: str, seed: int) -> str:
    """Return a random writing of a molecule: other first atom, other order of branches and rings.

    A function of `smiles` and `seed`, any integer (taken modulo 2**31 - 2), alone. Raises what
    `parse` does.
    """
    molecule = parse(smiles)
    # RDKit draws without seeding at 0 and, since it casts to a signed integer, from 2**31 on.
    seed = seed % (2**31 - 2) + 1
    with _LOCK:  # RDKit's random state belongs to the process
        return Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)[0]


def symmetry_classes(smiles: str) -> list[int]:
    """Of each atom a number that it shares with those that symmetry exchanges it with.

    They are RDKit's canonical ranks without broken ties.

    Raises:
        ValueError: it does not parse.

    >>> symmetry_classes("OCC(O)CO")
    [0, 3, 5, 2, 3, 0]
    """
    return list(Chem.CanonicalRankAtoms(parse(smiles), breakTies=False))


def similarity(first: str, second: str) -> float:
    """Return the Tanimoto similarity of two molecules, in [0, 1]; raises what `parse` does.

    |A ∩ B| / |A ∪ B| over the bits of the Morgan fingerprints of radius 2 (2,048 bits); 0 where
    neither has any.

    >>> similarity("CCO", "OCC")
    1.0
    """
    return DataStructs.TanimotoSimilarity(*map(_fingerprint, (first, second)))


def similarities(reference: str, smiles: Iterable[str | None]) -> list[float | None]:
    """Return the `similarity` of each molecule to one, which is parsed once.

    What is None or cannot be read has none; of the `reference` that is an error, as in `parse`.

    >>> similarities("CCO", ["OCC", "[Na+].[Cl-]", None, "C(C"])
    [1.0, 0.0, None, None]
    """
    first, near = _fingerprint(reference), []
    for text in smiles:
        try:
            other = None if text is None else _fingerprint(text)
        except SmilesError:
            other = None
        near.append(None if other is None else DataStructs.TanimotoSimilarity(first, other))
    return near


def _fingerprint(smiles: str) -> DataStructs.ExplicitBitVect:
    return _FINGERPRINTS.GetFingerprint(parse(smiles))


def fingerprints(smiles: Iterable[str]) -> np.ndarray:
    """Return the fingerprints that `similarity` compares: (rows, 2,048) of 0 and 1 in uint8.

    >>> fingerprints(["CCO", "OCC"]).sum(axis=1).tolist()
    [6, 6]
    """
    rows = [_FINGERPRINTS.GetFingerprintAsNumPy(parse(text)) for text in smiles]
    return np.array(rows, np.uint8).reshape(-1, 2048)


@cache
def atom_valence(text: str) -> tuple[int, int] | None:
    """Return how many bonds, and bonds to how many neighbours, an atom of a SMILES may have.

    The largest valence that RDKit knows for what has as many electrons (N+ as C), less the
    hydrogens in the brackets; an aromatic atom has three neighbours at most, its hydrogens among
    them. None if this is no atom.

    >>> atom_valence("C"), atom_valence("[NH2+]"), atom_valence("n"), atom_valence("[Xx]")
    ((4, 4), (2, 2), (3, 3), None)
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text, sanitize=False)
    if molecule is None or molecule.GetNumAtoms() != 1:
        return None
    (atom,) = molecule.GetAtoms()
    alike = atom.GetAtomicNum() - atom.GetFormalCharge()
    valences = Chem.GetPeriodicTable().GetValenceList(alike) if alike > 0 else [0]
    largest = max(valences) if -1 not in valences else 8
    free = max(0, largest - atom.GetNumExplicitHs())
    room = max(0, 3 - atom.GetNumExplicitHs()) if atom.GetIsAromatic() else free
    return free, room


def _reason(messages: str) -> str:
    """Shorten RDKit's log of one failure to its first statement and the position."""
    if inner := re.search(r"\*{4}\n.*Violation\n(.+)\n", messages):  # with a trace of calls
        messages = inner[1]
    text = re.sub(r"^\[\d\d:\d\d:\d\d\] ", "", messages, flags=re.MULTILINE).strip()
    first = text.splitlines()[0] if text else "RDKit gives no reason"
    first = re.sub(r"^SM(ILES|ARTS) Parse Error: ", "", first)
    first = re.split(r" while parsing: | for input: ", first)[0].rstrip(".")
    position = _POSITION.search(text)
    return f"{first} (around position {position[1]})" if position else first
