# SPDX-License-Identifier: Apache-2.0
"""Embed a library of any size into a folder of Parquet shards, by any number of processes.

A shard holds the same rows of the same source whoever writes it, and appears whole or not at all.
So a run that was killed goes on by writing the shards that are missing, and processes share the
work by taking every n-th shard; none needs to hear of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers.utils import logging

from ..atomic_files import check_writable, remove_partials, write_whole, written_whole
from ..data.argument_checks import whole_number
from ..data.row_encoder import Rejects
from ..data.smiles_files import Batch, NoRowsError, read_batches
from ..data.source_files import expanded
from .embedder import MoleculeEmbedder
from .tables import (
    EmbeddedBatch,
    embedded_batches,
    embedding_table,
    parquet_writer,
    provenance,
)

SETTINGS_FILE = "_library.json"  # tools that read a folder of Parquet files pass over a "_"
_SHARD_KEY = b"cmim_shard"
_SHARD_NAME = re.compile(r"\d{5,}-\d{7,}\.parquet").fullmatch
_ENDS = 1 << 20

logger = logging.get_logger(__name__)


Shard = tuple[Path, Batch]
"""The file that is to hold the rows of a batch with their embeddings."""


@dataclass(frozen=True)
class Library:
    r"""Which sources go into which folder, and how they are cut.

    Args:
        folder: Of the shards, `<number of the source>-<number of the shard>.parquet`, whose order
            by name is the order of the rows.
        sources: What [`~cmim_hf.data.smiles_files.read_batches`] takes, one after the other; of a
            pattern every file is one.
        shard_rows: Rows of a source that make a shard; memory grows with it.
        column: As in `read_batches`, like the next.
        split: As there.

    Raises:
        ValueError: No source, standard input among them, or less than a row in a shard.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "molecules.smi").write_text("CCO ethanol\nC(C\nc1ccccc1O phenol\n")
        >>> embedder = MoleculeEmbedder(on_invalid="none", progress=False)
        >>> library = Library(folder / "out", (str(folder / "molecules.smi"),), shard_rows=2)
        >>> library.open(embedder)
        >>> for embedded in embed_shards(library.pending(), embedder):
        ...     print(embedded.batch.smiles, embedded.vectors.shape)
        ['CCO', 'C(C'] (2, 192)
        ['c1ccccc1O'] (1, 192)
        >>> library.close()
        {'rows': 3, 'read': 3, 'shards': 2, 'invalid': {'does not parse': 1}}
        >>> pq.read_table(library.folder).column_names
        ['smiles', 'name', 'embedding', 'embedding_error']
    """

    folder: Path
    sources: tuple[str, ...]
    shard_rows: int = 32768
    column: str | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.sources:
            raise ValueError("A library needs at least one source of molecules; got none.")
        object.__setattr__(self, "sources", tuple(expanded(self.sources)))
        whole_number("shard_rows", self.shard_rows, 1)
        if "-" in self.sources:
            raise ValueError(
                "Standard input cannot be read again to resume a library; save it to a file first, "
                "or embed it by the command `cmim embed -`."
            )

    def open(self, embedder: MoleculeEmbedder) -> None:
        """Make the folder, or check one that has shards; one process does it before the others.

        Raises:
            ValueError: As [`~Library.check`], or other files are in the folder.
            FileExistsError: There is a file of its name.
            PermissionError: Nothing can be written to it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        check_writable(self.folder)
        path = self.folder / SETTINGS_FILE
        names = [file.name for file in self.folder.glob("*.parquet")]
        if names and not (path.is_file() and all(map(_SHARD_NAME, names))):
            raise ValueError(
                f"{self.folder} holds Parquet files that are no library of ours. Give a new folder."
            )
        if not names:
            write_whole(path, json.dumps(self._settings(embedder), indent=2) + "\n")
        self.check(embedder)

    def check(self, embedder: MoleculeEmbedder) -> None:
        """Check that the folder was begun with these sources and this embedder.

        Raises:
            ValueError: It was begun with other ones, which are named.
        """
        path = self.folder / SETTINGS_FILE
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}. Give a new folder.") from error
        # the place of a checkpoint may change, as that of a source; its content may not
        settings = self._settings(embedder)
        differing = [k for k in settings if k != "checkpoint" and begun.get(k) != settings[k]]
        if differing:
            what = "; ".join(f"{k} was {begun.get(k)!r}, is {settings[k]!r}" for k in differing)
            raise ValueError(
                f"{self.folder} was begun with other settings: {what}. Go on with the same ones, "
                "or give a new folder."
            )

    def _settings(self, embedder: MoleculeEmbedder) -> dict[str, Any]:
        # in float32 the batches change a vector by 1e-6 of its norm, in half precision by more
        exact = embedder.model.dtype in (torch.float32, torch.float64)
        return {
            **provenance(embedder),
            "batch_tokens": None if exact else embedder.batch_tokens,
            "sources": [_content(name) for name in self.sources],
            "shard_rows": self.shard_rows,
            "column": self.column,
            "split": self.split,
        }

    def pending(self, rank: int = 0, world_size: int = 1) -> Iterator[Shard]:
        """Yield the shards that are not on disk, of those that process `rank` is to write."""
        settings = {"column": self.column, "split": self.split, "batch_rows": self.shard_rows}
        for number, source in enumerate(self.sources):

            def path(shard: int, number: int = number) -> Path:
                return self.folder / f"{number:05d}-{shard:07d}.parquet"

            def wanted(shard: int, number: int = number, path: Callable = path) -> bool:
                return (number + shard) % world_size == rank and not path(shard).is_file()

            try:
                for batch in read_batches(source, **settings, wanted=wanted):
                    yield path((batch.start - 1) // self.shard_rows), batch
            except NoRowsError as error:
                if len(self.sources) == 1:
                    raise
                logger.warning(str(error))  # one of many files may well be empty

    def close(self) -> dict[str, Any]:
        """Remove what killed processes left, and count: call it when every process has ended.

        Returns:
            `rows` written, `read` from the sources, `shards`, and `invalid` rows by kind.
        """
        remove_partials(self.folder)
        counts, invalid = Counter(rows=0, read=0, shards=0), Counter()
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                with pq.ParquetFile(path) as file:
                    about = json.loads(file.schema_arrow.metadata[_SHARD_KEY])
                    counts.update(rows=file.metadata.num_rows, read=about["rows"], shards=1)
            except (pa.ArrowException, TypeError, KeyError, ValueError) as error:
                raise ValueError(
                    f"{path} is damaged: {error}. Remove it and run again: that writes it anew."
                ) from error
            invalid.update(about["invalid"])
        return {**counts, "invalid": dict(invalid)}


def embed_shards(
    shards: Iterable[Shard], embedder: MoleculeEmbedder, num_workers: int = 0
) -> Iterator[EmbeddedBatch]:
    """Embed and write shards; each is yielded when it is on the disk.

    `num_workers` is as in [`~cmim_hf.embedding.tables.embedded_batches`].

    Raises:
        ValueError: An invalid row and `on_invalid="raise"`; the shards before it stay.
    """
    paths: deque[Path] = deque()

    def batches() -> Iterator[Batch]:
        for path, batch in shards:
            paths.append(path)
            yield batch

    for embedded in embedded_batches(batches(), embedder, num_workers):
        table = embedding_table(embedded, embedder)
        about = {
            "source": embedded.batch.source,
            "first_row": embedded.batch.start,
            "rows": embedded.encoded.number,
            "invalid": Rejects(embedded.encoded.rejects).counts,
        }
        metadata = {**table.schema.metadata, _SHARD_KEY: json.dumps(about).encode()}
        table = table.replace_schema_metadata(metadata)
        path = paths.popleft()
        with written_whole(path) as new, parquet_writer(new, table.schema) as writer:
            writer.write_table(table)
        yield embedded


def _content(source: str) -> dict[str, Any]:
    """What tells another source from the same one at another place.

    A file is known by its size and its first and last mebibyte.
    """
    if not os.path.isfile(source):
        return {"name": source}
    size = os.path.getsize(source)
    with open(source, "rb") as stream:
        digest = hashlib.sha256(stream.read(_ENDS))
        stream.seek(max(0, size - _ENDS))
        digest.update(stream.read(_ENDS))
    return {"name": os.path.basename(source), "bytes": size, "sha256_ends": digest.hexdigest()}
