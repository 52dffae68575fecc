# SPDX-License-Identifier: Apache-2.0
"""Chemistry through RDKit: the only file of the package that imports it.

Every call that parses holds one lock while RDKit's log is captured, because that log belongs to
the process: so the reason of a failure is the caller's own, whatever other threads parse, and
nothing reaches the standard error stream.
"""

import re
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Draw import rdMolDraw2D

from ..model.smiles_text_cmim import text_problem

MAX_CHARACTERS = 10_000
"""Longest SMILES that is parsed: RDKit's time grows with the square of the length (1 s here)."""

_LOCK = threading.Lock()
_LOG_TIME = re.compile(r"^\[\d\d:\d\d:\d\d\] ", re.MULTILINE)
_POSITION = re.compile(r"around position (\d+)")
_FINGERPRINTS = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def canonicalize(smiles: str) -> str:
    """Return RDKit's canonical isomeric SMILES of a molecule.

    Explicit hydrogens become implicit where RDKit removes them by default (isotopes stay), Kekule
    writings become aromatic, atoms come in RDKit's canonical order; stereo marks, charges,
    isotopes and separate fragments are kept.

    Two writings of one molecule give one string, as far as RDKit's perception of stereo goes. It
    misses about one in 100,000 random writings (marks on atoms that are no stereo centres), and
    cages such as `C[C@H]1[C@H]2[C@H]3[C@@H]1[C@@H]2[C@]3(C)O`, of which 60 writings give four
    strings. RDKit's newer perception is no way out: it gives two of that cage, was unstable for one
    of 3,000 molecules of ZINC and ChEMBL where this one is for none, and writes others anew.

    Args:
        smiles: one molecule: printable ASCII without spaces, at most `MAX_CHARACTERS`.

    Returns:
        The canonical SMILES; a fixed point of this function.

    Raises:
        TypeError: `smiles` is not a string.
        ValueError: it is empty, not printable ASCII, too long, or RDKit cannot read it (its own
            reason is given).
    """
    molecule = parse(smiles)
    return Chem.MolToSmiles(molecule)


def write(molecule: Any) -> Any:
    """Return RDKit's canonical isomeric SMILES of one of its molecules; anything else as it is."""
    return Chem.MolToSmiles(molecule) if isinstance(molecule, Chem.Mol) else molecule


def randomize(smiles: str, seed: int) -> str:
    """Return a random writing of a molecule: other first atom, other order of branches and rings.

    Args:
        smiles: as in `canonicalize`.
        seed: any integer (taken modulo 2**31 - 2). The result is a function of
            (`smiles`, `seed`) alone.

    Raises:
        TypeError: `smiles` is not a string.
        ValueError: as in `canonicalize`.
    """
    molecule = parse(smiles)
    with _LOCK:  # RDKit's random state belongs to the process
        return Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=_positive_seed(seed))[0]


def similarity(first: str, second: str) -> float:
    """Return the Tanimoto similarity of two molecules, in [0, 1].

    |A ∩ B| / |A ∪ B| over the bits of the Morgan fingerprints of radius 2 (2,048 bits). Two
    molecules without any bit give 0.

    Raises:
        TypeError: an argument is not a string.
        ValueError: as in `canonicalize`.
    """
    return similarities(first, [second])[0]


def similarities(reference: str, smiles: Iterable[str]) -> list[float]:
    """Return the `similarity` of each molecule to one, which is parsed once."""
    reference, *others = (
        _FINGERPRINTS.GetFingerprint(parse(text)) for text in (reference, *smiles)
    )
    return list(DataStructs.BulkTanimotoSimilarity(reference, others))


def draw_grid(
    smiles: Sequence[str | None],
    legends: Sequence[str] | None = None,
    *,
    columns: int = 4,
    cell_size: tuple[int, int] = (260, 200),
    image_format: Literal["png", "svg"] = "png",
) -> bytes | str:
    """Draw molecules in rows and columns; needs no display.

    Args:
        smiles: the molecules; None leaves its cell empty (a string that did not decode to one).
        legends: a line below each cell.
        columns: cells in a row.
        cell_size: width and height of a cell, in pixels.
        image_format: "png" returns bytes, "svg" text.

    Raises:
        ValueError: no molecule, another number of legends than of molecules, an unknown format,
            or a SMILES that does not parse.
    """
    if not smiles:
        raise ValueError("draw_grid got no molecule; give it at least one SMILES.")
    if legends is not None and len(legends) != len(smiles):
        raise ValueError(
            f"draw_grid got {len(legends)} legends for {len(smiles)} molecules; give one for each."
        )
    canvases = {"png": rdMolDraw2D.MolDraw2DCairo, "svg": rdMolDraw2D.MolDraw2DSVG}
    if image_format not in canvases:
        raise ValueError(f"image_format is 'png' or 'svg', not {image_format!r}.")
    molecules = [_blank() if text is None else parse(text) for text in smiles]
    width, height = cell_size
    across = min(columns, len(molecules))
    down = -(-len(molecules) // across)
    canvas = canvases[image_format](across * width, down * height, width, height)
    canvas.DrawMolecules(molecules, legends=list(legends) if legends is not None else None)
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _blank() -> Chem.Mol:
    """One atom that shows nothing: of a molecule without atoms RDKit draws no legend."""
    molecule = Chem.MolFromSmiles("*")
    molecule.GetAtomWithIdx(0).SetProp("_displayLabel", " ")
    return molecule


def parse(smiles: str) -> Chem.Mol:
    """Return RDKit's molecule of a SMILES, for the other files of chemistry.

    Raises:
        TypeError: `smiles` is not a string.
        ValueError: as in `canonicalize`.
    """
    if problem := text_problem(smiles):
        kind, reason = problem
        if kind == "not text":
            raise TypeError(f"A SMILES is a string: {reason}.")
        shown = "The SMILES" if kind == "empty" else f"SMILES {_shown(smiles)}"
        raise ValueError(f"{shown} cannot be read: {reason}.")
    if len(smiles) > MAX_CHARACTERS:
        raise ValueError(
            f"SMILES {_shown(smiles)} has {len(smiles)} characters; at most {MAX_CHARACTERS} are "
            "parsed."
        )
    with _LOCK, rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        molecule = Chem.MolFromSmiles(smiles)
        messages = log.messages
    if molecule is None:
        raise ValueError(f"SMILES {_shown(smiles)} does not parse: {_reason(messages)}.")
    return molecule


def _reason(messages: str) -> str:
    """Shorten RDKit's log of one failure to its first statement and the position."""
    text = _LOG_TIME.sub("", messages).strip()
    first = text.splitlines()[0] if text else "RDKit gives no reason"
    first = first.removeprefix("SMILES Parse Error: ")
    first = re.split(r" while parsing: | for input: ", first)[0].rstrip(".")
    position = _POSITION.search(text)
    return f"{first} (around position {position[1]})" if position else first


def _shown(smiles: str) -> str:
    return repr(smiles if len(smiles) <= 80 else smiles[:77] + "...")


def _positive_seed(seed: int) -> int:
    # RDKit draws without seeding at 0 and, since it casts to a signed integer, from 2**31 on.
    return seed % (2**31 - 2) + 1
