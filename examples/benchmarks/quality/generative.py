# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint writes: reconstruction, molecules near others, walks, draws from the prior.

    python -m examples.benchmarks.quality.generative
    python -m examples.benchmarks.quality.generative --sources zinc.smi chembl.smi \
        --train train.smi.gz --moses_train moses --moses_test moses:test \
        --moses_scaffolds moses:test_scaffolds --samples 30000

Reconstruction is greedy, and once more by the nearest of `CANDIDATES`; elsewhere texts that are no
molecule are decoded again, as is the default, and *first attempt* is the share that greedy decoding
alone gives. Around a molecule codes are drawn
at z + radius · N(0, 1), as in MolMIM (arXiv 2208.09016), and in units of the spread of the training
molecules' codes. *New neighbours* is the share of draws that are valid, not drawn before from the
same molecule and not that molecule; *effective novelty* the share that are not a training molecule
either (MolMIM's figures multiply to its effective novelty only so). A part is measured again if a
file, not only its name, has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator, metrics
from cmim_hf.chemistry.moses import Molecule, read_molecules
from cmim_hf.chemistry.smiles import canonicalize, parse
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.generation.interpolation import METHODS
from cmim_hf.metrics import measures
from cmim_hf.metrics.frechet import fcd

from ..evidence import DATA, RESULTS, Cells, first, write
from .generative_page import (
    CANDIDATES,
    PUBLISHED_SAMPLES,
    STEPS,
    draw,
    fcd_is_installed,
    page,
)

RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
UNITS = ("prior", "aggregate")
PRIORS = ("standard", "fitted", "MOSES-fitted")


@dataclass
class Arguments:
    """What to measure."""

    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    sources: list[str] = field(
        default_factory=lambda: [str(DATA / "moses_test.smi")],
        metadata={"help": "Molecules not seen; the first is drawn around and walked through."},
    )
    count: int = field(default=1000, metadata={"help": "Of each source, to reconstruct."})
    around: int = field(default=50, metadata={"help": "Molecules to draw around."})
    draws: int = field(default=20, metadata={"help": "For each of them and each radius."})
    pairs: int = field(default=50, metadata={"help": "Of molecules, to walk between."})
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
    fitted: int = field(
        default=20_000, metadata={"help": "Molecules of moses_train, to fit a prior to."}
    )
    samples: int = field(
        default=2000,
        metadata={"help": f"Of each prior; published: {PUBLISHED_SAMPLES:,}; 0 leaves them out."},
    )
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, and write tables and a picture."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if len(set(map(short, args.sources))) < len(args.sources):
        raise SystemExit(f"--sources have names in common: {', '.join(args.sources)}; rename one.")
    results = measure(args)
    draw(results["around"], Path(args.output, "generative.png"))
    results["checkpoint"] = Path(args.checkpoint).name
    write("generative", args.output, results, page(results, args))


def measure(args: Arguments) -> dict[str, Any]:
    """All parts, each kept in cells named after all that it depends on."""
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    known = partial(canonical_set, args.train, state(args.train))
    seeds = {"source": state(args.sources[0])}
    sets = {name: state(getattr(args, name)) for name in vars(args) if name.startswith("moses_")}

    def compute(name: str, work: Callable[[], dict[str, Any]], **settings: Any) -> dict[str, Any]:
        settings["weights"] = generator.fingerprint
        return Cells(Path(args.output, "cells", "generative"), settings).compute(name, work)

    greedy, nearest = (
        {
            short(source): compute(
                f"reconstruction-{short(source)}",
                partial(reconstruction, generator, source, args, candidates),
                source=state(source),
                count=args.count,
                candidates=candidates,
            )
            for source in args.sources
        }
        for candidates in (1, CANDIDATES)
    )
    neighbours = {"train": state(args.train), "around": args.around, "draws": args.draws}
    near = {
        unit: [
            compute(
                f"around-{unit}-{radius}",
                partial(around, args, unit, radius, known),
                **seeds,
                **neighbours,
            )
            for radius in RADII
        ]
        for unit in UNITS
    }
    walks = {
        method: compute(f"walk-{method}", partial(walk, args, method), **seeds, pairs=args.pairs)
        for method in METHODS
    }
    prior: dict[str, dict[str, Any]] = {}
    for kind in PRIORS if args.samples else ():
        prior |= compute(
            f"prior-{kind}",
            partial(from_prior, args, kind),
            **sets,
            samples=args.samples,
            fitted=args.fitted,
            fcd=fcd_is_installed(),
        )
        del prior["seconds"]
    return {
        "weights": generator.fingerprint,
        "reconstruction": greedy,
        "reconstruction_of_candidates": nearest,
        "around": near,
        "walks": walks,
        "prior": prior,
    }


def reconstruction(
    generator: MoleculeGenerator, source: str, args: Arguments, candidates: int
) -> dict[str, Any]:
    """Shares of molecules that come back from their code, with Wilson's 95 % interval."""
    given = first(source, args.count)
    written = generator.reconstruct(given, attempts=1, candidates=candidates)
    found = metrics.load("reconstruction").compute(
        predictions=[text or "" for text in written], references=given
    )
    intervals = {
        f"{name}_interval": wilson(found[name], len(given))
        for name in ("reconstruction", "reconstruction_without_stereo")
    }
    return {**found, **intervals, "molecules": len(given)}


def wilson(share: float, of: int) -> list[float]:
    """The 95 % interval of a share, [low, high] (E. B. Wilson, 1927)."""
    return list(binomtest(round(share * of), of).proportion_ci(method="wilson"))


def around(
    args: Arguments, unit: str, radius: float, known: Callable[[], frozenset[str]]
) -> dict[str, Any]:
    """Shares of the codes drawn around molecules at one radius; None: of nothing."""
    seeds = [canonicalize(text) for text in first(args.sources[0], args.around)]
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    groups, info = generator.sample_around(seeds, radius, args.draws, unit=unit, return_info=True)
    once = float((info.attempts == 1).mean())
    return {"radius": radius, "first attempt": once, **neighbours(seeds, groups, known())}


def neighbours(
    seeds: Sequence[str], groups: Sequence[Sequence[str | None]], known: frozenset[str]
) -> dict[str, Any]:
    """The `NEAR_SHARES` of what was drawn from each seed; None: of nothing.

    Args:
        seeds: canonical SMILES.
        groups: what was drawn from each, canonical; None where it is no molecule.
        known: molecules that are not new.
    """
    draws = sum(map(len, groups))
    valid = unique = novel = other = effective = 0
    for seed, written in zip(seeds, groups, strict=True):
        molecules = [text for text in written if text is not None]
        different = set(molecules)
        valid += len(molecules)
        unique += len(different)
        novel += len(different - known)
        other += len(different - {seed})
        effective += len(different - known - {seed})
    return {
        "validity": valid / draws,
        "uniqueness": unique / valid if valid else None,
        "novelty": novel / unique if unique else None,
        "not the seed": other / unique if unique else None,
        "new neighbours": other / draws,
        "effective novelty": effective / draws,
        "draws": draws,
    }


def walk(args: Arguments, method: str) -> dict[str, Any]:
    """Shares of the codes between two molecules, ends left out, over walks between pairs."""
    ends = [canonicalize(text) for text in first(args.sources[0], 2 * args.pairs)]
    pairs = list(zip(ends[::2], ends[1::2], strict=False))
    if not pairs:
        raise SystemExit(f"A walk needs two molecules; {args.sources[0]} holds {len(ends)}.")
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    codes = valid = different = new = 0
    paths, info = generator.interpolate(
        *zip(*pairs, strict=True), STEPS, method=method, return_info=True
    )
    once = info.attempts.reshape(len(pairs), STEPS)[:, 1:-1] == 1
    for pair, path in zip(pairs, paths, strict=True):
        inner = path[1:-1]
        molecules = [text for text in inner if text is not None]
        codes += len(inner)
        valid += len(molecules)
        different += len(set(molecules))
        new += len(set(molecules) - set(pair))
    return {
        "first attempt": float(once.mean()),
        "validity": valid / codes,
        "validity_interval": wilson(valid / codes, codes),
        "different molecules a walk": different / len(pairs),
        "of them neither end": new / len(pairs),
        "pairs": len(pairs),
    }


def from_prior(args: Arguments, kind: str) -> dict[str, Any]:
    """What MOSES measures of molecules from a prior, and how many were molecules at once."""
    generator = MoleculeGenerator(args.checkpoint, seed=0)
    prior = kind
    if kind == "MOSES-fitted":
        train = [row.text for row in read_smiles(args.moses_train)]
        chosen = np.random.default_rng(0).permutation(len(train))[: args.fitted]
        prior = generator.fit_prior([train[row] for row in chosen])
    drawn, info = generator.sample(args.samples, prior=prior, return_info=True)
    once = float((info.attempts == 1).mean())
    found = table_of_moses([text or "" for text in drawn], args)
    return {f"{kind} prior": {"first attempt": once, **found}}


def table_of_moses(samples: list[str], args: Arguments) -> dict[str, Any]:
    """What MOSES measures, of canonical samples, "" where there is no molecule."""
    valid = [text for text in samples if text]
    found = {"validity": len(valid) / len(samples), "valid": len(valid), "gaps": {}}
    if len(valid) < 2:
        return found | {"gaps": {"all but validity": "fewer than two draws are molecules."}}
    molecules = [parse(text) for text in valid]
    found |= measures.uniqueness(molecules, [k for k in (1000, 10000) if k <= len(valid)])
    train = canonical_set(args.moses_train, state(args.moses_train))
    found["novelty"] = len(set(valid) - train) / len(set(valid))  # draws are canonical
    found |= measures.internal_diversity(molecules)
    found |= measures.moses_filters(molecules)
    compared = [measures.snn, measures.fragment_similarity, measures.scaffold_similarity]
    references = {"": args.moses_test}
    if args.moses_scaffolds is not None:
        references[", scaffolds"] = args.moses_scaffolds
    for suffix, source in references.items():
        packed = packed_molecules_of(source, state(source))
        for measure in [*compared, *([fcd] if fcd_is_installed() else [])]:
            name = measure.__name__
            try:
                found[name + suffix] = measure(molecules, map(Molecule, packed))[name]
            except ValueError as error:  # a few molecules may have no fragments, or no scaffolds
                found["gaps"][name + suffix] = str(error)
    return found


@cache
def packed_molecules_of(source: str, content: str | None) -> list[bytes]:
    """A source's molecules in a hundredth of their memory, read once; `content` is its `state`."""
    packed, rows = [], list(read_smiles(source))
    read = read_molecules((row.text for row in rows), "references")
    for row, molecule in zip(rows, read, strict=True):
        if molecule is None:
            what = f"{source}, row {row.number}, {row.text!r}"
            raise ValueError(f"{what}, is no molecule; remove it.")
        packed.append(molecule.ToBinary())
    return packed


@cache
def canonical_set(source: str, content: str | None) -> frozenset[str]:
    """The molecules of a source, canonically written; `content` is its `state`."""
    return frozenset(canonicalize(row.text) for row in read_smiles(source))


def state(source: str | None) -> str | None:
    """What changes when a source does: a digest of a file, else its name."""
    if source is None or not Path(source).is_file():
        return source
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(source: str) -> str:
    """A name for a source."""
    return Path(source).name.removesuffix(".gz").removesuffix(".smi")


if __name__ == "__main__":
    main()
