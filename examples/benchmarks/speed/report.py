# SPDX-License-Identifier: Apache-2.0
"""One page of the speeds that were measured, with a picture: `speed.md` beside the results.

    python -m examples.benchmarks.speed.report

Reads what `throughput` (as throughput, throughput-embed and throughput-loss) and the other
benchmarks of this folder wrote; what is missing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from cmim_hf.atomic_files import write_whole

from ..evidence import RESULTS, read, rounded, table
from ..pictures import Bar, kinds_shown, lying_bars, panels, save_figure

KINDS = {
    "this package": "tab:blue",
    "this package, other ways": "tab:cyan",
    "networks of others": "0.7",
    "fingerprints and descriptors": "tab:orange",
}
# Of version 0.1.0 on a machine of the same kind, before its figures were replaced; None where a
# figure was not measured then.
BEFORE = {
    "training, share of the limit": 0.609,
    "training, times BART": 1.82,
    "training, times T5": 2.17,
    "decoding 512 codes, share of the limit": 0.401,
    "decoding 512 codes, times T5": 2.77,
    "decoding 16 codes, times generate": 1.5,
    "file to shards, tiny, a second": 2463.0,
    "file to shards, tiny, share of two cores": None,
}
GOALS = {
    "training, share of the limit": 0.75,
    "training, times BART": 2.2,
    "training, times T5": 2.5,
    "decoding 512 codes, share of the limit": 0.60,
    "decoding 512 codes, times T5": 4.0,
    "decoding 16 codes, times generate": 5.0,
    "file to shards, tiny, a second": 4187.0,
    "file to shards, tiny, share of two cores": 0.80,
}
# Of the results, each with its own page: those drawn here first.
PAGES = (
    *("throughput", "throughput-embed", "embedding", "decoding", "throughput-loss", "memory"),
    *("library_processes", "library_scale", "scaling", "backends", "serving"),
)
LIBRARY = 10**9  # molecules
PRICE = 0.04  # dollars of a core for an hour: assumed
Json = dict[str, Any]


@dataclass
class Arguments:
    """What to report."""

    results: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    folder = Path(args.results)
    found = {name: read(name, folder) for name in PAGES}
    if missing := [name for name, figures in found.items() if figures is None]:
        raise SystemExit(f"{folder} has no {', '.join(missing)}: run the benchmarks first.")
    draw(found, folder / "speed.png")
    parts = [
        "# Speed",
        "Rates are molecules a second; each is a median, each comparison was made in one run. The "
        "limit is the fastest matrix product of the model's shapes over what the tokens need.",
        "![Molecules a second](speed.png)",
        "## Goals, and what was reached",
        goals(found),
        "## A library of a billion",
        billion(found["embedding"]),
        "## Where the figures are from",
        origins(found),
    ]
    write_whole(folder / "speed.md", "\n\n".join(parts) + "\n")
    print(f"written: {folder / 'speed.md'}")


def row(rows: Sequence[Json], **wanted: object) -> Json:
    """The one row with these values."""
    (only,) = [one for one in rows if all(one[key] == value for key, value in wanted.items())]
    return only


def now(found: dict[str, Json]) -> dict[str, float]:
    """The figures that have a goal, as measured."""
    train, decode = found["throughput"]["train"], found["throughput"]["decode"]
    ours = row(train, molecules="ragged", model="cMIM")
    times = "the first is, times"
    sixteen = row(found["decoding"]["speed"], batch_size=16)
    tiny = row(found["embedding"]["ends"], checkpoint="tiny", vectors="informative")
    return {
        "training, share of the limit": ours["share of limit"],
        "training, times BART": row(train, molecules="ragged", model="BART")[times],
        "training, times T5": row(train, molecules="ragged", model="T5")[times],
        "decoding 512 codes, share of the limit": row(decode, codes=512, decoding="decode_latents")[
            "share of limit"
        ],
        "decoding 512 codes, times T5": row(decode, codes=512, decoding="generate of T5")[times],
        "decoding 16 codes, times generate": sixteen["sorted_ratio"],
        "file to shards, tiny, a second": tiny["by processes"],
        "file to shards, tiny, share of two cores": tiny["share of the limit"],
    }


def goals(found: dict[str, Json]) -> str:
    """Asked, before, now."""
    measured = now(found)
    rows = [
        [name, rounded(GOALS[name]), rounded(BEFORE[name]), rounded(value), reached(name, value)]
        for name, value in measured.items()
    ]
    return table(["", "goal", "version 0.1.0", "now", "reached"], rows) + (
        "\n\nThe file and the 16 codes were of MOSES in version 0.1.0 and are of ZINC now, whose "
        "molecules are longer: these rows do not compare."
    )


def reached(name: str, value: float) -> str:
    """Whether a figure is what was asked."""
    return "yes" if value >= GOALS[name] else "no"


def billion(results: Json) -> str:
    """What a library of 10⁹ molecules costs at the rates of these cores."""
    rows = []
    for one in results["ends"]:
        if one["checkpoint"] == "tiny":
            continue
        hours = LIBRARY / one["by processes"] * results["threads"] / 3600
        rows.append([one["vectors"], f"{hours:,.0f}", f"{hours * PRICE:,.0f}"])
    return (
        "At the rates of [embedding](embedding.md), on cores like these, from text to shards:\n\n"
        + table(["vectors", "hours of a core", f"dollars, if one is {PRICE} an hour"], rows)
        + "\n\nThe vectors, 192 numbers in float32, take 768 GB. What the bookkeeping of so many "
        "shards costs: [library_scale](library_scale.md)."
    )


def origins(found: dict[str, Json]) -> str:
    """Page, command, date and versions of each."""
    rows = [
        [
            f"[{name}]({name}.md)",
            f"`{one['command']}`",
            one["date"],
            f"{one['versions']['cmim-hf']}, {one['versions']['torch']}",
            one["cores"],
        ]
        for name, one in found.items()
    ]
    return table(["page", "command", "date", "cmim-hf, torch", "cores"], rows)


def draw(found: dict[str, Json], path: Path) -> None:
    """Four panels: training, vectors, decoding, a file to shards."""
    train, decode = found["throughput"]["train"], found["throughput"]["decode"]
    ends = found["embedding"]["ends"]
    charts = {
        "training, ragged molecules": {
            one["model"]: one["molecules/s"] for one in train if one["molecules"] == "ragged"
        },
        "canonical SMILES to vectors": {
            one["embedding"].split(",")[0]: one["molecules/s"]
            for one in found["throughput-embed"]["embed"]
        },
        "40 tokens from each of 512 codes": {
            one["decoding"]: one["molecules/s"] for one in decode if one["codes"] == 512
        },
        "text file of 200,000 to shards of vectors": {
            f"{one['checkpoint']}, {one['vectors']}, {way}": one[key]
            for one in ends
            for way, key in (
                ("one process", "file to shards, one process"),
                ("processes", "by processes"),
            )
            if one["checkpoint"] == "small"
        }
        | {one["features"]: one["molecules/s"] for one in found["embedding"]["beside"]},
    }
    figure, plots = panels(len(charts), size=(6.2, 3.2))
    every: list[Bar] = []
    for plot, (title, rates) in zip(plots, charts.items(), strict=True):
        bars: list[Bar] = [
            (name, kind(name), (rate, nan, nan))
            for name, rate in sorted(rates.items(), key=lambda one: one[1])
        ]
        lying_bars(plot, bars, KINDS)
        plot.bar_label(plot.containers[-1], fmt="{:,.0f}", padding=3, fontsize=8)
        plot.set_xlim(0, 1.18 * max(rates.values()))
        plot.set_title(title)
        plot.set_xlabel("molecules a second")
        every += bars
    figure.legend(handles=kinds_shown(every, KINDS), loc="outside lower center", ncols=4)
    save_figure(figure, path)


def kind(name: str) -> str:
    """Of a bar, by its name."""
    if name.startswith(("ECFP", "2D")):
        return "fingerprints and descriptors"
    if name == "generate" or name.endswith("one process"):
        return "this package, other ways"
    if name in ("cMIM", "latent", "informative", "decode_latents") or name.endswith("processes"):
        return "this package"
    return "networks of others"


if __name__ == "__main__":
    main()
