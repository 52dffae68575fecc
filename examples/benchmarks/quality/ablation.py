# SPDX-License-Identifier: Apache-2.0
"""What each part of cMIM does: objectives, batch sizes, temperature, codes, posteriors.

    python -m examples.benchmarks.quality.ablation
    python -m examples.benchmarks.quality.ablation --budget 12 --seeds 3 --workers 2

One model, one set of molecules, equal numbers of molecules presented. The budget is small by
default, so that all of it ends in minutes on two cores; `--budget` multiplies it. Runs are kept one
by one: a stopped benchmark goes on, and several commands at once share the runs.

Measured on held-out molecules (nll a token, exact reconstruction, spread of the posterior) and by
ridge regression on frozen embeddings, whose penalty validation rows choose. The batch sizes compare
objectives with the learning rate that was best for each of them, again by validation rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from transformers import HfArgumentParser, set_seed

from cmim_hf import CMIMConfig, CMIMModel, CMIMTokenizer, MoleculeEmbedder, default_tokenizer
from cmim_hf.allocator import keep_freed_memory
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.prepare import SourceOptions, prepare_sources, retokenize

from ..evidence import DATA, RESULTS, Cells, interval, shown, table, write
from ..pictures import better, panels, save_figure
from .molecule_tasks import Task, divisions, fit_and_score, heads, load_tasks
from .trainings import (
    NO_DECODER,
    compute_all,
    grouped,
    names_of_objectives,
    trainer_for,
    views_of,
)
from .two_views import LOSSES, lightly_is_installed

PRESENTED = 4096  # molecules, at a budget of 1
RATES = (0.001, 0.003, 0.01)
STUDIES = ("objectives", "batch_size", "temperature", "latent_size", "posterior")
REPRESENTATIONS = ("latent", "informative", "both")


@dataclass
class Arguments:
    """How much to run."""

    studies: list[str] = field(
        default_factory=lambda: list(STUDIES), metadata={"help": "Which.", "choices": STUDIES}
    )
    budget: float = field(default=1.0, metadata={"help": f"1 presents {PRESENTED:,} molecules."})
    seeds: int = field(default=1, metadata={"help": "Of each run that a table shows."})
    size: str = field(default="tiny", metadata={"help": "Of the model."})
    merges: int = field(default=64, metadata={"help": "Multi-atom tokens."})
    source: str = field(default=str(DATA / "moses_train.smi.gz"), metadata={"help": "Molecules."})
    held_out: int = field(default=1000, metadata={"help": "Of them, to measure on."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Labelled molecules: see moleculenet.py."}
    )
    tasks: list[str] | None = field(default=None, metadata={"help": "These data sets only."})
    workers: int = field(default=2, metadata={"help": "Runs at once, a thread each."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


@dataclass(frozen=True)
class Run:
    """One training; what is not named is as in `examples/configs/tiny.yaml`."""

    objective: str = "cmim"
    batch_size: int = 128
    learning_rate: float = 0.003
    temperature: float = 0.1
    latent_size: int = 96
    posterior: str = "learned"
    min_log_std: float = -3.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(str(value) for value in asdict(self).values())


@dataclass
class Material:
    """What all runs share, in files that any process can open."""

    args: Arguments
    folder: Path
    tasks: list[Task]

    @property
    def tokenizer(self) -> CMIMTokenizer:
        """Of the molecules."""
        return CMIMTokenizer.from_pretrained(self.folder)

    def molecules(self, part: str) -> PackedMolecules:
        """`"train"` or `"held_out"`."""
        return PackedMolecules.load(self.folder / part, self.tokenizer)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what has not been run, and write tables and pictures."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    keep_freed_memory()
    tasks = load_tasks(args.data_dir, args.tasks)
    with tempfile.TemporaryDirectory() as folder:
        material = prepare(args, Path(folder), tasks)
        work = partial(train_and_measure, material)
        compute = partial(compute_all, work, cells_of(args, tasks), args.workers)
        found: dict[str, list[dict[str, Any]]] = {}
        for study in args.studies:
            runs = fixed_runs(study)
            if study == "batch_size":
                tried = grouped(compute(rate_runs()), ["objective", "batch_size"])
                runs = [best_rate(group) for group in tried]
            seeded = [replace(run, seed=seed) for run in runs for seed in range(args.seeds)]
            found[study] = [{"study": study, **result} for result in compute(seeded)]
    pages = [page(study, results, tasks) for study, results in found.items()]
    draw(found, tasks, Path(args.output))
    presented = round(args.budget * PRESENTED)
    head = (
        f"# Ablations\n\n{presented:,} molecules presented to a {args.size} model in each run; "
        f"means of {args.seeds} seeds ± half the 95 % interval. Probes: test RMSE of ridge "
        "regression on frozen embeddings (latent / informative / both), lower is better."
    )
    if not lightly_is_installed():
        head += "\n\nVICReg and Barlow Twins are left out: pip install --no-deps lightly"
    results = {
        "arguments": {**asdict(args), "source": Path(args.source).name, "output": None,
                      "data_dir": None},
        "presented": presented,
        "runs": [result for results in found.values() for result in results],
    }  # fmt: skip
    write("ablation", args.output, results, "\n\n".join([head, *pages]))


def fixed_runs(study: str) -> list[Run]:
    """The runs of a study, but for their seeds."""
    if study == "objectives":
        names = ["untrained", *names_of_objectives()]
        return [Run(objective=name) for name in names]
    if study == "temperature":
        return [Run(temperature=value) for value in (0.05, 0.1, 0.5, 1.0)]
    if study == "latent_size":
        return [Run(latent_size=size) for size in (16, 32, 96, 192)]
    if study == "posterior":
        return [Run(), Run(min_log_std=-1.0), Run(posterior="sampled")]
    return []


def rate_runs() -> list[Run]:
    """What the learning rate of each objective and batch size is chosen from."""
    return [
        Run(objective=objective, batch_size=batch_size, learning_rate=rate)
        for objective in ("cmim", "infonce", "infonce_ae")
        for batch_size in (16, 64, 256, 1024)
        for rate in RATES
    ]


def best_rate(results: Sequence[dict[str, Any]]) -> Run:
    """The run whose latents predict validation rows best, in units of each label's spread."""
    best = min(results, key=lambda result: result["valid_latent"])
    return Run(**{name: best[name] for name in asdict(Run())})


def cells_of(args: Arguments, tasks: Sequence[Task]) -> Cells:
    """Where results are kept: apart for all that changes them."""
    names = ("budget", "size", "merges", "held_out")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"source": Path(args.source).name, "tasks": [task.name for task in tasks]}
    return Cells(Path(args.output, "cells", "ablation"), settings)


def prepare(args: Arguments, folder: Path, tasks: list[Task]) -> Material:
    """Tokenise the molecules once."""
    tokenizer = default_tokenizer(512)
    options = SourceOptions(max_length=512, canonicalize=False)
    molecules, _ = prepare_sources([args.source], tokenizer, options)
    if args.merges:
        molecules, tokenizer, _ = retokenize(molecules, tokenizer, merges=args.merges)
    tokenizer.save_pretrained(folder)
    train, held_out = molecules.split(args.held_out, seed=0)
    train.save(folder / "train")
    held_out.save(folder / "held_out")
    return Material(args, folder, tasks)


def train_and_measure(material: Material, run: Run) -> dict[str, Any]:
    """Train, evaluate on held-out molecules, predict from frozen embeddings."""
    args = material.args
    tokenizer = material.tokenizer
    set_seed(run.seed)
    model = CMIMModel(
        CMIMConfig.from_size(
            args.size,
            vocab_size=len(tokenizer),
            latent_size=run.latent_size,
            posterior=run.posterior,
            min_log_std=run.min_log_std,
        )
    )
    views = views_of(run.objective)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(
            run.objective,
            model,
            folder,
            {
                "contrastive_temperature": run.temperature,
                "max_steps": max(1, round(args.budget * PRESENTED / run.batch_size)),
                "per_device_train_batch_size": run.batch_size,
                "learning_rate": run.learning_rate,
                "seed": run.seed,
            },
            train_dataset=material.molecules("train"),
            eval_dataset=material.molecules("held_out"),
            processing_class=tokenizer,
            data_collator=CMIMCollator(tokenizer, views=views, seed=run.seed),
        )
        if run.objective != "untrained":
            trainer.train()
        if views == 2 and run.objective not in NO_DECODER:
            # as the rows beside it: molecules as they are written, no second writing
            alone = run.objective.removeprefix("infonce_")
            trainer.objective = replace(trainer.objective, name=alone)
            trainer.data_collator = CMIMCollator(tokenizer)
        measured = trainer.evaluate()
        curve = [entry for entry in trainer.state.log_history if "loss" in entry]
        if run.objective in LOSSES:
            del model.projector
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        probes, valid = probe(folder, material.tasks, run.seed)
    quantities = {
        "nll": "eval_nll",
        "token_accuracy": "eval_token_accuracy",
        "exact": "eval_exact_reconstruction",
        "posterior_std": "eval_posterior_std",
        "log_contrastive": "eval_log_contrastive",
    }
    return {
        **asdict(run),
        **{name: measured.get(key) for name, key in quantities.items()},
        "probes": probes,
        "valid_latent": valid,
        "curve": curve,
    }


def probe(
    folder: str, tasks: Sequence[Task], seed: int
) -> tuple[dict[str, dict[str, float]], float]:
    """Test scores of each task and representation; the mean scaled validation error of latents."""
    embedder = MoleculeEmbedder(folder, progress=False)
    scores: dict[str, dict[str, float]] = {}
    valid = []
    for task in tasks:
        division = list(divisions(task, "published", seed + 1))[seed]
        scores[task.name] = {}
        for representation in REPRESENTATIONS:
            found = fit_and_score(
                heads(task.binary, seed)["ridge"],
                embedder.embed(task.smiles, representation=representation),
                task.labels,
                division,
                task.binary,
            )
            scores[task.name][representation] = found["test"]
            if representation == "latent":
                error = 1 - found["valid"] if task.binary else found["valid"] / task.labels.std()
                valid.append(error)
    return scores, float(np.mean(valid))


def page(study: str, results: Sequence[dict[str, Any]], tasks: Sequence[Task]) -> str:
    """A table of one study."""
    varied = {
        "objectives": ["objective"],
        "batch_size": ["objective", "batch_size", "learning_rate"],
        "temperature": ["temperature"],
        "latent_size": ["latent_size"],
        "posterior": ["posterior", "min_log_std"],
    }[study]
    header = [name.replace("_", " ") for name in varied]
    header += ["nll a token", "exact", "posterior std"]
    header += [f"{task.name} ({task.measure})" for task in tasks]
    rows = []
    for group in grouped(results, varied):
        first = group[0]
        row = [first[name] for name in varied]
        row += [_mean(group, name) for name in ("nll", "exact", "posterior_std")]
        row += [
            " / ".join(
                shown(*interval([result["probes"][task.name][name] for result in group]))
                for name in REPRESENTATIONS
            )
            for task in tasks
        ]
        rows.append(row)
    lines = [f"## {study.replace('_', ' ').capitalize()}", table(header, rows)]
    if study == "objectives":
        lines.append(
            f"{', '.join(NO_DECODER)} train no decoder: their informative embeddings are those of "
            "a decoder with random weights."
        )
    if study == "batch_size":
        lines.append(f"The learning rate of each row: the best of {RATES} on validation rows.")
    return "\n\n".join(lines)


def draw(found: dict[str, list[dict[str, Any]]], tasks: Sequence[Task], folder: Path) -> None:
    """`ablation_objectives.png` and `ablation_batch_size.png`, of the studies that were run."""
    if "objectives" in found:
        figure, plots = panels(len(tasks), len(tasks), (5.0, 6.0))
        for plot, task in zip(plots, tasks, strict=True):
            draw_objectives(plot, grouped(found["objectives"], ["objective"]), task)
        handles = plots[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(REPRESENTATIONS))
        save_figure(figure, folder / "ablation_objectives.png")
    if "batch_size" in found:
        figure, plots = panels(len(tasks), len(tasks))
        for plot, task in zip(plots, tasks, strict=True):
            for of_one in grouped(found["batch_size"], ["objective"]):
                groups = grouped(of_one, ["batch_size"])
                points = [interval([r["probes"][task.name]["latent"] for r in g]) for g in groups]
                plot.errorbar(
                    [g[0]["batch_size"] for g in groups],
                    [mean for mean, _, _ in points],
                    np.nan_to_num([(high - low) / 2 for _, low, high in points]),
                    label=of_one[0]["objective"],
                    marker="o",
                )
            plot.set_xscale("log", base=2)
            measure = f"{task.measure}, latent {better(task.binary)}"
            plot.set(title=task.name, xlabel="batch size", ylabel=measure)
        plots[0].legend()
        save_figure(figure, folder / "ablation_batch_size.png")


def draw_objectives(plot: plt.Axes, groups: Sequence[list[dict[str, Any]]], task: Task) -> None:
    """Three lying bars an objective, the objective whose vectors predict best together on top."""

    def scores(group: list[dict[str, Any]], name: str) -> tuple[float, float, float]:
        return interval([result["probes"][task.name][name] for result in group])

    groups = sorted(groups, key=lambda group: scores(group, "both")[0], reverse=not task.binary)
    for place, name in enumerate(REPRESENTATIONS):
        bars = [scores(group, name) for group in groups]
        plot.barh(
            np.arange(len(groups)) - 0.27 * (place - 1),
            [mean for mean, _, _ in bars],
            0.27,
            xerr=np.nan_to_num([(high - low) / 2 for _, low, high in bars]),
            error_kw={"elinewidth": 1},
            label=name,
        )
    plot.set_yticks(range(len(groups)), [group[0]["objective"] for group in groups])
    plot.set(title=task.name, xlabel=f"{task.measure} {better(task.binary)}")


def _mean(results: Sequence[dict[str, Any]], name: str) -> str:
    values = [result[name] for result in results if result[name] is not None]
    return shown(*interval(values))


if __name__ == "__main__":
    main()
