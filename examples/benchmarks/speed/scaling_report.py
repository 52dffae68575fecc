# SPDX-License-Identifier: Apache-2.0
"""How costs that grow are shown: tables and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from ..evidence import rounded, table
from ..pictures import panels, save_figure
from .throughput_training import LENGTH

WORKS = {
    "training": "tab:blue",
    "embedding": "tab:orange",
    "decoding": "tab:green",
    "contrastive term": "tab:red",
}
AXES = {
    "batch": "molecules",
    "length": "tokens of a molecule",
    "size": "parameters",
    "rows": "rows",
}


def page(part: str, found: dict[str, Any]) -> str:
    """A part in Markdown."""
    lines = [f"## {part}"]
    if part == "processes":
        lines += [
            f"{found['cores']} cores. Training steps of {found['batch']:,} molecules of {LENGTH} "
            f"tokens; {found['rows']:,} rows embedded.",
            _table(found["ways"]),
        ]
    else:
        if part == "size":
            sizes = (f"`{size}` {number:,}" for size, number in found["parameters"].items())
            lines.append(
                f"Parameters: {', '.join(sizes)}. Contrastive term of {found['codes']:,} codes."
            )
        exponents = [
            {
                "work": row["work"],
                "exponent": f"{row['exponent']:.3f}",
                "95 % interval": _range(row["from"], row["to"]),
                "predicted": f"{row['predicted']:.3f}",
            }
            for row in found["exponents"]
        ]
        lines += [_table(found["points"]), _table(exponents)]
    return "\n\n".join(lines)


def draw(parts: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel for each part, both axes logarithmic: what was measured, and lines as predicted."""
    figure, plots = panels(len(parts))
    for plot, (part, found) in zip(plots, parts.items(), strict=False):
        plot.set(title=part, xscale="log", yscale="log")
        if part == "processes":
            _draw_ways(plot, found["ways"])
        else:
            _draw_points(plot, found["points"], AXES[part])
    marks = [Line2D([], [], color=color, marker="o", label=work) for work, color in WORKS.items()]
    black = {"color": "black", "linestyle": ""}
    marks.append(Line2D([], [], color="black", label="as the operations say, or linear"))
    marks.append(Line2D([], [], marker="o", label="measured, in one process", **black))
    marks.append(Line2D([], [], marker="s", label="measured, in several", **black))
    if plots[len(parts) :]:
        plots[-1].legend(handles=marks, loc="center", fontsize=11)
    else:
        figure.legend(handles=marks, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def _draw_points(plot: Any, rows: Sequence[dict[str, Any]], axis: str) -> None:
    for work in dict.fromkeys(row["work"] for row in rows):
        mine = [row for row in rows if row["work"] == work]
        at, first = [row[axis] for row in mine], mine[0]["seconds"]
        plot.plot(at, [first * row["predicted"] for row in mine], color=WORKS[work], linewidth=1)
        plot.plot(at, [row["seconds"] for row in mine], "o", color=WORKS[work])
    plot.set(xlabel=axis, ylabel="seconds (lower is better)")
    _mark(plot, [row[axis] for row in rows])


def _draw_ways(plot: Any, rows: Sequence[dict[str, Any]]) -> None:
    for work in dict.fromkeys(row["work"] for row in rows):
        mine = [row for row in rows if row["work"] == work]
        cores = np.array([row["processes"] * row["threads of each"] for row in mine])
        rates = np.array([row["molecules/s"] for row in mine])
        several = np.array([row["processes"] > 1 for row in mine])
        plot.plot(np.unique(cores), rates[0] * np.unique(cores), color=WORKS[work], linewidth=1)
        plot.plot(cores[~several], rates[~several], "o", color=WORKS[work])
        plot.plot(cores[several], rates[several], "s", color=WORKS[work])
    plot.set(xlabel="threads of all processes", ylabel="molecules/s (higher is better)")
    _mark(plot, cores)


def _mark(plot: Any, at: Sequence[float] | np.ndarray) -> None:
    """Ticks where something was measured."""
    plot.xaxis.set_major_locator(FixedLocator(np.unique(at)))
    plot.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
    plot.xaxis.set_minor_locator(NullLocator())


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return table(list(rows[0]), [map(rounded, row.values()) for row in rows])


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
