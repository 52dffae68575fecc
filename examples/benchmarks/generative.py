# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint writes: reconstruction, molecules near others, molecules from the prior.

    python examples/benchmarks/generative.py
    python examples/benchmarks/generative.py --sources zinc.smi chembl.smi --train train.smi.gz \
        --moses_train moses --moses_test moses:test --moses_scaffolds moses:test_scaffolds \
        --samples 30000

All decoding is greedy. Around a molecule codes are drawn at z + radius · N(0, 1), as in MolMIM
(arXiv 2208.09016), and in units of the spread of the training molecules' codes. *Effective novelty*
is the share of draws that are valid, not drawn before from the same molecule, not that molecule and
not a training molecule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from evidence import RESULTS, Cells, table, write
from scipy.stats import binomtest
from transformers import HfArgumentParser

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeGenerator, metrics
from cmim_hf.chem import canonicalize
from cmim_hf.reading import read_smiles

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data"
RADII = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
UNITS = ("prior", "aggregate")
SHARES = ("validity", "uniqueness", "novelty", "not the seed", "effective novelty")
# 30,000 samples each, as the README of MOSES (github.com/molecularsets/moses) gives them.
PUBLISHED = {
    "CharRNN": (0.9748, 0.9994, 0.0732, 0.6015, 0.9998, 0.9242, 0.8562, 0.9943, 0.8419),
    "VAE": (0.9767, 0.9984, 0.0990, 0.6257, 0.9994, 0.9386, 0.8558, 0.9970, 0.6949),
    "AAE": (0.9368, 0.9973, 0.5555, 0.6081, 0.9910, 0.9022, 0.8557, 0.9960, 0.7931),
    "JTN-VAE": (1.0, 0.9996, 0.3954, 0.5477, 0.9965, 0.8964, 0.8551, 0.9760, 0.9143),
    "LatentGAN": (0.8966, 0.9968, 0.2968, 0.5371, 0.9986, 0.8867, 0.8565, 0.9735, 0.9498),
}


@dataclass
class Arguments:
    """What to measure."""

    checkpoint: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Folder or Hub id."})
    sources: list[str] = field(
        default_factory=lambda: [str(DATA / "moses_test.smi")],
        metadata={"help": "Molecules that it has not seen; the first is drawn around, too."},
    )
    count: int = field(default=1000, metadata={"help": "Of each source, to reconstruct."})
    around: int = field(default=50, metadata={"help": "Molecules to draw around."})
    draws: int = field(default=20, metadata={"help": "For each of them and each radius."})
    train: str = field(
        default=str(DATA / "moses_train.smi.gz"), metadata={"help": "What it was trained on."}
    )
    moses_train: str = field(
        default=str(DATA / "moses_train.smi.gz"), metadata={"help": "Or moses, if installed."}
    )
    moses_test: str = field(
        default=str(DATA / "moses_test.smi"), metadata={"help": "Or moses:test."}
    )
    moses_scaffolds: str | None = field(
        default=None, metadata={"help": "Say moses:test_scaffolds."}
    )
    samples: int = field(default=2000, metadata={"help": "From the prior; published: 30,000."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main() -> None:
    """Measure what is not measured yet, and write tables and a picture."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    settings = {
        "weights": generator.fingerprint,
        **{name: getattr(args, name) for name in ("count", "around", "draws", "samples")},
        **{name: Path(str(getattr(args, name))).name for name in ("train", "moses_test")},
    }
    compute = Cells(Path(args.output, "cells", "generative"), settings).compute
    known = cache(lambda: {row.text for row in read_smiles(args.train)})
    rebuilt = {
        short(source): compute(
            f"reconstruction-{short(source)}", partial(reconstruction, generator, source, args)
        )
        for source in args.sources
    }
    near = {
        unit: [
            compute(f"around-{unit}-{radius}", partial(around, args, unit, radius, known))
            for radius in RADII
        ]
        for unit in UNITS
    }
    prior = {
        kind: compute(f"prior-{kind}", partial(from_prior, args, kind))
        for kind in ("standard", "fitted")
    }
    draw(near, Path(args.output, "generative.png"))
    results = {
        "checkpoint": Path(args.checkpoint).name,
        "reconstruction": rebuilt,
        "around": near,
        "prior": prior,
    }
    write("generative", args.output, results, page(rebuilt, near, prior, args))


def reconstruction(generator: MoleculeGenerator, source: str, args: Arguments) -> dict[str, Any]:
    """Shares of molecules that come back from their code, with Wilson's 95 % interval."""
    given = first(source, args.count)
    written = generator.reconstruct(given)
    found = metrics.load("reconstruction").compute(
        predictions=[text or "" for text in written], references=given
    )
    exact = binomtest(round(found["reconstruction"] * len(given)), len(given))
    low, high = exact.proportion_ci(method="wilson")
    return {**found, "low": low, "high": high, "molecules": len(given)}


def around(
    args: Arguments, unit: str, radius: float, known: Callable[[], set[str]]
) -> dict[str, Any]:
    """Shares of the codes drawn around molecules at one radius."""
    seeds = [canonicalize(text) for text in first(args.sources[0], args.around)]
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    groups = generator.sample_around(seeds, radius, args.draws, unit=unit)
    draws = sum(map(len, groups))
    valid = unique = novel = other = effective = 0
    for seed, written in zip(seeds, groups, strict=True):
        molecules = [text for text in written if text is not None]
        different = set(molecules)
        valid += len(molecules)
        unique += len(different)
        novel += len(different - known())
        other += len(different - {seed})
        effective += len(different - known() - {seed})
    return {
        "radius": radius,
        "validity": valid / draws,
        "uniqueness": unique / max(valid, 1),
        "novelty": novel / max(unique, 1),
        "not the seed": other / max(unique, 1),
        "effective novelty": effective / draws,
        "draws": draws,
    }


def from_prior(args: Arguments, kind: str) -> dict[str, Any]:
    """The table of MOSES for molecules from the prior."""
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    samples = [text or "" for text in generator.sample(args.samples, prior=kind)]
    found = metrics.load("validity").compute(predictions=samples)
    valid = [text for text in samples if text]
    test = [row.text for row in read_smiles(args.moses_test)]
    train = [row.text for row in read_smiles(args.moses_train)]
    if len(valid) < 2:
        return {"validity": found["validity"], "valid": len(valid)}
    found |= metrics.load("uniqueness").compute(
        predictions=valid, k=[k for k in (1000, 10000) if k <= len(valid)]
    )
    found |= metrics.load("novelty").compute(predictions=valid, reference_smiles=train)
    found |= metrics.load("internal_diversity").compute(predictions=valid)
    found |= metrics.load("moses_filters").compute(predictions=valid)
    names = ["snn", "fragment_similarity", "scaffold_similarity"]
    if find_spec("fcd_torch") is not None:
        names.append("fcd")
    references = {"": test}
    if args.moses_scaffolds is not None:
        references[", scaffolds"] = [row.text for row in read_smiles(args.moses_scaffolds)]
    for suffix, reference in references.items():
        for name in names:
            values = metrics.load(name).compute(predictions=valid, reference_smiles=reference)
            found[name + suffix] = values[name]
    return {**found, "valid": len(valid)}


def first(source: str, count: int) -> list[str]:
    """The first molecules of a source."""
    return [row.text for row in islice(read_smiles(source), count)]


def short(source: str) -> str:
    """A name for a source."""
    return Path(source).name.removesuffix(".gz").removesuffix(".smi")


def page(
    rebuilt: dict[str, dict[str, Any]],
    near: dict[str, list[dict[str, Any]]],
    prior: dict[str, dict[str, Any]],
    args: Arguments,
) -> str:
    """The tables."""
    lines = ["# Generation", "## Reconstruction"]
    header = ["molecules", "n", "exact (95 % interval)", "without stereo", "Tanimoto", "invalid"]
    rows = [
        [
            name,
            one["molecules"],
            f"{one['reconstruction']:.1%} ({one['low']:.1%} to {one['high']:.1%})",
            f"{one['reconstruction_without_stereo']:.1%}",
            f"{one['reconstruction_tanimoto']:.3f}",
            one["invalid"],
        ]
        for name, one in rebuilt.items()
    ]
    lines += [
        table(header, rows),
        "MolMIM-70M reports 99.88 % exact on 250,000 molecules of ZINC-15 (65 M parameters, 32 "
        "GPUs for 38 hours).",
    ]
    for unit, results in near.items():
        scale = {"prior": "1", "aggregate": "the spread of the training molecules' codes"}[unit]
        lines += [
            f"## Around molecules, radius in units of {scale}",
            f"{results[0]['draws']:,} draws a row.",
            table(
                ["radius", *SHARES],
                [[one["radius"], *(f"{one[name]:.1%}" for name in SHARES)] for one in results],
            ),
        ]
    lines.append(
        "MolMIM-70M reports at radius 2.0 of its own scale: valid 99, unique 100, novel 69, not "
        "the seed 100, effective novelty 68 %."
    )
    lines += ["## From the prior", moses_table(prior, args)]
    return "\n\n".join(lines)


def moses_table(prior: dict[str, dict[str, Any]], args: Arguments) -> str:
    """Ours beside what MOSES publishes; a gap where there are too few molecules for a figure."""
    names = ("validity", "uniqueness@10000", "fcd", "snn", "fragment_similarity")
    names += ("scaffold_similarity", "internal_diversity", "moses_filters", "novelty")
    rows = [
        [f"{kind} prior", one["valid"], *(_figure(one.get(name)) for name in names)]
        for kind, one in prior.items()
    ]
    rows += [
        [f"{name} (published)", "", *map(_figure, values)] for name, values in PUBLISHED.items()
    ]
    columns = ["valid", "unique@10k", "FCD", "SNN", "Frag", "Scaf", "IntDiv", "Filters", "Novelty"]
    text = table(["", "valid molecules", *columns], rows)
    if args.moses_test.startswith(str(DATA)):
        text += (
            "\n\nThe references here are samples of 1,000 and 50,000 molecules of MOSES, so FCD, "
            "SNN and novelty cannot be compared with the published rows."
        )
    if find_spec("fcd_torch") is None:
        text += "\n\nNo FCD: pip install 'cmim-hf[fcd]'"
    return text


def draw(near: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Shares against the radius."""
    figure, plots = plt.subplots(1, len(near), figsize=(5.5 * len(near), 4), sharey=True)
    for plot, (unit, results) in zip(np.atleast_1d(plots), near.items(), strict=True):
        for name in ("validity", "novelty", "effective novelty"):
            plot.plot(
                [one["radius"] for one in results],
                [one[name] for one in results],
                marker="o",
                label=name,
            )
        plot.set(xlabel=f"radius ({unit})", ylabel="share", ylim=(0, 1.02))
    np.atleast_1d(plots)[0].legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
