# SPDX-License-Identifier: Apache-2.0
"""What an open source holds: `LineTable`, `ParquetTable`, `HubTable`, which are read once.

Each has `row`, the rows read so far, and two ways through them: `texts()` yields the SMILES of one
row after the other, "" where there is none; `tables(wanted)` yields the start, the SMILES and all
columns of batches of `batch_rows` rows, of those only whose number (from 0) `wanted` accepts. All
batches have one schema. `column` is the name of the column with SMILES, once a row is read; `where`
says in errors what the source is.
"""

import csv
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, count, islice, zip_longest
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

if TYPE_CHECKING:
    import pyarrow

COLUMN_NAMES = (
    "smiles",
    "canonical_smiles",
    "isomeric_smiles",
    "isosmiles",
    "smiles_canonical",
    "mol",
    "molecule",
    "structure",
)
"""Names looked for, without regard to case and in this order, when no column is given."""

LONGEST_LINE = 1 << 24  # characters; columns of structures or images may be long

csv.field_size_limit(LONGEST_LINE)

Wanted = Callable[[int], bool] | None
Slice = tuple[int, list[str], "pyarrow.Table"]
"""Of one batch the number of its first row, from 1; its SMILES; its columns."""

_TEXT_TYPE = re.compile(r"(dictionary<values=)?(large_)?string")


class LineTable:
    """The rows of a text file or of a table with delimiters; every column is a string.

    Args:
        stream: opened with newline="" and errors="surrogateescape".
        delimiter: None for text files, whose columns are the first field of a line, "smiles", and
            the rest of it, "name".
        where: names the source.
        column: the column with SMILES; text files have no choice.
        batch_rows: rows of a batch.
    """

    def __init__(
        self,
        stream: IO[str],
        delimiter: str | None,
        where: str,
        column: str | None,
        batch_rows: int,
    ) -> None:
        """Read the header; ValueError where it has no such column."""
        self.row = 0
        self._batch_rows = batch_rows
        self._delimiter = delimiter
        self._index = 0
        lines = _utf8_lines(stream, where)
        if delimiter is None:
            # A lone \r ends lines of old files; open(newline="") splits there as well.
            self._rows = filter(None, map(_smiles_and_name, lines))
            self._names = ["smiles", "name"]
            first = next(self._rows, None)
            if first is not None and first[0].lower() not in COLUMN_NAMES:
                self._rows = chain([first], self._rows)
        else:
            # strict, because a quote that is never closed would swallow the rows behind it
            self._rows = filter(None, csv.reader(lines, delimiter=delimiter, strict=True))
            self._names = _unique_names(next(self._rows, []))
            if self._names:
                self._index = self._names.index(find_column(self._names, column, where))
        self.column = self._names[self._index] if self._names else ""

    def texts(self) -> Iterator[str]:
        """Yield the SMILES of every row."""
        index, rows = self._index, self._rows
        for self.row, fields in enumerate(rows, 1):
            yield fields[index] if index < len(fields) else ""

    def tables(self, wanted: Wanted) -> Iterator[Slice]:
        """Yield the wanted batches; nothing is built of the others."""
        index = self._index
        for number in count():
            keep = wanted is None or wanted(number)
            start, rows = self.row + 1, []
            for fields in islice(self._rows, self._batch_rows):
                self.row += 1
                if keep:
                    rows.append(fields)
            if self.row < start:
                return
            if keep:
                texts = [fields[index] if index < len(fields) else "" for fields in rows]
                yield start, texts, self._table(rows)

    def _table(self, rows: list[list[str]]) -> "pyarrow.Table":
        import pyarrow

        width = len(self._names)
        for fields in rows:
            if self._delimiter is None:
                fields[1:] = [rest.rstrip() for rest in fields[1:]]
            elif len(fields) > width:
                fields[width - 1 :] = [self._delimiter.join(fields[width - 1 :])]
        columns = list(zip_longest(*rows))
        columns += [(None,) * len(rows)] * (width - len(columns))
        return pyarrow.table(
            [pyarrow.array(values, pyarrow.string()) for values in columns], self._names
        )


class ParquetTable:
    """The rows of a Parquet file, decoded in pieces of at most `batch_rows`.

    Args:
        file: the file, opened for reading bytes and able to seek.
        where: names the source.
        column: the column with SMILES.
        batch_rows: rows of a batch.
    """

    def __init__(self, file: IO[bytes], where: str, column: str | None, batch_rows: int) -> None:
        """Read the footer; ValueError where it is damaged or has no such column of text."""
        import pyarrow
        import pyarrow.parquet

        self._where = where
        self._batch_rows = batch_rows
        self._errors = (pyarrow.ArrowException, OSError)
        self.row = 0
        try:
            self._file = pyarrow.parquet.ParquetFile(file)
        except self._errors as error:
            raise damaged(where, 0, error) from error
        self._schema = self._file.schema_arrow.remove_metadata()
        self._plain_schema = _without_views(self._schema)
        self.column = find_column(self._schema.names, column, where)
        kind = str(self._plain_schema.types[self._schema.names.index(self.column)])
        if not _TEXT_TYPE.match(kind):
            raise _not_text(kind, self.column, where)
        groups = range(self._file.metadata.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._borders = [0, *accumulate(sizes)]
        self._columns: list[str] | None = None
        self._piece_stop = 0
        self._run_stop = 0

    def texts(self) -> Iterator[str]:
        """Yield the SMILES of every row; no other column is read."""
        self._columns = [self.column]
        for piece in self._read(0, self._borders[-1]):
            yield from self._texts_of(piece)

    def tables(self, wanted: Wanted) -> Iterator[Slice]:
        """Yield the wanted batches; row groups without a row of theirs are not decoded."""
        import pyarrow

        total = self._borders[-1]
        for number, start in enumerate(range(0, total, self._batch_rows)):
            if wanted is None or wanted(number):
                pieces = self._read(start, min(start + self._batch_rows, total))
                table = pyarrow.Table.from_batches(pieces, self._schema)
                if self._plain_schema != self._schema:
                    table = table.cast(self._plain_schema)
                yield start + 1, self._texts_of(table), table
        self.row = total

    def _texts_of(self, columns: "pyarrow.RecordBatch | pyarrow.Table") -> list[str]:
        index = columns.schema.names.index(self.column)  # a name may occur twice
        return _text_list(columns.column(index).to_pylist(), self.column, self._where)

    def _read(self, start: int, stop: int) -> "Iterator[pyarrow.RecordBatch]":
        """Yield the rows from `start` (from 0) to before `stop`; later calls lie behind."""
        while start < stop:
            while self._piece_stop <= start:
                self._decode_piece(start, stop)
            first = self._piece_stop - self._piece.num_rows
            piece = self._piece.slice(start - first, stop - start)
            yield piece
            start += piece.num_rows

    def _decode_piece(self, start: int, stop: int) -> None:
        """Decode the next piece on the way to row `start`, where needed in the groups to `stop`."""
        if start >= self._run_stop:
            first, last = (bisect_right(self._borders, row) - 1 for row in (start, stop - 1))
            self._piece_stop, self._run_stop = self._borders[first], self._borders[last + 1]
            self._pieces = self._file.iter_batches(
                self._batch_rows, row_groups=range(first, last + 1), columns=self._columns
            )
        self.row = self._piece_stop
        try:
            self._piece = next(self._pieces, None)
            if self._piece is not None:
                self._piece.validate(full=True)  # what is wrong would show up later, if at all
        except self._errors as error:
            raise damaged(self._where, self.row, error) from error
        if self._piece is None:
            raise damaged(self._where, self.row, "a row group is shorter than the footer says")
        self._piece_stop += self._piece.num_rows
        self.row = self._piece_stop


class HubTable:
    """The rows of a dataset or folder, streamed by `datasets`.

    Args:
        name: what `datasets.load_dataset` opens.
        split: the split of it.
        column: the column with SMILES.
        batch_rows: rows of a batch.
    """

    def __init__(self, name: str, split: str, column: str | None, batch_rows: int) -> None:
        """Open the dataset; FileNotFoundError where that fails."""
        import datasets

        self.row = 0
        self._where = f"Dataset {name!r}"
        self.column = column
        self._batch_rows = batch_rows
        try:
            self._rows = datasets.load_dataset(name, split=split, streaming=True)
        except BadZipFile as error:
            raise self._unreadable(error) from error
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{name!r} is neither a file here nor a dataset that can be opened: {error} Check "
                "the name, the network, and `hf auth login` for a private dataset."
            ) from error

    def texts(self) -> Iterator[str]:
        """Yield the SMILES of every row."""
        batches = self._rows.iter(self._batch_rows)
        while batch := self._next(batches):
            self.column = find_column(list(batch), self.column, self._where)
            self.row += len(batch[self.column])
            yield from _text_list(batch[self.column], self.column, self._where)

    def tables(self, wanted: Wanted) -> Iterator[Slice]:
        """Yield the wanted batches; ValueError where the types of the columns change midway."""
        import pyarrow

        batches = self._rows.with_format("arrow").iter(self._batch_rows)
        schema = None
        for number in count():
            table = self._next(batches)
            if table is None:
                return
            table = table.replace_schema_metadata()
            schema = schema or table.schema
            if table.schema != schema:
                try:
                    table = table.cast(schema)
                except (pyarrow.ArrowException, ValueError) as error:
                    raise self._unreadable(error) from error
            start = self.row + 1
            self.row += table.num_rows
            if wanted is None or wanted(number):
                self.column = find_column(schema.names, self.column, self._where)
                texts = _text_list(table.column(self.column).to_pylist(), self.column, self._where)
                yield start, texts, table

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch, or None; ValueError where a file of the dataset cannot be read."""
        import pyarrow

        try:
            return next(batches, None)
        except (pyarrow.ArrowException, ValueError, BadZipFile) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ValueError:
        reason = str(error).strip().rstrip(".")
        return ValueError(
            f"{self._where} cannot be read after row {self.row}: {reason}. Is a file in it "
            "damaged, not UTF-8, or of other columns than the first? Write it with one schema, for "
            "example as Parquet."
        )


def find_column(
    names: Sequence[str], column: str | None, where: str, argument: str = "column"
) -> str:
    """The name among `names` that is `column`, or, if that is None, one of `COLUMN_NAMES`.

    Args:
        names: Of the columns.
        column: Wanted, its case aside.
        where: Says in the error whose columns they are.
        argument: What the error calls the argument that names the column.

    Raises:
        ValueError: There is none.
    """
    if column is not None and column in names:
        return column
    lowered = {name.strip().lower(): name for name in reversed(names)}
    for wanted in COLUMN_NAMES if column is None else (column.lower(),):
        if wanted in lowered:
            return lowered[wanted]
    what = "column with SMILES" if column is None else f"column {column!r}"
    raise ValueError(
        f"{where} has no {what}; its columns are {', '.join(map(repr, names))}. "
        f"Name the right one by the argument `{argument}`."
    )


def damaged(where: str, row: int, reason: Exception | str) -> ValueError:
    """Return the error for a file of which nothing behind `row` can be read."""
    return ValueError(
        f"{where} is damaged after row {row}: {reason}. Fetch or write the file again."
    )


def _not_text(kind: str, column: str, where: str) -> ValueError:
    return ValueError(
        f"{where}: column {column!r} holds {kind}, not text; name the column with SMILES by "
        "the argument `column`."
    )


def _text_list(values: Sequence[object], column: str, where: str) -> list[str]:
    """Return the values with "" for None; ValueError where one is no string."""
    for kind in set(map(type, values)) - {str, type(None)}:
        raise _not_text(kind.__name__, column, where)
    return [text or "" for text in values]


def _smiles_and_name(line: str) -> list[str]:
    """The first field of a line and the rest; behind a leading tab there is only the rest."""
    fields = line.split(None, 1)
    return ["", line.strip()] if fields and line[0] == "\t" else fields


def _without_views(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """The schema with plain types for views of text and bytes, whose rows cannot be picked."""
    import pyarrow

    plain = {pyarrow.string_view(): pyarrow.string(), pyarrow.binary_view(): pyarrow.binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in schema]
    return pyarrow.schema(fields)


def _unique_names(header: Sequence[str]) -> list[str]:
    """Name the nameless columns by position ("column_3"), number repeated names ("id", "id_2")."""
    names = [name if name.strip() else f"column_{n}" for n, name in enumerate(header, 1)]
    taken, unique = set(names), []
    for name in names:
        if name in unique:
            name = next(new for n in count(2) if (new := f"{name}_{n}") not in taken)
            taken.add(name)
        unique.append(name)
    return unique


def _utf8_lines(stream: IO[str], where: str) -> Iterator[str]:
    """Pass lines on; bytes that are not UTF-8 arrive here as lone surrogates and are refused.

    So is a line without end, which a small compressed file can hold.
    """
    for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), ""), 1):
        if len(line) == LONGEST_LINE:
            raise ValueError(
                f"{where}, line {number} has {LONGEST_LINE:,} characters or more: this is no table "
                "of molecules, or its line ends are lost."
            )
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                byte = line[error.start].encode(errors="surrogateescape")[0]
                raise ValueError(
                    f"{where}, line {number}: byte 0x{byte:02x} is not UTF-8; save the file as "
                    "UTF-8 (a compressed file needs its .gz ending)."
                ) from error
        yield line
