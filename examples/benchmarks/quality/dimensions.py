# SPDX-License-Identifier: Apache-2.0
"""What shorter vectors keep: predictions and neighbours from the first principal coordinates.

    python -m examples.benchmarks.quality.dimensions
    python -m examples.benchmarks.quality.dimensions --data_dir moleculenet --seeds 5 \
        --library zinc.smi.gz

Heads are those of quality.moleculenet, on its published divisions. Neighbours: how many of the ten
nearest of 10,000 molecules, by whole vectors, are among the ten nearest by shorter ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.embedding.nearest import nearest_neighbors

from ..evidence import DATA, RESULTS, first, interval, shown, table, write
from .molecule_tasks import Task, divisions, fit_and_score, heads, load_tasks

DIMS = (16, 32, 64, 128)
QUERIES, LIBRARY, NEAREST = 1000, 10_000, 10


@dataclass
class Arguments:
    """What to predict, and where to look for neighbours."""

    data_dir: str | None = field(
        default=None, metadata={"help": "As quality.moleculenet takes it."}
    )
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    heads: list[str] = field(default_factory=lambda: ["ridge", "svm"], metadata={"help": "Which."})
    seeds: int = field(default=2, metadata={"help": "Of each division."})
    library: str = field(
        default=str(DATA / "moses_train.smi.gz"), metadata={"help": "To look for neighbours in."}
    )
    workers: int = field(default=2, metadata={"help": "Processes that fit heads."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Embed, shorten, fit, and write a table."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    embedder = MoleculeEmbedder(args.checkpoint, progress=False)
    tasks = load_tasks(args.data_dir, args.tasks)
    vectors = {task.name: embedder.embed(task.smiles) for task in tasks}
    dims = [dim for dim in DIMS if dim < embedder.size] + [embedder.size]
    jobs = [
        (task, head, dim, seed)
        for task in tasks
        for head in args.heads
        for dim in dims
        for seed in range(args.seeds)
    ]
    scores = Parallel(n_jobs=args.workers, return_as="generator")(
        delayed(score)(task, embedder.axes.project(vectors[task.name], dim), head, dim, seed)
        for task, head, dim, seed in jobs
    )
    scores = list(tqdm(scores, total=len(jobs), desc="fits"))
    found = neighbours(embedder, args.library, dims)
    results = {
        "checkpoint": Path(args.checkpoint).name,
        "weights": embedder.fingerprint,
        "kept": {dim: float(embedder.axes.kept[dim - 1]) for dim in dims},
        "neighbours": found,
        "scores": scores,
    }
    write("dimensions", args.output, results, page(tasks, args, results))


def score(task: Task, features: np.ndarray, head: str, dim: int, seed: int) -> dict[str, Any]:
    """The test score of one head on one division."""
    division = list(divisions(task, "published", seed + 1))[seed]
    candidates = heads(task.binary, seed)[head]
    found = fit_and_score(candidates, features, task.labels, division, task.binary)
    return {"task": task.name, "head": head, "dim": dim, "seed": seed, "score": found["test"]}


def neighbours(embedder: MoleculeEmbedder, library: str, dims: Sequence[int]) -> dict[int, float]:
    """For each length the share of whole vectors' nearest molecules that shorter ones find."""
    vectors = embedder.embed(first(library, QUERIES + LIBRARY), on_invalid="skip")
    near = {
        dim: nearest_neighbors(short[:QUERIES], short[QUERIES:], NEAREST)[0]
        for dim in dims
        for short in [embedder.axes.project(vectors, dim)]
    }
    whole = near[dims[-1]]
    return {
        dim: float(
            np.mean([np.isin(one, other).mean() for one, other in zip(whole, rows, strict=True)])
        )
        for dim, rows in near.items()
    }


def page(tasks: Sequence[Task], args: Arguments, results: dict[str, Any]) -> str:
    """A row a length."""
    columns = [(task, head) for task in tasks for head in args.heads]
    rows = [
        [
            dim,
            f"{kept:.1%}",
            f"{results['neighbours'][dim]:.1%}",
            *(
                shown(
                    *interval(
                        [
                            one["score"]
                            for one in results["scores"]
                            if (one["task"], one["head"], one["dim"]) == (task.name, head, dim)
                        ]
                    )
                )
                for task, head in columns
            ),
        ]
        for dim, kept in results["kept"].items()
    ]
    header = ["numbers", "variance kept", "neighbours kept"]
    header += [f"{task.name}, {head} ({task.measure})" for task, head in columns]
    return (
        "# Shorter vectors\n\nTest scores (RMSE: lower is better; ROC-AUC: higher) of informative "
        "embeddings by their first principal coordinates, mean over "
        f"{args.seeds} seeds ± half the 95 % interval; and how many of a molecule's ten nearest of "
        f"{LIBRARY:,} by whole vectors are among its ten nearest by shorter ones ({QUERIES:,} "
        f"molecules).\n\n{table(header, rows)}"
    )


if __name__ == "__main__":
    main()
