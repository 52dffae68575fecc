# SPDX-License-Identifier: Apache-2.0
"""How far predictions can be trusted: coverage, error by distance, class weights, atoms.

    python -m examples.benchmarks.quality.trust
    python -m examples.benchmarks.quality.trust --data_dir moleculenet --seeds 5

Heads on frozen vectors, as `examples/finetune.py --head` fits them. Each seed divides a data set
80 : 10 : 10 anew: validation rows choose the head's strength and calibrate its intervals, test rows
are counted. A data set with two classes comes a second time with few rows of the rarer, the share
that is toxic in ClinTox. Contributions of atoms are compared with those that make up RDKit's
MolLogP (Wildman and Crippen 1999), which heads learn from 800 molecules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Crippen import MolLogP
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.chemistry.smiles import parse
from cmim_hf.chemistry.smiles import write as write_smiles
from cmim_hf.prediction.applicability import ApplicabilityDomain
from cmim_hf.prediction.attribution import atom_contributions
from cmim_hf.prediction.conformal import bound, label_bounds
from cmim_hf.prediction.frozen_heads import MOST_OF_A_PROCESS, fit_head, predict_head
from cmim_hf.prediction.members import Heads

from ..evidence import DATA, RESULTS, Cells, first, interval, shown, table, write
from ..pictures import panels, save_figure
from .molecule_tasks import Task, load_tasks

LEVELS = (0.5, 0.8, 0.9, 0.95)
BINS = 5  # of the distance percentile
RARE = 112 / 1478  # ClinTox's toxic molecules (MoleculeNet, arXiv 1703.00564)


@dataclass
class Arguments:
    """What to predict, from what."""

    data_dir: str | None = field(
        default=None, metadata={"help": "As quality.moleculenet takes it."}
    )
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    representation: str = field(default="both", metadata={"help": "Of the vectors."})
    heads: list[str] = field(
        default_factory=lambda: ["ridge", "svm", "gp"], metadata={"help": "Which."}
    )
    seeds: int = field(default=5, metadata={"help": "Divisions of each data set."})
    atoms: int = field(default=100, metadata={"help": "Molecules whose atoms are looked at."})
    workers: int = field(default=2, metadata={"help": "Processes that fit heads."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Fit and count what is not counted yet, and write tables and a picture."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    tasks = load_tasks(args.data_dir, args.tasks)
    drawn = {task.name for task in tasks}
    tasks += [rare(task) for task in tasks if task.binary]
    embedder = MoleculeEmbedder(args.checkpoint, representation=args.representation, progress=False)
    vectors = {task.name: embedder.embed(task.smiles) for task in tasks}
    settings = {"weights": embedder.fingerprint, "representation": args.representation}
    cells = Cells(Path(args.output, "cells", "trust"), settings)
    jobs = [
        (task, head, balanced, seed)
        for task in tasks
        for head in args.heads
        for balanced in ((False, True) if task.binary else (False,))
        for seed in range(args.seeds)
        if head != "gp" or (not task.binary and 0.9 * len(task.labels) <= MOST_OF_A_PROCESS)
    ]
    runs = Parallel(n_jobs=args.workers, return_as="generator")(
        delayed(_cell)(cells, vectors[task.name], task, head, balanced, seed)
        for task, head, balanced, seed in jobs
    )
    runs = list(tqdm(runs, total=len(jobs), desc="fits"))
    draw([run for run in runs if run["task"] in drawn], Path(args.output))
    atoms = cells.compute(
        f"atoms-{args.atoms}", lambda: atoms_against_crippen(embedder, args.atoms)
    )
    results = {"checkpoint": Path(args.checkpoint).name, **settings, "atoms": atoms, "runs": runs}
    write("trust", args.output, results, f"{page(runs, args.seeds)}\n\n{atoms_page(atoms)}")


def rare(task: Task) -> Task:
    """The task with as many of its rarer class as make `RARE` of all rows, chosen at random."""
    fewer = float(task.labels.mean() < 0.5)
    few, many = np.flatnonzero(task.labels == fewer), np.flatnonzero(task.labels != fewer)
    number = round(len(many) * RARE / (1 - RARE))
    kept = np.sort([*many, *np.random.default_rng(0).permutation(few)[:number]])
    name, smiles = f"{task.name}-few-{fewer:g}", [task.smiles[row] for row in kept]
    return replace(task, name=name, smiles=smiles, labels=task.labels[kept], split=None)


def _cell(
    cells: Cells, vectors: np.ndarray, task: Task, head: str, balanced: bool, seed: int
) -> dict[str, Any]:
    content = hashlib.sha256("\n".join(task.smiles).encode() + task.labels.tobytes())
    name = f"{task.name}-{content.hexdigest()[:8]}-{head}-{balanced}-{seed}"
    return cells.compute(name, partial(measure, vectors, task, head, balanced, seed))


def measure(
    vectors: np.ndarray, task: Task, head: str, balanced: bool, seed: int
) -> dict[str, Any]:
    """Fit one head, and count on its test rows."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    tenth = len(order) // 10
    valid, test, train = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
    rows = [(vectors[part], task.labels[part]) for part in (train, valid)]
    classes = 2 if task.binary else 0
    model = fit_head(head, *rows, classes=classes, balanced=balanced, seed=seed)
    (held, _), (found, spread) = (predict_head(model, vectors[p], classes) for p in (valid, test))
    truth, known = task.labels[test], task.labels[valid]
    domain = ApplicabilityDomain.fit(np.unique(vectors[train], axis=0))
    percentiles = domain.percentiles(vectors[test])
    about = {"task": task.name, "head": head, "balanced": balanced, "seed": seed, "rows": tenth}
    if task.binary:
        errors, figures = np.abs(found[:, 1] - truth), _of_classes(held, known, found, truth)
    else:
        errors, figures = np.abs(found - truth), _of_numbers(np.abs(held - known), found, truth)
    bins = np.clip((percentiles * BINS / 100).astype(int), 0, BINS - 1)
    return {
        **about,
        **figures,
        "numbers": np.bincount(bins, minlength=BINS).tolist(),
        "errors": np.bincount(bins, errors, minlength=BINS).tolist(),
        "rank_correlation_of_spread": None if spread is None else _ranks(spread, errors),
        "rank_correlation_of_distance": _ranks(percentiles, errors),
    }


def _ranks(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _of_numbers(held: np.ndarray, found: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    errors = np.abs(found - truth)
    radii = [bound(held, level) for level in LEVELS]
    return {
        "score": float(np.sqrt(np.mean(errors**2))),
        "covered": [float(np.mean(errors <= radius)) for radius in radii],
        "size": [float(radius) for radius in radii],
    }


def _of_classes(
    held: np.ndarray, known: np.ndarray, found: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    sets = [1 - found <= label_bounds(held, known, level) for level in LEVELS]
    of_truth = [ruled_in[np.arange(len(truth)), truth.astype(int)] for ruled_in in sets]
    yes = found[:, 1]
    return {
        "score": float(roc_auc_score(truth, yes)),
        "average_precision": float(average_precision_score(truth, yes)),
        "balanced_accuracy": float(balanced_accuracy_score(truth, yes > 0.5)),
        "covered": [float(held.mean()) for held in of_truth],
        "covered_by_class": [[float(h[truth == c].mean()) for c in (0, 1)] for h in of_truth],
        "size": [float(ruled_in.sum(axis=1).mean()) for ruled_in in sets],
    }


def atoms_against_crippen(embedder: MoleculeEmbedder, number: int) -> dict[str, Any]:
    """Correlation over the atoms of each molecule, its mean and interval, for each head."""
    rows = [parse(text) for text in first(str(DATA / "moses_test.smi"), 900 + number)]
    smiles = [write_smiles(molecule) for molecule in rows]
    vectors, logp = embedder.embed(smiles), np.array([MolLogP(molecule) for molecule in rows])
    parts = slice(0, 800), slice(800, 900), slice(900, None)
    train, valid, test = [(vectors[part], logp[part]) for part in parts]
    found: dict[str, Any] = {}
    for name in ("ridge", "svm"):
        model = fit_head(name, train, valid)
        members = Heads(embedder, [model], "regression", 0)
        correlations = []
        for text in smiles[parts[2]]:
            own = atom_contributions(members, embedder.tokenizer, text).values[0]
            true = [logp for logp, _ in rdMolDescriptors._CalcCrippenContribs(parse(text))]
            correlations.append(float(np.corrcoef(own, true)[0, 1]))
        r2 = 1 - np.var(predict_head(model, test[0])[0] - test[1]) / np.var(test[1])
        found[name] = {"r2": float(r2), "correlation": interval(correlations)}
    return {"molecules": number, "heads": found}


def atoms_page(found: dict[str, Any]) -> str:
    """What `atoms_against_crippen` found."""
    rows = [
        [name, f"{own['r2']:.2f}", shown(*own["correlation"], digits=2)]
        for name, own in found["heads"].items()
    ]
    return (
        "## Atoms\n\nHeads for RDKit's MolLogP: correlation of the atoms' contributions (by hiding "
        "each) with those that make up the true value, mean over "
        f"{found['molecules']} molecules kept apart, and R² there.\n\n"
        + table(["head", "R²", "correlation over atoms"], rows)
    )


def page(runs: Sequence[dict[str, Any]], seeds: int) -> str:
    """Tables of coverage, of errors by distance, and of class weights."""
    plain = [run for run in runs if not run["balanced"]]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in plain:
        groups.setdefault((run["task"], run["head"]), []).append(run)
    coverage, distance, weights = [], [], []
    for (task, head), own in groups.items():
        places = range(len(LEVELS))
        covered = [100 * np.mean([run["covered"][place] for run in own]) for place in places]
        nine = [100 * run["covered"][LEVELS.index(0.9)] for run in own]
        size = interval([run["size"][LEVELS.index(0.9)] for run in own])
        score = interval([run["score"] for run in own])
        coverage.append(
            [task, head, shown(*score), *(f"{value:.1f}" for value in covered)]
            + [f"{min(nine):.0f} to {max(nine):.0f}", shown(*size, digits=2)]
        )
        numbers, errors = (
            np.sum([run[name] for run in own], axis=0) for name in ("numbers", "errors")
        )
        means = [
            f"{e / n:.3f} ({int(n)})" if n else "–" for e, n in zip(errors, numbers, strict=True)
        ]
        ranks = interval([run["rank_correlation_of_distance"] for run in own])
        spread = [run["rank_correlation_of_spread"] for run in own]
        told = shown(*interval(spread), digits=2) if None not in spread else "–"
        distance.append([task, head, *means, shown(*ranks, digits=2), told])
    for task, head in {(run["task"], run["head"]): 0 for run in runs if run["balanced"]}:
        for balanced in (False, True):
            own = [
                run
                for run in runs
                if (run["task"], run["head"], run["balanced"]) == (task, head, balanced)
            ]
            names = ("balanced_accuracy", "score", "average_precision")
            cells = [shown(*interval([run[name] for run in own])) for name in names]
            weights.append([task, head, "balanced" if balanced else "none", *cells])
    levels = [f"{level:.0%}" for level in LEVELS]
    ranges = [f"{100 * b // BINS} to {100 * (b + 1) // BINS}" for b in range(BINS)]
    parts = [
        "# How far predictions can be trusted",
        f"Heads on frozen vectors; {seeds} random divisions 80 : 10 : 10, mean ± half the 95 % "
        "interval.",
        "## Coverage",
        "How often the interval (or the set of labels) of a stated level holds the truth, in % of "
        "the test rows; the range over the divisions at 90 %, and the size there: half the width "
        "in the labels' units, or labels in a set. Scores are RMSE or ROC-AUC.",
        table(["data set", "head", "score", *levels, "90 %, range", "size"], coverage),
        "## Error by distance",
        "Mean error (absolute, or 1 - p of the true label) of test rows by their distance to the "
        "training molecules, a percentile of the distances among these (number of rows, all "
        "divisions); and the rank correlation of errors with the distance, and with the spread of "
        "a Gaussian process.",
        table(["data set", "head", *ranges, "distance", "spread"], distance),
        "![error by distance](trust.png)",
    ]
    if weights:
        header = ["data set", "head", "class weights", "balanced accuracy", "ROC-AUC"]
        parts += ["## Class weights", table([*header, "average precision"], weights)]
    return "\n\n".join(parts)


def draw(runs: Sequence[dict[str, Any]], folder: Path) -> None:
    """Errors by distance, relative to the mean error of each data set and head."""
    figure, (axes,) = panels(1, 1, (7.5, 5.0))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if not run["balanced"]:
            groups.setdefault((run["task"], run["head"]), []).append(run)
    tasks, heads = (list(dict.fromkeys(names)) for names in zip(*groups, strict=True))
    for (task, head), own in groups.items():
        numbers, errors = (
            np.sum([run[key] for run in own], axis=0) for key in ("numbers", "errors")
        )
        middles = (np.arange(BINS) + 0.5) * 100 / BINS
        there = numbers >= 10
        mean = errors.sum() / numbers.sum()
        look = {
            "color": f"C{tasks.index(task)}",
            "linestyle": ("-", "--", ":")[heads.index(head) % 3],
        }
        ratios = errors[there] / numbers[there] / mean
        axes.plot(middles[there], ratios, "o", label=f"{task}, {head}", **look)
    axes.axhline(1, color="0.7")
    axes.set(
        xlabel="distance to the training molecules, percentile",
        ylabel="mean error, over that of all test rows",
    )
    axes.legend(fontsize=9, ncols=2)
    save_figure(figure, folder / "trust.png")


if __name__ == "__main__":
    main()
