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
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder, MoleculeGenerator, list_checkpoints
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.descriptors import descriptor_values
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.smiles import canonicalize, similarity

from ..evidence import DATA, RESULTS, first, interval, read, shown, table
from ..pictures import better, kinds_shown, lying_bars, panels, save_figure
from .claims import chosen, claims
from .peers_prediction import OF_NETWORKS, TUNED

# Columns as in PEER_TASKS; peer_table says whose figures they are.
PEERS = (
    ("SMI-TED 289M, frozen", 1.668, 0.7045, 0.9146, 0.8558, 0.6499),
    ("SMI-TED 289M, fine-tuned", 1.2233, 0.6112, 0.9226, 0.8824, 0.5522),
    ("ECFP, random forest", 2.209, 1.154, 0.926, 0.884, 0.722),
    ("D-MPNN", 1.229, 0.699, 0.930, 0.878, 0.577),
)
KINDS = {
    "small, frozen": "tab:blue",
    "small-text, frozen": "tab:cyan",
    "random weights": "0.7",
    "fingerprints and descriptors": "tab:orange",
    "other networks, frozen": "tab:green",
}
FINE_TUNED = {
    TUNED: "all weights, 90 % of the rows each",
    OF_NETWORKS: "the mean of their predictions",
}
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
    embedder = MoleculeEmbedder(args.checkpoint, progress=False)
    smiles = first(args.molecules, args.count)
    rings = descriptor_values(["NumAromaticRings"], smiles)[:, 0].astype(int)
    codes = generator.encode(smiles).reshape(len(smiles), -1)
    vectors = {"codes": codes, "informative embeddings": embedder.embed(smiles)}
    draw_map(vectors, rings, args.map, folder / "report_map.png")
    taught = "NumAromaticRings" in (embedder.model.config.property_names or ())
    draw_reconstructions(generator, smiles[:8], folder / "report_reconstructions.png")
    parts += [
        "## A map",
        f"{len(smiles):,} molecules of {Path(args.molecules).name}, flattened by {args.map}, "
        f"coloured by their aromatic rings, which the model was {'' if taught else 'not '}trained "
        "to tell; and how the number of a molecule correlates with the mean of its five nearest on "
        "the map.",
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
    """What fine-tuning reached, by peers_prediction and by examples/finetune.py (`metrics.json`).

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
            of = weights_name(result["weights"])
            rows.append([Path(arguments["data"]).stem, of, trained, name, len(values), figure])
        origins.append(origin(result))
    peers = read("peers_prediction", folder)
    if peers and weights in (None, peers["weights"]):
        for task, measure in peers["measures"].items():
            of_task = [score for score in peers["scores"] if score["task"] == task]
            seeds = sum(score["way"] == TUNED for score in of_task)
            for way, trained in FINE_TUNED.items():
                if own := [score["test"] for score in of_task if score["way"] == way]:
                    of = weights_name(peers["weights"])
                    rows.append([task, of, trained, measure, seeds, shown(*interval(own))])
        origins.append(origin(peers))
    if not rows:
        return None
    header = ["data set", "weights of", "trained", "measure", "seeds", "test"]
    lines = [table(header, rows), *origins]
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
                        path.stem.removeprefix("optimize-"), weights_name(result["weights"]),
                        strategy, one["seeds"],
                        f"{one['calls_per_seed']:.0f}", f"{one['seed_score']:.3f}",
                        f"{one['best_score']:.3f}", f"{one['success']:.1%}",
                    ]
                )  # fmt: skip
        origins.append(origin(result))
    if not rows:
        return None
    header = ["search", "weights of", "by", "seeds", "calls a seed"]
    header += ["score before", "best score", "success"]
    return "\n\n".join([table(header, rows), *origins])


def weights_name(fingerprint: str) -> str:
    """The checkpoint of the repository that has these weights, or the fingerprint's beginning."""
    return fingerprints().get(fingerprint, fingerprint[:12])


@cache
def fingerprints() -> dict[str, str]:
    """The checkpoints of the repository by their fingerprints."""
    return {
        MoleculeEmbedder(path, progress=False).fingerprint: name
        for name, path in list_checkpoints().items()
    }


def origin(result: Json) -> str:
    """Command, date, versions and the beginning of the weights' fingerprint of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}`, {result['date']}, {versions}; weights {result['weights'][:12]}."


def generation_summary(results: Json) -> str:
    """Reconstruction, and the radius in each unit at which most draws are new molecules."""
    lines = []
    for name, one in results["reconstruction"].items():
        low, high = one["reconstruction_interval"]
        nearest = results["reconstruction_of_candidates"][name]["reconstruction"]
        lines.append(
            f"- {name}: {one['reconstruction']:.1%} of {one['molecules']:,} molecules come back "
            f"exactly (95 % interval {low:.1%} to {high:.1%}), {nearest:.1%} where candidates are "
            "weighed."
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
    """Bars with intervals of the published division, a panel for each data set, the best on top."""
    names = list(dict.fromkeys(score["features"] for score in results["scores"]))
    tasks = results["tasks"]
    division = results["scores"][0]["division"]
    figure, plots = panels(len(tasks))
    for plot, (task, about) in zip(plots, tasks.items(), strict=False):
        bars = []
        for name in names:
            scores = [s["test"] for s in chosen(results, task, name) if s["division"] == division]
            bars.append((name, kind_of(name), interval(scores)))
        bars.sort(key=lambda bar: bar[2][0], reverse=not about["binary"])
        lying_bars(plot, bars, KINDS)
        plot.set(title=task, xlabel=f"{about['measure']} {better(about['binary'])}")
        if about["binary"]:
            plot.set_xlim(0.5, 1.0)  # 0.5 is chance
    handles = kinds_shown(bars, KINDS)
    if plots[len(tasks) :]:
        plots[-1].legend(handles=handles, loc="center", fontsize=11)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def kind_of(features: str) -> str:
    """Of `KINDS`."""
    if features in ("ECFP4", "RDKit 2D"):
        return "fingerprints and descriptors"
    if features in ("MiniMol", "ChemNet"):
        return "other networks, frozen"
    if features.startswith("untrained"):
        return "random weights"
    return "small-text, frozen" if features.startswith("small-text") else "small, frozen"


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
    figure, plots = panels(len(names))
    for plot, name in zip(plots, names, strict=True):
        for objective, curve in runs.items():
            points = [(entry["step"], entry[name]) for entry in curve if name in entry]
            if points:
                plot.plot(*zip(*points, strict=True), label=objective)
        plot.set(title=name.replace("_", " "), xlabel="step")
    plots[0].legend()
    save_figure(figure, path)
    return True


def draw_map(
    found: dict[str, np.ndarray], rings: np.ndarray, how: Literal["pca", "tsne"], path: Path
) -> None:
    """Vectors in two dimensions, coloured by numbers (molecules,) that are counts of rings.

    Above each, how a molecule's number correlates with the mean of its five nearest on the map.
    """
    figure, plots = panels(len(found), len(found), (5.0, 4.6))
    for plot, (name, vectors) in zip(plots, found.items(), strict=True):
        flat = (
            PCA(2) if how == "pca" else TSNE(2, perplexity=min(30, len(rings) / 4), random_state=0)
        ).fit_transform(vectors)
        near = NearestNeighbors(n_neighbors=5).fit(flat).kneighbors(return_distance=False)
        agreement = np.corrcoef(rings, rings[near].mean(axis=1))[0, 1]
        for number in np.unique(rings):
            color = plt.get_cmap("viridis")(number / max(rings.max(), 1))
            plot.scatter(*flat[rings == number].T, s=8, color=color, label=str(number))
        plot.set(title=f"{name}: neighbours agree by {agreement:.2f}", xlabel="first axis")
    plots[0].set_ylabel("second axis")
    handles, labels = plots[0].get_legend_handles_labels()
    where = {"loc": "outside lower center", "ncols": len(labels), "markerscale": 2}
    figure.legend(handles, labels, title="aromatic rings", **where)
    save_figure(figure, path)


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


if __name__ == "__main__":
    main()
