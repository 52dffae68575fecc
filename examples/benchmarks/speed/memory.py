# SPDX-License-Identifier: Apache-2.0
"""How much memory training and decoding take, ours beside the peers', each in a process of its own.

    python -m examples.benchmarks.speed.memory --output results

Two steps after two, on molecules of 40 tokens; 40 tokens for each code. Peaks are of all that a
process holds, libraries and weights among it; what it held before the work stands beside them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from cmim_hf import CMIMConfig, CMIMModel, default_tokenizer
from cmim_hf.cpu_kernels import speed_up
from cmim_hf.model.decoding_cmim import decode_latents

from ..evidence import table, write
from .peak_memory import held
from .peers import encoder_decoders
from .throughput_inference import TOKENS
from .throughput_training import (
    LENGTH,
    Setting,
    configuration,
    one_length,
    train,
    train_stock,
)

ROOT = Path(__file__).resolve().parents[3]
MODELS = ("cMIM", "T5", "BART")


@dataclass
class Arguments:
    """What to measure."""

    size: str = field(default="small", metadata={"help": "tiny, small or base."})
    batches: list[int] = field(
        default_factory=lambda: [128, 1024], metadata={"help": "Molecules of a training step."}
    )
    codes: list[int] = field(
        default_factory=lambda: [512, 4096], metadata={"help": "Decoded at once."}
    )
    output: str | None = field(default=None, metadata={"help": "Folder of memory.json and .md."})
    job: list[str] = field(
        default_factory=list, metadata={"help": "For its own processes: work, model, number."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each in a process, print, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if args.job:
        work, model, number = args.job
        return run(work, model, int(number), args.size)
    rows = [
        peak(work, model, number, args.size)
        for work, numbers in (("train", args.batches), ("decode", args.codes))
        for number in numbers
        for model in MODELS
    ]
    text = "\n\n".join(
        [
            "# Memory",
            f"`{args.size}` on a CPU, OMP_NUM_THREADS {torch.get_num_threads()}, molecules of "
            f"{LENGTH} tokens; mebibytes.",
            table(list(rows[0]), [list(row.values()) for row in rows]),
        ]
    )
    if args.output:
        write("memory", args.output, {"size": args.size, "rows": rows}, text)
    else:
        print(text)


def peak(work: str, model: str, number: int, size: str) -> dict[str, object]:
    """A row of the table."""
    command = [sys.executable, "-m", __spec__.name, "--size", size]
    command += ["--job", work, model, str(number)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    figures = json.loads(done.stdout.splitlines()[-1])
    return {"work": work, "at once": number, "model": model, **figures}


def run(work: str, name: str, number: int, size: str) -> None:
    """Do one job and print what it took."""
    tokenizer = default_tokenizer()
    config = configuration(size, tokenizer)
    peers = encoder_decoders(config, CMIMModel(config).num_parameters())
    setting = Setting(config, tokenizer, torch.device("cpu"), number, 2, False, False)
    molecules = one_length(setting, LENGTH)
    before = held()
    if work == "train" and name == "cMIM":
        train(setting, molecules, 0)
    elif work == "train":
        train_stock(setting, peers[name](), molecules, 0)
    else:
        decode(config, None if name == "cMIM" else peers[name]().eval(), number)
    print(json.dumps({"before": round(before), "peak": round(held())}))


@torch.inference_mode()
def decode(config: CMIMConfig, peer: torch.nn.Module | None, number: int) -> None:
    """Write 40 tokens of each row, by ours if there is no peer."""
    if peer is None:
        never_ends = CMIMConfig.from_dict({**config.to_dict(), "eos_token_id": config.vocab_size})
        model = CMIMModel(never_ends).eval()
        speed_up(model)
        codes = torch.randn(number, config.num_latents, config.latent_size)
        decode_latents(model, codes, max_length=TOKENS + 1)
    else:
        ids = torch.randint(5, config.vocab_size, (number, TOKENS))
        exact = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS, "do_sample": False}
        peer.generate(ids, **exact)


if __name__ == "__main__":
    main()
