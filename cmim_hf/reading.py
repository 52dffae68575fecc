# SPDX-License-Identifier: Apache-2.0
"""Read SMILES row by row from a file, the MOSES package or a dataset of the Hugging Face Hub.

Local files are read here, not by `datasets`: a table library guesses types (a molecule "NaN" or
"1" is a string) and cannot say at which row a damaged file ends. Memory stays bounded by
`batch_rows`, whatever the size of the source.
"""

import csv
import gzip
import importlib.util
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

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

_MOSES_FILES = {
    "moses": "train.csv.gz",
    "moses:test": "test.csv.gz",
    "moses:test_scaffolds": "test_scaffolds.csv.gz",
}
_TEXT_SUFFIXES = (".smi", ".smiles", ".txt")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (*_TEXT_SUFFIXES, *_DELIMITERS, ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Row(NamedTuple):
    """One row of a source.

    `source` is the name the source was opened by, `number` counts its data rows from 1 (headers
    and blank lines do not count) and `text` is the SMILES as written, "" where the row has none.
    """

    source: str
    number: int
    text: str


def read_smiles(
    source: str | os.PathLike,
    *,
    column: str | None = None,
    split: str = "train",
    batch_rows: int = 4096,
) -> Iterator[Row]:
    """Yield the rows of a source of SMILES, in order; nothing is parsed or dropped.

    Args:
        source: one of
            a text file (.smi, .smiles, .txt): the first field of each line, blank lines and a
            first line that names the column are skipped;
            a table (.csv, .tsv, .parquet); text files and .csv, .tsv also with .gz behind;
            "moses", "moses:test", "moses:test_scaffolds": the files of an installed `molsets`;
            the name of a dataset on the Hub or a folder, for `datasets.load_dataset`, streamed.
        column: the column of a table or dataset, its case aside; None looks for one of
            `COLUMN_NAMES`. Text files have none.
        split: the split of a dataset or folder; files and MOSES have none.
        batch_rows: rows held at once of a .parquet file or a dataset.

    Raises:
        FileNotFoundError: no such file, dataset or MOSES package.
        ValueError: an unknown file type, no such column, a damaged file (with the last row read),
            a file that is not UTF-8 (with the line), or no row at all.
    """
    name = os.fspath(source)
    path = _local_path(source)
    if path is None:
        texts = _hub_texts(name, column, split, batch_rows)
    elif path.suffix.lower() == ".parquet":
        texts = _parquet_texts(path, column, batch_rows)
    else:
        texts = _line_file_texts(path, column)
    number = 0
    try:
        for number, text in enumerate(texts, 1):
            yield Row(name, number, text)
    except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as error:
        raise ValueError(
            f"{name} is damaged after row {number}: {error}. Fetch or write the file again."
        ) from error
    if number == 0:
        raise ValueError(f"{name} holds no rows; give a source with at least one molecule.")


def _local_path(source: str | os.PathLike) -> Path | None:
    """Return the file a source names, None for what `datasets.load_dataset` shall open."""
    name = os.fspath(source)
    if name in _MOSES_FILES:
        return _moses_path(name)
    path = Path(source)
    known = _file_type(path) is not None
    if path.is_file() and not known:
        raise ValueError(
            f"{name} has an unknown file type; the name ends in one of {', '.join(_SUFFIXES)}, "
            "or .gz behind a text file, .csv or .tsv."
        )
    if path.is_file():
        return path
    if path.is_dir():
        return None
    if known or not isinstance(source, str) or not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"There is no file {name}; check the path (relative ones start at {Path.cwd()})."
        )
    return None


def _file_type(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    zipped = suffixes[-1:] == [".gz"]
    kind = suffixes[-2] if zipped and len(suffixes) == 2 else (suffixes or [""])[-1]
    return kind if kind in _SUFFIXES and not (zipped and kind == ".parquet") else None


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


def _line_file_texts(path: Path, column: str | None) -> Iterator[str]:
    kind = _file_type(path)
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        lines = _utf8_lines(stream, path)
        if kind in _TEXT_SUFFIXES:
            yield from _first_fields(lines)
        else:
            yield from _table_texts(lines, path, column, _DELIMITERS[kind])


def _utf8_lines(stream: IO[str], path: Path) -> Iterator[str]:
    """Pass lines on; bytes that are not UTF-8 arrive here as lone surrogates and are refused."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                byte = line[error.start].encode(errors="surrogateescape")[0]
                raise ValueError(
                    f"{path}, line {number}: byte 0x{byte:02x} is not UTF-8; save the file as "
                    "UTF-8 (a compressed file needs its .gz ending)."
                ) from error
        yield line


def _first_fields(lines: Iterable[str]) -> Iterator[str]:
    first = True
    for line in lines:
        # A lone \r ends lines of old files; open(newline="") splits there as well.
        fields = line.split(None, 1)
        if not fields:
            continue
        if not (first and fields[0].lower() in COLUMN_NAMES):
            yield fields[0]
        first = False


def _table_texts(
    lines: Iterable[str], path: Path, column: str | None, delimiter: str
) -> Iterator[str]:
    table = csv.reader(lines, delimiter=delimiter)
    header = next(table, None)
    if header is None:
        return
    index = header.index(find_column(header, column, str(path)))
    for fields in table:
        if fields:
            yield fields[index] if index < len(fields) else ""


def _parquet_texts(path: Path, column: str | None, batch_rows: int) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            name = find_column(schema.names, column, str(path))
            kind = schema.field(name).type
            _check_text_column(str(kind), name, str(path))
            for batch in file.iter_batches(batch_rows, columns=[name]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield text or ""
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is damaged after row {row}: {error}. Fetch or write the file again."
        ) from error


def _hub_texts(name: str, column: str | None, split: str, batch_rows: int) -> Iterator[str]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a file here nor a dataset that can be opened: {error} Check the "
            "name, the network, and `hf auth login` for a private dataset."
        ) from error
    found = None
    for batch in rows.iter(batch_rows):
        if found is None:
            found = find_column(list(batch), column, f"Dataset {name!r}")
        for text in batch[found]:
            if text is not None and not isinstance(text, str):
                _check_text_column(type(text).__name__, found, f"Dataset {name!r}")
            yield text or ""


def find_column(names: Sequence[str], column: str | None, where: str) -> str:
    """The name among `names` that is `column`, or, if that is None, one of `COLUMN_NAMES`.

    Raises:
        ValueError: there is none; `where` says whose columns they are.
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
        "Name the right one by the argument `column`."
    )


def _check_text_column(kind: str, column: str, where: str) -> None:
    if "string" not in kind:
        raise ValueError(
            f"{where}: column {column!r} holds {kind}, not text; name the column with SMILES by "
            "the argument `column`."
        )
