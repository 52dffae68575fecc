# SPDX-License-Identifier: Apache-2.0
"""Nearest molecules by embedding: of a library on disk, or among vectors in memory.

Two vectors are compared by the cosine of what is left of them without the mean m of the library,

    s(q, v) = (q - m)·(v - m) / (|q - m| |v - m|),

as what all molecules share says nothing about which are alike.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from tqdm.auto import tqdm

from ..data.smiles_files import bare_smiles
from ..data.tables import find_column
from ..extras import needed
from .embedder import MoleculeEmbedder
from .tables import EMBEDDING_COLUMN, METADATA_KEY

if TYPE_CHECKING:
    import faiss

TRAINING_ROWS = 100_000
"""First vectors of a library, from which an index learns what it must."""

_BATCH_ROWS = 1 << 15  # compared at once
_CHOICES = ("representation", "pooling", "dim", "canonicalize", "standardize", "backend")


def nearest_neighbors(
    queries: np.ndarray, vectors: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `vectors` (rows, size) nearest to each query (queries, size), and the cosines.

    Rows of `vectors` that hold NaN, as of invalid molecules, come last, with a cosine of NaN.

    Returns:
        Both (queries, count), best first; fewer columns where there are fewer vectors.

    Raises:
        ValueError: A query that is not finite, or no row of `vectors` that is.

    Example:
        >>> vectors = np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
        >>> rows, cosines = nearest_neighbors(np.array([[3.0, 1.0]]), vectors, 2)
        >>> rows.tolist(), cosines.round(3).tolist()
        ([[0, 2]], [[0.707, 0.0]])
    """
    _check_queries(queries)
    valid = np.isfinite(vectors).all(axis=1)
    if not valid.any():
        raise ValueError(
            f"None of the {len(vectors)} rows of `vectors` is finite; give valid ones."
        )
    mean = vectors.mean(axis=0, where=valid[:, None])
    cosines = _directions(queries, mean) @ _directions(vectors, mean).T
    cosines[:, ~valid] = np.nan
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(cosines, rows, axis=1)


class EmbeddedLibrary:
    """Molecules with their embeddings in Parquet files, to look for neighbours in.

    They are read piece by piece: memory holds an index, if one is asked for, and else nothing that
    grows with the library.

    Args:
        source: A folder of files that [`~cmim_hf.embedding.sharded_library.embed_shards`] or
            [`~cmim_hf.embedding.embedding_files.save_embeddings`] wrote, or one of them.
        index: `"Flat"` compares with every vector. Other strings of `faiss.index_factory`, such as
            `"HNSW32"` or `"IVF1024,PQ16x4"`, are faster and may miss neighbours; of n inverted
            lists √n are searched.
        column: The column with the SMILES, if not the one that was embedded.

    Attributes:
        made: How the vectors were made, see [`~cmim_hf.embedding.tables.provenance`].
        rows: Molecules, invalid ones included.

    Raises:
        FileNotFoundError: No such file or folder, or no Parquet file in it.
        ValueError: A file that is damaged or without embeddings or SMILES, files that were made
            with different settings, or no row at all.
    """

    def __init__(
        self, source: str | os.PathLike, *, index: str = "Flat", column: str | None = None
    ) -> None:
        """Read the schemas of the files; no vector is read."""
        path = Path(source)
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"{path} is no Parquet file, nor a folder of such; give a library of embedded "
                "molecules."
            )
        self.index, self.column, self.made = index, column, {}
        self._groups: list[ds.ParquetFileFragment] = []
        try:
            fragments = list(ds.dataset(list(map(str, files)), format="parquet").get_fragments())
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{path} cannot be read as Parquet; a library is what `cmim embed -o "
                "library.parquet` or examples/embed_library.py wrote, a file or a folder of them "
                f"({str(error).splitlines()[0]})."
            ) from error
        for file in fragments:
            made = _settings(file)
            self.made = self.made or made
            keys = ("fingerprint", *_CHOICES, "size")
            if differing := [key for key in keys if made[key] != self.made[key]]:
                raise ValueError(
                    f"{files[0]} and {file.path} were made with another {' and '.join(differing)}, "
                    "so that their vectors cannot be compared; put them into different folders."
                )
            _text_columns(file, column)  # raises, if it has no SMILES, before anything is computed
            self._groups += file.split_by_row_group()
        self.rows = sum(group.row_groups[0].num_rows for group in self._groups)
        if not self.rows:
            raise ValueError(f"The library {path} is empty; embed at least one molecule.")

    def embedder(self, checkpoint: str | os.PathLike | None = None) -> MoleculeEmbedder:
        """What embeds queries as the library was embedded.

        Args:
            checkpoint: The library's, if it is elsewhere now.

        Raises:
            FileNotFoundError: The checkpoint is not where it was.
            ValueError: It has other weights than it had.
        """
        choices = {key: self.made[key] for key in _CHOICES}
        checkpoint = checkpoint or self.made["checkpoint"]
        dtype = self.made.get("dtype") if choices["backend"] == "torch" else None
        embedder = MoleculeEmbedder(checkpoint, dtype=dtype, **choices)
        if embedder.fingerprint != self.made["fingerprint"]:
            raise ValueError(
                f"The checkpoint {embedder.checkpoint} has the fingerprint {embedder.fingerprint}, "
                f"but {self.made['fingerprint']} made the library, so that their vectors cannot be "
                "compared. Give the library's own by `checkpoint`, or embed the library again."
            )
        return embedder

    def nearest(self, vectors: np.ndarray, count: int) -> list[pd.DataFrame]:
        """The molecules nearest to each query (queries, size), best first.

        Returns:
            For each query a table of `count` rows, or of as many as the library has or the index
            finds: `cosine`, `smiles` (as [`~cmim_hf.data.smiles_files.bare_smiles`] leaves it),
            `id` and `name` as text where the library has them, `file` and `row` in it, from 0.

        Raises:
            ValueError: The library has no valid row, a query is not finite, or faiss cannot build
                the index.
            ImportError: The index needs faiss, which is not installed.
        """
        _check_queries(vectors)
        mean, _ = self._mean_and_valid
        queries = _directions(vectors, mean)
        if self.index == "Flat":
            rows = self._compared(queries, count)
        else:
            _, rows = self._faiss.search(queries, count)  # -1 where it finds no more
        fetched = np.unique(rows[rows >= 0])
        molecules, kept = self._fetch(fetched)
        kept = _directions(kept, mean)  # an index may hold less; cosines are of whole vectors
        tables = []
        for query, own in zip(queries, np.sort(rows), strict=True):
            places = np.searchsorted(fetched, own[own >= 0])
            cosines = kept[places] @ query
            order = np.argsort(-cosines, kind="stable")
            table = molecules.iloc[places[order]].reset_index(drop=True)
            table.insert(0, "cosine", cosines[order])
            tables.append(table)
        return tables

    @property
    def invalid_rows(self) -> int:
        """Rows without a vector, which are no neighbours."""
        return self.rows - self._mean_and_valid[1]

    @cached_property
    def _mean_and_valid(self) -> tuple[np.ndarray, int]:
        """The mean of the valid vectors (size,), and their number."""
        total, valid = 0.0, 0
        for vectors, _ in self._valid("Averaging"):
            total, valid = total + vectors.sum(axis=0, dtype=np.float64), valid + len(vectors)
        if not valid:
            raise ValueError(f"All {self.rows} rows of the library are invalid; embed valid ones.")
        return total / valid, valid

    def _valid(self, purpose: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Valid vectors, some at a time, and their rows, from 0 through the library."""
        start = 0
        for group in tqdm(self._groups, purpose, unit=" row groups", delay=2, leave=False):
            for batch in group.to_batches(columns=[EMBEDDING_COLUMN], batch_size=_BATCH_ROWS):
                vectors = _vectors(batch.column(EMBEDDING_COLUMN))
                valid = np.flatnonzero(np.isfinite(vectors).all(axis=1))
                if len(valid):
                    yield vectors[valid], start + valid
                start += len(vectors)

    def _compared(self, queries: np.ndarray, count: int) -> np.ndarray:
        """The nearest rows (queries, count), in no order, by comparison with every vector."""
        mean, _ = self._mean_and_valid
        nearest, best = np.empty((len(queries), 0), int), np.empty((len(queries), 0), np.float32)
        for vectors, rows in self._valid("Comparing"):
            best = np.hstack([best, queries @ _directions(vectors, mean).T])
            nearest = np.hstack([nearest, np.tile(rows, (len(queries), 1))])
            kept = np.argpartition(-best, min(count, best.shape[1]) - 1, axis=1)[:, :count]
            best, nearest = (np.take_along_axis(each, kept, axis=1) for each in (best, nearest))
        return nearest

    @cached_property
    def _faiss(self) -> faiss.IndexIDMap:
        """The valid vectors under their rows, by inner product."""
        with needed(f"The index {self.index!r}", "search"):
            import faiss
        mean, _ = self._mean_and_valid
        try:
            index = faiss.index_factory(len(mean), self.index, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                valid = (row for vectors, _ in self._valid("Training the index") for row in vectors)
                index.train(_directions(np.stack(list(islice(valid, TRAINING_ROWS))), mean))
            if (lists := faiss.try_extract_index_ivf(index)) is not None:
                lists.nprobe = math.isqrt(lists.nlist)  # faiss by itself searches one
            index = faiss.IndexIDMap(index)
            for vectors, rows in self._valid("Filling the index"):
                index.add_with_ids(_directions(vectors, mean), rows)
        except RuntimeError as error:
            raise ValueError(
                f"faiss cannot build the index {self.index!r} of this library: {error}. Flat "
                "always works; faiss.index_factory knows others."
            ) from error
        return index

    def _fetch(self, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        """The molecules in some rows of the library, in ascending order, and their vectors."""
        frames, vectors, start, file_starts = [], [], 0, {}
        for group in self._groups:
            file_start = file_starts.setdefault(group.path, start)
            end = start + group.row_groups[0].num_rows
            chosen = rows[(rows >= start) & (rows < end)]
            if len(chosen):
                columns = _text_columns(group, self.column)
                columns[EMBEDDING_COLUMN] = ds.field(EMBEDDING_COLUMN)
                table = group.to_table(columns=columns).take(chosen - start)
                vectors.append(_vectors(table.column(EMBEDDING_COLUMN).combine_chunks()))
                frame = table.drop_columns([EMBEDDING_COLUMN]).to_pandas()
                frame["smiles"] = frame["smiles"].map(bare_smiles)
                frames.append(frame.assign(file=group.path, row=chosen - file_start))
            start = end
        return pd.concat(frames, ignore_index=True), np.concatenate(vectors)


def _check_queries(queries: np.ndarray) -> None:
    if len(rows := np.flatnonzero(~np.isfinite(queries).all(axis=1))):
        raise ValueError(
            f"Query {rows[0]} (counted from 0) holds numbers that are not finite, as vectors of "
            "invalid molecules do: leave it out."
        )


def _directions(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(v - mean) / |v - mean| for each row v; 0 for the mean itself, which has no direction."""
    centred = vectors - mean.astype(vectors.dtype)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)


def _settings(file: ds.ParquetFileFragment) -> dict[str, Any]:
    """How the vectors of a file were made."""
    schema = file.physical_schema
    metadata = schema.metadata or {}
    if EMBEDDING_COLUMN not in schema.names or METADATA_KEY not in metadata:
        raise ValueError(
            f"{file.path} is no file of embedded molecules as they are written: it needs a column "
            f"{EMBEDDING_COLUMN!r}, and {METADATA_KEY.decode()!r} in the metadata of its schema. "
            f"Its columns are {', '.join(map(repr, schema.names))}. Embed it first."
        )
    lacking = {"standardize": "none", "dim": None, "backend": "torch"}  # in older files
    return lacking | json.loads(metadata[METADATA_KEY])


def _text_columns(file: ds.ParquetFileFragment, column: str | None) -> dict[str, ds.Expression]:
    """The columns that are shown, as text: the SMILES, and `id` and `name` if there are such."""
    names = file.physical_schema.names
    chosen = {"smiles": find_column(names, column or _settings(file).get("column"), file.path)}
    chosen |= {name.lower(): name for name in names if name.lower() in ("id", "name")}
    return {shown: ds.field(name).cast(pa.string()) for shown, name in chosen.items()}


def _vectors(column: pa.FixedSizeListArray) -> np.ndarray:
    """(rows, size) float32; NaN where a molecule is invalid."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
