# SPDX-License-Identifier: Apache-2.0
"""Tables of molecules with their embeddings, batch by batch: one file, or pieces of a library."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.argument_checks import whole_number
from ..data.invalid_rows import invalid_row, values_in_place
from ..data.row_encoder import EncodedRows
from ..data.smiles_files import Batch, Row
from ..data.worker_pool import CHUNK_ROWS, chunked, encode_in_order
from ..version import __version__
from .embedder import MoleculeEmbedder
from .embedding_processes import EMBEDDED_ROWS, RowEmbedder

EMBEDDING_COLUMN = "embedding"
METADATA_KEY = b"cmim"


class EmbeddedBatch(NamedTuple):
    """Rows of a source, which of them are usable, and their vectors (rows, size) in float32.

    Under `on_invalid="none"` the vectors are of all rows, NaN where one is invalid; else they are
    of the usable ones.
    """

    batch: Batch
    encoded: EncodedRows
    vectors: np.ndarray


def embedded_batches(
    batches: Iterable[Batch], embedder: MoleculeEmbedder, num_workers: int = 0
) -> Iterator[EmbeddedBatch]:
    """Embed batch after batch, in order, by the embedder's own settings.

    Args:
        batches: Read a bounded number ahead.
        embedder: Of the vectors.
        num_workers: Processes (see [`~cmim_hf.data.worker_pool.encode_in_order`]) that do all but
            read and write where a CPU embeds, sharing torch's threads; beside an accelerator, and
            with `backend="onnx"`, they canonicalise and tokenise. 0 does it all in this process.

    Raises:
        ChildProcessError: A worker ended before its time.
        ValueError: An invalid row and `on_invalid="raise"`.
    """
    read: deque[tuple[Batch, int]] = deque()
    shared = whole_number("num_workers", num_workers, 0) > 0 and RowEmbedder.suits(embedder)
    work = RowEmbedder(embedder, num_workers) if shared else embedder.encoder()

    def chunks() -> Iterator[list[Row]]:
        """The rows of the batches, in pieces that workers share."""
        for batch in batches:
            pieces = list(chunked(batch.rows(), EMBEDDED_ROWS if shared else CHUNK_ROWS))
            read.append((batch, len(pieces)))
            yield from pieces

    parts = encode_in_order(work, chunks(), num_workers)
    for first in parts:
        batch, pieces = read.popleft()
        done, found = [], []
        for part in chain([first], islice(parts, pieces - 1)):
            encoded, *vectors = part if shared else (part,)
            if encoded.rejects and embedder.on_invalid == "raise":
                raise invalid_row(encoded.rejects[0])
            done.append(encoded)
            found += vectors
        encoded = EncodedRows.concatenate(done)
        vectors = np.concatenate(found) if shared else embedder.embed_encoded(encoded)
        yield EmbeddedBatch(batch, encoded, values_in_place(vectors, encoded, embedder.on_invalid))


def embedding_table(embedded: EmbeddedBatch, embedder: MoleculeEmbedder) -> pa.Table:
    """The columns of the source, then `embedding`, a fixed-size list of float32.

    With `on_invalid="none"` a column `embedding_error` follows. The schema's metadata say, in JSON
    under the key `cmim`, how the vectors were made. The error is that of `result_table`.
    """
    batch, encoded, vectors = embedded
    flat = pa.array(vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = result_table(batch, encoded, {EMBEDDING_COLUMN: column}, embedder.on_invalid)
    made = {**provenance(embedder), "column": batch.column}
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(made).encode()})


def result_table(
    batch: Batch, encoded: EncodedRows, results: dict[str, pa.Array], on_invalid: str
) -> pa.Table:
    """The columns of a source and what was computed of its rows.

    Args:
        batch: Of the source.
        encoded: Says which of its rows are usable.
        results: New columns, of all rows under `on_invalid="none"`, else of the usable ones.
        on_invalid: With `"none"` a last column, called as the first of the results with `_error`
            behind, has the reason where a row is invalid and null where it is not.

    Raises:
        ValueError: The source has a column of one of these names.
    """
    table = batch.columns
    if on_invalid == "none":
        errors: list[str | None] = [None] * encoded.number
        for reject in encoded.rejects:
            errors[reject.row.number - batch.start] = reject.reason
        results = {**results, f"{next(iter(results))}_error": pa.array(errors, pa.string())}
    elif encoded.rejects:
        table = table.take(pa.array(encoded.kept))
    for name, values in results.items():
        if name in table.column_names:
            raise ValueError(
                f"{batch.source} has a column {name!r} already, which the result needs; rename or "
                "drop it first."
            )
        table = table.append_column(name, values)
    return table


def provenance(embedder: MoleculeEmbedder) -> dict[str, Any]:
    """What made the vectors: versions, the checkpoint, its fingerprint, and the settings.

    The fingerprint is of the weights in their dtype.
    """
    settings = ("representation", "pooling", "dim", "canonicalize", "standardize", "on_invalid")
    backend = {} if embedder.backend == "torch" else {"backend": embedder.backend}
    return {
        "cmim_hf": __version__,
        **({"rdkit": version("rdkit")} if embedder.canonicalize else {}),
        "checkpoint": embedder.checkpoint,
        "fingerprint": embedder.fingerprint,
        "dtype": str(embedder.model.dtype).removeprefix("torch."),
        **backend,
        **{name: getattr(embedder, name) for name in (*settings, "size")},
    }


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer that does not look for repetition in the vectors, where there is none."""
    repetitive = [field.name for field in schema if field.name != EMBEDDING_COLUMN]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repetitive)
