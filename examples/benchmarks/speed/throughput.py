# SPDX-License-Identifier: Apache-2.0
"""How many molecules a second: training, embedding, decoding, the contrastive term, the data.

    python -m examples.benchmarks.speed.throughput
    python -m examples.benchmarks.speed.throughput --what train --batch_size 256 --rounds 5
    python -m examples.benchmarks.speed.throughput --what train embed decode --device cuda \
        --size large --batch_size 1024 --bf16 true --compile true --json throughput-gpu.json

Ours and the peers (see `peers.py`: random weights, the same tokens, as many parameters where a peer
is not of a fixed size) take turns in one process; rates are medians over the rounds, ratios medians
of the ratios within a round, since machines are noisy. The limit is the fastest matrix product
measured between the rounds over the model's own shapes, divided by the operations that its real
tokens need (`roofline.py`); padding and everything that is no matrix product count as waste. The
process keeps its memory, as our trainer and commands have it, which speeds up the peers, too.

- train: end to end on ragged molecules, by `CMIMTrainer` with its buckets and objective and by the
  stock Trainer with its collator; then all on molecules of one length, 40 tokens. A step of ours
  has molecules of one length, so that few steps are a small sample of lengths: ask for a dozen.
- embed: from canonical SMILES in files' order to vectors; the peers' batches are padded to their
  longest row. `--layers 2` gives `small` 2.2 M parameters, fewer than the smallest peer has.
- decode: 40 tokens for each code, by `decode_latents`, and by `generate` of ours and of the peers.
- loss: forward and backward of the contrastive term, held whole and in tiles; extra memory.
- data: the sampler, the collator and the loader, without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import HfArgumentParser

from cmim_hf import default_tokenizer
from cmim_hf.allocator import keep_freed_memory
from cmim_hf.checkpoints.loading import default_device, torch_device

from ..evidence import DATA, first, rounded, table, write
from .roofline import gemm_rates
from .throughput_inference import decoding, embedding
from .throughput_loss import contrastive
from .throughput_training import LENGTH, Setting, configuration, loading, training

PARTS = ("train", "embed", "decode", "loss", "data")


@dataclass
class Arguments:
    """What to measure, and how long."""

    what: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": "Any of " + ", ".join(PARTS)}
    )
    source: str = field(
        default=str(DATA / "moses_train.smi.gz"),
        metadata={"help": "Canonical molecules."},
    )
    rows: int = field(default=10000, metadata={"help": "How many of them."})
    size: str = field(default="small", metadata={"help": "tiny, small, base or large."})
    layers: int | None = field(
        default=None, metadata={"help": "On each side, if not as many as the size has."}
    )
    batch_size: int = field(default=256, metadata={"help": "Molecules of a training step."})
    steps: int = field(default=6, metadata={"help": "Timed training steps of each, in a round."})
    decode_sizes: list[int] = field(
        default_factory=lambda: [128, 512], metadata={"help": "Codes decoded at once."}
    )
    loss_sizes: list[int] = field(
        default_factory=lambda: [256, 1024, 4096], metadata={"help": "Rows of the losses."}
    )
    rounds: int = field(default=3, metadata={"help": "In turns."})
    peers: bool = field(default=True, metadata={"help": "Time the peers, too."})
    packages: str | None = field(
        default=None, metadata={"help": "Folder of MiniMol's packages, to time it, too."}
    )
    device: str | None = field(default=None, metadata={"help": "The accelerator, else the CPU."})
    bf16: bool = field(default=False, metadata={"help": "Train in mixed precision."})
    compile: bool = field(default=False, metadata={"help": "Compile what is trained."})
    json: str | None = field(
        default=None, metadata={"help": "Write the figures there, and a .md beside it."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if unknown := set(args.what) - set(PARTS):
        raise SystemExit(f"--what takes {', '.join(PARTS)}, not {', '.join(sorted(unknown))}.")
    device = torch_device(args.device) if args.device else default_device()
    transformers.logging.set_verbosity_error()
    keep_freed_memory()
    tokenizer = default_tokenizer()
    smiles = first(args.source, args.rows)
    layers = {"encoder_layers": args.layers, "decoder_layers": args.layers} if args.layers else {}
    config = configuration(args.size, tokenizer, **layers)
    setting = Setting(
        config, tokenizer, device, args.batch_size, args.steps, args.bf16, args.compile
    )
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    pages = [f"# Throughput\n\n`{args.size}` on {device}{threads}; {len(smiles):,} molecules."]
    results: dict[str, object] = {"device": str(device), "threads": torch.get_num_threads()}
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    rates = gemm_rates(config, args.batch_size * LENGTH, device, dtype)
    results["products"] = rates
    shown = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in rates.items())
    pages.append(f"Fastest matrix product, GFLOP/s: {shown}.")
    for part in args.what:
        if part == "train":
            rows = training(setting, smiles, args.rounds, args.peers)
        elif part == "embed":
            rows = embedding(
                config, tokenizer, device, smiles, args.rounds, args.peers, args.packages
            )
        elif part == "decode":
            rows = decoding(config, device, args.decode_sizes, args.rounds, args.peers)
        elif part == "loss":
            rows = contrastive(config.latent_size, args.loss_sizes, args.rounds, device)
        else:
            rows = loading(setting, smiles, args.rounds)
        results[part] = rows
        pages.append(
            f"## {part}\n\n{table(list(rows[0]), [map(rounded, r.values()) for r in rows])}"
        )
        print(pages[-1], flush=True)
    if args.json:
        path = Path(args.json)
        write(path.stem, path.parent, results, "\n\n".join(pages))


if __name__ == "__main__":
    main()
