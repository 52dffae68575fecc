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
# Of version 0.1.0 on a machine like that of `throughput-amd`, before its figures were replaced;
# None where a figure was not measured then.
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
    *("throughput", "throughput-amd", "throughput-embed", "embedding", "embedding-exported"),
    *("decoding", "throughput-loss", "memory", "library_processes", "library_scale", "scaling"),
    *("backends", "serving"),
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
        "Training and decoding are of the page throughput, the others of throughput-embed and "
        "embedding: not of one machine.",
        "## Goals, and what was reached",
        goals(found),
        "## A library of a billion",
        billion(found["embedding"], found["embedding-exported"]),
        "## Where the figures are from",
        origins(found),
    ]
    write_whole(folder / "speed.md", "\n\n".join(parts) + "\n")
    print(f"written: {folder / 'speed.md'}")


def row(rows: Sequence[Json], **wanted: object) -> Json:
    """The one row with these values."""
    (only,) = [one for one in rows if all(one[key] == value for key, value in wanted.items())]
    return only


def trained(results: Json) -> dict[str, float]:
    """The figures of training that have a goal."""
    ours, bart, t5 = (
        row(results["train"], molecules="ragged", model=name) for name in ("cMIM", "BART", "T5")
    )
    return {
        "training, share of the limit": ours["share of limit"],
        "training, times BART": bart["the first is, times"],
        "training, times T5": t5["the first is, times"],
    }


def on_amd(found: dict[str, Json]) -> dict[str, float]:
    """The figures that have a goal, as measured on the kind of machine that 0.1.0 ran on."""
    tiny = row(found["embedding"]["ends"], checkpoint="tiny", vectors="informative")
    return trained(found["throughput-amd"]) | {
        "file to shards, tiny, a second": tiny["by processes"],
        "file to shards, tiny, share of two cores": tiny["share of the limit"],
    }


def on_intel(found: dict[str, Json]) -> dict[str, float]:
    """The figures that have a goal, as measured on another kind."""
    ours, t5 = (
        row(found["throughput"]["decode"], codes=512, decoding=name)
        for name in ("decode_latents", "generate of T5")
    )
    sixteen = row(found["decoding"]["speed"], batch_size=16)
    return trained(found["throughput"]) | {
        "decoding 512 codes, share of the limit": ours["share of limit"],
        "decoding 512 codes, times T5": t5["the first is, times"],
        "decoding 16 codes, times generate": sixteen["sorted_ratio"],
    }


def goals(found: dict[str, Json]) -> str:
    """Asked, before, now."""
    amd, intel = on_amd(found), on_intel(found)
    rows = []
    for name, goal in GOALS.items():
        values = amd.get(name), intel.get(name)
        is_reached = any(value is not None and value >= goal for value in values)
        figures = (goal, BEFORE[name], *values)
        rows.append([name, *map(rounded, figures), "yes" if is_reached else "no"])
    header = ["", "goal", "version 0.1.0, AMD", "now, AMD", "now, Intel", "reached"]
    return table(header, rows) + (
        "\n\nAMD is an EPYC with AVX-512, Intel a Xeon with AMX, two cores each. The file and the "
        "16 codes were of MOSES in version 0.1.0 and are of ZINC now, whose molecules are longer: "
        "these rows do not compare."
    )


def billion(*pages: Json) -> str:
    """What a library of 10⁹ molecules costs at the rates of these cores."""
    rows, told = [], {"tiny"}
    for results in pages:
        for one in results["ends"]:
            if one["checkpoint"] not in told:
                hours = LIBRARY / one["by processes"] * results["threads"] / 3600
                costs = f"{hours:,.0f}", f"{hours * PRICE:,.0f}"
                rows.append([one["checkpoint"], one["vectors"], *costs, results["date"]])
        told |= {one["checkpoint"] for one in results["ends"]}
    header = ["checkpoint", "vectors", "hours of a core", f"dollars, if one is {PRICE} an hour"]
    return (
        "At the rates of [embedding](embedding.md) and, of another day and machine, of "
        "[embedding-exported](embedding-exported.md), from text to shards:\n\n"
        + table([*header, "measured"], rows)
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
            machine(one),
        ]
        for name, one in found.items()
    ]
    return table(["page", "command", "date", "cmim-hf, torch", "machine"], rows)


def machine(figures: Json) -> str:
    """Cores, and whose they are where the results say it."""
    processor = figures.get("processor")  # older results do not
    return f"{figures['cores']} cores" + (f", {processor}" if processor else "")


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
