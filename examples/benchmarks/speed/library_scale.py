# SPDX-License-Identifier: Apache-2.0
"""What the bookkeeping of a library of vectors costs, by the number of its shards.

    python -m examples.benchmarks.speed.library_scale --shards 1000 10000 100000

A shard is written once, with a single molecule, and stands in the folder under as many names (hard
links), so that nothing counts but the files: the table has the processor's time and the memory of
going on with a library that is complete, of closing it, and of opening and searching it. Behind it
stands what that makes of a million shards, and of 10⁹ molecules.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.embedding.nearest import EmbeddedLibrary
from cmim_hf.embedding.sharded_library import Library, embed_shards

from ..evidence import RESULTS, table, write

MOST_LINKS = 50_000  # to one file; ext4 allows 65,000
STEPS = {
    "resume": "go on: nothing is missing",
    "close": "close: count rows",
    "open": "open, to search",
    "search": "one search",
}


@dataclass
class Arguments:
    """How many shards."""

    shards: list[int] = field(
        default_factory=lambda: [1_000, 4_000, 16_000], metadata={"help": "Of each library."}
    )
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    only: int | None = field(default=None, metadata={"help": "Print this size's figures, and end."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def measure(shards: int, checkpoint: str) -> dict[str, float]:
    """Seconds of CPU of each step, and megabytes that the opened library takes."""
    embedder = MoleculeEmbedder(checkpoint, on_invalid="none", progress=False)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "molecules.smi")
        source.write_text("CCO\n" * shards)
        library = Library(Path(folder, "library"), (str(source),), shard_rows=1)
        library.open(embedder)
        pending = embed_shards(library.pending(), embedder)
        next(pending)
        pending.close()
        fill(library.folder, shards)
        found = {"resume": seconds(lambda: [library.open(embedder), *library.pending()])}
        found["close"] = seconds(library.close)
        before = memory()
        opened: list[EmbeddedLibrary] = []
        found["open"] = seconds(lambda: opened.append(EmbeddedLibrary(library.folder)))
        found["memory"] = memory() - before
        query = embedder.embed(["CCO"])
        found["search"] = seconds(lambda: opened[0].nearest(query, 3))
    return found


def fill(folder: Path, shards: int) -> None:
    """Give the one shard as many names."""
    (shard,) = folder.glob("*.parquet")
    content, source = shard.read_bytes(), shard
    for number in range(1, shards):
        path = folder / f"00000-{number:07d}.parquet"
        if number % MOST_LINKS:
            os.link(source, path)
        else:
            path.write_bytes(content)
            source = path


def seconds(work: Callable[[], Any]) -> float:
    """Of the processor, by all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def memory() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def per_shard(found: dict[str, dict[str, float]], what: str) -> float:
    """By the difference of the two largest libraries, so that what is once is out."""
    (small, least), (large, most) = sorted((int(n), each[what]) for n, each in found.items())[-2:]
    return (most - least) / (large - small)


def lines(found: dict[str, dict[str, float]], rows: int) -> Iterator[str]:
    """The tables."""
    yield "# Bookkeeping of a library\n"
    yield "Seconds of one core, by the number of shards (one molecule in each: the files alone):\n"
    names = {**STEPS, "memory": "memory of the opened library, MB"}
    header = ["shards", *names.values()]
    yield table(
        header, [[f"{int(n):,}", *(f"{e[k]:.2f}" for k in names)] for n, e in found.items()]
    )
    cost = {name: per_shard(found, name) for name in names}
    yield "\nWhat the last two make of more:\n"
    large = {"1,000,000": 1_000_000, f"{10**9 // rows + 1:,} (10⁹ molecules)": 10**9 // rows + 1}
    yield table(header, [[n, *(f"{c * k:,.0f}" for c in cost.values())] for n, k in large.items()])
    yield (
        f"\nA shard has {rows:,} molecules if nothing else is said. Searching reads every vector "
        "besides, or builds an index of faiss, which is not in these figures.\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each size in a process of its own, and write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if args.only is not None:
        print(json.dumps(measure(args.only, args.checkpoint)))
        return
    if len(args.shards) < 2:
        raise SystemExit("--shards takes two numbers or more: costs are told by a difference.")
    found = {}
    for shards in args.shards:
        own = [sys.executable, "-m", "examples.benchmarks.speed.library_scale"]
        own += ["--only", str(shards), "--checkpoint", args.checkpoint]
        ended = subprocess.run(own, stdout=subprocess.PIPE, text=True, check=True)
        found[str(shards)] = json.loads(ended.stdout.splitlines()[-1])
    rows = Library.__dataclass_fields__["shard_rows"].default
    write("library_scale", args.output, {"shards": found}, "\n".join(lines(found, rows)))


if __name__ == "__main__":
    main()
