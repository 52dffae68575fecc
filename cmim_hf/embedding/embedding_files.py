# SPDX-License-Identifier: Apache-2.0
"""Embed a source of molecules into one file: Parquet with its other columns, or a NumPy array."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..atomic_files import check_output, written_whole
from ..data.row_encoder import Reject
from ..data.smiles_files import Batch
from .embedder import MoleculeEmbedder
from .tables import EmbeddedBatch, embedded_batches, embedding_table, parquet_writer

OUTPUT_SUFFIXES = (".parquet", ".npy")


@dataclass
class EmbeddedFile:
    """What was read and written: rows, invalid rows by kind, and the first few of these."""

    read: int = 0
    written: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    first_rejects: list[Reject] = field(default_factory=list)


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

    def counted() -> Iterator[EmbeddedBatch]:
        for embedded in embedded_batches(batches, embedder, num_workers):
            yield embedded
            rejects = embedded.encoded.rejects
            done.read += embedded.encoded.number
            done.written += len(embedded.vectors)
            done.invalid.update(reject.kind for reject in rejects)
            done.first_rejects = (done.first_rejects + rejects)[:3]
            bar.update(embedded.encoded.number)

    with bar, written_whole(path) as new:
        write(counted(), embedder, new)
        if done.read == 0:
            raise ValueError(f"There are no rows to write to {path}; give at least one molecule.")
    return done


def _write_parquet(parts: Iterator[EmbeddedBatch], embedder: MoleculeEmbedder, path: Path) -> None:
    tables = (embedding_table(embedded, embedder) for embedded in parts)
    first = next(tables, None)
    if first is not None:
        with parquet_writer(path, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)


def _write_npy(parts: Iterator[EmbeddedBatch], embedder: MoleculeEmbedder, path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (0, embedder.size)}
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)  # with room for the number to grow
        rows = 0
        for embedded in parts:
            stream.write(embedded.vectors.astype("<f4", copy=False).tobytes())
            rows += len(embedded.vectors)
        stream.seek(0)
        np.lib.format.write_array_header_1_0(stream, header | {"shape": (rows, embedder.size)})
