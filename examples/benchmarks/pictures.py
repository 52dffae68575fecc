# SPDX-License-Identifier: Apache-2.0
"""How benchmarks draw: panels that a page can show, and bars that lie, coloured by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

Bar = tuple[str, str, tuple[float, float, float]]
"""Name, kind, and (mean, low, high); low and high are NaN where there is no interval."""


def panels(
    number: int, columns: int = 2, size: tuple[float, float] = (5.0, 3.6)
) -> tuple[plt.Figure, list[plt.Axes]]:
    """A figure of so many panels in rows, of `size` inches each; then those left over, blank."""
    rows = -(-number // columns)
    shape = (size[0] * columns, size[1] * rows)
    figure, plots = plt.subplots(rows, columns, figsize=shape, squeeze=False, layout="constrained")
    for spare in plots.flat[number:]:
        spare.axis("off")
    return figure, list(plots.flat)


def lying_bars(plot: plt.Axes, bars: Sequence[Bar], colours: Mapping[str, str]) -> None:
    """Bars with their intervals, the first at the bottom, in the colours of their kinds."""
    means = [mean for _, _, (mean, _, _) in bars]
    halves = np.nan_to_num([(high - low) / 2 for _, _, (_, low, high) in bars])
    filled = [colours[kind] for _, kind, _ in bars]
    plot.barh(range(len(bars)), means, xerr=halves, color=filled, error_kw={"elinewidth": 1})
    plot.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    plot.set_ylim(-0.7, len(bars) - 0.3)


def kinds_shown(bars: Sequence[Bar], colours: Mapping[str, str]) -> list[Patch]:
    """What a legend says of the kinds that bars are of."""
    there = {kind for _, kind, _ in bars}
    return [Patch(color=colour, label=kind) for kind, colour in colours.items() if kind in there]


def better(binary: bool) -> str:
    """Behind a measure: of ROC-AUC, and of an error."""
    return f"({'higher' if binary else 'lower'} is better)"


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a picture and close it; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
