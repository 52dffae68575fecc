# SPDX-License-Identifier: Apache-2.0
"""Analogues of given molecules: `sample_around` beside ANNalog, as many asked of each.

    python -m examples.benchmarks.quality.analogues --source zinc250k.test.smi --train train.smi.gz

ANNalog (the package annalog, MIT; doi 10.26434/chemrxiv-2025-9c1v6) translates a SMILES into those
of its analogues, learned from pairs of ChEMBL, with partialsmiles keeping what it writes valid. It
runs as its own command does by default (beam search), and drawing at its default temperature:
`pip install --no-deps annalog partialsmiles`; without it its rows are left out. Shares are those of
`generative`, *similarity* the mean Tanimoto of different molecules, other than the seed, to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator
from cmim_hf.chemistry.smiles import SmilesError, canonicalize, similarities

from ..evidence import DATA, RESULTS, Cells, first, table, write
from .generative import canonical_set, neighbours, state
from .generative_page import NEAR_SHARES

DECODERS = {"beam": "beam search", "sampling": "drawn at temperature 1.2"}

Groups = list[list[str | None]]
Make = Callable[[list[str], int], Groups]
"""From molecules and a number to that many analogues of each, canonical."""


@dataclass
class Arguments:
    """What to make analogues of, and how many."""

    source: str = field(
        default=str(DATA / "moses_test.smi"), metadata={"help": "Molecules the models never saw."}
    )
    count: int = field(default=100, metadata={"help": "How many of them."})
    draws: int = field(default=20, metadata={"help": "Analogues asked of each."})
    train: str | None = field(
        default=None, metadata={"help": "Molecules that are not new: those of the training."}
    )
    radii: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 1.5, 2.0], metadata={"help": "Of sample_around."}
    )
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder of what is written."})


def around(checkpoint: str, radius: float, **decoding: Any) -> Make:
    """Those of this package."""
    generator = MoleculeGenerator(checkpoint, seed=0, progress=False)
    return lambda seeds, draws: generator.sample_around(seeds, radius, draws, **decoding)


def annalog(decoder: str) -> Make:
    """Those of ANNalog; what it wrote less than it was asked for counts as no molecule."""
    from annalog import SMILESGenerator, SMILESModelHandler

    folder = files("annalog") / "ckpt_and_vocab"
    words = str(folder / "stereo_experiment_vocab_ttf.pkl")
    generator = SMILESGenerator(SMILESModelHandler(words, words, str(folder / "Lev_extended.pt")))

    def make(seeds: list[str], draws: int) -> Groups:
        groups = []
        for seed in seeds:
            written = generator.generate_smiles(
                seed, generation_number=draws, generation_method=decoder, filter_invalid=True
            )
            group = [_canonical(text) for text, _ in written][:draws]
            groups.append(group + [None] * (draws - len(group)))
        return groups

    return make


def measure(
    load: Callable[[], Make], seeds: list[str], draws: int, known: frozenset[str]
) -> dict[str, Any]:
    """Shares, similarity to the seed, and seconds for a thousand molecules asked for."""
    make = load()
    start = time.perf_counter()
    groups = make(seeds, draws)
    seconds = time.perf_counter() - start
    near: list[float] = []
    for seed, group in zip(seeds, groups, strict=True):
        near += similarities(seed, sorted(set(group) - {None, seed}))
    return {
        **neighbours(seeds, groups, known),
        "similarity": float(np.mean(near)) if near else None,
        "s / 1,000": 1000 * seconds / (draws * len(seeds)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each maker of analogues and write the page."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    seeds = [canonicalize(text) for text in first(args.source, args.count)]
    known = canonical_set(args.train, state(args.train)) if args.train else frozenset()
    makers = {
        f"sample_around, radius {radius:g}{how}": partial(around, args.checkpoint, radius, **given)
        for how, given in (("", {}), (", greedy", {"attempts": 1}))
        for radius in args.radii
    }
    if find_spec("annalog") and find_spec("partialsmiles"):
        makers |= {f"ANNalog, {how}": partial(annalog, name) for name, how in DECODERS.items()}
    else:
        print("Without ANNalog: pip install --no-deps annalog partialsmiles")
    settings = {
        name: value for name, value in vars(args).items() if name not in ("radii", "output")
    }
    settings |= {name: state(getattr(args, name)) for name in ("source", "train") if settings[name]}
    settings["weights"] = MoleculeGenerator(args.checkpoint).fingerprint
    cells = Cells(f"{args.output}/cells/analogues", settings)
    found = {
        name: cells.compute(name, lambda load=load: measure(load, seeds, args.draws, known))
        for name, load in makers.items()
    }
    untold = () if args.train else ("novelty", "effective novelty")
    shares = [share for share in NEAR_SHARES if share not in untold]
    text = f"""# Analogues

{args.draws} analogues asked of each of {len(seeds)} molecules. Shares: valid, of all asked for;
unique, of the valid; new (not in the training file of this package's model) and not the seed, of
the unique; then the two of all asked for. *Greedy* rows take what is decoded first (`attempts=1`).
Time on one thread, molecule by molecule in ANNalog, all at once here.

{
        table(
            ["", *shares, "similarity", "s / 1,000"],
            [
                [
                    name,
                    *("–" if one[share] is None else f"{one[share]:.1%}" for share in shares),
                    "–" if one["similarity"] is None else f"{one['similarity']:.2f}",
                    f"{one['s / 1,000']:.1f}",
                ]
                for name, one in found.items()
            ],
        )
    }
"""
    write("analogues", args.output, {"makers": found}, text)


def _canonical(text: str) -> str | None:
    try:
        return canonicalize(text)
    except SmilesError:
        return None


if __name__ == "__main__":
    main()
