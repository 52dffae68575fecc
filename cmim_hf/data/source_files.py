# SPDX-License-Identifier: Apache-2.0
"""Files with molecules: those of a pattern, what type a name says, the bytes of one, unpacked."""

import bz2
import glob
import gzip
import importlib.util
import lzma
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

TEXT_KINDS = (".smi", ".smiles", ".cxsmiles", ".txt")
STRUCTURE_KINDS = (".sdf", ".mol2")
KINDS = (*TEXT_KINDS, ".csv", ".tsv", ".parquet", *STRUCTURE_KINDS)
_FILE_TYPES = (".smi", *KINDS[len(TEXT_KINDS) :])
_READ_TWICE = (".parquet", ".sdf")
_MOSES_FILES = {"moses": "train", "moses:test": "test", "moses:test_scaffolds": "test_scaffolds"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def _open_zst(data: IO[bytes]) -> IO[bytes]:
    import pyarrow

    return pyarrow.CompressedInputStream(data, "zstd")


_UNPACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
_PACKED = "with or without .gz, .bz2, .xz or .zst behind"


def names_a_file(text: str) -> bool:
    """Whether a text ends as the name of a file with molecules does.

    >>> names_a_file("REAL.cxsmiles.bz2"), names_a_file("CCO")
    (True, False)
    """
    return text.lower().endswith((*KINDS, *_UNPACK))


Source = str | os.PathLike


def expanded(sources: Source | Iterable[Source]) -> list[Source]:
    """Each source by itself: in place of a pattern (`*`, `?`, `[0-9]`, `**`) its files, by name.

    What exists by that very name is no pattern, and of a pattern files are left out that are among
    the sources already.

    Raises:
        FileNotFoundError: A pattern that no file matches.
    """
    found: list[Source] = []
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    seen = {os.path.abspath(source) for source in sources}
    for source in sources:
        name = os.fspath(source)
        if not glob.has_magic(name) or os.path.lexists(name):
            found.append(source)
            continue
        files = sorted(one for one in glob.glob(name, recursive=True) if not os.path.isdir(one))
        if not files:
            raise FileNotFoundError(
                f"No file matches {name}; check the pattern (relative ones start at {Path.cwd()})."
            )
        found += (file for file in files if os.path.abspath(file) not in seen)
        seen.update(map(os.path.abspath, files))
    return found


class SourceFile(NamedTuple):
    """A file to open; `path` is None for standard input, `kind` for an unknown type."""

    path: Path | None
    kind: str | None
    unpack: Callable[[IO[bytes]], IO[bytes]] | None


def find_file(source: Source, file_type: str | None) -> SourceFile | None:
    """The file a source names, None for what `datasets.load_dataset` shall open."""
    name, path = os.fspath(source), Path(source)
    if file_type is not None and _kind(file_type)[0] not in _FILE_TYPES:
        raise ValueError(
            f"`file_type` is one of {', '.join(_FILE_TYPES)}, {_PACKED}, not {file_type!r}."
        )
    if source == "-":
        return SourceFile(None, *_kind(file_type or ".smi"))
    if name in _MOSES_FILES and file_type is None:
        return SourceFile(_moses_path(name), ".csv", gzip.open)
    file = SourceFile(path, *_kind(file_type or path.name))
    if path.exists() and not path.is_dir():  # a file or a pipe
        if file.kind is None:
            raise ValueError(
                f"{name} has an unknown file type; the name ends in one of {', '.join(KINDS)}, "
                f"{_PACKED}. Rename it, or say the type by `file_type`."
            )
        return file
    of_the_hub = isinstance(source, str) and _HUB_NAME.fullmatch(name) and file.kind is None
    if of_the_hub or (path.is_dir() and file_type is None):
        return None
    raise FileNotFoundError(
        f"There is no file {name}; check the path (relative ones start at {Path.cwd()})."
    )


def _kind(name: str) -> tuple[str | None, Callable[[IO[bytes]], IO[bytes]] | None]:
    """The type a name ends in, and what unpacks such a file."""
    name = name.lower()
    packed = next((ending for ending in _UNPACK if name.endswith(ending)), "")
    kind = next((kind for kind in KINDS if name.removesuffix(packed).endswith(kind)), None)
    return kind, _UNPACK.get(packed)


def _moses_path(name: str) -> Path:
    spec = importlib.util.find_spec("moses")  # finds it without running its old imports
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "dataset", "data", f"{_MOSES_FILES[name]}.csv.gz")
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"Source {name!r} needs the files of the MOSES package, which is not installed here: "
        "pip install --no-deps molsets==0.3.1"
    )


@contextmanager
def opened(file: SourceFile, name: str) -> Iterator[IO[bytes]]:
    """Open a file, unpacked; ValueError where it was cut while it was read."""
    with ExitStack() as stack:
        data = sys.stdin.buffer if file.path is None else stack.enter_context(file.path.open("rb"))
        size = file.path and os.fstat(data.fileno()).st_size
        unpacked = stack.enter_context(file.unpack(data)) if file.unpack else data
        if file.kind in _READ_TWICE and not (data.seekable() and unpacked.seekable()):
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(unpacked, copy, 1 << 20)
            copy.seek(0)
            unpacked = copy
        yield unpacked
        left = file.path and os.fstat(data.fileno()).st_size
        if size and left < size:
            raise ValueError(
                f"{name} was cut from {size:,} to {left:,} bytes while it was read: rows are "
                "missing. Write it again, and read it when that is done."
            )
