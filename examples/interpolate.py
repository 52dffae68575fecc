# SPDX-License-Identifier: Apache-2.0
"""Walk from molecules to others through the latent space, and see what lies between.

python examples/interpolate.py --pairs 100 --steps 9 --picture runs/interpolation.png

For each step: the share of codes that decode to a molecule, and the mean Tanimoto similarity of
those to either end of the walk. A latent space without holes has molecules everywhere; a smooth one
has similarities that fall from one end to the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.smiles import canonicalize, similarity
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import read_smiles


@dataclass
class Arguments:
    """Which walks."""

    source: str = field(
        default=str(Path(__file__).parent / "data" / "moses_test.smi"),
        metadata={"help": "Molecules; the first is joined to the second, and so on."},
    )
    pairs: int = field(default=100, metadata={"help": "How many walks."})
    steps: int = field(default=9, metadata={"help": "Codes of a walk, both ends included."})
    methods: list[str] = field(
        default_factory=lambda: ["linear", "spherical"], metadata={"help": "Kinds of walk."}
    )
    checkpoint: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Folder or Hub id."})
    picture: str | None = field(default=None, metadata={"help": "Where to draw three walks."})
    json: str | None = field(default=None, metadata={"help": "Write the figures there, too."})


def figures(walks: list[list[str | None]], ends: list[tuple[str, str]]) -> dict[str, object]:
    """Shares and mean similarities by step, and how often similarity falls from step to step."""
    valid = np.array([[smiles is not None for smiles in walk] for walk in walks])
    to_ends = np.full((2, *valid.shape), np.nan)
    for row, (walk, pair) in enumerate(zip(walks, ends, strict=True)):
        for step, smiles in enumerate(walk):
            for end in (0, 1) if smiles is not None else ():
                to_ends[end, row, step] = similarity(smiles, pair[end])
    first, second = np.nanmean(to_ends, axis=1)
    falls = [np.diff(row[~np.isnan(row)]) <= 0 for row in to_ends[0]]
    return {
        "valid": float(valid.mean()),
        "valid_between": float(valid[:, 1:-1].mean()),
        "valid_by_step": valid.mean(axis=0).round(3).tolist(),
        "similarity_to_first": first.round(3).tolist(),
        "similarity_to_second": second.round(3).tolist(),
        "mean_similarity_falls_at_every_step": bool((np.diff(first) <= 0).all()),
        "share_of_steps_at_which_similarity_does_not_rise": float(np.concatenate(falls).mean()),
    }


def draw(walks: list[list[str | None]], ends: list[tuple[str, str]], path: str) -> None:
    """The three walks with most molecules, a row each."""
    full = sorted(range(len(walks)), key=lambda row: sum(s is None for s in walks[row]))[:3]
    smiles = [one for row in full for one in walks[row]]
    legends = [
        "no molecule" if one is None else f"{similarity(one, ends[row][0]):.2f}"
        for row in full
        for one in walks[row]
    ]
    picture = draw_grid(smiles, legends, columns=len(walks[0]), cell_size=(190, 160))
    write_whole(path, picture)


def main() -> None:
    """Walk, count, draw."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rows = islice(read_smiles(args.source), 2 * args.pairs)
    smiles = [canonicalize(row.text) for row in rows]
    ends = list(zip(smiles[::2], smiles[1::2], strict=False))
    generator = MoleculeGenerator(args.checkpoint)
    result = {}
    for method in args.methods:
        walks = generator.interpolate(
            *map(list, zip(*ends, strict=True)), args.steps, method=method
        )
        result[method] = figures(walks, ends)
        if args.picture and method == args.methods[0]:
            draw(walks, ends, args.picture)
    print(json.dumps(result, indent=2))
    if args.json:
        write_whole(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
