# SPDX-License-Identifier: Apache-2.0
"""One job by one process with one thread or all, and by several processes that share the cores."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import transformers

from cmim_hf import MoleculeEmbedder
from cmim_hf.training.cross_rank_gather import leave_process_group

from .roofline import clock
from .throughput_training import LENGTH, Setting, one_length, train

WORKS = ("training", "embedding")


class Job(NamedTuple):
    """What the processes share.

    Attributes:
        setting: of the training, on the CPU; its batch is that of all processes together.
        checkpoint: what embeds.
        smiles: what is embedded.
    """

    setting: Setting
    checkpoint: str
    smiles: Sequence[str]


class Ranks:
    """Processes that work together, idle between visits; a context that ends them.

    Args:
        job: what they share.
        processes: how many; 1 communicates with nobody.
        threads: of each.
    """

    def __init__(self, job: Job, processes: int, threads: int) -> None:
        """Start them."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cmim_hf.training.trainer", "cmim_hf.embedding.embedder"])
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(job, rank, processes, threads, store, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Ranks:
        """Return the processes."""
        return self

    def visit(self, work: str) -> tuple[int, float]:
        """Molecules of all together, and seconds of the slowest.

        Raises:
            RuntimeError: One of them has died.
        """
        try:
            for pipe in self._pipes:
                pipe.send(work)
            molecules, seconds = zip(*(pipe.recv() for pipe in self._pipes), strict=True)
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(f"A process has died in {work}; it has said above why.") from error
        return sum(molecules), max(seconds)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Let them end, or end them where something went wrong."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if kind is None:
                pipe.send(None)
            else:
                process.terminate()
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            process.join()
            pipe.close()
        self._folder.cleanup()


def shared_ways(numbers: Sequence[int], cores: int) -> list[tuple[int, int]]:
    """Ways to use `cores`, each (processes, threads of each).

    One process with one thread, one with a thread for each core, and `numbers` of processes that
    share the cores out among them, with one thread each where they are more than the cores.
    """
    shares = ((number, max(1, cores // number)) for number in numbers)
    return list(dict.fromkeys([(1, 1), (1, cores), *shares]))


def process_rows(job: Job, numbers: Sequence[int], cores: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each work and way: molecules a second, and how many times the others' that is.

    The ways take turns, in another order each round. Each keeps its processes, which sleep
    meanwhile.

    Args:
        job: what is shared.
        numbers: of processes.
        cores: of the machine.
        rounds: medians are over them.
    """
    ways = shared_ways(numbers, cores)
    rates = {(work, way): np.empty(rounds) for work in WORKS for way in ways}
    order, visits = np.random.default_rng(0), list(rates)
    started: dict[tuple[int, int], Ranks] = {}
    with ExitStack() as stack:
        for way in ways:
            started[way] = stack.enter_context(Ranks(job, *way))
        for turn in range(rounds):
            for place in order.permutation(len(visits)):
                work, way = visits[place]
                molecules, seconds = started[way].visit(work)
                rates[work, way][turn] = molecules / seconds
    rows = []
    for (work, (processes, threads)), reached in rates.items():
        median = float(np.median(reached))
        rows.append(
            {
                "work": work,
                "processes": processes,
                "threads of each": threads,
                "molecules/s": median,
                "(max - min) / median": float(np.ptp(reached)) / median,
                "times 1 process, 1 thread": median / float(np.median(rates[work, (1, 1)])),
                "times 1 process, all threads": median / float(np.median(rates[work, (1, cores)])),
            }
        )
    return rows


def _serve(job: Job, rank: int, processes: int, threads: int, store: str, pipe: Connection) -> None:
    """Be one of the processes: do what the pipe names, and send its own molecules and seconds."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    setting = job.setting._replace(batch_size=job.setting.batch_size // processes)
    molecules = one_length(job.setting, LENGTH)
    embedder = MoleculeEmbedder(
        job.checkpoint, device=setting.device, canonicalize=False, progress=False
    )
    if processes > 1:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        os.environ.update(zip(names, map(str, (rank, rank, processes, processes)), strict=True))
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=processes
        )
    smiles = job.smiles[rank::processes]
    embedder.embed(smiles[:256])
    seeds = count()

    def embed() -> None:
        embedder.embed(smiles)
        if processes > 1:
            dist.barrier()

    while work := pipe.recv():
        if work == "training":
            rate, lengths = train(setting, molecules, next(seeds))
            pipe.send((len(lengths), len(lengths) / rate))
        else:
            if processes > 1:
                dist.barrier()
            pipe.send((len(smiles), clock(embed)))
    if processes > 1:
        leave_process_group()
