# SPDX-License-Identifier: Apache-2.0
"""Look for molecules of higher score near given ones.

python examples/optimize.py --seeds molecules.smi --scorers qed my.py:activity=0.5 \
    --min_similarity 0.4 --budget 500 --table runs/scored.csv

A scorer is a built-in name or a function of yours, of one SMILES or, marked by `batch_scorer`, of a
list of them. Run again with the same --table, an interrupted search goes on.
"""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.optimization.scorers import parse_scorers

MOLECULES = str(Path(__file__).parent / "data" / "moses_test.smi")


@dataclass
class Arguments:
    """What to optimise, and how long."""

    seeds: str = field(default=MOLECULES, metadata={"help": "A file of molecules to start from."})
    count: int = field(default=8, metadata={"help": "How many of them."})
    scorers: list[str] = field(
        default_factory=lambda: ["qed"],
        metadata={"help": "Built-in names or file.py:function, each with =weight if it is not 1."},
    )
    budget: int = field(default=100, metadata={"help": "Molecules scored for each seed."})
    min_similarity: float = field(default=0.4, metadata={"help": "Tanimoto, to the seed."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    table: str | None = field(default=None, metadata={"help": "CSV file of all that is scored."})
    picture: str | None = field(default=None, metadata={"help": "Where to draw the best."})


def main() -> None:
    """Search, print, draw."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    found = MoleculeGenerator(args.checkpoint).optimize(
        [row.text for row in islice(read_smiles(args.seeds), args.count)],
        parse_scorers(args.scorers),
        budget=args.budget,
        min_similarity=args.min_similarity,
        table=args.table,
    )
    print(found)
    print(found.best.to_string(index=False))
    best = found.best[found.best["smiles"].notna()]
    if args.picture and len(best):
        smiles, legends = [], []
        for row in best.itertuples():
            smiles += [row.seed_smiles, row.smiles]
            legends.append(f"seed, {row.seed_score:.2f}")
            legends.append(f"{row.score:.2f}, similarity {row.similarity:.2f}")
        write_whole(args.picture, draw_grid(smiles, legends))
        print(f"Drawn to {args.picture}.")


if __name__ == "__main__":
    run_script(main)
