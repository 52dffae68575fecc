# SPDX-License-Identifier: Apache-2.0
"""Embed a library on a Ray cluster: its shards, written by actors.

Each actor reads the sources itself and writes every n-th shard, as processes of one machine do.
Every node must see the sources, the folder of the library and the checkpoint under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

try:
    import ray
except ImportError as error:
    raise ImportError("Ray is not installed here. Run: pip install 'cmim-hf[ray]'") from error

from .embedder import MoleculeEmbedder
from .sharded_library import Library, embed_shards


def embed_library_on_ray(
    library: Library,
    embedder_arguments: dict[str, Any],
    *,
    num_actors: int,
    num_gpus: float = 0,
) -> Iterator[int]:
    """Write the pending shards of a library that is open.

    Ray is started, or its cluster found, as by `ray.init()`. An actor whose node is lost begins
    again elsewhere, and writes what is not on the disk; one that the cluster has no room for waits
    for another to end.

    Args:
        library: See [`~cmim_hf.embedding.sharded_library.Library.open`].
        embedder_arguments: Of [`~cmim_hf.embedding.embedder.MoleculeEmbedder`], for each actor.
        num_actors: Actors that embed, each with a model and a CPU core of its own.
        num_gpus: Of each actor.

    Yields:
        The rows read of each shard that is on disk, in any order.

    Raises:
        ValueError: What `embed_shards` or a source raised, on whatever node; or no actor.
    """
    if num_actors < 1:
        raise ValueError(f"num_actors is at least 1, not {num_actors}.")
    paths = [*library.sources, embedder_arguments["checkpoint"]]  # actors have folders of their own
    *sources, checkpoint = (os.path.abspath(p) if os.path.exists(p) else p for p in paths)
    library = replace(library, folder=library.folder.absolute(), sources=tuple(sources))
    embedder_arguments = {**embedder_arguments, "checkpoint": checkpoint}
    kind = ray.remote(num_cpus=1, num_gpus=num_gpus, max_restarts=-1, max_task_retries=-1)(_Writer)
    actors = [
        kind.remote(library, embedder_arguments, rank, num_actors) for rank in range(num_actors)
    ]
    running = {actor.write.remote(): actor for actor in actors}
    del actors  # one that has nothing to write ends, and makes room, when it is forgotten
    while running:
        (done,), _ = ray.wait(list(running))
        actor = running.pop(done)
        try:
            rows = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # without the tracebacks of Ray's own
        if rows is not None:
            running[actor.write.remote()] = actor
            yield rows


class _Writer:
    """Embeds and writes every n-th shard, one a call; the model is loaded once an actor."""

    def __init__(
        self, library: Library, embedder_arguments: dict[str, Any], rank: int, world_size: int
    ) -> None:
        self.rows = self._write_all(library, embedder_arguments, rank, world_size)

    def write(self) -> int | None:
        """The rows read of the shard that was written; None where all are."""
        return next(self.rows, None)

    @staticmethod
    def _write_all(
        library: Library, embedder_arguments: dict[str, Any], rank: int, world_size: int
    ) -> Iterator[int]:
        embedder = MoleculeEmbedder(**embedder_arguments, progress=False)
        library.check(embedder)  # this node may hold another checkpoint of the same name
        for embedded in embed_shards(library.pending(rank, world_size), embedder):
            yield embedded.encoded.number
