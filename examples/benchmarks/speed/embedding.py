# SPDX-License-Identifier: Apache-2.0
"""From a text file to Parquet: where the time goes, how much of two cores is used, how much memory.

    python -m examples.benchmarks.speed.embedding --source molecules.smi --rows 200000 \
        --checkpoints small tiny --memory_rows 50000 200000
    python -m examples.benchmarks.speed.embedding --source molecules.smi --exported small-int8

End to end is what a user waits for: read the file, check and canonicalise, tokenise, batch, embed,
write shards; and start the processes, where there are some. One process and several take turns;
rates are medians over the rounds. What the cores would give if none ever waited, the limit, is
their number over the seconds that a molecule costs one core, to read and to embed, each timed by
itself on the first rows. Fingerprints of the same rows stand beside. Memory is the peak of a
process of its own for each number of rows.

What `cmim export` wrote is embedded by onnxruntime; the results are then `embedding-exported`.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.allocator import keep_freed_memory
from cmim_hf.data.row_encoder import EncodedRows
from cmim_hf.data.smiles_files import Row
from cmim_hf.embedding.sharded_library import Library, embed_shards

from ..evidence import DATA, first, rounded, table, write
from ..quality.molecule_tasks import descriptors, ecfp4
from .peak_memory import held
from .roofline import clock

EXAMPLES = Path(__file__).resolve().parents[2]
SLOW_ROWS = 1000  # of descriptors, which take long


@dataclass
class Arguments:
    """What to measure."""

    source: str = field(
        default=str(DATA / "moses_train.smi.gz"),
        metadata={"help": "Canonical molecules."},
    )
    rows: int = field(default=5000, metadata={"help": "How many of them."})
    few_rows: int = field(default=20000, metadata={"help": "Of them, for each part by itself."})
    shard_rows: int = field(default=32768, metadata={"help": "Rows of a shard."})
    checkpoints: list[str] = field(
        default_factory=lambda: ["small"], metadata={"help": "Folders, Hub ids or names."}
    )
    exported: list[str] = field(
        default_factory=list, metadata={"help": "Folders of `cmim export`, beside them."}
    )
    representations: list[str] = field(
        default_factory=lambda: ["informative", "latent"],
        metadata={"help": "See MoleculeEmbedder."},
    )
    workers: int = field(
        default=torch.get_num_threads(), metadata={"help": "Processes that share the work."}
    )
    rounds: int = field(default=2, metadata={"help": "In turns."})
    memory_rows: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of rows to measure the memory of."}
    )
    output: str | None = field(default=None, metadata={"help": "Folder of embedding.json and .md."})


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    needed = max([args.rows, *args.memory_rows])
    smiles = first(args.source, needed)
    if len(smiles) < needed:
        sys.exit(f"{args.source} has {len(smiles):,} rows; {needed:,} are asked for.")
    keep_freed_memory()
    few = smiles[: args.few_rows]
    ways = [(name, "torch") for name in args.checkpoints]
    ways += [(folder, "onnx") for folder in args.exported]
    ends = [
        measure(*way, representation, smiles[: args.rows], few, args)
        for way in ways
        for representation in args.representations
    ]
    beside = fingerprints(few, args.rounds)
    memory = [
        {"rows": f"{rows:,}", "peak MiB": peak_mebibytes(args.checkpoints[0], smiles[:rows])}
        for rows in args.memory_rows
    ]
    results = {
        "threads": torch.get_num_threads(),
        "rows": args.rows,
        "workers": args.workers,
        "ends": ends,
        "beside": beside,
        "memory": memory,
    }
    if args.output:
        name = "embedding-exported" if args.exported else "embedding"
        write(name, args.output, results, page(results))
    else:
        print(page(results))


def measure(
    checkpoint: str,
    backend: str,
    representation: str,
    smiles: list[str],
    few: list[str],
    args: Arguments,
) -> dict[str, Any]:
    """A row of the table: rates of the parts, of the whole by one process and by several."""
    opened = partial(
        MoleculeEmbedder,
        checkpoint,
        representation=representation,
        on_invalid="none",
        progress=False,
        backend=backend,
    )
    embedder = opened()
    read = embedder.encoder()
    encoded = read([Row("list", number, text) for number, text in enumerate(few)])

    def rate(work: Callable[[], object]) -> float:
        return len(few) / statistics.median(clock(work) for _ in range(args.rounds))

    reads = rate(partial(in_pieces, read, few))
    embeds = rate(partial(embedder.embed_encoded, encoded))
    with one_thread():
        # onnxruntime keeps the number of threads that it began with
        embeds_alone = rate(partial(opened().embed_encoded, encoded))
    limit = torch.get_num_threads() / (1 / reads + 1 / embeds_alone)
    time_library(embedder, few[:1000], args)
    turns = [
        [time_library(embedder, smiles, args, n) for n in (0, args.workers)]
        for _ in range(args.rounds)
    ]
    one, several = zip(*turns, strict=True)
    return {
        "checkpoint": Path(checkpoint).name,
        "vectors": representation,
        "read, one core": reads,
        "embed, one core": embeds_alone,
        "embed, all threads": embeds,
        "file to shards, one process": len(smiles) / statistics.median(one),
        "by processes": len(smiles) / statistics.median(several),
        "times": statistics.median(a / b for a, b in turns),
        "(max - min) / median": (max(several) - min(several)) / statistics.median(several),
        "share of the limit": len(smiles) / statistics.median(several) / limit,
    }


def in_pieces(read: Callable[[list[Row]], EncodedRows], smiles: list[str], size: int = 512) -> None:
    """Read molecules as files are read."""
    for start in range(0, len(smiles), size):
        read(
            [Row("list", number, text) for number, text in enumerate(smiles[start : start + size])]
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def time_library(
    embedder: MoleculeEmbedder, smiles: list[str], args: Arguments, num_workers: int = 0
) -> float:
    """Seconds from the file to the shards on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "molecules.smi"
        source.write_text("\n".join(smiles) + "\n")
        library = Library(Path(folder) / "library", (str(source),), args.shard_rows)

        def work() -> None:
            library.open(embedder)
            for _ in embed_shards(library.pending(), embedder, num_workers):
                pass
            library.close()

        return clock(work)


def fingerprints(smiles: list[str], rounds: int) -> list[dict[str, Any]]:
    """Rates of RDKit on one core, and of scikit-fingerprints where it is installed."""
    fewer = smiles[:SLOW_ROWS]
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "ECFP4 of RDKit, one core": (len(smiles), partial(ecfp4, smiles)),
        "2D descriptors of RDKit, one core": (len(fewer), partial(descriptors, fewer)),
    }
    if importlib.util.find_spec("skfp"):
        from skfp.fingerprints import ECFPFingerprint

        threads = torch.get_num_threads()
        every = ECFPFingerprint(fp_size=2048, n_jobs=threads)
        name = f"ECFP4 of scikit-fingerprints, {threads} processes"
        ways[name] = len(smiles), partial(every.transform, smiles)
    return [
        {
            "features": name,
            "molecules/s": number / statistics.median(clock(way) for _ in range(rounds)),
        }
        for name, (number, way) in ways.items()
    ]


def peak_mebibytes(checkpoint: str, smiles: list[str]) -> float:
    """Peak resident memory of a process that embeds these molecules to shards by itself."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "molecules.smi"
        source.write_text("\n".join(smiles) + "\n")
        process = subprocess.Popen(
            [
                sys.executable,
                str(EXAMPLES / "embed_library.py"),
                *("--sources", str(source), "--output", str(Path(folder) / "library")),
                *("--checkpoint", checkpoint, "--canonicalize", "false"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, held(process.pid))
            time.sleep(0.05)
    if process.returncode != 0:
        sys.exit(f"embed_library.py ended with {process.returncode}.")
    return peak


def page(results: dict[str, Any]) -> str:
    """The figures in words."""
    parts = [
        "# From a file to vectors",
        f"{results['rows']:,} molecules of a text file to Parquet shards, canonicalised, molecules "
        f"a second on {results['threads']} cores; by processes: {results['workers']}, the seconds "
        "to start them included. The limit is what the cores would give if none ever waited: their "
        "number over the seconds that reading and embedding a molecule take one of them.",
        _table(results["ends"]),
        "Beside it, of the same molecules:",
        _table(results["beside"]),
    ]
    if results["memory"]:
        parts += ["Peak memory of one process:", _table(results["memory"])]
    return "\n\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    return table(list(rows[0]), [map(rounded, row.values()) for row in rows])


if __name__ == "__main__":
    main()
