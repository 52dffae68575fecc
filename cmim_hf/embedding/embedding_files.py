# SPDX-License-Identifier: Apache-2.0
"""Embed a source of molecules into one file: Parquet with its other columns, or a NumPy array."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from tqdm.auto import tqdm

from ..atomic_files import check_output, written_whole
from ..data.row_encoder import Reject
from ..data.smiles_files import Batch
from .embedder import MoleculeEmbedder
from .tables import (
    EmbeddedBatch,
    count_kinds,
    embedded_batches,
    embedding_table,
    parquet_writer,
)

OUTPUT_SUFFIXES = (".parquet", ".npy")


@dataclass
class EmbeddedFile:
    """What was read and written: rows, invalid rows by kind, and the first few of these."""

    read: int = 0
    written: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    first_rejects: list[Reject] = field(default_factory=list)

    def add(self, embedded: EmbeddedBatch) -> None:
        """Count a batch in."""
        self.read += len(embedded.batch.smiles)
        self.written += len(embedded.vectors)
        self.invalid.update(count_kinds(embedded.rejects))
        self.first_rejects = (self.first_rejects + embedded.rejects)[:3]


def save_embeddings(
    batches: Iterable[Batch],
    embedder: MoleculeEmbedder,
    output: str | os.PathLike,
    *,
    num_workers: int = 0,
    progress: bool = True,
) -> EmbeddedFile:
    """Embed batches into one file, which appears whole or not at all; memory does not grow.

    Args:
        batches: Of one source, from [`~cmim_hf.data.smiles_files.read_batches`].
        embedder: Its settings say what is written.
        output: `.parquet` keeps every column of the source and adds `embedding` (see
            [`~cmim_hf.embedding.tables.embedding_table`]); `.npy` holds the vectors alone,
            (rows, size) in float32. A file of that name is replaced.
        num_workers: As in [`~cmim_hf.embedding.tables.embedded_batches`].
        progress: Show a bar when it takes more than two seconds.

    Raises:
        ValueError: Another suffix, no rows, or an invalid row and `on_invalid="raise"`.
        FileNotFoundError: The folder of `output` does not exist.
    """
    path = check_output(output, OUTPUT_SUFFIXES)
    done = EmbeddedFile()
    bar = tqdm(desc="Embedding", unit=" rows", delay=2.0, disable=not progress)
    write = _write_parquet if path.suffix.lower() == ".parquet" else _write_npy

    def counted() -> Iterable[EmbeddedBatch]:
        for embedded in embedded_batches(batches, embedder, num_workers):
            yield embedded
            done.add(embedded)
            bar.update(len(embedded.batch.smiles))

    with bar, written_whole(path) as new:
        write(counted(), embedder, new)
        if done.read == 0:
            raise ValueError(f"There are no rows to write to {path}; give at least one molecule.")
    return done


def _write_parquet(parts: Iterable[EmbeddedBatch], embedder: MoleculeEmbedder, path: Path) -> None:
    with ExitStack() as stack:
        writer = None
        for embedded in parts:
            table = embedding_table(embedded, embedder)
            if writer is None:
                writer = stack.enter_context(parquet_writer(path, table.schema))
            writer.write_table(table)


def _write_npy(parts: Iterable[EmbeddedBatch], embedder: MoleculeEmbedder, path: Path) -> None:
    with open(path, "wb") as stream:
        _write_header(stream, 0, embedder.size)
        rows = 0
        for embedded in parts:
            stream.write(embedded.vectors.tobytes())
            rows += len(embedded.vectors)
        stream.seek(0)
        _write_header(stream, rows, embedder.size)


def _write_header(stream: IO[bytes], rows: int, size: int) -> None:
    """NumPy leaves room in the header for the number of rows to grow."""
    kind = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    header = {"descr": kind, "fortran_order": False, "shape": (rows, size)}
    np.lib.format.write_array_header_1_0(stream, header)


__all__ = ["OUTPUT_SUFFIXES", "EmbeddedFile", "save_embeddings"]
