# SPDX-License-Identifier: Apache-2.0
"""What training, embedding, decoding and the contrastive term cost as their sizes grow.

    python -m examples.benchmarks.speed.scaling
    python -m examples.benchmarks.speed.scaling --what rows length --size small --json scaling.json
    python -m examples.benchmarks.speed.scaling --device cuda --bf16 true --tokens 65536 \
        --batch_sizes 64 256 1024 4096 --json scaling-gpu.json

Seconds are medians over rounds; a round visits all points of a part, in another order each time.
*Predicted* is the number of operations of the matrix products (`roofline.py`; 6·rows²·size for
the contrastive term) over that of the same work's first point, *limit* the fastest matrix product
of the model's shapes, measured once a round. Fitted are slopes of log seconds against log size.
The text is random, its rows are distinct, and all weights are random; steps are those of
`CMIMTrainer`, from the loading of the data to the optimizer.

- batch: all four, on so many molecules of 40 tokens at once.
- length: training and embedding of `--tokens` tokens in molecules of some length, and decoding of
  so many tokens from each of `--tokens` / 40 codes. The contrastive term knows no length.
- size: all four, on `--tokens` tokens in molecules of 40, with models of several sizes; the
  contrastive term on as many codes as the largest of `--batch_sizes`.
- rows: text to vectors in one call of `MoleculeEmbedder.embed`, of 20 to 60 tokens, or of
  `--source`.
- processes: training on one batch and embedding of some rows, shared by processes on the CPU (gloo)
  that share its cores, beside one process with one thread and with a thread for each core.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import HfArgumentParser

from cmim_hf import CMIMConfig, default_tokenizer
from cmim_hf.checkpoints.loading import default_device, torch_device
from cmim_hf.data.smiles_files import read_smiles

from ..evidence import write
from .scaling_fit import exponent_rows, measure, point_rows
from .scaling_points import (
    Bench,
    batch_points,
    length_points,
    row_points,
    save_random,
    size_points,
    timed_steps,
)
from .scaling_processes import Job, process_rows
from .scaling_report import AXES, draw, page
from .throughput_training import LENGTH, Setting, random_text

PARTS = (*AXES, "processes")


@dataclass
class Arguments:
    """What to measure, and how long."""

    what: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": "Any of " + ", ".join(PARTS)}
    )
    source: str | None = field(
        default=None, metadata={"help": "Canonical molecules of rows and processes, if not random."}
    )
    size: str = field(default="tiny", metadata={"help": "Of the model in all parts but size."})
    tokens: int = field(
        default=2560,
        metadata={
            "help": "Of a batch in length and size; a visit trains on twice as many or more."
        },
    )
    batch_sizes: list[int] = field(
        default_factory=lambda: [16, 64, 256, 1024], metadata={"help": "Molecules, in batch."}
    )
    lengths: list[int] = field(
        default_factory=lambda: [10, 20, 40, 80, 160, 320],
        metadata={"help": "Tokens of a molecule, its end included, in length."},
    )
    sizes: list[str] | None = field(
        default=None, metadata={"help": "In size; tiny small base, on an accelerator also large."}
    )
    rows: list[int] = field(
        default_factory=lambda: [1000, 4000, 16000, 64000], metadata={"help": "Embedded, in rows."}
    )
    processes: list[int] = field(
        default_factory=lambda: [2], metadata={"help": "That share the cores, in processes."}
    )
    shared_batch: int = field(
        default=256, metadata={"help": "Molecules of a training step of all processes together."}
    )
    shared_rows: int = field(default=4096, metadata={"help": "Rows that processes embed."})
    rounds: int = field(default=3, metadata={"help": "Of each part."})
    device: str | None = field(default=None, metadata={"help": "The accelerator, else the CPU."})
    bf16: bool = field(default=False, metadata={"help": "Train in mixed precision."})
    json: str | None = field(
        default=None, metadata={"help": "Write the figures there, a .md and a .png beside it."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write, draw."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if unknown := set(args.what) - set(PARTS):
        raise SystemExit(f"--what takes {', '.join(PARTS)}, not {', '.join(sorted(unknown))}.")
    if max(args.lengths) > args.tokens:
        raise SystemExit(f"--tokens {args.tokens} hold no molecule of {max(args.lengths)} tokens.")
    if any(args.shared_batch % number for number in args.processes):
        raise SystemExit(f"--shared_batch {args.shared_batch} cannot be shared by --processes.")
    device = torch_device(args.device) if args.device else default_device()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results: dict[str, Any] = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "size": args.size,
        "tokens": args.tokens,
        "rounds": args.rounds,
        "source": Path(args.source).name if args.source else None,
    }
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    pages = [f"# Scaling\n\n`{args.size}` on {device}{threads}; {args.rounds} rounds."]
    for part in args.what:
        begin = time.perf_counter()
        found = shared(args) if part == "processes" else curves(args, part, device)
        found["took"] = round(time.perf_counter() - begin, 1)
        results[part] = found
        pages.append(page(part, found))
        print(pages[-1], flush=True)
    if args.json:
        path = Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw({part: results[part] for part in args.what}, path.with_suffix(".png"))
        pages.insert(1, f"![Measured, and predicted from the operations]({path.stem}.png)")
        write(path.stem, path.parent, results, "\n\n".join(pages))


def curves(args: Arguments, part: str, device: torch.device) -> dict[str, Any]:
    """Points and exponents of a part whose costs are predicted."""
    sizes = [args.size]
    if part == "size":
        larger = [] if device.type == "cpu" else ["large"]
        sizes = args.sizes or ["tiny", "small", "base", *larger]
    benches = [bench(size, device, args.bf16) for size in sizes]
    if part == "batch":
        points = batch_points(benches[0], args.batch_sizes, args.tokens)
    elif part == "length":
        points = length_points(benches[0], args.lengths, args.tokens)
    elif part == "size":
        points = size_points(benches, args.tokens, max(args.batch_sizes))
    else:
        points = row_points(benches[0], args.rows, molecules(args.source, max(args.rows)))
    seconds, shares = measure(points, args.rounds)
    found: dict[str, Any] = {
        "points": point_rows(points, seconds, shares, AXES[part]),
        "exponents": exponent_rows(points, seconds),
    }
    if part == "size":
        parameters = [one.parameters for one in benches]
        found["parameters"] = dict(zip(sizes, parameters, strict=True))
        found["codes"] = max(args.batch_sizes)
    return found


@cache
def bench(size: str, device: torch.device, bf16: bool) -> Bench:
    """The works on a model of this size; the same model in all parts."""
    return Bench(size, default_tokenizer(), device, bf16)


def shared(args: Arguments) -> dict[str, Any]:
    """Rates of processes on the CPU."""
    tokenizer = default_tokenizer()
    config = CMIMConfig.from_size(args.size, vocab_size=len(tokenizer))
    cores = os.cpu_count() or 1
    setting = Setting(
        config,
        tokenizer,
        torch.device("cpu"),
        args.shared_batch,
        timed_steps(args.shared_batch, LENGTH, args.tokens),
        bf16=False,
        compile=False,
    )
    smiles = molecules(args.source, args.shared_rows)
    with tempfile.TemporaryDirectory() as folder:
        save_random(config, tokenizer, folder)
        ways = process_rows(Job(setting, folder, smiles), args.processes, cores, args.rounds)
    return {"cores": cores, "batch": args.shared_batch, "rows": args.shared_rows, "ways": ways}


@cache
def molecules(source: str | None, number: int) -> list[str]:
    """So many distinct rows of a source, or of random text of 20 to 60 tokens."""
    if source is None:
        return random_text(np.random.default_rng(0).integers(20, 61, number))
    distinct: dict[str, None] = {}
    for row in read_smiles(source):
        distinct[row.text] = None
        if len(distinct) == number:
            return list(distinct)
    raise SystemExit(f"{source} has {len(distinct):,} distinct rows; {number:,} are asked for.")


if __name__ == "__main__":
    main()
