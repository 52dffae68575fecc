# SPDX-License-Identifier: Apache-2.0
"""A caller's molecules: from a list of SMILES to token ids, and what becomes of invalid rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .row_encoder import EncodedRows, Reject, RowEncoder
from .smiles_files import Row, bare_smiles
from .worker_pool import chunked, encode_in_order

SECONDS_BEFORE_BAR = 2.0

ON_INVALID = ("raise", "none", "skip")


def read_molecules(
    encoder: RowEncoder, smiles: Iterable[str], on_invalid: str, progress: bool
) -> EncodedRows:
    """Encode the molecules of a call, in the order given; invalid ones are among the rejects.

    Raises:
        TypeError: As `texts`.
        ValueError: An invalid row and `on_invalid="raise"`.
    """
    rows = [Row("the molecules (counted from 0)", i, text) for i, text in enumerate(texts(smiles))]
    parts = [encoder([])]
    with progress_bar(len(rows), "Reading molecules", progress) as bar:
        for part in encode_in_order(encoder, chunked(rows), num_workers=0):
            if part.rejects and on_invalid == "raise":
                raise invalid_row(part.rejects[0])
            parts.append(part)
            bar.update(part.number)
    return EncodedRows.concatenate(parts)


def invalid_row(reject: Reject, *, may_choose: bool = True) -> ValueError:
    """The error of a row that cannot be used; `may_choose`: the caller has `on_invalid`."""
    row = reject.row
    text = repr(row.text)
    shown = text if len(text) <= 80 else text[:77] + "..."
    choice = ", or choose what becomes of such rows by `on_invalid`" if may_choose else ""
    return ValueError(
        f"Row {row.number} of {row.source}, {shown}, cannot be used: "
        f"{reject.reason}. Fix or remove it{choice}."
    )


def values_in_place(values: np.ndarray, encoded: EncodedRows, on_invalid: str) -> np.ndarray:
    """Values (usable rows, ...); under `"none"` (all rows, ...), of invalid ones NaN or None."""
    if on_invalid != "none" or not encoded.rejects:
        return values
    missing = None if values.dtype == object else np.nan
    complete = np.full((encoded.number, *values.shape[1:]), missing, values.dtype)
    complete[encoded.kept] = values
    return complete


def items_in_place(items: list[Any], encoded: EncodedRows, on_invalid: str) -> list[Any]:
    """As `values_in_place`, of any items, with None for invalid rows."""
    if on_invalid != "none" or not encoded.rejects:
        return items
    found = dict(zip(encoded.kept.tolist(), items, strict=True))
    return [found.get(row) for row in range(encoded.number)]


def progress_bar(total: int, what: str, progress: bool) -> tqdm:
    """A bar over molecules, shown by calls that take more than two seconds."""
    return tqdm(
        total=total,
        desc=what,
        unit=" molecules",
        delay=SECONDS_BEFORE_BAR,
        disable=not progress,
        leave=False,
    )


def texts(smiles: Iterable[str]) -> list[Any]:
    """The rows of a caller's list, array, series or generator, each as `bare_smiles` leaves it.

    RDKit's molecules become SMILES. What is no text stays as it is, to be refused as a row.

    Raises:
        TypeError: One string, a table, or something that has no rows.
    """
    if isinstance(smiles, str | bytes):
        raise TypeError(f"Expected a list of SMILES, got the single text {smiles!r}; pass [it].")
    if isinstance(smiles, Mapping) or hasattr(smiles, "columns"):
        raise TypeError(
            f"Expected a list of SMILES, got a {type(smiles).__name__}; pass its column of SMILES."
        )
    if hasattr(smiles, "to_pylist"):  # pyarrow, whose items are no strings
        smiles = smiles.to_pylist()
    try:
        return [_write(m) if hasattr(m, "GetNumAtoms") else bare_smiles(m) for m in smiles]
    except TypeError as error:
        raise TypeError(f"Expected a list of SMILES, got {smiles!r:.80}; pass [smiles].") from error


def _write(molecule: Any) -> str:
    from ..chemistry.smiles import write

    return write(molecule)
