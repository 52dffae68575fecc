# SPDX-License-Identifier: Apache-2.0
"""Tables of molecules as streams of pyarrow tables, and which of their columns holds SMILES.

Text goes through Python's `csv`, every column as a string, because it alone refuses a quote that is
never closed: table libraries take the rows behind it for one field, in silence. Parquet goes
through pyarrow, datasets and folders through `datasets`.
"""

import csv
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain, count, zip_longest
from typing import IO, TYPE_CHECKING
from zipfile import BadZipFile

if TYPE_CHECKING:
    import pyarrow

COLUMN_NAMES = ("isomericsmiles", "isosmiles", "canonicalsmiles", "smilescanonical", "smiles")
COLUMN_NAMES += ("smilesstring", "cxsmiles", "mol", "molecule", "structure")
"""Columns looked for when none is named, the best first; case, blanks and marks do not matter."""

TEXT_NAMES = ["smiles", "name"]
"""The columns of a text file without a header of several."""

LONGEST_LINE = 1 << 24  # characters, also of a quoted field; columns of structures may be long
_LARGEST_PIECE = 1 << 26  # characters after which a piece is passed on before it has all its rows
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t;,|"}
_NAMED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

csv.field_size_limit(LONGEST_LINE)
logger = logging.getLogger(__name__)
_warn_once = cache(logger.warning)


class Unreadable(Exception):
    """Why the rest of a source cannot be read, and what to do."""


def find_column(
    names: Sequence[str], column: str | None, where: str, argument: str = "column"
) -> str:
    """The name among `names` that is `column`, its case aside.

    If that is None, the first of `COLUMN_NAMES` that is there, with a warning where others hold
    SMILES, too; else the only one with "smiles" in its name.

    Raises:
        ValueError: There is none, or several are as good. It says `where` the columns are, and
            that `argument` names one.

    >>> find_column(["id", "Canonical SMILES"], None, "a.csv")
    'Canonical SMILES'
    """
    found = _candidates(names, column)
    others = [name for name in found[1:] if "smiles" in _plain(name)] if column is None else []
    if found and (not others or _plain(found[0]) in COLUMN_NAMES):
        if others:
            _warn_once(
                f"{where}: the SMILES are those of column {found[0]!r}, not of "
                f"{', '.join(map(repr, others))}."
            )
        return found[0]
    what = "column with SMILES" if column is None else f"column {column!r}"
    raise ValueError(
        f"{where} has {f'more than one {what}' if found else f'no {what}'}; its columns are "
        f"{', '.join(map(repr, names))}. Name the right one by `{argument}`."
    )


def text_pieces(
    stream: IO[str],
    kind: str,
    column: str | None,
    rows: int,
) -> "Iterator[pyarrow.Table]":
    """Pieces of a table with delimiters or of a text file.

    The columns of a text file are "smiles", the first field of a line with the extension of a
    CXSMILES, and "name", the rest of it; behind a leading tab there is only a name. Blank lines and
    a first line that names the column are skipped; one that names it among others, between tabs,
    commas, semicolons or bars, or behind blanks, makes the file a table.

    Args:
        stream: Opened with newline="".
        kind: .csv, .tsv, or any other for a text file.
        column: As in `find_column`; tables are cut at the delimiter that makes such a column.
        rows: Of a piece, at most.

    Raises:
        Unreadable: The rest is no such table, or two delimiters make such a column.
    """
    lines = lines_of(stream)
    header = next(filter(str.strip, lines), "")
    first = next(filter(str.strip, lines), "")
    lines = chain(filter(None, [first]), lines)
    delimiter = _delimiter(header, kind, column)
    if delimiter is None and _has_blanks(header, first, kind, column):
        names, cells = unique_names(header.split()), map(str.split, lines)
    elif delimiter := delimiter or _DELIMITERS.get(kind, "")[:1]:
        names = unique_names(_fields(header, delimiter))
        cells = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        names = TEXT_NAMES
        named = {_plain(header), *map(_plain, header.split()[:1])} & set(COLUMN_NAMES)
        cells = map(_smiles_and_name, lines if named else chain([header], lines))
    yield from cut_pieces(names, _fitting(filter(None, cells), len(names)), rows)


def _fitting(cells: Iterator[list[str]], number: int) -> Iterator[list[str]]:
    for fields in cells:
        if len(fields) > number:
            raise Unreadable(
                f"the next has {len(fields)} fields, the header {number}. Put fields that hold the "
                'delimiter between quotes (").'
            )
        yield fields


def cut_pieces(
    names: list[str], cells: Iterator[list[str | None]], rows: int
) -> "Iterator[pyarrow.Table]":
    """Tables of at most `rows` rows, fewer where these are long; an error comes behind them."""
    held, size, fault = [], 0, None
    try:
        for fields in cells:
            held.append(fields)
            size += sum(map(len, filter(None, fields)))
            if len(held) == rows or size > _LARGEST_PIECE:
                yield string_table(names, held)
                held, size = [], 0
    except Exception as error:  # once what came before it is passed on
        fault = error
    if held:
        yield string_table(names, held)
    if fault:
        raise fault


def string_table(names: list[str], rows: list[list[str | None]]) -> "pyarrow.Table":
    """A table of strings; rows with fewer fields than there are names end in nulls."""
    import pyarrow

    columns = [column[:-1] for column in zip_longest(*rows, names)]  # as many as there are names
    return pyarrow.table([pyarrow.array(column, pyarrow.string()) for column in columns], names)


def parquet_pieces(
    file: IO[bytes], choose: Callable[[list[str]], str] | None, rows: int
) -> "Iterator[pyarrow.Table]":
    """Pieces of at most `rows` rows of a Parquet file, or of the one column that `choose` names."""
    import pyarrow
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(file)
    columns = None if choose is None else [choose(parquet.schema_arrow.names)]
    for piece in parquet.iter_batches(rows, columns=columns):
        piece.validate(full=True)  # what is wrong would show up later, if at all
        yield pyarrow.Table.from_batches([piece])


def dataset_pieces(name: str, split: str, rows: int) -> "Iterator[pyarrow.Table]":
    """Pieces of a dataset of the Hub or of a folder, streamed by `datasets`.

    Raises:
        FileNotFoundError: There is no such dataset, or it cannot be opened.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(name, split=split, streaming=True)
        schema = None
        for table in dataset.with_format("arrow").iter(rows):
            schema = schema or table.schema
            yield table.cast(schema)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a file here nor a dataset that can be opened: {error} Check "
            "the name, the network, and `hf auth login` for a private dataset."
        ) from error
    except (ValueError, BadZipFile) as error:  # pyarrow's are ValueErrors, too
        raise Unreadable(
            f"{str(error).strip().rstrip('.')}. Is a file in it damaged, not UTF-8, or of other "
            "columns than the first? Write it with one schema, for example as Parquet."
        ) from error


def _candidates(names: Sequence[str], column: str | None) -> list[str]:
    """The columns that could be meant, the best first."""
    if column is not None:
        same = [name for name in names if name.strip().lower() == column.strip().lower()]
        return [column] if column in names else same
    known = [name for plain in COLUMN_NAMES for name in names if _plain(name) == plain]
    return known or [name for name in names if "smiles" in _plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def lines_of(stream: IO[str]) -> Iterator[str]:
    """Lines, of which none is so long that it would fill the memory."""
    for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), ""), 1):
        if len(line) == LONGEST_LINE:
            raise Unreadable(
                f"line {number} has {LONGEST_LINE:,} characters or more: this is no table of "
                "molecules, or its line ends are lost."
            )
        yield line


def _delimiter(line: str, kind: str, column: str | None) -> str | None:
    """The delimiter between whose fields is a column with SMILES; None: none is."""
    is_table = kind in _DELIMITERS
    delimiters = _DELIMITERS.get(kind, "\t,;|")
    for wanted in dict.fromkeys((column, None)):
        whole, cut = {}, {}
        for delimiter in delimiters:
            names = _fields(line, delimiter)
            found = next(iter(_candidates(names, wanted)), None)
            if found is None or len(names) == 1:
                continue
            others = set(delimiters) - {delimiter}
            if wanted is None and others & set(found) and f'"{found}"' not in line:
                cut[delimiter] = found
            elif is_table or wanted is not None or _is_header(found):
                whole[delimiter] = found
        possible = whole or (cut if is_table else {})
        if len(possible) > 1:
            ways = [f"{_NAMED[one]} ({found!r})" for one, found in possible.items()]
            raise Unreadable(
                f"its header has a column with SMILES between {' and between '.join(ways)}. Name "
                "the right one by `column`, or write the table with one separator."
            )
        if whole:
            return next(iter(whole))
    return None


def _is_header(name: str) -> bool:
    """In a text file "mol" or "smiles of X" may well be the name of a first molecule."""
    return _plain(name) in COLUMN_NAMES and "smiles" in _plain(name)


def _has_blanks(header: str, first: str, kind: str, column: str | None) -> bool:
    """Whether blanks part the columns, of which a text file's first is not the one with SMILES."""
    names, fields = header.split(), first.split()
    found = next(iter(_candidates(names, column)), None)
    if found is None or len(names) == 1 or len(names) != len(fields) or fields[1][0] == "|":
        return False
    return kind in _DELIMITERS or (found != names[0] and _is_header(found))


def _fields(header: str, delimiter: str) -> list[str]:
    names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    return [name.strip() for name in names]


def _smiles_and_name(line: str) -> list[str]:
    """The first field of a line, with the extension of a CXSMILES, and what else there is."""
    fields = line.split(None, 1)
    if fields and line.startswith("\t"):
        fields = ["", line]
    if len(fields) < 2:
        return fields
    smiles, name = fields[0], fields[1].strip()
    if extension := re.match(r"\|[^|]*\|(?!\S)", name):
        smiles, name = f"{smiles} {extension[0]}", name[extension.end() :].strip()
    return [smiles, name] if name else [smiles] if smiles else []


def unique_names(header: Sequence[str]) -> list[str]:
    """Name the nameless columns by position ("column_3"), number repeated names ("id", "id_2")."""
    names = [name or f"column_{n}" for n, name in enumerate(header, 1)]
    for place, name in enumerate(names):
        if name in names[:place]:
            names[place] = next(new for n in count(2) if (new := f"{name}_{n}") not in names)
    return names
