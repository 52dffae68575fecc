# SPDX-License-Identifier: Apache-2.0
"""Pictures of molecules; they need no display."""

from collections.abc import Sequence
from typing import Literal

from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from .smiles import parse


def draw_grid(
    smiles: Sequence[str | None],
    legends: Sequence[str] | None = None,
    *,
    weights: Sequence[Sequence[float] | None] | None = None,
    columns: int = 4,
    cell_size: tuple[int, int] = (260, 200),
    image_format: Literal["png", "svg"] = "png",
) -> bytes | str:
    """Draw molecules in rows and columns.

    Args:
        smiles: None leaves its cell empty (a string that did not decode to a molecule).
        legends: a line below each cell, a ninth of it high, or less where it is long.
        weights: of each molecule's atoms, in the order of its SMILES: red above 0, blue below, the
            darker the larger, on one scale for the whole picture, on which a twentieth is full.
        columns: cells in a row.
        cell_size: width and height, in pixels.
        image_format: "png" returns bytes, "svg" text.

    Raises:
        ValueError: no molecule, another number of legends or weights than of molecules, of weights
            than of atoms, an unknown format, or a SMILES that does not parse.
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
    # of a molecule without atoms RDKit draws no legend
    blank = Chem.MolFromSmiles("*")
    blank.GetAtomWithIdx(0).SetProp("_displayLabel", " ")
    molecules = [blank if text is None else parse(text) for text in smiles]
    width, height = cell_size
    across = min(columns, len(molecules))
    down = -(-len(molecules) // across)
    canvas = canvases[image_format](across * width, down * height, width, height)
    options = canvas.drawOptions()
    options.legendFontSize, options.legendFraction = round(0.11 * height), 0.12
    colours = _colours(molecules, weights or [None] * len(molecules))
    canvas.DrawMolecules(
        molecules,
        legends=list(legends) if legends is not None else None,
        highlightAtoms=[list(own) for own in colours],
        highlightAtomColors=colours,
        highlightBonds=[[] for _ in molecules],
        highlightAtomRadii=[dict.fromkeys(own, 0.4) for own in colours],
    )
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def draw_molecule(smiles: str, size: tuple[int, int]) -> str:
    """Draw one molecule as SVG on no ground; bonds have a 12th of the width, if it fits so.

    Args:
        smiles: what it is.
        size: width and height, in pixels.

    Raises:
        ValueError: a SMILES that does not parse.

    >>> draw_molecule("CCO", (200, 150)).count("<path") > 2
    True
    """
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    options = canvas.drawOptions()
    options.fixedBondLength, options.clearBackground = size[0] / 12, False
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, parse(smiles))
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _colours(
    molecules: Sequence[Chem.Mol], weights: Sequence[Sequence[float] | None]
) -> list[dict[int, tuple[float, float, float]]]:
    """For each molecule the colours of its atoms; none without weights."""
    numbers = [len(own) for own in weights if own is not None]
    atoms = [
        molecule.GetNumAtoms()
        for molecule, own in zip(molecules, weights, strict=True)
        if own is not None
    ]
    if numbers != atoms:
        raise ValueError(f"draw_grid got weights of {numbers} atoms for molecules of {atoms}.")
    sizes = sorted(abs(one) for own in weights if own is not None for one in own)
    largest = sizes[int(0.95 * len(sizes))] if sizes else 0

    def colour(weight: float) -> tuple[float, float, float]:
        pale = 1 - min(abs(weight) / (largest or 1), 1)
        return (1, pale, pale) if weight > 0 else (pale, pale, 1)

    return [{i: colour(one) for i, one in enumerate(() if own is None else own)} for own in weights]
