# SPDX-License-Identifier: Apache-2.0
"""Tables of molecules with their embeddings, batch by batch: one file, or pieces of a library."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import count, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.invalid_rows import invalid_row, values_in_place
from ..data.row_encoder import EncodedRows, Reject, RowEncoder
from ..data.smiles_files import Batch, Row
from ..data.worker_pool import chunked, encode_in_order
from ..version import __version__
from .embedder import MoleculeEmbedder

EMBEDDING_COLUMN = "embedding"
ERROR_COLUMN = "embedding_error"
METADATA_KEY = b"cmim"


class EmbeddedBatch(NamedTuple):
    """Rows of a source with their vectors.

    `vectors` (rows, size) float32 has a row for each row of `columns`. `errors` gives for each the
    reason why it is invalid, else None; `rejects` are the invalid rows, also those left out.
    """

    batch: Batch
    columns: pa.Table
    vectors: np.ndarray
    errors: list[str | None]
    rejects: list[Reject]


def embedded_batches(
    batches: Iterable[Batch], embedder: MoleculeEmbedder, num_workers: int = 0
) -> Iterator[EmbeddedBatch]:
    """Embed batch after batch, in order, by the embedder's own settings.

    Args:
        batches: Read a bounded number ahead.
        embedder: Its `on_invalid` says what becomes of invalid rows.
        num_workers: Processes that canonicalise and tokenise beside this one (see
            [`~cmim_hf.data.worker_pool.encode_in_order`]); the result is the same.

    Raises:
        ValueError: An invalid row and `on_invalid="raise"`.
    """
    for batch, encoded in _encoded(batches, embedder.encoder(), num_workers):
        if encoded.rejects and embedder.on_invalid == "raise":
            raise invalid_row(encoded.rejects[0])
        vectors = embedder.embed_encoded(encoded)
        columns = batch.columns
        errors: list[str | None] = [None] * len(batch.smiles)
        for reject in encoded.rejects:
            errors[reject.row.number - batch.start] = reject.reason
        if embedder.on_invalid == "none":
            vectors = values_in_place(vectors, encoded, "none")
        elif encoded.rejects:
            columns = columns.take(pa.array(encoded.kept))
            errors = [None] * len(vectors)
        yield EmbeddedBatch(batch, columns, vectors, errors, encoded.rejects)


def embedding_table(embedded: EmbeddedBatch, embedder: MoleculeEmbedder) -> pa.Table:
    """The columns of the source, then `embedding`, a fixed-size list of float32.

    With `on_invalid="none"` a column `embedding_error` follows, null where the row is valid. The
    schema's metadata say, in JSON under the key `cmim`, how the vectors were made.

    Raises:
        ValueError: The source has a column of one of these names.
    """
    added = [EMBEDDING_COLUMN]
    if embedder.on_invalid == "none":
        added.append(ERROR_COLUMN)
    table = embedded.columns
    for name in added:
        if name in table.column_names:
            raise ValueError(
                f"{embedded.batch.source} has a column {name!r} already, which the result needs; "
                "rename or drop it first."
            )
    flat = pa.array(embedded.vectors.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, embedded.vectors.shape[1])
    table = table.append_column(EMBEDDING_COLUMN, vectors)
    if ERROR_COLUMN in added:
        table = table.append_column(ERROR_COLUMN, pa.array(embedded.errors, pa.string()))
    made = {**provenance(embedder), "column": embedded.batch.column}
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(made).encode()})


def provenance(embedder: MoleculeEmbedder) -> dict[str, Any]:
    """What made the vectors: versions, the checkpoint, its fingerprint, and the settings.

    The fingerprint is of the weights in their dtype.
    """
    made_by = {"cmim_hf": __version__}
    if embedder.canonicalize:
        made_by["rdkit"] = version("rdkit")
    return {
        **made_by,
        "checkpoint": embedder.checkpoint,
        "fingerprint": embedder.fingerprint,
        "dtype": str(embedder.model.dtype).removeprefix("torch."),
        "representation": embedder.representation,
        "pooling": embedder.pooling,
        "canonicalize": embedder.canonicalize,
        "on_invalid": embedder.on_invalid,
        "size": embedder.size,
    }


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer that does not look for repetition in the vectors, where there is none."""
    repetitive = [field.name for field in schema if field.name != EMBEDDING_COLUMN]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repetitive)


def count_kinds(rejects: Iterable[Reject]) -> Counter[str]:
    """The number of invalid rows of each kind."""
    return Counter(reject.kind for reject in rejects)


def _encoded(
    batches: Iterable[Batch], encoder: RowEncoder, num_workers: int
) -> Iterator[tuple[Batch, EncodedRows]]:
    """Each batch with its encoded rows; batches are cut into chunks for the workers' sake."""
    read: deque[Batch] = deque()

    def chunks() -> Iterator[list[Row]]:
        for batch in batches:
            read.append(batch)
            rows = map(Row._make, zip(repeat(batch.source), count(batch.start), batch.smiles))
            yield from chunked(rows)

    parts: list[EncodedRows] = []
    for part in encode_in_order(encoder, chunks(), num_workers):
        parts.append(part)
        if sum(each.number for each in parts) == len(read[0].smiles):
            yield read.popleft(), EncodedRows.concatenate(parts)
            parts = []


__all__ = [
    "EMBEDDING_COLUMN",
    "ERROR_COLUMN",
    "METADATA_KEY",
    "EmbeddedBatch",
    "count_kinds",
    "embedded_batches",
    "embedding_table",
    "parquet_writer",
    "provenance",
]
