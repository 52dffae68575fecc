# SPDX-License-Identifier: Apache-2.0
"""Molecules that a command was given, checked before anything is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.row_encoder import EncodedRows
    from ..data.smiles_files import Row
    from ..generation.generator import MoleculeGenerator


def given_rows(where: str, texts: list[str]) -> list[Row]:
    """SMILES of the command line as rows, numbered from 1; `where` is what errors call them."""
    from ..data.smiles_files import Row

    return [Row(where, number, text) for number, text in enumerate(texts, 1)]


def encode_rows(
    generator: MoleculeGenerator, rows: list[Row], on_invalid: str | None
) -> EncodedRows:
    """Rows as the generator's model reads them.

    Raises:
        ValueError: An invalid row, at `"raise"` and, where a command has no such option, at `None`.
    """
    from ..data.invalid_rows import invalid_row

    encoded = generator.encoder(rows)
    if encoded.rejects and on_invalid in ("raise", None):
        raise invalid_row(encoded.rejects[0], may_choose=on_invalid is not None)
    return encoded


def similarities_or_none(reference: str, molecules: list[str | None]) -> list[float | None]:
    """Tanimoto similarities to molecules of which some are missing."""
    from ..chemistry.smiles import similarities

    near = iter(similarities(reference, [one for one in molecules if one is not None]))
    return [None if one is None else next(near) for one in molecules]
