# SPDX-License-Identifier: Apache-2.0
"""How near embedding a library comes to the bare model, and how much memory it takes.

python -m examples.benchmarks.speed.embedding --source molecules.smi --rows 200000 \
    --memory_rows 50000 200000

End to end is: read the text file, check (and canonicalise), tokenise, batch, embed, write Parquet
shards. The bare model is given the same batches as tensors, made beforehand. Both are timed in
turns, shard by shard, in one process, because machines are noisy: rates are of the medians of each
shard, a share is the median over pairs. Memory is the peak of a process of its own for each number
of rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder, __version__
from cmim_hf.atomic_files import write_whole
from cmim_hf.data.smiles_files import Row
from cmim_hf.data.token_batches import padded_batches
from cmim_hf.embedding.sharded_library import Library, embed_shards

from ..evidence import DATA, first

EXAMPLES = Path(__file__).resolve().parents[2]


@dataclass
class Arguments:
    """What to measure."""

    source: str = field(
        default=str(DATA / "moses_train.smi.gz"),
        metadata={"help": "Canonical molecules."},
    )
    rows: int = field(default=5000, metadata={"help": "How many of them."})
    shard_rows: int = field(default=32768, metadata={"help": "Rows of a shard."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    representation: str = field(default="informative", metadata={"help": "See MoleculeEmbedder."})
    repeats: int = field(default=3, metadata={"help": "Rounds."})
    memory_rows: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of rows to measure the memory of."}
    )
    json: str | None = field(default=None, metadata={"help": "Write the figures there, too."})


def bare_batches(
    embedder: MoleculeEmbedder, smiles: list[str]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The ids and masks that the model is given for a shard."""
    rows = [Row("list", number, text) for number, text in enumerate(smiles)]
    encoded = embedder.encoder()(rows)
    every = np.arange(len(encoded.lengths))
    pad = embedder.model.config.pad_token_id
    batches = padded_batches(encoded, every, embedder.batch_tokens, pad)
    return [(ids, mask) for _, ids, mask in batches]


@torch.inference_mode()
def time_bare(
    embedder: MoleculeEmbedder, batches: list[tuple[torch.Tensor, torch.Tensor | None]]
) -> float:
    """Seconds of the model alone."""
    begin = time.perf_counter()
    for ids, mask in batches:
        embedder.model.get_representation(ids, mask, representation=embedder.representation)
    return time.perf_counter() - begin


def time_library(embedder: MoleculeEmbedder, smiles: list[str], canonicalize: bool) -> float:
    """Seconds from the file to the shard on the disk."""
    embedder.canonicalize = canonicalize
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "molecules.smi"
        source.write_text("\n".join(smiles) + "\n")
        library = Library(Path(folder) / "library", (str(source),), len(smiles))
        begin = time.perf_counter()
        library.open(embedder)
        for _ in embed_shards(library.pending(), embedder):
            pass
        library.close()
        return time.perf_counter() - begin


def peak_mebibytes(args: Arguments, smiles: list[str]) -> float:
    """Peak resident memory of a process that embeds these molecules to shards."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "molecules.smi"
        source.write_text("\n".join(smiles) + "\n")
        process = subprocess.Popen(
            [
                sys.executable,
                str(EXAMPLES / "embed_library.py"),
                *("--sources", str(source), "--output", str(Path(folder) / "library")),
                *("--checkpoint", args.checkpoint, "--representation", args.representation),
                *("--canonicalize", "false"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"embed_library.py ended with {process.returncode}.")
    unit = 1024 if sys.platform == "darwin" else 1
    return usage.ru_maxrss / unit / 1024


def measure(embedder: MoleculeEmbedder, smiles: list[str], repeats: int) -> list[list[float]]:
    """Seconds of the bare model, the library, and the library with canonicalization, in turns."""
    batches = bare_batches(embedder, smiles)
    ways = (
        lambda: time_bare(embedder, batches),
        lambda: time_library(embedder, smiles, canonicalize=False),
        lambda: time_library(embedder, smiles, canonicalize=True),
    )
    rounds = [[way() for way in ways] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    needed = max([args.rows, *args.memory_rows])
    smiles = first(args.source, needed)
    if len(smiles) < needed:
        sys.exit(f"{args.source} has {len(smiles):,} rows; {needed:,} are asked for.")
    embedder = MoleculeEmbedder(
        args.checkpoint, representation=args.representation, on_invalid="none", progress=False
    )
    print(
        f"cmim-hf {__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {torch.get_num_threads()} threads, {embedder.model.device}; "
        f"{args.checkpoint}, {args.representation}; {args.rows:,} rows, {args.repeats} rounds"
    )
    figures: dict[str, object] = {"rows": args.rows, "checkpoint": args.checkpoint}
    time_library(embedder, smiles[:1000], canonicalize=True)
    shards = [smiles[at : at + args.shard_rows] for at in range(0, args.rows, args.shard_rows)]
    shards[-1] = shards[-1][: args.rows - (len(shards) - 1) * args.shard_rows]
    measured = np.array([measure(embedder, shard, args.repeats) for shard in shards])
    for name, times in zip(
        ("bare", "library", "canonicalised"), measured.swapaxes(0, 1), strict=True
    ):
        share = float(np.median(measured[:, 0] / times))
        rate = args.rows / float(np.median(times, axis=1).sum())
        figures[name] = {"molecules_per_second": rate, "share_of_bare": share}
        print(f"{name:>14}: {rate:10,.0f} molecules/s  {share:6.1%} of the bare model")
    for rows in args.memory_rows:
        peak = peak_mebibytes(args, smiles[:rows])
        figures[f"peak_mebibytes_{rows}"] = peak
        print(f"{rows:>14,} rows: peak memory {peak:,.0f} MiB")
    if args.json:
        write_whole(args.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
