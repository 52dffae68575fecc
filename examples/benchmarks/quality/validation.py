# SPDX-License-Identifier: Apache-2.0
"""Compare checkpoints on validation rows only, to choose between ways of training.

    python -m examples.benchmarks.quality.validation --checkpoints runs/a runs/b \
        --data_dir moleculenet --output table.md \
        --sources split/moses.validation.smi split/zinc250k.validation.smi \
        split/chembl_sample.validation.smi split/qm9.validation.smi

One Markdown table, a row a checkpoint; with `--output` also a file of it and, beside it, a JSON of
all figures. About a minute a checkpoint on one core. Test rows of the labelled data sets are left
out before anything is computed; that the sources hold validation molecules is up to the caller.

- *exact*: the share of the first `--count` molecules of each source that come back from their mean
  code, decoded greedily.
- *valid*: the share of `--draws` codes that decode to a molecule at once: of N(0, I), and at
  z + ε with ε ~ N(0, I) around molecules of the sources. That is radius 1 in absolute units, where
  the prior's spread is 1: `unit="prior"`, the default of `MoleculeGenerator.sample_around` and the
  first of the two tables around molecules of `generative.py` ("radius in units of 1"); neither the
  molecule's posterior nor the spread of the training molecules' codes (the second) scales it. Those
  tables draw around 50 molecules of one source; here the draws go evenly to all sources, one a
  molecule as far as there are enough, so the shares compare checkpoints with each other only.
- *probes*: SVM and linear heads on frozen embeddings, fitted on the published training rows (a
  sample of 1,500 where there are more than 2,000) and scored on the published validation rows, RMSE
  in the labels' unit or ROC-AUC. Cross-validation inside the training rows, threefold, chooses the
  hyper-parameter, as the validation rows are what is reported.
- *mean error*: of the SVM, relative to the first checkpoint's on the same representation: the mean
  over data sets of error / (error of the first), where error is RMSE or 1 − ROC-AUC. The first has
  1; lower is better.

Everything drawn has a fixed seed, and codes of equal shape the same noise, so checkpoints are
compared on the same rows and draws.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder, MoleculeGenerator, metrics

from ..evidence import first, table, write
from .generative import wilson
from .molecule_tasks import Task, heads, load_tasks

REPRESENTATIONS = ("informative", "latent")
HEADS = {"svm": "SVM", "ridge": "linear"}  # names in `heads`, and in the table
SUMMARY = "svm"
FOLDS = 3
LARGE, SAMPLE = 2000, 1500  # of more training rows than LARGE, SAMPLE are used
RADIUS = 1.0


@dataclass
class Arguments:
    """What to compare, on what."""

    checkpoints: list[str] = field(metadata={"help": "Folders or Hub ids; the first is 1."})
    data_dir: str = field(
        metadata={"help": "Folder of <name>.csv with smiles, a label and split; or a Hub dataset."}
    )
    sources: list[str] = field(metadata={"help": "Validation molecules, a file each."})
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    count: int = field(default=300, metadata={"help": "Of each source, to reconstruct."})
    draws: int = field(default=500, metadata={"help": "From N(0, I), and around molecules."})
    output: str | None = field(
        default=None, metadata={"help": "The table, .md; a .json of all figures goes beside it."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each checkpoint, and show and write the table."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if args.output is not None and Path(args.output).suffix != ".md":
        raise SystemExit(f"--output {args.output} is the table's file; let its name end in .md.")
    names = row_names(args.checkpoints)
    given = molecules(args)
    tasks = [without_test(task) for task in load_tasks(args.data_dir, args.tasks)]
    # All load before one is measured, so that a wrong path ends it at once.
    embedders = [MoleculeEmbedder(path, progress=False) for path in args.checkpoints]
    bar = tqdm(embedders, desc="checkpoints")
    found = {n: measure(e, tasks, given, args.draws) for n, e in zip(names, bar, strict=True)}
    add_mean_errors(found, tasks)
    text = page(found, tasks)
    if args.output is None:
        print(text)
        return
    results = {
        "settings": {"count": args.count, "draws": args.draws, "radius": RADIUS},
        "tasks": {task.name: described(task) for task in tasks},
        "checkpoints": found,
    }
    write(Path(args.output).stem, Path(args.output).parent, results, text)


def row_names(checkpoints: Sequence[str]) -> list[str]:
    """A name for each checkpoint: as many of the last parts of its path as tell them apart.

    Raises:
        SystemExit: one is given twice.
    """
    paths = [Path(checkpoint).absolute().parts for checkpoint in checkpoints]
    if len(set(paths)) < len(paths):
        raise SystemExit(f"--checkpoints names one twice: {', '.join(checkpoints)}.")
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def molecules(args: Arguments) -> dict[str, list[str]]:
    """The first molecules of each source, by its name up to the first dot.

    Raises:
        SystemExit: two sources of one name, an empty one, or fewer draws than sources.
    """
    paths = {Path(source).name.split(".")[0]: source for source in args.sources}
    if len(paths) < len(args.sources):
        raise SystemExit(f"--sources have names in common: {', '.join(args.sources)}; rename one.")
    given = {name: first(source, args.count) for name, source in paths.items()}
    if empty := [name for name, smiles in given.items() if not smiles]:
        raise SystemExit(f"There is no molecule in {', '.join(empty)}, of which --count is taken.")
    if args.draws < len(given):
        raise SystemExit(f"--draws {args.draws} gives {len(given)} sources less than one each.")
    return given


def without_test(task: Task) -> Task:
    """The training and validation rows of a task, a sample of the former if they are many.

    Raises:
        SystemExit: there is no published division, or it leaves nothing to fit or to score.
    """
    if task.split is None:
        raise SystemExit(f"{task.name} has no column `split`; leave it out by --tasks.")
    train, valid = (np.flatnonzero(task.split == part) for part in ("train", "valid"))
    if len(train) > LARGE:
        train = np.random.default_rng(0).permutation(train)[:SAMPLE]
    rows = np.sort(np.concatenate([train, valid]))
    # Test labels have no say in whether there are two classes.
    binary = set(np.unique(task.labels[rows])) <= {0.0, 1.0}
    classes = task.labels if binary else np.zeros_like(task.labels)
    for part, least in ((train, FOLDS), (valid, 1)):
        if any(np.sum(classes[part] == value) < least for value in ((0, 1) if binary else (0,))):
            raise SystemExit(
                f"{task.name} needs {FOLDS} training rows and 1 validation row (of each class, if "
                f"there are two), and has {len(train)} and {len(valid)}; leave it out by --tasks."
            )
    return replace(
        task,
        smiles=[task.smiles[row] for row in rows],
        labels=task.labels[rows],
        binary=binary,
        split=task.split[rows],
    )


def measure(
    embedder: MoleculeEmbedder, tasks: Sequence[Task], given: Mapping[str, list[str]], draws: int
) -> dict[str, Any]:
    """All figures of a checkpoint but its mean errors, and the seconds that they took."""
    start = time.perf_counter()
    generator = MoleculeGenerator(embedder.checkpoint, seed=0, progress=False)
    found: dict[str, Any] = {
        "weights": embedder.fingerprint,
        "reconstruction": {name: rebuilt(generator, given[name]) for name in given},
        "validity": validity(generator, given, draws),
        "probes": {},
    }
    for task in tasks:
        found["probes"][task.name] = {
            name: probe(task, embedder.embed(task.smiles, representation=name))
            for name in REPRESENTATIONS
        }
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def rebuilt(generator: MoleculeGenerator, smiles: list[str]) -> dict[str, Any]:
    """Shares of molecules that come back, with Wilson's 95 % interval of the exact ones."""
    written = [text or "" for text in generator.reconstruct(smiles, attempts=1)]
    found = metrics.load("reconstruction").compute(predictions=written, references=smiles)
    interval = wilson(found["reconstruction"], len(smiles))
    return {**found, "interval": interval, "molecules": len(smiles)}


def validity(
    generator: MoleculeGenerator, given: Mapping[str, list[str]], draws: int
) -> dict[str, Any]:
    """Shares of codes that are molecules: from the prior, around molecules, and of each source."""
    prior = [text is not None for text in generator.sample(draws, attempts=1)]
    near = {}
    for place, (name, smiles) in enumerate(given.items()):
        seeds = list(islice(cycle(smiles), len(range(place, draws, len(given)))))
        groups = generator.sample_around(seeds, RADIUS, 1, attempts=1)
        near[name] = [text is not None for (text,) in groups]
    found: dict[str, Any] = {
        "around each": {name: float(np.mean(one)) for name, one in near.items()}
    }
    for name, one in (("prior", prior), ("around", sum(near.values(), []))):
        share = float(np.mean(one))
        found[name] = {"validity": share, "interval": wilson(share, len(one)), "draws": len(one)}
    return found


def probe(task: Task, features: np.ndarray) -> dict[str, dict[str, float]]:
    """Fit each head on the training rows and score the validation rows once.

    Args:
        task: without its test rows.
        features: (rows, size), of its rows.

    Returns:
        For each head `score` on validation rows (ROC-AUC, or RMSE in the labels' unit), that of
        cross-validation and `choice`, the candidate's place in `heads`.
    """
    train, valid = task.split == "train", task.split == "valid"
    scoring = get_scorer("roc_auc" if task.binary else "neg_root_mean_squared_error")
    folds = (StratifiedKFold if task.binary else KFold)(FOLDS, shuffle=True, random_state=0)
    found = {}
    for head in HEADS:
        models = [make() for make in heads(task.binary, 0)[head]]
        if not task.binary:  # regressors expect labels near unit scale
            models = [TransformedTargetRegressor(m, transformer=StandardScaler()) for m in models]
        fitted = features[train], task.labels[train]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            inner = [cross_val_score(m, *fitted, cv=folds, scoring=scoring).mean() for m in models]
            choice = int(np.argmax(inner))
            model = models[choice].fit(*fitted)
        score = scoring(model, features[valid], task.labels[valid])
        found[head] = {
            "score": abs(float(score)),
            "cross_validation": abs(float(inner[choice])),
            "choice": choice,
        }
    return found


def add_mean_errors(found: Mapping[str, dict[str, Any]], tasks: Sequence[Task]) -> None:
    """Add `mean error` to each checkpoint's figures, for each representation."""

    def errors(one: dict[str, Any], name: str) -> np.ndarray:
        scores = [one["probes"][task.name][name][SUMMARY]["score"] for task in tasks]
        return np.where([task.binary for task in tasks], 1 - np.array(scores), scores)

    reference = next(iter(found.values()))
    for one in found.values():
        one["mean error"] = {}
        for name in REPRESENTATIONS:
            ours, base = errors(one, name), errors(reference, name)
            with np.errstate(divide="ignore", invalid="ignore"):  # the first may make no error
                relative = np.where(ours == base, 1.0, ours / base)
            one["mean error"][name] = float(relative.mean())


def page(found: Mapping[str, dict[str, Any]], tasks: Sequence[Task]) -> str:
    """The table, a row a checkpoint."""
    sources = next(iter(found.values()))["reconstruction"]
    kinds = " / ".join(HEADS.values())
    units = {task.name: "AUC" if task.binary else "RMSE" for task in tasks}
    probes = [(task, name) for task in tasks for name in REPRESENTATIONS]
    header = [
        "checkpoint",
        f"exact {' / '.join(sources)}",
        "valid, N(0, I)",
        f"valid, radius {RADIUS:g}",
        *(f"mean error, {name}" for name in REPRESENTATIONS),
        *(f"{task.name} {units[task.name]}, {name}, {kinds}" for task, name in probes),
    ]
    rows = []
    for label, one in found.items():
        exact = (f"{each['reconstruction']:.1%}" for each in one["reconstruction"].values())
        scores = [one["probes"][task.name][name] for task, name in probes]
        valid = (f"{one['validity'][where]['validity']:.1%}" for where in ("prior", "around"))
        means = (f"{one['mean error'][name]:.3f}" for name in REPRESENTATIONS)
        probed = (" / ".join(f"{score[head]['score']:.3f}" for head in HEADS) for score in scores)
        rows.append([label, " / ".join(exact), *valid, *means, *probed])
    return table(header, rows)


def described(task: Task) -> dict[str, Any]:
    """What was used of a data set; `dropped` counts unusable rows of any part."""
    rows = {part: int(np.count_nonzero(task.split == part)) for part in ("train", "valid")}
    return {**rows, "dropped": task.dropped, "binary": task.binary, "measure": task.measure}


if __name__ == "__main__":
    main()
