# SPDX-License-Identifier: Apache-2.0
"""One page of all that was measured, with pictures: `report.md` beside the results.

    python -m examples.benchmarks.quality.report
    python -m examples.benchmarks.quality.report --checkpoint runs/small --map tsne

Reads the figures of moleculenet, ablation and generative, `finetune-*.json` (copies of the
`metrics.json` of examples/finetune.py) and `optimize-*.json` (written by optimization.py with
--json); what is missing is said. The sentences on the paper's claims are made from the figures: see
claims.py for the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.properties import logp
from cmim_hf.chemistry.smiles import canonicalize, similarity

from ..evidence import DATA, RESULTS, first, interval, read, shown, table
from .claims import chosen, claims

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Columns as in PEER_TASKS; peer_table says whose figures they are.
PEERS = (
    ("SMI-TED 289M, frozen", 1.668, 0.7045, 0.9146, 0.8558, 0.6499),
    ("SMI-TED 289M, fine-tuned", 1.2233, 0.6112, 0.9226, 0.8824, 0.5522),
    ("ECFP, random forest", 2.209, 1.154, 0.926, 0.884, 0.722),
    ("D-MPNN", 1.229, 0.699, 0.930, 0.878, 0.577),
)
PEER_TASKS = ("freesolv", "esol", "bbbp", "bace", "lipophilicity")
HERE = "-m examples.benchmarks.quality"
Json = dict[str, Any]


@dataclass
class Arguments:
    """What to report."""

    results: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})
    checkpoint: str = field(default="small", metadata={"help": "For the pictures."})
    molecules: str = field(
        default=str(DATA / "moses_test.smi"), metadata={"help": "To map and reconstruct."}
    )
    count: int = field(default=1000, metadata={"help": "Of them, on the map."})
    map: Literal["pca", "tsne"] = field(default="pca", metadata={"help": "How to flatten codes."})


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    folder = Path(args.results)
    folder.mkdir(parents=True, exist_ok=True)
    moleculenet, ablation, generative = (
        read(name, folder) for name in ("moleculenet", "ablation", "generative")
    )
    parts = ["# What was measured", claims_section(moleculenet, ablation)]
    parts.append("## Frozen embeddings")
    if moleculenet is None:
        parts.append(missing(f"{HERE}.moleculenet"))
    else:
        draw_scores(moleculenet, folder / "report_scores.png")
        parts += [
            score_table(moleculenet),
            origin(moleculenet),
            "![scores](report_scores.png)",
            "Every head and both divisions: [moleculenet.md](moleculenet.md).",
        ]
    parts += ["## Fine-tuning", finetune_table(folder) or missing("examples/finetune.py")]
    parts += ["## Others on the published divisions", peer_table()]
    parts.append("## Parts of the objective")
    if ablation is None:
        parts.append(missing(f"{HERE}.ablation"))
    else:
        pictures = sorted(path.name for path in folder.glob("ablation_*.png"))
        if draw_terms(ablation, folder / "report_terms.png"):
            pictures.append("report_terms.png")
        parts += [f"![{name}]({name})" for name in pictures]
        parts.append("All tables: [ablation.md](ablation.md).")
    parts.append("## Generation")
    if generative is None:
        parts.append(missing(f"{HERE}.generative"))
    else:
        parts += [
            generation_summary(generative),
            origin(generative),
            "![shares by radius](generative.png)",
            "All tables: [generative.md](generative.md).",
        ]
    parts += [
        "## Search",
        optimization_table(folder) or missing("-m examples.benchmarks.quality.optimization"),
    ]
    generator = MoleculeGenerator(args.checkpoint, progress=False)
    smiles = first(args.molecules, args.count)
    draw_map(generator, smiles, args.map, folder / "report_map.png")
    draw_reconstructions(generator, smiles[:8], folder / "report_reconstructions.png")
    parts += [
        "## The latent space",
        f"Codes of {len(smiles):,} molecules of {Path(args.molecules).name}, flattened by "
        f"{args.map}, coloured by logP.",
        "![map](report_map.png)",
        "Above molecules, below what their codes decode to.",
        "![reconstructions](report_reconstructions.png)",
    ]
    write_whole(folder / "report.md", "\n\n".join(parts) + "\n")
    print(f"written: {folder / 'report.md'}")


def missing(command: str) -> str:
    """What to run for a result that is not there."""
    return f"Not measured yet: `python {command}`."


def claims_section(moleculenet: Json | None, ablation: Json | None) -> str:
    """The paper's claims and what was seen of them."""
    lines = [
        f"- {one.claim}: **{one.verdict}**. {one.figure}" for one in claims(moleculenet, ablation)
    ]
    return "\n\n".join(
        [
            "## What the paper claims, and what was seen here",
            "At the size and budget of these runs, which are small; the rules are in claims.py.",
            "\n".join(lines),
        ]
    )


def score_table(results: Json) -> str:
    """Test scores of each feature set, the head chosen on validation rows, by division."""
    names = list(dict.fromkeys(score["features"] for score in results["scores"]))
    tasks = results["tasks"]
    kinds = list(dict.fromkeys(score["division"] for score in results["scores"]))
    rows = [
        [name, kind, *(_score_cell(results, task, name, kind) for task in tasks)]
        for kind in kinds
        for name in names
    ]
    header = ["features", "division"]
    header += [f"{task} ({about['measure']})" for task, about in tasks.items()]
    leaks = ", ".join(f"{task} {about['test_in_train']}" for task, about in tasks.items())
    return (
        f"Checkpoint {results['checkpoint']}. RMSE in the labels' units (lower is better) or "
        f"ROC-AUC (higher). Published test rows that are training rows: {leaks}.\n\n"
        + table(header, rows)
    )


def _score_cell(results: Json, task: str, name: str, kind: str) -> str:
    scores = [s["test"] for s in chosen(results, task, name) if s["division"] == kind]
    return shown(*interval(scores))


def finetune_table(folder: Path, weights: str | None = None) -> str | None:
    """What fine-tuning reached, from copies of the `metrics.json` of examples/finetune.py.

    Args:
        folder: of the results.
        weights: only from weights with this fingerprint.
    """
    rows, origins = [], []
    for path in sorted(folder.glob("finetune-*.json")):
        result = read(path.stem, folder)
        if weights not in (None, result["weights"]):
            continue
        arguments = result["arguments"]
        trained = f"LoRA, rank {arguments['lora']}" if arguments["lora"] else "all weights"
        for name, value in result["test"].items():
            values = [run["test"]["mean"][name] for run in result["runs"]]
            figure = shown(value["mean"], *interval(values)[1:])
            rows.append([Path(arguments["data"]).stem, trained, name, len(values), figure])
        origins.append(origin(result))
    if not rows:
        return None
    lines = [table(["data set", "trained", "measure", "seeds", "test"], rows), *origins]
    return "\n\n".join(lines)


def peer_table() -> str:
    """Published figures beside which ours stand."""
    rows = [[name, *(f"{value:.3f}" for value in values)] for name, *values in PEERS]
    return (
        "As published: SMI-TED by its authors (github.com/IBM/materials), the others in the paper "
        "on ChemBERTa-3, on what look like the same divisions. RMSE, and ROC-AUC for bbbp and "
        "bace.\n\n" + table(["", *PEER_TASKS], rows)
    )


def optimization_table(folder: Path, weights: str | None = None) -> str | None:
    """What searches found, from the files that optimization.py writes with --json.

    Args:
        folder: of the results.
        weights: only with weights of this fingerprint.
    """
    rows, origins = [], []
    for path in sorted(folder.glob("optimize-*.json")):
        result = read(path.stem, folder)
        if weights not in (None, result["weights"]):
            continue
        for strategy in ("evolution", "random"):
            if strategy in result:
                one = result[strategy]
                rows.append(
                    [
                        path.stem.removeprefix("optimize-"), strategy, one["seeds"],
                        f"{one['calls_per_seed']:.0f}", f"{one['seed_score']:.3f}",
                        f"{one['best_score']:.3f}", f"{one['success']:.1%}",
                    ]
                )  # fmt: skip
        origins.append(origin(result))
    if not rows:
        return None
    header = ["search", "by", "seeds", "calls a seed", "score before", "best score", "success"]
    return "\n\n".join([table(header, rows), *origins])


def origin(result: Json) -> str:
    """Command, date, versions and the beginning of the weights' fingerprint of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}`, {result['date']}, {versions}; weights {result['weights'][:12]}."


def generation_summary(results: Json) -> str:
    """Reconstruction, and the radius in each unit at which most draws are new molecules."""
    lines = []
    for name, one in results["reconstruction"].items():
        low, high = one["reconstruction_interval"]
        lines.append(
            f"- {name}: {one['reconstruction']:.1%} of {one['molecules']:,} molecules come back "
            f"exactly (95 % interval {low:.1%} to {high:.1%})."
        )
    for unit, radii in results["around"].items():
        best = max(radii, key=lambda one: one["effective novelty"])
        lines.append(
            f"- Effective novelty is highest at radius {best['radius']} ({unit}): "
            f"{best['effective novelty']:.1%}, with {best['validity']:.1%} valid."
        )
    for kind, one in results["prior"].items():
        lines.append(f"- {kind}: {one['validity']:.1%} of draws are molecules.")
    return "\n".join([f"Checkpoint {results['checkpoint']}.", "", *lines])


def draw_scores(results: Json, path: Path) -> None:
    """Bars with intervals of the published division, a plot for each data set."""
    names = list(dict.fromkeys(score["features"] for score in results["scores"]))
    tasks = results["tasks"]
    figure, plots = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 4.5), squeeze=False)
    for plot, (task, about) in zip(plots[0], tasks.items(), strict=True):
        kind = results["scores"][0]["division"]
        found = [
            interval([s["test"] for s in chosen(results, task, name) if s["division"] == kind])
            for name in names
        ]
        means = [mean for mean, _, _ in found]
        halves = np.nan_to_num([(high - low) / 2 for _, low, high in found])
        plot.bar(range(len(names)), means, yerr=halves)
        plot.set_xticks(range(len(names)), names, rotation=75)
        plot.set(title=task, ylabel=about["measure"])
        if about["binary"]:
            plot.set_ylim(0.5, 1.0)  # 0.5 is chance
    _save(figure, path)


def draw_terms(results: Json, path: Path) -> bool:
    """Terms of the loss over the training of cmim and mim; whether there were any to draw."""
    runs = {
        run["objective"]: run["curve"]
        for run in reversed(results["runs"])
        if run["study"] == "objectives" and run["objective"] in ("cmim", "mim") and run["curve"]
    }
    if not runs:
        return False
    names = ("nll", "log_posterior", "log_prior", "log_contrastive")
    figure, plots = plt.subplots(1, len(names), figsize=(4 * len(names), 3.5))
    for plot, name in zip(plots, names, strict=True):
        for objective, curve in runs.items():
            points = [(entry["step"], entry[name]) for entry in curve if name in entry]
            if points:
                plot.plot(*zip(*points, strict=True), label=objective)
        plot.set(title=name.replace("_", " "), xlabel="step")
    plots[0].legend()
    _save(figure, path)
    return True


def draw_map(
    generator: MoleculeGenerator, smiles: Sequence[str], how: Literal["pca", "tsne"], path: Path
) -> None:
    """Codes in two dimensions, coloured by logP."""
    codes = generator.encode(smiles).reshape(len(smiles), -1)
    flatten = (
        PCA(2) if how == "pca" else TSNE(2, perplexity=min(30, len(smiles) / 4), random_state=0)
    )
    figure, plot = plt.subplots(figsize=(6, 5))
    colours = [logp(text) for text in smiles]
    dots = plot.scatter(*flatten.fit_transform(codes).T, c=colours, s=8, cmap="viridis")
    figure.colorbar(dots, label="logP")
    _save(figure, path)


def draw_reconstructions(generator: MoleculeGenerator, smiles: Sequence[str], path: Path) -> None:
    """Molecules and what their codes decode to."""
    given = [canonicalize(text) for text in smiles]
    written = generator.reconstruct(given)
    legends = [
        "no molecule" if new is None else "exact" if new == old
        else f"Tanimoto {similarity(old, new):.2f}"
        for old, new in zip(given, written, strict=True)
    ]  # fmt: skip
    image = draw_grid(
        [*given, *written], ["" for _ in given] + legends, columns=len(given), cell_size=(200, 160)
    )
    path.write_bytes(image)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
