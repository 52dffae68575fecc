# SPDX-License-Identifier: Apache-2.0
"""Predicting measured properties: ours beside what is used today, on the same rows.

    python -m examples.benchmarks.quality.peers_prediction --data_dir moleculenet
    python -m examples.benchmarks.quality.peers_prediction --data_dir moleculenet \
        --ways chemprop "ours fine-tuned" --tasks esol bace --seeds 3

Validation and test rows are as published, each seed trains on a random 90 % of the training rows.
Validation rows choose the strength of a head or the epoch of a network, test rows are scored once.
A call computes the ways that it names and makes the table of all that was computed so far.
Chemprop and MiniMol are no part of our extras: `--packages` is the folder that they are put into,
and where they run from, in processes of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.prediction.fine_tuning import fine_tune
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments
from cmim_hf.prediction.frozen_heads import MOST_OF_A_PROCESS, fit_head, predict_head
from cmim_hf.prediction.predictor import MoleculePredictor

from ..evidence import RESULTS, Cells, interval, read, shown, table, write
from .molecule_tasks import PARTS, Task, descriptors, divisions, load_tasks
from .peer_packages import installed, minimol, run

MEASURED = {  # by `quality.moleculenet`, on the same rows: features, and their head
    "RF on ECFP4": ("ECFP4", "forest"),
    "RF on RDKit 2D": ("RDKit 2D", "forest"),
}
HEADS = {  # vectors, and their head
    "GP on RDKit 2D": ("rdkit", "gp"),
    "MiniMol + SVM": ("minimol", "svm"),
    "ours frozen, ridge": ("ours", "ridge"),
    "ours frozen, SVM": ("ours", "svm"),
}
LEVEL = 0.9
CHEMPROP, TUNED = "chemprop", "ours fine-tuned"
ENSEMBLES = {  # whose predictions are averaged
    "ours frozen, mean of both": ["ours frozen, ridge", "ours frozen, SVM"],
    "ours frozen (SVM) and fine-tuned, mean": ["ours frozen, SVM", TUNED],
}
OF_NETWORKS = "ours fine-tuned, mean of the seeds"

CHEMPROP_MAIN = "from chemprop.cli.main import main; main()"


@dataclass
class Arguments:
    """What to predict, how."""

    data_dir: str | None = field(default=None, metadata={"help": "As of quality.moleculenet."})
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    ways: list[str] = field(default_factory=lambda: [*HEADS], metadata={"help": "To compute now."})
    seeds: int = field(default=5, metadata={"help": "Samples of the training rows."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    packages: str = field(default="peers", metadata={"help": "Folder of the peers' packages."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Compute what is not there yet, and write the table of what is."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    tasks = load_tasks(args.data_dir, args.tasks)
    embedder = MoleculeEmbedder(args.checkpoint, representation="both", progress=False)
    cells = Cells(Path(args.output, "cells", "peers_prediction"), {"weights": embedder.fingerprint})
    jobs = [
        (task, way, seed)
        for task in tasks
        for way in args.ways
        for seed in range(args.seeds)
        if way != "GP on RDKit 2D" or _takes_a_process(task)
    ]
    for task, way, seed in tqdm(jobs, desc="fits"):
        cells.compute(_name(task, way, seed), partial(predict, task, way, seed, embedder, args))
    found = {
        (task.name, way, seed): np.array(figures["predictions"])
        for task in tasks
        for way in (*HEADS, CHEMPROP, TUNED)
        for seed in range(args.seeds)
        if (figures := cells.known(_name(task, way, seed))) is not None
    }
    held = {
        task.name: [
            figures["held"]
            for seed in range(args.seeds)
            if "held" in (figures := cells.known(_name(task, TUNED, seed)) or {})
        ]
        for task in tasks
    }
    scores = measured(tasks, args.seeds) + scored(tasks, found, args.seeds)
    results = {
        "weights": embedder.fingerprint,
        "measures": {task.name: task.measure for task in tasks},
        "scores": scores,
        "held": held,
    }
    write("peers_prediction", args.output, results, page(tasks, scores, held))


def _takes_a_process(task: Task) -> bool:
    train = next(divisions(task, "published", 1))[0]
    return not task.binary and len(train) <= MOST_OF_A_PROCESS


def _name(task: Task, way: str, seed: int) -> str:
    return f"{task.name}-{way}-{seed}".replace(" ", "_")


def predict(
    task: Task,
    way: str,
    seed: int,
    embedder: MoleculeEmbedder,
    args: Arguments,
) -> dict[str, Any]:
    """Predictions for the test rows: numbers, or probabilities of the class 1."""
    division = list(divisions(task, "published", seed + 1))[seed]
    if way == CHEMPROP:
        found = by_chemprop(task, division, seed, installed("chemprop", args.packages))
    elif way == TUNED:
        found, held = by_fine_tuning(task, division, args.checkpoint)
        return {"predictions": found.tolist(), "held": held}
    else:
        kind, head = HEADS[way]
        vectors = vectors_of(tuple(task.smiles), kind, embedder, args.packages)
        found = by_head(task, vectors, head, division, seed)
    return {"predictions": found.tolist()}


@cache
def vectors_of(
    smiles: tuple[str, ...], kind: str, embedder: MoleculeEmbedder, packages: str
) -> np.ndarray:
    """Vectors (rows, size) of molecules, finite."""
    if kind == "ours":
        return embedder.embed(smiles)
    if kind == "rdkit":  # a descriptor without a value has the median one
        values = pd.DataFrame(descriptors(smiles))
        return values.fillna(values.median()).fillna(0).to_numpy()
    return minimol(smiles, packages)


def by_head(
    task: Task, vectors: np.ndarray, head: str, division: Sequence[np.ndarray], seed: int
) -> np.ndarray:
    """A head of scikit-learn on frozen vectors."""
    train, valid, test = division
    classes = 2 if task.binary else 0
    rows = [(vectors[part], task.labels[part]) for part in (train, valid)]
    model = fit_head(head, *rows, classes=classes, seed=seed)
    found, _ = predict_head(model, vectors[test], classes)
    return found[:, 1] if task.binary else found


def by_fine_tuning(
    task: Task, division: Sequence[np.ndarray], checkpoint: str
) -> tuple[np.ndarray, float]:
    """The whole network, as `examples/finetune.py` trains it.

    Returns:
        Predictions, and the share of their intervals (or sets of labels) of `LEVEL` that hold the
        truth.
    """
    with TemporaryDirectory() as folder:
        source = _divided(task, division, Path(folder, "table.csv"))
        settings = {"data": str(source), "targets": ["y"], "checkpoint": checkpoint}
        fine_tune(
            FineTuningArguments(**settings, copies=True, output=f"{folder}/run"),
            ["examples.benchmarks.quality.peers_prediction"],
        )
        predictor = MoleculePredictor(f"{folder}/run", progress=False)
        found = predictor.predict([task.smiles[row] for row in division[2]], level=LEVEL)
        truth = task.labels[division[2]]
        if task.binary:
            sets = found["y_labels"].str.split("|")
            held = [str(int(one)) in labels for one, labels in zip(truth, sets, strict=True)]
        else:
            held = (found["y_low"] <= truth) & (truth <= found["y_high"])
        return found["y_predicted"].to_numpy(), float(np.mean(held))


def by_chemprop(
    task: Task, division: Sequence[np.ndarray], seed: int, packages: Path
) -> np.ndarray:
    """Chemprop's D-MPNN with its default settings: 50 epochs, of which validation chooses."""
    with TemporaryDirectory() as folder:
        source = _divided(task, division, Path(folder, "table.csv"), ("train", "val", "test"))
        kind = "classification" if task.binary else "regression"
        words = ["-i", source, "-o", f"{folder}/run", "--task-type", kind, "--pytorch-seed", seed]
        words += ["--splits-column", "split", "--smiles-columns", "smiles", "--target-columns", "y"]
        words += ["--accelerator", "cpu", "--devices", 1, "--num-workers", 0]
        run(["-c", CHEMPROP_MAIN, "train", *map(str, words)], packages)
        (path,) = Path(folder, "run").rglob("test_predictions.csv")
        return pd.read_csv(path)["y"].to_numpy()


def _divided(
    task: Task, division: Sequence[np.ndarray], path: Path, parts: Sequence[str] = PARTS
) -> Path:
    """Write a table of the parts' rows."""
    smiles = np.array(task.smiles, dtype=object)
    tables = [
        pd.DataFrame({"smiles": smiles[rows], "y": task.labels[rows], "split": part})
        for part, rows in zip(parts, division, strict=True)
    ]
    pd.concat(tables).to_csv(path, index=False)
    return path


def measured(tasks: Sequence[Task], seeds: int) -> list[dict[str, Any]]:
    """Scores that `quality.moleculenet` found on the same divisions."""
    known = read("moleculenet") or {"scores": []}
    names = {task.name for task in tasks}
    return [
        {"task": one["task"], "way": way, "seed": one["seed"], "test": one["test"]}
        for way, pair in MEASURED.items()
        for one in known["scores"]
        if (one["features"], one["head"], one["division"]) == (*pair, "published")
        and one["task"] in names
        and one["seed"] < seeds
    ]


def scored(
    tasks: Sequence[Task], found: dict[tuple[str, str, int], np.ndarray], seeds: int
) -> list[dict[str, Any]]:
    """The test score of each way and seed, and of means of ways or seeds."""
    result = []
    for task in tasks:
        truth = task.labels[next(divisions(task, "published", 1))[2]]
        measure = roc_auc_score if task.binary else root_mean_squared_error
        own = {(way, seed): rows for (name, way, seed), rows in found.items() if name == task.name}
        networks = [rows for (way, _), rows in own.items() if way == TUNED]
        for seed in range(seeds):
            for name, ways in ENSEMBLES.items():
                if all((way, seed) in own for way in ways):
                    own[name, seed] = np.mean([own[way, seed] for way in ways], axis=0)
        if len(networks) > 1:
            own[OF_NETWORKS, 0] = np.mean(networks, axis=0)
        result += [
            {"task": task.name, "way": way, "seed": seed, "test": float(measure(truth, rows))}
            for (way, seed), rows in own.items()
        ]
    return result


def page(
    tasks: Sequence[Task], scores: Sequence[dict[str, Any]], held: Mapping[str, Sequence[float]]
) -> str:
    """The table, what is best, and how often intervals held."""
    order = [*MEASURED, *list(HEADS)[:2], CHEMPROP, *list(HEADS)[2:], TUNED, OF_NETWORKS]
    order += ENSEMBLES
    rows = []
    for way in order:
        row = [way]
        for task in tasks:
            own = [s["test"] for s in scores if (s["task"], s["way"]) == (task.name, way)]
            row.append(f"{shown(*interval(own))} ({len(own)})" if own else "–")
        if set(row[1:]) != {"–"}:
            rows.append(row)
    wins = []
    for task in tasks:
        means = {
            way: float(np.mean([s["test"] for s in scores if (s["task"], s["way"]) == key]))
            for way in order
            if (key := (task.name, way)) in {(s["task"], s["way"]) for s in scores}
        }
        pick = max if task.binary else min
        first, own = pick(means, key=means.get), [way for way in means if "ours" in way]
        best = pick(own, key=means.get)
        wins.append(f"- {task.name}: {first}, {means[first]:.3f}; {best}, {means[best]:.3f}")
    header = ["", *(f"{task.name} ({task.measure})" for task in tasks)]
    shares = ", ".join(
        f"{name} {np.mean(values):.1%} ({len(values)} seeds)"
        for name, values in held.items()
        if values
    )
    return "\n\n".join(
        [
            "# Predictions beside what is used today",
            "Test scores (RMSE in the labels' units: lower is better; ROC-AUC: higher), mean ± "
            "half the 95 % interval over seeds, and their number in brackets; validation and test "
            "rows as published (where none are, at random), each seed trains on another 90 % of "
            "the training rows. A mean is of predictions, not of scores; that of the seeds is one "
            "ensemble, without an interval.",
            table(header, rows),
            "A Gaussian process is fitted to numbers alone, of up to 2,000 molecules. Best means "
            "of all and of ours, without regard to intervals:",
            "\n".join(wins),
            f"Intervals (or sets of labels) of {LEVEL:.0%} of ours fine-tuned hold the truth of "
            f"test rows: {shares or 'not measured'}.",
        ]
    )


if __name__ == "__main__":
    main()
