# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures of the benchmark of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ..evidence import interval, shown, table
from ..pictures import kinds_shown, lying_bars, panels, save_figure
from .claims import Json, batch_spreads, probe_error
from .trainings import NO_DECODER, grouped
from .vision_claims import vision_claims
from .vision_probes import PROBES

KINDS = {
    "nothing trained": ("pixels", "pca", "untrained"),
    "reconstruction": ("ae", "vae", "mim"),
    "reconstruction, contrast of codes": ("cae", "cvae", "cmim"),
    "two views": ("infonce", "vicreg", "barlow"),
    "two views and reconstruction": ("infonce_ae", "infonce_mim"),
}
COLOURS = dict(zip(KINDS, ("0.6", "tab:blue", "tab:red", "tab:olive", "tab:purple"), strict=True))
REPRESENTATIONS = ("pixels", "components", "latent", "informative", "both")


def page(runs: Sequence[Json]) -> str:
    """All that was measured, in Markdown."""
    parts = ["## The claims", claims_section(runs)]
    for study, write in (("objectives", objectives_section), ("batch_size", batch_section)):
        mine = [run for run in runs if run["study"] == study]
        for of_source in grouped(mine, ["source"]):
            parts += [f"## {of_source[0]['source']}: {study.replace('_', ' ')}", write(of_source)]
        if mine:
            parts.append(f"![{study}](vision_{study}.png)")
    return "\n\n".join(parts)


def claims_section(runs: Sequence[Json]) -> str:
    """A sentence for each claim, by the rules of claims.py."""
    lines = [f"- {one.claim}: **{one.verdict}**. {one.figure}" for one in vision_claims(runs)]
    rule = (
        "A difference counts where the 95 % interval of its paired values (data set and seed; "
        "Student's t) leaves 0 out; fewer than three pairs show nothing. Gains are relative: the "
        "share of the test error that goes."
    )
    return f"{rule}\n\n" + "\n".join(lines)


def objectives_section(runs: Sequence[Json]) -> str:
    """Accuracies of every objective and representation; then what was chosen and reconstruction."""
    groups = grouped(runs, ["objective"])
    accuracies = [
        [first["objective"], representation, *_accuracies(group, representation)]
        for group in groups
        for first in group[:1]
        for representation in represented(first)
    ]
    trained = [
        [
            group[0]["objective"],
            group[0]["learning_rate"] if group[0]["curve"] else "–",
            group[0]["scale"] if group[0]["curve"] else "–",
            *(
                shown(*interval([run[name] for run in group]), digits) if name in group[0] else "–"
                for name, digits in (("squared_error", 4), ("bits_per_dim", 3),
                                     ("posterior_std", 3))
            ),
        ]
        for group in groups
        if "curve" in group[0]
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"Test accuracy in %, of probes on {_images(runs)}.",
            table(["objective", "vector", *PROBES, "mean"], accuracies),
            "Reconstruction of test images from their mean codes: squared error of pixels in "
            "[0, 1], bits per dimension given the code. "
            f"{', '.join(NO_DECODER)} train no decoder: their informative embeddings are those of "
            "a decoder with random weights. Rates and scales are what validation images chose "
            "after a quarter of the training (100 steps or more).",
            table(
                ["objective", "rate", "scale", "squared error", "bits per dim", "posterior std"],
                trained,
            ),
        ]
    )


def batch_section(runs: Sequence[Json]) -> str:
    """Accuracies of latents at each batch size, and the spread over them."""
    rows = [
        [*(group[0][name] for name in ("objective", "batch_size", "learning_rate", "scale")),
         *_accuracies(group, "latent")]
        for group in grouped(runs, ["objective", "batch_size"])
    ]  # fmt: skip
    spreads = [
        [group[0]["objective"],
         shown(*interval(list(batch_spreads(runs, group[0]["objective"]).values())))]
        for group in grouped(runs, ["objective"])
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"Test accuracy of latents in %, of probes on {_images(runs)}, with the rate that "
            "validation images chose for each row.",
            table(["objective", "batch size", "rate", "scale", *PROBES, "mean"], rows),
            "Range of the mean test error over the batch sizes, as a share of it:",
            table(["objective", "spread"], spreads),
        ]
    )


def represented(run: Json) -> list[str]:
    """What was probed of a run."""
    return [name for name in REPRESENTATIONS if name in run["probes"]["kNN"]]


def bars(runs: Sequence[Json]) -> list[tuple[str, str, tuple[float, float, float]]]:
    """(row, kind, accuracy in % with interval) of every vector, the best last."""
    found = []
    for group in grouped(runs, ["objective"]):
        name = group[0]["objective"]
        kind = next(kind for kind, names in KINDS.items() if name in names)
        for representation in represented(group[0]):
            row = (
                name if representation in ("pixels", "components") else f"{name}, {representation}"
            )
            found.append((row, kind, _mean_accuracy(group, representation)))
    return sorted(found, key=lambda bar: bar[2][0])


def draw(runs: Sequence[Json], folder: Path) -> None:
    """`vision_objectives.png` and `vision_batch_size.png`, of the studies that were run."""
    for study, plot_one in (("objectives", draw_bars), ("batch_size", draw_curves)):
        sources = grouped([run for run in runs if run["study"] == study], ["source"])
        if not sources:
            continue
        size = (9.0, 10.5) if study == "objectives" else (5.0, 3.6)
        figure, plots = panels(len(sources), len(sources), size)
        for plot, of_source in zip(plots, sources, strict=True):
            plot_one(plot, of_source)
            plot.set_title(of_source[0]["source"])
        save_figure(figure, folder / f"vision_{study}.png")


def draw_bars(plot: plt.Axes, runs: Sequence[Json]) -> None:
    """Lying bars, sorted, coloured by kind."""
    found = bars(runs)
    lying_bars(plot, found, COLOURS)
    ends = np.array([[mean, low, high] for _, _, (mean, low, high) in found])
    low, high = np.nanmin(ends) - 1, np.nanmax(ends) + 1
    plot.set_xlim(max(0, low), min(100, high))
    plot.set_xlabel("test accuracy in %, mean of the probes (higher is better; not from 0)")
    handles = kinds_shown(found, COLOURS)
    plot.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.4, -0.06), ncols=3)


def draw_curves(plot: plt.Axes, runs: Sequence[Json]) -> None:
    """The latents' error over the batch size, a line for each objective."""
    for of_one in grouped(runs, ["objective"]):
        groups = grouped(of_one, ["batch_size"])
        points = [interval([100 * probe_error("latent")(run) for run in group]) for group in groups]
        plot.errorbar(
            [group[0]["batch_size"] for group in groups],
            [mean for mean, _, _ in points],
            np.nan_to_num([(high - low) / 2 for _, low, high in points]),
            label=of_one[0]["objective"],
            marker="o",
            capsize=3,
        )
    sizes = sorted({run["batch_size"] for run in runs})
    plot.set_xscale("log", base=2)
    plot.set_xticks(sizes, map(str, sizes))
    plot.set(xlabel="batch size", ylabel="test error of latents in %, mean of the probes")
    plot.legend()


def _accuracies(group: Sequence[Json], representation: str) -> list[str]:
    values = [
        interval([100 * (1 - run["probes"][name][representation]) for run in group])
        for name in PROBES
    ]
    return [shown(*value, 1) for value in (*values, _mean_accuracy(group, representation))]


def _mean_accuracy(group: Sequence[Json], representation: str) -> tuple[float, float, float]:
    return interval([100 * (1 - probe_error(representation)(run)) for run in group])


def _images(runs: Sequence[Json]) -> str:
    first = runs[0]
    return (
        f"{first['probe_images']:,} training images, chosen by {first['held_out']:,} validation "
        "images"
    )
