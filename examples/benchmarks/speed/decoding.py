# SPDX-License-Identifier: Apache-2.0
"""How fast codes become tokens: `decode_latents` against `generate`, and against the FLOP limit.

python -m examples.benchmarks.speed.decoding --rows 512 --batch_sizes 16 512 --repeats 9

Both decode the same codes of real molecules greedily, in turns, in one process; rates are of the
medians. `decode_latents` gets them once in the order given, as `generate` does, and once sorted by
length, as `MoleculeGenerator.reconstruct` does, which knows what it is to write. The limit is the
fastest matrix product measured here (float32, over the shapes of this model at batch 512), over
the operations that the tokens written need (`roofline.py`). Tokens of both are compared; where
they differ, the gap between the two highest logits at the first difference is given.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers import HfArgumentParser

from cmim_hf import CMIMModel, MoleculeGenerator
from cmim_hf.model.decoding_cmim import decode_latents

from ..evidence import DATA, first, table, write
from .roofline import clock, decoder_flops, gemm_rate

TIE = 1e-4
LIMIT_ROWS = 512  # of the matrix products that the limit is measured by


@dataclass
class Arguments:
    """What to measure."""

    source: str = field(default=str(DATA / "moses_test.smi"), metadata={"help": "Molecules."})
    rows: int = field(default=512, metadata={"help": "How many of them."})
    batch_sizes: list[int] = field(default_factory=lambda: [16, 512], metadata={"help": "Codes."})
    repeats: int = field(default=5, metadata={"help": "Rounds."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    output: str | None = field(default=None, metadata={"help": "Folder of decoding.json and .md."})


def compare(model: CMIMModel, latents: torch.Tensor) -> dict[str, float]:
    """Rows whose tokens differ, and those among them that are not a tie of two logits."""
    stock = model.generate(latents=latents)
    ours = decode_latents(model, latents)
    length = max(stock.shape[1], ours.shape[1])
    pad = model.config.pad_token_id
    stock, ours = (
        functional.pad(tokens, (0, length - tokens.shape[1]), value=pad) for tokens in (stock, ours)
    )
    differing = (stock != ours).any(dim=1).nonzero().squeeze(1).tolist()
    untied = 0
    for row in differing:
        where = int((stock[row] != ours[row]).nonzero()[0])
        logits = model(
            latents=latents[row : row + 1], decoder_input_ids=stock[row : row + 1]
        ).logits
        first, second = logits[0, where - 1].topk(2).values.tolist()
        untied += first - second >= TIE
    return {"rows": len(latents), "differing": len(differing), "differing_untied": untied}


@torch.inference_mode()
def measure(model: CMIMModel, latents: torch.Tensor, size: int, repeats: int) -> dict[str, float]:
    """Rates of both at one batch size, the median over rounds."""
    parts = latents.split(size)
    lengths = torch.cat([decoded_lengths(model, part) for part in parts])
    by_length = latents[lengths.argsort(descending=True)].split(size)
    seconds: dict[str, list[float]] = {"stock": [], "ours": [], "sorted": []}
    for _ in range(repeats):
        seconds["stock"].append(clock(lambda: [model.generate(latents=part) for part in parts]))
        seconds["ours"].append(clock(lambda: [decode_latents(model, part) for part in parts]))
        seconds["sorted"].append(clock(lambda: [decode_latents(model, part) for part in by_length]))
    rate = gemm_rate(model.config, LIMIT_ROWS, model.device, model.dtype)
    limit = rate / decoder_flops(model.config, lengths.numpy()) * len(latents)
    result: dict[str, float] = {
        "batch_size": size,
        "tokens_per_molecule": float(lengths.double().mean()),
        "limit_per_second": limit,
    }
    for name, runs in seconds.items():
        pairs = zip(seconds["stock"], runs, strict=True)
        result[f"{name}_per_second"] = len(latents) / statistics.median(runs)
        result[f"{name}_ratio"] = statistics.median(one / other for one, other in pairs)
        result[f"{name}_share_of_limit"] = result[f"{name}_per_second"] / limit
    return result


def decoded_lengths(model: CMIMModel, latents: torch.Tensor) -> torch.Tensor:
    """Tokens written for each code (rows,), the end token included; warms up, too."""
    tokens = decode_latents(model, latents)[:, 1:]
    return (tokens != model.config.pad_token_id).sum(dim=1).cpu()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    generator = MoleculeGenerator(args.checkpoint, progress=False)
    model = generator.model
    smiles = first(args.source, args.rows)
    latents = torch.from_numpy(generator.encode(smiles, on_invalid="skip")).to(model.device)
    results = {
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "parameters": model.num_parameters(),
        "tokens": compare(model, latents),
        "speed": [measure(model, latents, size, args.repeats) for size in args.batch_sizes],
    }
    text = page(results)
    if args.output:
        write("decoding", args.output, results, text)
    else:
        print(text)


def page(results: dict[str, Any]) -> str:
    """The figures in words."""
    ways = {
        "stock": "`generate`",
        "ours": "`decode_latents`, in order",
        "sorted": "`decode_latents`, by length",
    }
    rows = [
        [
            one["batch_size"],
            name,
            f"{one[f'{way}_per_second']:,.0f}",
            f"{one[f'{way}_ratio']:.2f}",
            f"{one[f'{way}_share_of_limit']:.2f}",
        ]
        for one in results["speed"]
        for way, name in ways.items()
    ]
    tokens = results["tokens"]
    return "\n\n".join(
        [
            "# Decoding the codes of molecules",
            f"{tokens['rows']:,} codes, {results['parameters']:,} parameters, {results['device']}, "
            f"{results['threads']} threads. Rows whose tokens differ from those of `generate`: "
            f"{tokens['differing']}, of them by more than rounding: {tokens['differing_untied']}.",
            table(["codes at once", "by", "molecules/s", "`generate`, times", "of limit"], rows),
        ]
    )


if __name__ == "__main__":
    main()
