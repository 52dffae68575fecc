# SPDX-License-Identifier: Apache-2.0
"""Files of structures, .sdf and .mol2, as streams of pyarrow tables.

Records are cut here and read by RDKit one by one, not by its readers of files, so that one that it
cannot read keeps its number, its name and its properties.
"""

import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import takewhile
from typing import IO, TYPE_CHECKING

from .tables import LONGEST_LINE, TEXT_NAMES, Unreadable, cut_pieces, lines_of, unique_names

if TYPE_CHECKING:
    import pyarrow

REASON = "\0reason"
"""A last column of the pieces: why a record has no SMILES, null where it has one."""

_PROPERTY = re.compile(r">.*?<(.+)>")
_DAMAGED = (Unreadable, UnicodeDecodeError, EOFError, OSError, zlib.error, lzma.LZMAError)


def structure_pieces(
    stream: IO[str], kind: str, rows: int, properties: bool
) -> "Iterator[pyarrow.Table]":
    """Pieces of a file of structures: "smiles", "name", the properties, and `REASON`.

    All are strings, null where a record has none. The columns of an .sdf file are the properties of
    all its records, in order; it is read once to know them, and once more.

    Args:
        stream: Opened with newline="", and seekable.
        kind: .sdf or .mol2.
        rows: Of a piece, at most.
        properties: Whether to read them.
    """
    keys: dict[str, None] = {}
    if kind == ".sdf" and properties:
        try:
            for record in _sdf_records(stream):
                keys.update(dict.fromkeys(_properties(record)))
        except _DAMAGED:
            pass  # the second reading comes to the same place, and says so
        stream.seek(0)
    names = [*unique_names([*TEXT_NAMES, *keys]), REASON]
    records = _sdf_records(stream) if kind == ".sdf" else _mol2_records(stream)
    yield from cut_pieces(names, (_row(record, kind, list(keys)) for record in records), rows)


def _row(record: list[str], kind: str, keys: list[str]) -> list[str | None]:
    from ..chemistry.structure_blocks import read_block

    if kind == ".sdf":
        ends = (place for place, line in enumerate(record, 1) if line.startswith("M  END"))
        block, name = record[: next(ends, len(record))], "".join(record[:1]).strip()
        found = _properties(record) if keys else {}
    else:
        block, name, found = record, "".join(record[1:2]).strip(), {}
    smiles, problem = read_block("\n".join([*block, ""]), kind)
    about = repr(name) if name else "this record"
    reason = f"the structure of {about} {problem}" if smiles is None else None
    return [smiles, name or None, *map(found.get, keys), reason]


def _sdf_records(stream: IO[str]) -> Iterator[list[str]]:
    """The lines of each record, without their ends and the line of dollars."""
    record: list[str] = []
    for line in _limited(stream, "$$$$"):
        if line.startswith("$$$$"):
            yield record
            record = []
        else:
            record.append(line)
    if any(map(str.strip, record)):
        yield record


def _mol2_records(stream: IO[str]) -> Iterator[list[str]]:
    """The lines of each record; what stands before the first is none."""
    record: list[str] = []
    for line in _limited(stream, "@<TRIPOS>MOLECULE"):
        if line.startswith("@<TRIPOS>MOLECULE"):
            if record:
                yield record
            record = [line]
        elif record:
            record.append(line)
    if record:
        yield record


def _limited(stream: IO[str], mark: str) -> Iterator[str]:
    """Lines without their ends; no record is so long that it would fill the memory."""
    size = 0
    for line in lines_of(stream):
        size = 0 if line.startswith(mark) else size + len(line)
        if size > LONGEST_LINE:
            raise Unreadable(
                f"there are {LONGEST_LINE:,} characters without a line {mark}: this is no file of "
                "this type, or damaged."
            )
        yield line.rstrip("\r\n")


def _properties(record: list[str]) -> dict[str, str]:
    """Values by name: a line `> <name>`, then those of the value up to a blank one."""
    found = {}
    lines = iter(record[3:])  # behind a title and comments, which may look like one
    for line in lines:
        if name := _PROPERTY.match(line):
            found[name[1]] = "\n".join(takewhile(str.strip, lines))
    return found
