# SPDX-License-Identifier: Apache-2.0
"""Read SMILES from a file, the MOSES package or a dataset of the Hub: rows, or whole tables.

Local files are read here, not by `datasets`: a table library guesses types (a molecule "NaN" or
"1" is a string) and cannot say at which row a damaged file ends. Memory stays bounded by
`batch_rows`, whatever the size of the source.
"""

import csv
import gzip
import importlib.util
import io
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from .tables import COLUMN_NAMES, HubTable, LineTable, ParquetTable, damaged, find_column

if TYPE_CHECKING:
    import pyarrow

_MOSES_FILES = {
    "moses": "train.csv.gz",
    "moses:test": "test.csv.gz",
    "moses:test_scaffolds": "test_scaffolds.csv.gz",
}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FILE_TYPES = (".smi", *_DELIMITERS, ".parquet")
_SUFFIXES = (*_FILE_TYPES, ".smiles", ".txt")
# What unpacks to more than both is a bomb: SMILES shrink to about a quarter.
_LEAST_LIMIT = 64 << 20  # bytes
_MOST_EXPANSION = 100
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class NoRowsError(ValueError):
    """A source that is sound but empty."""


class Row(NamedTuple):
    """One row of a source.

    `source` is the name the source was opened by, `number` counts its data rows from 1 (headers
    and blank lines do not count) and `text` is the SMILES as written, "" where the row has none.
    """

    source: str
    number: int
    text: str


class Batch(NamedTuple):
    """Consecutive rows of a source with all their columns.

    `source` is the name the source was opened by, `start` the number of the first row as in `Row`,
    `smiles` the texts as in `Row` and `columns` the columns of the source in their order, the one
    with SMILES included, whose name is `column`.
    """

    source: str
    start: int
    smiles: list[str]
    columns: "pyarrow.Table"
    column: str


def read_smiles(
    source: str | os.PathLike,
    *,
    column: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    batch_rows: int = 4096,
) -> Iterator[Row]:
    """Yield the rows of a source of SMILES, in order; nothing is parsed or dropped.

    Args:
        source: one of
            a text file (.smi, .smiles, .txt): the first field of each line, blank lines and a
            first line that names the column are skipped;
            a table (.csv, .tsv, .parquet); all of these also with .gz behind;
            "-": standard input, a text file unless `file_type` says otherwise;
            "moses", "moses:test", "moses:test_scaffolds": the files of an installed `molsets`;
            the name of a dataset on the Hub or a folder, for `datasets.load_dataset`, streamed.
        column: the column of a table or dataset, its case aside; None looks for one of
            `COLUMN_NAMES`. Text files have none.
        split: the split of a dataset or folder; files and MOSES have none.
        file_type: .smi, .csv, .tsv or .parquet, also with .gz behind, for a file whose name does
            not end in its type; the source is then a file.
        batch_rows: rows held at once of a .parquet file or a dataset.

    Raises:
        FileNotFoundError: no such file, dataset or MOSES package.
        ValueError: an unknown file type, no such column, a damaged file (with the last row read),
            a file that is not UTF-8 (with the line), one that unpacks to over 64 MiB and 100 times
            its size, or no row at all.
    """
    name = os.fspath(source)
    with _opened(source, column, split, file_type, batch_rows) as table:
        for number, text in enumerate(table.texts(), 1):
            yield Row(name, number, text)


def read_batches(
    source: str | os.PathLike,
    *,
    column: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    batch_rows: int = 4096,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[Batch]:
    """Yield the rows of a source with all columns, `batch_rows` at a time, in the end fewer.

    The columns of a text file are "smiles" and "name", the rest of the line (null where there is
    none). Those of .csv and .tsv are strings as written: a row with fewer fields ends in nulls, one
    with more keeps the surplus, joined by the delimiter, in its last column; an empty header
    becomes "column_3" by its position, a repeated one gets "_2" behind it. Parquet files and
    datasets keep their types. All batches of a source have one schema.

    Args:
        source: as in `read_smiles`, like the next three; so are the errors.
        column: the column that `Batch.smiles` holds.
        split: the split of a dataset or folder.
        file_type: the type of a file whose name does not end in it.
        batch_rows: rows of a batch, at least 1.
        wanted: takes the number of a batch, from 0, and says whether to yield it; the rows of
            others are passed over, and row groups of a .parquet file not read where they can be.

    Raises:
        FileNotFoundError: no such source.
        ValueError: as in `read_smiles`, and a dataset whose columns change midway. The full batches
            before a damage are yielded first.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows is at least 1, not {batch_rows}.")
    name = os.fspath(source)
    with _opened(source, column, split, file_type, batch_rows) as table:
        for start, smiles, columns in table.tables(wanted):
            yield Batch(name, start, smiles, columns, table.column)


@contextmanager
def _opened(
    source: str | os.PathLike,
    column: str | None,
    split: str,
    file_type: str | None,
    batch_rows: int,
) -> Iterator[LineTable | ParquetTable | HubTable]:
    """Open a source; damage found while it is read, and no row in it, become ValueError."""
    name = "standard input" if source == "-" else os.fspath(source)
    file = _find_file(source, file_type)
    table = None
    try:
        with ExitStack() as stack:
            if file is None:
                table = HubTable(name, split, column, batch_rows)
            else:
                table = _open_file(file, column, batch_rows, stack)
            yield table
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(name, table.row if table else 0, error) from error
    except OSError as error:
        if file is None or error.filename is not None:
            raise
        row = table.row if table else 0
        raise OSError(error.errno, f"{name} cannot be read after row {row}: {error}") from error
    except csv.Error as error:
        raise ValueError(
            f"{name} cannot be cut into fields after row {table.row if table else 0}: {error}. "
            'A field that begins with " has to end with it; double the quotes inside of one.'
        ) from error
    if table.row == 0:
        raise NoRowsError(f"{name} holds no rows; give a source with at least one molecule.")


class _File(NamedTuple):
    """A file to open: `path`, None for standard input; its type; whether that is gzipped."""

    path: Path | None
    kind: str
    zipped: bool


def _find_file(source: str | os.PathLike, file_type: str | None) -> _File | None:
    """Return the file a source names, None for what `datasets.load_dataset` shall open."""
    name = os.fspath(source)
    if file_type is not None and file_type.removesuffix(".gz") not in _FILE_TYPES:
        raise ValueError(
            f"file_type is one of {', '.join(_FILE_TYPES)}, with or without .gz behind, "
            f"not {file_type!r}."
        )
    if source == "-":
        return _File(None, *_split_type(file_type or ".smi"))
    if name in _MOSES_FILES and file_type is None:
        return _File(_moses_path(name), ".csv", True)
    path = Path(source)
    kind, zipped = _split_type(file_type or path.name)
    if path.exists() and not path.is_dir():  # a file or a pipe
        if kind is None:
            raise ValueError(
                f"{name} has an unknown file type; the name ends in one of {', '.join(_SUFFIXES)}, "
                "with or without .gz behind. Else say the type by the argument `file_type`."
            )
        return _File(path, kind, zipped)
    if path.is_dir() and file_type is None:
        return None
    if kind is not None or not isinstance(source, str) or not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"There is no file {name}; check the path (relative ones start at {Path.cwd()})."
        )
    return None


def _split_type(name: str) -> tuple[str | None, bool]:
    """Return the type a name ends in, None if unknown, and whether .gz follows."""
    bare = name.lower().removesuffix(".gz")
    kind = next((suffix for suffix in _SUFFIXES if bare.endswith(suffix)), None)
    return kind, bare != name.lower()


def _moses_path(name: str) -> Path:
    spec = importlib.util.find_spec("moses")  # finds it without running its old imports
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "dataset", "data", _MOSES_FILES[name])
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"Source {name!r} needs the files of the MOSES package, which is not installed here: "
        "pip install --no-deps molsets==0.3.1"
    )


def _open_file(
    file: _File, column: str | None, batch_rows: int, stack: ExitStack
) -> LineTable | ParquetTable:
    """Open a file; `stack` closes it, standard input apart."""
    if file.path is None:
        where, data = "standard input", sys.stdin.buffer
    else:
        where, data = str(file.path), stack.enter_context(_still_whole(file.path))
    if file.zipped:
        size = 0 if file.path is None else os.fstat(data.fileno()).st_size  # of a pipe 0
        data = stack.enter_context(_Unpacked(data, where, size))
    if file.kind == ".parquet":
        if file.zipped or not data.seekable():
            data = stack.enter_context(_seekable_copy(data))
        return ParquetTable(data, where, column, batch_rows)
    text = io.TextIOWrapper(data, encoding="utf-8", errors="surrogateescape", newline="")
    stack.callback(text.detach)  # or it would close standard input
    return LineTable(text, _DELIMITERS.get(file.kind), where, column, batch_rows)


@contextmanager
def _still_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; ValueError where it is shorter when all of it was read than it was before."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        yield stream
        left = os.fstat(stream.fileno()).st_size
        if left < size:
            raise ValueError(
                f"{path} was cut from {size:,} to {left:,} bytes while it was read: rows are "
                "missing. Write it again, and read it when that is done."
            )


class _Counted:
    """A stream of bytes that counts those it gave."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data


class _Unpacked(gzip.GzipFile):
    """The bytes within a gzipped stream; ValueError where they are too many for its own.

    Its own are `size`, or those that were read so far, whatever is more.
    """

    def __init__(self, packed: IO[bytes], where: str, size: int) -> None:
        self._packed, self._where, self._size, self._count = _Counted(packed), where, size, 0
        super().__init__(fileobj=self._packed, mode="rb")

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _checked(self, data: bytes) -> bytes:
        self._count += len(data)
        packed = max(self._size, self._packed.count)
        if self._count > max(_LEAST_LIMIT, _MOST_EXPANSION * packed):
            raise ValueError(
                f"{self._where} unpacks to over {_MOST_EXPANSION} times its size, which molecules "
                "do not. If it is right, unpack it yourself."
            )
        return data


def _seekable_copy(data: IO[bytes]) -> IO[bytes]:
    """A temporary file of the bytes."""
    copy = tempfile.TemporaryFile()
    try:
        shutil.copyfileobj(data, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


__all__ = [
    "COLUMN_NAMES",
    "Batch",
    "NoRowsError",
    "Row",
    "find_column",
    "read_batches",
    "read_smiles",
]
