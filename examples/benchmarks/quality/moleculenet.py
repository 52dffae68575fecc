# SPDX-License-Identifier: Apache-2.0
"""Predict measured properties from frozen embeddings, beside fingerprints and untrained weights.

    python -m examples.benchmarks.quality.moleculenet
    python -m examples.benchmarks.quality.moleculenet --data_dir moleculenet \
        --checkpoint runs/small --pretraining train.smi.gz --workers 2

Features: the latent, informative embeddings of each pooling, and both, of a checkpoint; the same of
its architecture with random weights, and of checkpoints beside it; ECFP4; RDKit's 2D descriptors;
with --peers the vectors of MiniMol and of ChemNet.
Heads of scikit-learn, whose hyper-parameters validation rows choose; the row of a table takes, for
each seed, the head that validation rows liked best. Test rows are scored once for each head. A seed
means another sample of training rows (published division: 90 % of them), or another division (by
scaffolds), and other random numbers of the head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm
from transformers import HfArgumentParser, set_seed

from cmim_hf import CMIMConfig, CMIMModel, CMIMTokenizer, MoleculeEmbedder
from cmim_hf.checkpoints import checkpoint_path
from cmim_hf.chemistry.moses import smiles_without_stereo
from cmim_hf.chemistry.smiles import canonicalize, parse
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.metrics.frechet import chemnet_features

from ..evidence import RESULTS, Cells, interval, shown, table, write
from .claims import frozen_claims
from .molecule_tasks import (
    Task,
    descriptors,
    divisions,
    ecfp4,
    fit_and_score,
    heads,
    load_tasks,
)
from .peer_packages import minimol

REPRESENTATIONS = {
    "latent": ("latent", "mean"),
    "informative": ("informative", "mean"),
    "informative, last": ("informative", "last"),
    "informative, max": ("informative", "max"),
    "both": ("both", "mean"),
}
UNTRAINED = "untrained "
FINGERPRINTS = "ECFP4"
DESCRIPTORS = "RDKit 2D"
MINIMOL, CHEMNET = "MiniMol", "ChemNet"


@dataclass
class Arguments:
    """What to predict, from what."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of <name>.csv with smiles, a label and, maybe, split; a Hub dataset; "
            "or MoleculeACE, if installed."
        },
    )
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    beside: list[str] = field(
        default_factory=list, metadata={"help": "More checkpoints, with rows of their own."}
    )
    features: list[str] | None = field(
        default=None, metadata={"help": "These only, by their names in the tables."}
    )
    peers: bool = field(
        default=False, metadata={"help": "Vectors of MiniMol, and of ChemNet (fcd-torch), too."}
    )
    packages: str = field(default="peers", metadata={"help": "Folder of the peers' packages."})
    seeds: int = field(default=2, metadata={"help": "Of each division."})
    heads: list[str] = field(
        default_factory=lambda: ["ridge", "svm", "forest", "mlp"], metadata={"help": "Which."}
    )
    divisions: list[str] = field(
        default_factory=lambda: ["published", "scaffold"], metadata={"help": "Which."}
    )
    pretraining: list[str] = field(
        default_factory=list,
        metadata={"help": "What the checkpoint was trained on, to count test rows among it."},
    )
    workers: int = field(default=2, metadata={"help": "Processes that fit heads."})
    name: str = field(default="moleculenet", metadata={"help": "Of the page."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Embed, fit and score what is not scored yet, and write tables."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    args.checkpoint = checkpoint_path(args.checkpoint)
    tasks = load_tasks(args.data_dir, args.tasks)
    others = {name: checkpoint_path(name) for name in args.beside}
    features = {task.name: features_of(task, args.checkpoint, others) for task in tasks}
    if args.peers:
        for task in tasks:
            features[task.name] |= peers_of(task, args.packages)
    for found in features.values():
        if unknown := set(args.features or ()) - set(found):
            raise SystemExit(f"--features knows {', '.join(found)}; not {', '.join(unknown)}.")
        for name in set(found) - set(args.features or found):
            del found[name]
    weights = MoleculeEmbedder(args.checkpoint, progress=False).fingerprint
    depends = dependences(args.checkpoint, weights, others)
    folder = Path(args.output, "cells", "moleculenet")
    jobs = [
        (task, kind, name, head, seed)
        for task in tasks
        for kind in args.divisions
        for name in features[task.name]
        for head in args.heads
        for seed in range(args.seeds)
    ]
    scores = Parallel(n_jobs=args.workers, return_as="generator")(
        delayed(score)(
            folder, depends(name), task, features[task.name][name], kind, name, head, seed
        )
        for task, kind, name, head, seed in jobs
    )
    scores = list(tqdm(scores, total=len(jobs), desc="fits"))
    leaks = leakage(tasks, args.pretraining)
    text = "\n\n".join(page(tasks, kind, scores, leaks, args) for kind in args.divisions)
    results = {
        "tasks": {
            task.name: {
                "rows": len(task.labels),
                "dropped": task.dropped,
                "binary": task.binary,
                "measure": task.measure,
                **leaks[task.name],
            }
            for task in tasks
        },
        "checkpoint": Path(args.checkpoint).name,
        "weights": weights,
        "scores": scores,
    }
    verdicts = "\n".join(
        f"- {one.claim}: **{one.verdict}**. {one.figure}" for one in frozen_claims(results)
    )
    text += (
        "\n\n## Over the data sets\n\nMeans of relative differences, one for each data set; a "
        f"difference counts where its interval (Student's t) leaves 0 out.\n\n{verdicts}"
    )
    write(args.name, args.output, results, f"# Frozen embeddings\n\n{text}")


def features_of(
    task: Task, checkpoint: str, beside: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """All features of a task's molecules, each (rows, size).

    Args:
        task: Its molecules are embedded.
        checkpoint: Whose features go by the names of `REPRESENTATIONS`.
        beside: Other checkpoints by the names that their features begin with.
    """
    found = represent(MoleculeEmbedder(checkpoint, progress=False), task.smiles)
    with tempfile.TemporaryDirectory() as folder:
        set_seed(0)
        CMIMModel(architecture(checkpoint)).save_pretrained(folder)
        CMIMTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
        random = represent(MoleculeEmbedder(folder, progress=False), task.smiles)
    rows = {UNTRAINED: random}
    for other, path in (beside or {}).items():
        rows[f"{other} "] = represent(MoleculeEmbedder(path, progress=False), task.smiles)
    for start, vectors in rows.items():
        found |= {start + name: vectors[name] for name in ("latent", "informative", "both")}
    found[FINGERPRINTS] = ecfp4(task.smiles)
    found[DESCRIPTORS] = descriptors(task.smiles)
    return found


def peers_of(task: Task, packages: str) -> dict[str, np.ndarray]:
    """Vectors of two published networks, each (rows, 512)."""
    smiles = tuple(map(canonicalize, task.smiles))
    return {MINIMOL: minimol(smiles, packages), CHEMNET: chemnet_features(smiles)}


def architecture(checkpoint: str) -> CMIMConfig:
    """That of a checkpoint, without the head for properties, which no embedding passes through."""
    return CMIMConfig.from_pretrained(checkpoint, num_properties=0, property_names=None)


def represent(embedder: MoleculeEmbedder, smiles: Sequence[str]) -> dict[str, np.ndarray]:
    """Each representation of molecules, (molecules, size)."""
    return {
        name: embedder.embed(smiles, representation=representation, pooling=pooling)
        for name, (representation, pooling) in REPRESENTATIONS.items()
    }


def dependences(
    checkpoint: str, weights: str, beside: Mapping[str, str] | None = None
) -> Callable[[str], dict[str, Any]]:
    """What the values of features depend on, by the features' name: cells hold as long as it does.

    `weights`, a fingerprint, for those of the checkpoint, that of another for those beside it, its
    architecture for untrained ones, nothing for the rest.
    """
    others = {
        f"{name} ": MoleculeEmbedder(path, progress=False).fingerprint
        for name, path in (beside or {}).items()
    }
    config = architecture(checkpoint).to_diff_dict()
    vocabulary = CMIMTokenizer.from_pretrained(checkpoint).get_vocab()

    def depends(name: str) -> dict[str, Any]:
        if name in REPRESENTATIONS:
            return {"checkpoint": weights}
        if name.startswith(UNTRAINED):
            return {"architecture": config, "vocabulary": vocabulary}
        of_others = [of for start, of in others.items() if name.startswith(start)]
        return {"checkpoint": of_others[0]} if of_others else {}

    return depends


def score(
    folder: Path,
    settings: dict[str, Any],
    task: Task,
    features: np.ndarray,
    kind: str,
    name: str,
    head: str,
    seed: int,
) -> dict[str, Any]:
    """Scores of one head on one feature set, one division and one seed."""
    torch.set_num_threads(1)
    cell = {"task": task.name, "division": kind, "features": name, "head": head, "seed": seed}

    def work() -> dict[str, Any]:
        division = list(divisions(task, kind, seed + 1))[seed]
        candidates = heads(task.binary, seed)[head]
        return {
            **cell,
            **fit_and_score(candidates, features, task.labels, division, task.binary),
        }

    return Cells(folder, settings).compute("-".join(map(str, cell.values())), work)


def best_heads(
    scores: Sequence[dict[str, Any]], task: str, kind: str, name: str, binary: bool
) -> list[dict[str, Any]]:
    """For each seed the score whose head did best on validation rows."""
    sign = 1 if binary else -1
    mine = [s for s in scores if (s["task"], s["division"], s["features"]) == (task, kind, name)]
    return [
        max((s for s in mine if s["seed"] == seed), key=lambda s: sign * s["valid"])
        for seed in sorted({s["seed"] for s in mine})
    ]


def page(
    tasks: Sequence[Task],
    kind: str,
    scores: Sequence[dict[str, Any]],
    leaks: dict[str, dict[str, Any]],
    args: Arguments,
) -> str:
    """A table of test scores for one way to divide, and one for each head."""
    names = list(dict.fromkeys(s["features"] for s in scores))
    header = ["features", *(f"{task.name} ({task.measure})" for task in tasks)]
    how = {
        "published": "validation and test rows as published (where none are, at random), each seed "
        "trains on a random 90 % of the training rows",
        "scaffold": "80 : 10 : 10 by Murcko scaffolds, another division for each seed",
    }[kind]
    best = [
        [name, *(_cell(best_heads(scores, t.name, kind, name, t.binary)) for t in tasks)]
        for name in names
    ]
    lines = [
        f"## {kind.capitalize()} division",
        f"Test scores (RMSE in the labels' units: lower is better; ROC-AUC: higher), {how}. Mean "
        f"over {args.seeds} seeds ± half the 95 % interval; the head is chosen on validation rows.",
        table(header, best),
    ]
    for head in args.heads:
        rows = []
        for name in names:
            of_head = [
                [s for s in scores if (s["task"], s["division"], s["features"], s["head"])
                 == (t.name, kind, name, head)]
                for t in tasks
            ]  # fmt: skip
            rows.append([name, *map(_cell, of_head)])
        lines += [f"### Head: {head}", table(header, rows)]
    if kind == "published":
        rows = [
            [task.name, len(task.labels), task.dropped, *leaks[task.name].values()]
            for task in tasks
        ]
        head = ["data set", "rows", "not used", "test rows that are training rows"]
        lines += [
            "### Leakage",
            "A test row leaks if RDKit writes its molecule, without stereo, like that of a "
            "training row, or of a molecule of pretraining (which had no labels).",
            table([*head, "test rows seen in pretraining"], rows),
        ]
    return "\n\n".join(lines)


def leakage(tasks: Sequence[Task], pretraining: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of the published test rows, how many are training rows, and how many were pretrained on."""
    keys = {task.name: [_key(smiles) for smiles in task.smiles] for task in tasks}
    wanted = {key for of_task in keys.values() for key in of_task}
    seen: set[str] = set()
    for source in pretraining:
        for row in read_smiles(source):
            # What carries no marks of stereo and was written by RDKit is its own key.
            text = row.text if not set("@/\\[") & set(row.text) else _key(row.text)
            if text in wanted:
                seen.add(text)
    found = {}
    for task in tasks:
        train, _, test = next(divisions(task, "published", 1))
        training = {keys[task.name][row] for row in train}
        tested = [keys[task.name][row] for row in test]
        share = f"{np.mean([key in seen for key in tested]):.1%}" if pretraining else "not counted"
        found[task.name] = {
            "test_in_train": f"{np.mean([key in training for key in tested]):.1%}",
            "test_in_pretraining": share,
        }
    return found


def _key(smiles: str) -> str:
    return smiles_without_stereo(parse(smiles))


def _cell(scores: Sequence[dict[str, Any]]) -> str:
    return shown(*interval([s["test"] for s in scores]))


if __name__ == "__main__":
    main()
