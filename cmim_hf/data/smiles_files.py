# SPDX-License-Identifier: Apache-2.0
"""Read SMILES from a file, the MOSES package or a dataset of the Hub: rows, or whole tables.

Memory stays bounded by `batch_rows`, whatever the size of the source.
"""

import csv
import io
import logging
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.smiles_text_cmim import without_extension
from . import tables
from .argument_checks import whole_number
from .source_files import STRUCTURE_KINDS, TEXT_KINDS, Source, expanded, find_file, opened
from .structure_files import REASON, structure_pieces

if TYPE_CHECKING:
    import pyarrow

    Piece = tuple[pyarrow.Table, str]

logger = logging.getLogger(__name__)

_LARGEST_BATCH = 1 << 31  # bytes
_DAMAGED = (csv.Error, UnicodeDecodeError, EOFError, zlib.error, lzma.LZMAError)


class NoRowsError(ValueError):
    """A source that is sound but empty."""


class Row(NamedTuple):
    """One row of a source.

    `source` is the name it was opened by, `number` counts its data rows from 1 (headers and blank
    lines do not count), `text` is the SMILES as `bare_smiles` leaves it, "" where there is none;
    `reason` says why, where a file of structures has one that cannot be read.
    """

    source: str
    number: int
    text: str
    reason: str | None = None


class Batch(NamedTuple):
    """Consecutive rows of a source, numbered from `start`, `source` and `smiles` as in `Row`.

    `columns` are all of the source, as written; `column` is the name of the one with SMILES.
    `reasons` are those of the rows, where there is any.
    """

    source: str
    start: int
    smiles: list[str]
    columns: "pyarrow.Table"
    column: str
    reasons: list[str | None] | None = None

    def rows(self) -> list[Row]:
        """The rows one by one."""
        rows = zip(count(self.start), self.smiles, self.reasons or repeat(None), strict=False)
        return [Row(self.source, *row) for row in rows]


def bare_smiles(text: Any) -> Any:
    r"""A SMILES without blanks and line ends around it, and as `without_extension` leaves it.

    What is no text comes back as it is.

    >>> bare_smiles("C[C@H](F)Cl |&1:1|\n")
    'C[C@H](F)Cl'
    """
    return without_extension(text.strip()) if isinstance(text, str) else text


def read_smiles(
    source: Source | Iterable[Source],
    *,
    column: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    batch_rows: int = 4096,
) -> Iterator[Row]:
    """Yield the rows of a source of SMILES, in order; nothing is parsed or dropped.

    Args:
        source: one of
            a text file (.smi, .smiles, .cxsmiles, .txt): the first field of each line, a header
            aside (`tables.text_pieces`);
            a table (.csv, .tsv, .parquet);
            structures (.sdf, .mol2), with their names and properties as columns, read by RDKit;
            any of these packed, with .gz, .bz2, .xz or .zst behind;
            "-": standard input, a text file unless `file_type` says otherwise;
            "moses", "moses:test", "moses:test_scaffolds": the files of an installed `molsets`;
            the name of a dataset on the Hub or a folder, for `datasets.load_dataset`, streamed;
            a pattern, "part-*.smi.gz", for files one after the other, by name; or several of all
            these. Their rows are counted apart, and one that is empty is told and passed over.
        column: of a table or dataset, as in `tables.find_column`. Text files have none; of an .sdf
            file it may be a property, in place of the structure.
        split: of a dataset or folder; files and MOSES have none.
        file_type: .smi, .csv, .tsv, .parquet, .sdf or .mol2, perhaps packed, such as .csv.gz, for a
            file whose name does not end in its type; the source is then a file.
        batch_rows: rows read at once.

    Raises:
        FileNotFoundError: no such file, dataset or MOSES package, or nothing matches a pattern.
        ValueError: an unknown file type, no such column, a file of which the rest is damaged, not
            UTF-8 or no table (with the last row read), or no row at all.
        OSError: a file that can be opened but not read.
    """
    where = {"column": column, "split": split, "file_type": file_type}
    for batch in read_batches(source, **where, batch_rows=batch_rows, every_column=False):
        yield from batch.rows()


def read_batches(
    source: Source | Iterable[Source],
    *,
    column: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    batch_rows: int = 4096,
    wanted: Callable[[int], bool] | None = None,
    every_column: bool = True,
) -> Iterator[Batch]:
    """Yield the rows of a source with all columns, `batch_rows` at a time, in the end fewer.

    The columns of text files, .csv and .tsv are strings as written, see `tables.text_pieces`, and
    null where a row ends early. Parquet files and datasets keep their types. All batches of a
    source have one schema; the full ones before a damage are yielded first.

    Takes and raises what `read_smiles` does. `wanted` says of the number of a batch of its file,
    from 0, whether to yield it. Without `every_column` the SMILES alone are read of a Parquet file.
    ValueError, too: the columns of a dataset change, a batch is over 2 GiB, or with `every_column`
    several sources have other columns, or another one with SMILES.
    """
    whole_number("batch_rows", batch_rows, 1)
    sources = expanded(source)
    first, empty = None, 0
    for one in sources:
        settings = (column, split, file_type, batch_rows, wanted, every_column)
        try:
            for batch in _batches_of_one(one, *settings):
                layout = _Layout(batch.source, batch.column, batch.columns.schema)
                first = first or layout
                if every_column and first[1:] != layout[1:]:
                    raise ValueError(
                        f"Sources that are read together have the same columns; {first} and "
                        f"{layout}. Read them one by one, or give files of one layout."
                    )
                yield batch
        except NoRowsError as error:
            empty += 1
            if empty == len(sources):
                raise
            logger.warning(str(error))


class _Layout(NamedTuple):
    source: str
    column: str
    schema: "pyarrow.Schema"

    def __str__(self) -> str:
        columns = [f"{field.name} ({field.type})" for field in self.schema]
        return f"{self.source} has {', '.join(columns)}, SMILES in {self.column!r}"


def _batches_of_one(
    source: Source,
    column: str | None,
    split: str,
    file_type: str | None,
    batch_rows: int,
    wanted: Callable[[int], bool] | None,
    every_column: bool,
) -> Iterator[Batch]:
    import pyarrow

    name, held, number = os.fspath(source), [], 0
    pieces = _counted(source, _pieces(source, column, split, file_type, batch_rows, every_column))
    for table, chosen in chain(pieces, [(None, column)]):
        if table is not None:
            held, column = [*held, table], chosen
        if sum(table.nbytes for table in held) > _LARGEST_BATCH:
            raise ValueError(
                f"{name}: the {batch_rows} rows from row {number * batch_rows + 1} on take over "
                "2 GiB; read fewer at once, or leave columns out."
            )
        least = 1 if table is None else batch_rows  # what is held in the end goes, too
        while sum(map(len, held)) >= least:
            rows = pyarrow.concat_tables(held)
            held, rows = [rows[batch_rows:]], rows[:batch_rows]
            if wanted is None or wanted(number):
                yield _batch(name, number * batch_rows + 1, rows, column)
            number += 1


def _batch(name: str, start: int, rows: "pyarrow.Table", column: str) -> Batch:
    reasons = None
    if REASON in rows.column_names:
        reasons = rows[REASON].to_pylist() if column == "smiles" else None
        rows = rows.drop_columns(REASON)
    return Batch(name, start, _texts(rows, column), rows, column, reasons)


def _counted(source: Source, pieces: "Iterator[Piece]") -> "Iterator[Piece]":
    """Pass pieces on; what goes wrong is said with the last row that was read."""
    import pyarrow

    name, read = _shown(source), 0
    try:
        for piece in pieces:
            yield piece
            read += len(piece[0])
    except (tables.Unreadable, *_DAMAGED, pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "filename", None) is not None:
            raise
        # what is no fault of the disk is one of the content
        kind = OSError if getattr(error, "errno", None) else ValueError
        raise kind(f"{name} cannot be read after row {read}: {_reason(error)}") from error
    if read == 0:
        raise NoRowsError(f"{name} holds no rows; give a source with at least one molecule.")


def _pieces(
    source: Source,
    column: str | None,
    split: str,
    file_type: str | None,
    rows: int,
    every_column: bool,
) -> "Iterator[Piece]":
    """Yield tables of at most `rows` rows and the name of the column with SMILES."""
    name, file = _shown(source), find_file(source, file_type)

    def choose(names: list[str]) -> str:
        if file and file.kind in TEXT_KINDS and names == tables.TEXT_NAMES:
            return "smiles"  # whatever `column` says
        if file and file.kind in STRUCTURE_KINDS:
            return tables.find_column(names[:-1], column or "smiles", name)
        return tables.find_column(names, column, name)

    with ExitStack() as stack:
        data = file and stack.enter_context(opened(file, name))
        if file is None:
            pieces = tables.dataset_pieces(name, split, rows)
        elif file.kind == ".parquet":
            pieces = tables.parquet_pieces(data, None if every_column else choose, rows)
        else:
            text = io.TextIOWrapper(data, encoding="utf-8-sig", newline="")
            stack.callback(text.detach)  # or it would close standard input
            if file.kind in STRUCTURE_KINDS:
                with_properties = every_column or column is not None
                pieces = structure_pieces(text, file.kind, rows, with_properties)
            else:
                pieces = tables.text_pieces(text, file.kind, column, rows)
        for piece in pieces:
            chosen = choose(piece.schema.names)
            yield _plain(piece, chosen, name), chosen


def _shown(source: Source) -> str:
    return "standard input" if source == "-" else os.fspath(source)


def _texts(table: "pyarrow.Table", column: str) -> list[str]:
    texts = table.column(table.schema.names.index(column)).to_pylist()  # a name may occur twice
    return [bare_smiles(text or "") for text in texts]


def _plain(table: "pyarrow.Table", column: str, name: str) -> "pyarrow.Table":
    """The table without views of text and bytes, of which rows cannot be taken; SMILES are text."""
    import pyarrow

    kind = str(table.schema.types[table.schema.names.index(column)])
    if not re.match(r"(dictionary<values=)?(large_)?string", kind):
        raise ValueError(
            f"{name}: column {column!r} holds {kind}, not text; name the column with SMILES by "
            "`column`."
        )
    plain = {pyarrow.string_view(): pyarrow.string(), pyarrow.binary_view(): pyarrow.binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in table.schema]
    return table.cast(pyarrow.schema(fields))


def _reason(error: Exception) -> str:
    """What is wrong with the content of a file, and what to do."""
    if isinstance(error, tables.Unreadable):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        byte = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        return f"{byte}. Save it as UTF-8; the name of a compressed file ends in .gz or the like."
    if isinstance(error, csv.Error):
        return f'{error}. A field that begins with " ends with it; double the quotes inside of one.'
    return f"{str(error).rstrip('.')}. Fetch or write it again."
