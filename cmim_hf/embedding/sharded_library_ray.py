# SPDX-License-Identifier: Apache-2.0
"""Embed a library on a Ray cluster: its shards, written by actors.

One task reads each source once and sends shards, one a row, to actors that hold the model. Every
node must see the folder of the library under the same path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from ..data.smiles_files import Batch
from .embedder import MoleculeEmbedder
from .sharded_library import Library, Shard, embed_shards


def embed_library_on_ray(
    library: Library,
    embedder_arguments: dict[str, Any],
    *,
    num_actors: int,
    num_gpus: float = 0,
) -> Iterator[int]:
    """Write the pending shards of a library that is open.

    Ray is started, or its cluster found, as by `ray.init()`. What it repeats after the loss of a
    node is a whole shard, which replaces its file.

    Args:
        library: See [`~cmim_hf.embedding.sharded_library.Library.open`].
        embedder_arguments: Of [`~cmim_hf.embedding.embedder.MoleculeEmbedder`], for each actor;
            every node must have the checkpoint, too.
        num_actors: Actors that embed, each with a model and a CPU core of its own.
        num_gpus: Of each actor.

    Yields:
        The rows read of each shard that is on disk, in any order.

    Raises:
        ValueError: What `embed_shards` or a source raised, on whatever node.
    """
    library = library.absolute()
    checkpoint = embedder_arguments["checkpoint"]
    if os.path.isdir(checkpoint):
        embedder_arguments = {**embedder_arguments, "checkpoint": os.path.abspath(checkpoint)}
    sources = ray.data.from_items([{"source": number} for number in range(len(library.sources))])
    sources.context.target_max_block_size = 1  # pass on each shard by itself
    # without a CPU of its own the reader neither waits for the actors nor is made part of one
    shards = sources.map_batches(_read, batch_size=1, fn_args=(library,), num_cpus=0)
    written = shards.map_batches(
        _Writer,
        fn_constructor_args=(library, embedder_arguments),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_cpus=1,
        num_gpus=num_gpus,
    )
    for row in written.iter_rows():
        if row["error"] is not None:
            raise ValueError(row["error"])
        yield row["rows"]


# What goes wrong with a row or a source travels as data: Ray would bury it under stacks of its own.
_SHARD = pa.schema(
    {
        "path": pa.string(),
        "source": pa.string(),
        "start": pa.int64(),
        "column": pa.string(),
        "smiles": pa.large_list(pa.large_string()),
        "columns": pa.large_binary(),
        "error": pa.string(),
    }
)
_WRITTEN = pa.schema({"rows": pa.int64(), "error": pa.string()})


def _read(sources: dict[str, Any], library: Library) -> Iterator[pa.Table]:
    for number in sources["source"].tolist():
        try:
            for path, batch in library.pending_of(number):
                content = pa.BufferOutputStream()
                with pa.ipc.new_stream(content, batch.columns.schema) as stream:
                    stream.write_table(batch.columns)
                row = {
                    "path": str(path),
                    "source": batch.source,
                    "start": batch.start,
                    "column": batch.column,
                    "smiles": batch.smiles,
                    "columns": content.getvalue().to_pybytes(),
                }
                yield pa.Table.from_pylist([row], _SHARD)
        except (ValueError, OSError) as error:
            yield pa.Table.from_pylist([{"error": str(error)}], _SHARD)


class _Writer:
    """Embeds and writes shards; the model is loaded once an actor."""

    def __init__(self, library: Library, embedder_arguments: dict[str, Any]) -> None:
        self.embedder = MoleculeEmbedder(**embedder_arguments, progress=False)
        library.check(self.embedder)  # this node may hold another checkpoint of the same name

    def __call__(self, shards: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._write(row) for row in shards.to_pylist()], _WRITTEN)

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["error"] is not None:
            return {"error": row["error"]}
        try:
            (embedded,) = embed_shards([_shard(row)], self.embedder)
        except (ValueError, OSError) as error:
            return {"error": str(error)}
        return {"rows": len(embedded.batch.smiles)}


def _shard(row: dict[str, Any]) -> Shard:
    with pa.ipc.open_stream(row["columns"]) as stream:
        columns = stream.read_all()
    batch = Batch(row["source"], row["start"], row["smiles"], columns, row["column"])
    return Shard(Path(row["path"]), batch)


__all__ = ["embed_library_on_ray"]
