# SPDX-License-Identifier: Apache-2.0
"""Read SMILES from a file, the MOSES package or a dataset of the Hub: rows, or whole tables.

Memory stays bounded by `batch_rows`, whatever the size of the source.
"""

import bz2
import csv
import gzip
import importlib.util
import io
import lzma
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ..model.smiles_text_cmim import without_extension
from .tables import (
    TEXT_NAMES,
    Unreadable,
    dataset_pieces,
    find_column,
    parquet_pieces,
    text_pieces,
)

if TYPE_CHECKING:
    import pyarrow

_MOSES_FILES = {
    "moses": "train.csv.gz",
    "moses:test": "test.csv.gz",
    "moses:test_scaffolds": "test_scaffolds.csv.gz",
}
_TEXT_KINDS = (".smi", ".smiles", ".cxsmiles", ".txt")
_KINDS = (*_TEXT_KINDS, ".csv", ".tsv", ".parquet")
_UNPACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_LARGEST_BATCH = 1 << 31  # bytes
_DAMAGED = (csv.Error, UnicodeDecodeError, EOFError, zlib.error, lzma.LZMAError)


class NoRowsError(ValueError):
    """A source that is sound but empty."""


class Row(NamedTuple):
    """One row of a source.

    `source` is the name the source was opened by, `number` counts its data rows from 1 (headers
    and blank lines do not count) and `text` is the SMILES as `bare_smiles` leaves it, "" where the
    row has none.
    """

    source: str
    number: int
    text: str


class Batch(NamedTuple):
    """Consecutive rows of a source with all their columns.

    `source` is the name the source was opened by, `start` the number of the first row as in `Row`,
    `smiles` the texts as in `Row` and `columns` the columns of the source in their order, the one
    with SMILES included, as written, whose name is `column`.
    """

    source: str
    start: int
    smiles: list[str]
    columns: "pyarrow.Table"
    column: str


def bare_smiles(text: Any) -> Any:
    r"""A SMILES without blanks and line ends around it and without the extension of a CXSMILES.

    What is no text comes back as it is.

    >>> bare_smiles("C[C@H](F)Cl |&1:1|\n")
    'C[C@H](F)Cl'
    """
    return without_extension(text.strip()) if isinstance(text, str) else text


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
            a text file (.smi, .smiles, .cxsmiles, .txt): the first field of each line; blank lines
            and a first line that names the column are skipped; one that names it among others,
            between tabs, commas or semicolons, makes it a table;
            a table (.csv, .tsv, .parquet); all of these also with .gz, .bz2 or .xz behind;
            "-": standard input, a text file unless `file_type` says otherwise;
            "moses", "moses:test", "moses:test_scaffolds": the files of an installed `molsets`;
            the name of a dataset on the Hub or a folder, for `datasets.load_dataset`, streamed.
        column: of a table or dataset, as in `tables.find_column`. Text files have none.
        split: of a dataset or folder; files and MOSES have none.
        file_type: .smi, .csv, .tsv or .parquet, also with .gz, .bz2 or .xz behind, for a file whose
            name does not end in its type; the source is then a file.
        batch_rows: rows read at once.

    Raises:
        FileNotFoundError: no such file, dataset or MOSES package.
        ValueError: an unknown file type, no such column, a file of which the rest is damaged, not
            UTF-8 or no table (with the last row read), or no row at all.
        OSError: a file that can be opened but not read.
    """
    name, number = os.fspath(source), 0
    for table, chosen in _tables(source, column, split, file_type, batch_rows, True):
        for text in _texts(table, chosen):
            number += 1
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
    none). Those of .csv and .tsv are strings as written, see `tables.text_pieces`. Parquet files
    and datasets keep their types. All batches of a source have one schema.

    Takes what `read_smiles` does, and `wanted`, which says of the number of a batch, from 0,
    whether to yield it.

    Raises:
        FileNotFoundError: no such source.
        ValueError: as in `read_smiles`, and a dataset whose columns change midway, or a batch of
            over 2 GiB. The full batches before a damage are yielded first.
    """
    import pyarrow

    if batch_rows < 1:
        raise ValueError(f"batch_rows is at least 1, not {batch_rows}.")
    name, held, number = os.fspath(source), [], 0

    def batches(least: int, chosen: str) -> Iterator[Batch]:
        nonlocal held, number
        while sum(table.num_rows for table in held) >= least:
            table = pyarrow.concat_tables(held)
            held = [table.slice(batch_rows)]
            table = table.slice(0, batch_rows)
            if wanted is None or wanted(number):
                yield Batch(name, number * batch_rows + 1, _texts(table, chosen), table, chosen)
            number += 1

    for table, chosen in _tables(source, column, split, file_type, batch_rows, False):
        held.append(table)
        if sum(table.nbytes for table in held) > _LARGEST_BATCH:
            raise ValueError(
                f"{name}: the {batch_rows} rows from row {number * batch_rows + 1} on take over "
                "2 GiB; read fewer at once, or leave columns out."
            )
        yield from batches(batch_rows, chosen)
    yield from batches(1, chosen)


def _texts(table: "pyarrow.Table", column: str) -> list[str]:
    texts = table.column(table.schema.names.index(column)).to_pylist()  # a name may occur twice
    return [bare_smiles(text or "") for text in texts]


def _tables(
    source: str | os.PathLike,
    column: str | None,
    split: str,
    file_type: str | None,
    rows: int,
    smiles_only: bool,
) -> "Iterator[tuple[pyarrow.Table, str]]":
    """Yield tables of at most `rows` rows and one schema, and the name of the column with SMILES.

    What goes wrong is said with the last row that was read.
    """
    import pyarrow

    name = "standard input" if source == "-" else os.fspath(source)
    choose = partial(find_column, column=column, where=name)
    read, chosen = 0, None
    try:
        with ExitStack() as stack:
            file = _find_file(source, file_type)
            if file is None:
                pieces = dataset_pieces(name, split, rows)
            elif file.kind == ".parquet":
                data = stack.enter_context(_opened(file, name))
                pieces = parquet_pieces(data, choose if smiles_only else None, rows)
            else:
                data = stack.enter_context(_opened(file, name))
                text = io.TextIOWrapper(data, encoding="utf-8-sig", newline="")
                stack.callback(text.detach)  # or it would close standard input
                pieces = text_pieces(text, file.kind, column, rows)
            for table in pieces:
                names = table.schema.names
                if chosen is None:
                    has_no_columns = file is not None and file.kind in _TEXT_KINDS
                    chosen = "smiles" if has_no_columns and names == TEXT_NAMES else choose(names)
                    _check_text(table, chosen, name)
                if smiles_only:
                    table = table.select([names.index(chosen)])
                yield table.cast(_without_views(table.schema)), chosen
                read += table.num_rows
    except (Unreadable, *_DAMAGED, pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "filename", None) is not None:
            raise
        # what is no fault of the disk is one of the content
        kind = OSError if getattr(error, "errno", None) else ValueError
        raise kind(f"{name} cannot be read after row {read}: {_reason(error)}") from error
    if read == 0:
        raise NoRowsError(f"{name} holds no rows; give a source with at least one molecule.")


def _reason(error: Exception) -> str:
    """What is wrong with the content of a file, and what to do."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        byte = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        return f"{byte}. Save it as UTF-8; the name of a compressed file ends in .gz or the like."
    if isinstance(error, csv.Error):
        return f'{error}. A field that begins with " ends with it; double the quotes inside of one.'
    return f"{str(error).rstrip('.')}. Fetch or write it again."


def _without_views(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """The schema with plain types for views of text and bytes, of which rows cannot be taken."""
    import pyarrow

    plain = {pyarrow.string_view(): pyarrow.string(), pyarrow.binary_view(): pyarrow.binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in schema]
    return pyarrow.schema(fields)


def _check_text(table: "pyarrow.Table", column: str, name: str) -> None:
    kind = str(table.schema.types[table.schema.names.index(column)])
    if not re.match(r"(dictionary<values=)?(large_)?string", kind):
        raise ValueError(
            f"{name}: column {column!r} holds {kind}, not text; name the column with SMILES by "
            "`column`."
        )


class _File(NamedTuple):
    """A file to open: `path`, None for standard input; its type; what unpacks it, if anything."""

    path: Path | None
    kind: str | None
    unpack: Callable[[IO[bytes]], IO[bytes]] | None


def _find_file(source: str | os.PathLike, file_type: str | None) -> _File | None:
    """Return the file a source names, None for what `datasets.load_dataset` shall open."""
    name = os.fspath(source)
    if file_type is not None and _kind(file_type)[0] not in (".smi", ".csv", ".tsv", ".parquet"):
        raise ValueError(
            "`file_type` is one of .smi, .csv, .tsv, .parquet, with or without .gz, .bz2 or .xz "
            f"behind, not {file_type!r}."
        )
    if source == "-":
        return _File(None, *_kind(file_type or ".smi"))
    if name in _MOSES_FILES and file_type is None:
        return _File(_moses_path(name), ".csv", gzip.open)
    path = Path(source)
    file = _File(path, *_kind(file_type or path.name))
    if path.exists() and not path.is_dir():  # a file or a pipe
        if file.kind is None:
            raise ValueError(
                f"{name} has an unknown file type; the name ends in one of {', '.join(_KINDS)}, "
                "with or without .gz, .bz2 or .xz behind. Rename it, or say the type by "
                "`file_type`."
            )
        return file
    if path.is_dir() and file_type is None:
        return None
    if file.kind is not None or not isinstance(source, str) or not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"There is no file {name}; check the path (relative ones start at {Path.cwd()})."
        )
    return None


def _kind(name: str) -> tuple[str | None, Callable[[IO[bytes]], IO[bytes]] | None]:
    """Return the type a name ends in, None if unknown, and what unpacks such a file."""
    name = name.lower()
    packed = next((ending for ending in _UNPACK if name.endswith(ending)), "")
    kind = next((kind for kind in _KINDS if name.removesuffix(packed).endswith(kind)), None)
    return kind, _UNPACK.get(packed)


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


@contextmanager
def _opened(file: _File, name: str) -> Iterator[IO[bytes]]:
    """Open a file, unpacked; ValueError where it was cut while it was read."""
    with ExitStack() as stack:
        data = sys.stdin.buffer if file.path is None else stack.enter_context(file.path.open("rb"))
        size = file.path and os.fstat(data.fileno()).st_size
        unpacked = stack.enter_context(file.unpack(data)) if file.unpack else data
        if file.kind == ".parquet" and not data.seekable():
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(unpacked, copy, 1 << 20)
            unpacked = copy
        yield unpacked
        left = file.path and os.fstat(data.fileno()).st_size
        if size and left < size:
            raise ValueError(
                f"{name} was cut from {size:,} to {left:,} bytes while it was read: rows are "
                "missing. Write it again, and read it when that is done."
            )


__all__ = [
    "Batch",
    "NoRowsError",
    "Row",
    "bare_smiles",
    "find_column",
    "read_batches",
    "read_smiles",
]
