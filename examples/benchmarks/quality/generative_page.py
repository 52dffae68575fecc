# SPDX-License-Identifier: Apache-2.0
"""The page of `generative`, its picture, and what its tables have columns of."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evidence import DATA, table
from ..pictures import panels, save_figure

if TYPE_CHECKING:
    from .generative import Arguments

NEAR_SHARES = (
    "validity", "uniqueness", "novelty", "not the seed", "new neighbours", "effective novelty",
)  # fmt: skip
SHARES = ("first attempt", *NEAR_SHARES)
CANDIDATES = 10  # most probable texts of a code, of which the nearest counts
STEPS = 11  # of a walk, its two ends included
PUBLISHED_SAMPLES = 30_000
# That many samples each, as the README of MOSES (github.com/molecularsets/moses) gives them.
PUBLISHED = {
    "CharRNN": (0.9748, 0.9994, 0.0732, 0.6015, 0.9998, 0.9242, 0.8562, 0.9943, 0.8419),
    "VAE": (0.9767, 0.9984, 0.0990, 0.6257, 0.9994, 0.9386, 0.8558, 0.9970, 0.6949),
    "AAE": (0.9368, 0.9973, 0.5555, 0.6081, 0.9910, 0.9022, 0.8557, 0.9960, 0.7931),
    "JTN-VAE": (1.0, 0.9996, 0.3954, 0.5477, 0.9965, 0.8964, 0.8551, 0.9760, 0.9143),
    "LatentGAN": (0.8966, 0.9968, 0.2968, 0.5371, 0.9986, 0.8867, 0.8565, 0.9735, 0.9498),
}


def page(results: dict[str, Any], args: Arguments) -> str:
    """All tables."""
    text = [
        "# Generation",
        *reconstruction_lines(results),
        *around_lines(results["around"]),
        *walk_lines(results["walks"]),
        *(prior_lines(results["prior"], args) if results["prior"] else ()),
    ]
    return "\n\n".join(text)


def fcd_is_installed() -> bool:
    """Whether FCD can be computed: `pip install 'cmim-hf[fcd]'`."""
    return find_spec("fcd_torch") is not None


def reconstruction_lines(results: dict[str, Any]) -> list[str]:
    """Molecules to codes and back, by greedy text and by the nearest of `CANDIDATES`."""
    greedy, nearest = results["reconstruction"], results["reconstruction_of_candidates"]
    kinds = ("reconstruction", "reconstruction_without_stereo")
    rows = [
        [
            name,
            one["molecules"],
            how,
            *(_share(one[kind], one[f"{kind}_interval"]) for kind in kinds),
            f"{one['reconstruction_tanimoto']:.3f}",
            one["invalid"],
        ]
        for name in greedy
        for how, one in (("greedy", greedy[name]), (f"nearest of {CANDIDATES}", nearest[name]))
    ]
    header = ["molecules", "n", "text", "exact", "exact without stereo", "Tanimoto", "invalid"]
    return [
        "## Reconstruction",
        "From the mean code: the greedy text, or where its molecule has another code, that of the "
        f"{CANDIDATES} most probable ones whose molecule has the nearest code "
        f"(`candidates={CANDIDATES}`). 95 % intervals by Wilson. Tanimoto counts invalid as 0.",
        table(header, rows),
        "MolMIM-70M reports 99.88 % exact on 250,000 molecules of ZINC-15 (65 M parameters, 32 "
        "GPUs for 38 hours).",
    ]


def around_lines(near: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Shares by radius."""
    lines = []
    for unit, results in near.items():
        scale = {"prior": "1", "aggregate": "the spread of the training molecules' codes"}[unit]
        lines += [
            f"## Around molecules, radius in units of {scale}",
            f"{results[0]['draws']:,} draws a row. Uniqueness is of the valid, novelty and not the "
            "seed of the unique ones, the last two columns of all draws.",
            table(
                ["radius", *SHARES],
                [[one["radius"], *(_percent(one[name]) for name in SHARES)] for one in results],
            ),
        ]
    lines.append(
        "MolMIM-70M reports at radius 2.0 of its own scale: valid 99, unique 100, novel 69, not "
        "the seed 100, effective novelty 68 %."
    )
    return lines


def walk_lines(walks: dict[str, dict[str, Any]]) -> list[str]:
    """Validity between molecules."""
    counts = ("different molecules a walk", "of them neither end")
    rows = [
        [
            method,
            one["pairs"],
            _percent(one["first attempt"]),
            _share(one["validity"], one["validity_interval"]),
            *(f"{one[name]:.2f}" for name in counts),
        ]
        for method, one in walks.items()
    ]
    return [
        "## Walks between molecules",
        f"{STEPS - 2} codes at equal steps between the codes of two molecules. The interval takes "
        "codes for independent; those of one walk are not quite.",
        table(["path", "pairs", "first attempt", "valid", *counts], rows),
    ]


def prior_lines(prior: dict[str, dict[str, Any]], args: Arguments) -> list[str]:
    """Ours beside what MOSES publishes; a gap where a figure is not to be had."""
    columns = {
        "first attempt": "first attempt", "validity": "valid",
        "uniqueness@1000": "unique@1k", "uniqueness@10000": "unique@10k",
        "fcd": "FCD", "snn": "SNN", "fragment_similarity": "Frag", "scaffold_similarity": "Scaf",
        "internal_diversity": "IntDiv", "internal_diversity_2": "IntDiv2",
        "moses_filters": "Filters", "novelty": "Novelty",
    }  # fmt: skip
    published = [
        name
        for name in columns
        if name not in ("first attempt", "uniqueness@1000", "internal_diversity_2")
    ]
    rows = [
        [kind, one["valid"], *(_figure(one.get(name)) for name in columns)]
        for kind, one in prior.items()
    ]
    for name, values in PUBLISHED.items():
        figures = dict(zip(published, values, strict=True))
        rows.append([f"{name} (published)", "", *(_figure(figures.get(key)) for key in columns)])
    lines = ["## From the prior", table(["", "valid molecules", *columns.values()], rows)]
    if args.moses_scaffolds is not None:
        names = ("fcd", "snn", "fragment_similarity", "scaffold_similarity")
        rows = [
            [kind, *(_figure(one.get(f"{name}, scaffolds")) for name in names)]
            for kind, one in prior.items()
        ]
        header = ["against scaffolds held out", *(columns[name] for name in names)]
        lines.append(table(header, rows))
    lines += [
        "`fitted` is the prior that goes with the checkpoint, `MOSES-fitted` one of the codes of "
        f"{args.fitted:,} MOSES training molecules. *First attempt* is the share of molecules "
        "without drawing again.",
    ]
    lines += [
        f"No figure ({kind}, {name}): {reason}"
        for kind, one in prior.items()
        for name, reason in one["gaps"].items()
    ]
    if DATA in (Path(path).resolve().parent for path in (args.moses_train, args.moses_test)):
        lines.append(
            "The references here are samples of MOSES (50,000 training and 1,000 test molecules), "
            "so FCD, SNN, Frag, Scaf and novelty cannot be compared with the published rows."
        )
    if args.samples != PUBLISHED_SAMPLES:
        lines.append(
            f"{args.samples:,} samples of each prior, {PUBLISHED_SAMPLES:,} in the published rows; "
            "FCD depends on how many molecules it is computed from."
        )
    if not fcd_is_installed():
        lines.append("No FCD: pip install 'cmim-hf[fcd]'")
    return lines


def draw(near: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Shares against the radius."""
    figure, plots = panels(len(near), len(near), (5.0, 4.2))
    for plot, (unit, results) in zip(plots, near.items(), strict=True):
        for name in ("first attempt", "validity", "novelty", "new neighbours", "effective novelty"):
            plot.plot(
                [one["radius"] for one in results],
                [np.nan if one[name] is None else one[name] for one in results],
                marker="o",
                label=name,
            )
        plot.set(xlabel=f"radius ({unit})", ylabel="share", ylim=(0, 1.02))
    handles = plots[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5)
    save_figure(figure, path)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _share(share: float, interval: list[float]) -> str:
    return f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
