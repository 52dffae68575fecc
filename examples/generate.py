# SPDX-License-Identifier: Apache-2.0
"""Look at what a checkpoint writes: molecules from their codes, new ones, and walks between two.

python examples/generate.py --checkpoint runs/tiny --picture runs/walks.png
"""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.smiles import similarities, similarity
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import read_smiles

MOLECULES = str(Path(__file__).parent / "data" / "moses_test.smi")


@dataclass
class Arguments:
    """What to look at."""

    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    molecules: str = field(default=MOLECULES, metadata={"help": "A file of molecules."})
    count: int = field(default=1000, metadata={"help": "How many of them to read."})
    walks: int = field(default=100, metadata={"help": "How many pairs of them to walk between."})
    steps: int = field(default=9, metadata={"help": "Codes of a walk, both ends included."})
    picture: str = field(default="walks.png", metadata={"help": "Where to draw three walks."})


def main() -> None:
    """Reconstruct, draw, walk."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    generator = MoleculeGenerator(args.checkpoint, seed=0, on_invalid="skip")
    rows = islice(read_smiles(args.molecules), args.count)
    smiles = generator.texts(row.text for row in rows)  # canonical; what is no molecule is left out
    if len(smiles) < 2:
        raise ValueError(
            f"{args.molecules} holds {len(smiles)} molecules; two at least are needed."
        )

    written = generator.reconstruct(smiles)
    for pair in islice(zip(smiles, written, strict=True), 4):
        print("{}\n  comes back as {}".format(*pair))
    exact = np.mean([one == other for one, other in zip(smiles, written, strict=True)])
    near = [similarity(*pair) if pair[1] else 0.0 for pair in zip(smiles, written, strict=True)]
    print(f"Of {len(smiles)} molecules {exact:.1%} come back exactly; mean Tanimoto similarity "
          f"{np.mean(near):.2f} (an invalid one counts 0).\n")  # fmt: skip

    new = generator.sample(100, prior="fitted")
    around = generator.sample_around(smiles[0], radius=1.0, n=100, unit="aggregate")
    for what, drawn in (("from the fitted prior", new), (f"around {smiles[0]}", around)):
        valid = {one for one in drawn if one}
        print(f"Of 100 draws {what} {sum(map(bool, drawn))} are molecules, {len(valid)} different: "
              f"{', '.join(sorted(valid)[:3])}")  # fmt: skip

    ends = smiles[0 : 2 * args.walks : 2], smiles[1 : 2 * args.walks : 2]
    first = ends[0][: len(ends[1])]
    walks = generator.interpolate(first, ends[1], args.steps)
    pairs = zip(first, walks, strict=True)
    likeness = np.array([similarities(one, walk) for one, walk in pairs], float)
    valid = ~np.isnan(likeness)
    falling = " ".join(f"{mean:.2f}" for mean in np.nanmean(likeness, axis=0))
    print(f"\n{valid[:, 1:-1].mean():.1%} of the codes between {len(walks)} pairs are molecules; "
          f"their mean similarity to the first end, step by step: {falling}")  # fmt: skip

    shown = sorted(range(len(walks)), key=lambda row: -valid[row].sum())[:3]
    legends = [f"{one:.2f}" if one == one else "no molecule" for one in likeness[shown].flat]
    molecules = [one for row in shown for one in walks[row]]
    write_whole(args.picture, draw_grid(molecules, legends, columns=args.steps))
    print(f"Three walks, and similarities to their first end, are drawn to {args.picture}.")


if __name__ == "__main__":
    run_script(main)
