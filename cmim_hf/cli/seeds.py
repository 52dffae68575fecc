# SPDX-License-Identifier: Apache-2.0
"""Molecules that a command was given, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.row_encoder import EncodedRows
    from ..data.smiles_files import Row
    from ..generation.generator import MoleculeGenerator


def given_rows(where: str, texts: Iterable[str | None], start: int = 1) -> list[Row]:
    """SMILES as rows, numbered from `start`; `where` is what errors call them."""
    from ..data.smiles_files import Row, bare_smiles

    rows = enumerate(texts, start)
    return [Row(where, number, bare_smiles(text or "")) for number, text in rows]


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
