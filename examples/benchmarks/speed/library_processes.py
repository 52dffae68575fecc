# SPDX-License-Identifier: Apache-2.0
"""One library embedded by each way to share its work: commands as a user types them, to the end.

    python -m examples.benchmarks.speed.library_processes --source molecules.smi --rows 60000

Each command embeds the same text file to shards of its own; the ways take turns, rates are medians
over the rounds. A command over few rows is timed too: what is left of the rate once programs,
checkpoint and cluster have started is that of the rows between.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser

from ..evidence import DATA, first, rounded, table, write
from .roofline import clock

SCRIPT = Path(__file__).resolve().parents[2] / "embed_library.py"
ACCELERATE = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)


@dataclass
class Arguments:
    """What to measure."""

    source: str = field(
        default=str(DATA / "moses_train.smi.gz"), metadata={"help": "Canonical molecules."}
    )
    rows: int = field(default=5000, metadata={"help": "How many of them."})
    few_rows: int = field(default=1000, metadata={"help": "Of the command that shows the start."})
    shard_rows: int = field(default=500, metadata={"help": "Rows of a shard, for all to share."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    processes: int = field(
        default=torch.get_num_threads(), metadata={"help": "Of each way that shares."}
    )
    rounds: int = field(default=2, metadata={"help": "In turns."})
    output: str | None = field(
        default=None, metadata={"help": "Folder of library_processes.json and .md."}
    )


def commands(processes: int) -> dict[str, list[str]]:
    """What Python is given for each way: the script, its options, and what launches it."""
    number = str(processes)
    return {
        "one process": [str(SCRIPT)],
        f"--workers {number}": [str(SCRIPT), "--workers", number],
        f"accelerate launch, {number} processes": [
            *ACCELERATE,
            *("--num_processes", number, str(SCRIPT)),
        ],
        "Ray, 1 actor": [str(SCRIPT), "--ray_actors", "1"],
        f"Ray, {number} actors": [str(SCRIPT), "--ray_actors", number],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    smiles = first(args.source, args.rows)
    if len(smiles) < args.rows or args.few_rows >= args.rows:
        sys.exit(
            f"--rows {args.rows:,} must be above --few_rows, and {args.source} has {len(smiles):,}."
        )
    ways = commands(args.processes)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, command in ways.items():
            run = partial(embed, command, args)
            seconds[name].append(
                (clock(partial(run, smiles[: args.few_rows])), clock(partial(run, smiles)))
            )
    results = {
        "rows": args.rows,
        "few_rows": args.few_rows,
        "shard_rows": args.shard_rows,
        "checkpoint": args.checkpoint,
        "ways": [figures(name, pairs, args) for name, pairs in seconds.items()],
    }
    if args.output:
        write("library_processes", args.output, results, page(results))
    else:
        print(page(results))


def embed(command: list[str], args: Arguments, smiles: list[str]) -> None:
    """Run one command.

    Raises:
        SystemExit: It has failed; what it said is above.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "molecules.smi"
        source.write_text("\n".join(smiles) + "\n")
        done = subprocess.run(
            [
                *(sys.executable, *command, "--sources", str(source)),
                *("--output", str(Path(folder) / "library"), "--checkpoint", args.checkpoint),
                *("--shard_rows", str(args.shard_rows)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        sys.exit(f"{done.stderr[-2000:]}\n{' '.join(command)} ended with {done.returncode}.")


def figures(name: str, pairs: Sequence[tuple[float, float]], args: Arguments) -> dict[str, Any]:
    """A row of the table, of the seconds of few and of all rows, a pair a round."""
    whole = [long for _, long in pairs]
    between = [(args.rows - args.few_rows) / (long - short) for short, long in pairs]
    return {
        "way": name,
        "molecules/s": args.rows / statistics.median(whole),
        "(max - min) / median": (max(whole) - min(whole)) / statistics.median(whole),
        f"seconds for {args.few_rows:,} rows": statistics.median(short for short, _ in pairs),
        "molecules/s once started": statistics.median(between),
    }


def page(results: dict[str, Any]) -> str:
    """The figures in words."""
    ways = results["ways"]
    return "\n\n".join(
        [
            "# One library, shared in several ways",
            f"`embed_library.py`, `{results['checkpoint']}`, informative embeddings of "
            f"{results['rows']:,} molecules of a text file, canonicalised, in shards of "
            f"{results['shard_rows']:,}. Seconds are of the whole command.",
            table(list(ways[0]), [map(rounded, way.values()) for way in ways]),
        ]
    )


if __name__ == "__main__":
    main()
