# SPDX-License-Identifier: Apache-2.0
"""Embed a library on a Ray cluster: its shards, written by tasks.

Each reads the sources itself and writes every n-th shard, as processes of one machine do.
Every node must see the sources, the folder of the library and the checkpoint under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..data.argument_checks import whole_number
from ..extras import needed
from .embedder import MoleculeEmbedder
from .sharded_library import Library, embed_shards

with needed("A library on a cluster", "ray"):
    import ray


def embed_library_on_ray(
    library: Library,
    embedder_arguments: dict[str, Any],
    *,
    num_actors: int,
    num_gpus: float = 0,
) -> Iterator[int]:
    """Write the pending shards of a library that is open.

    Ray is started, or its cluster found, as by `ray.init()`. What ran on a node that is lost begins
    again elsewhere, and writes what is not on the disk; what the cluster has no room for waits.

    Args:
        library: See [`~cmim_hf.embedding.sharded_library.Library.open`].
        embedder_arguments: Of [`~cmim_hf.embedding.embedder.MoleculeEmbedder`], for each actor.
        num_actors: Tasks that embed, each with a model and a CPU core of its own.
        num_gpus: Of each of them.

    Yields:
        The rows read by each of them, when it has ended.

    Raises:
        ValueError: What `embed_shards` or a source raised, on whatever node; or no actor.
    """
    whole_number("num_actors", num_actors, 1)
    paths = [*library.sources, embedder_arguments["checkpoint"]]  # tasks have folders of their own
    *sources, checkpoint = (os.path.abspath(p) if os.path.exists(p) else p for p in paths)
    library = replace(library, folder=library.folder.absolute(), sources=tuple(sources))
    embedder_arguments = {**embedder_arguments, "checkpoint": checkpoint}
    write = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=-1)(_write_share)
    ranks = range(num_actors)
    running = [write.remote(library, embedder_arguments, rank, num_actors) for rank in ranks]
    while running:
        (done,), running = ray.wait(running)
        try:
            yield ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # without the tracebacks of Ray's own


def _write_share(
    library: Library, embedder_arguments: dict[str, Any], rank: int, world_size: int
) -> int:
    """Embed and write every n-th shard; the rows that were read for them."""
    embedder = MoleculeEmbedder(**embedder_arguments, progress=False)
    library.check(embedder)  # this node may hold another checkpoint of the same name
    written = embed_shards(library.pending(rank, world_size), embedder)
    return sum(embedded.encoded.number for embedded in written)
