# SPDX-License-Identifier: Apache-2.0
"""What a search finds, beside as many random draws: means, differences, a picture.

    python -m examples.benchmarks.quality.optimization --seeds molecules.smi --count 100 \
        --budget 500 --goal 0.9 --table runs/qed.csv --compare_random \
        --json runs/optimize-qed.json

The task of constrained optimisation (Jin et al. 2019, arXiv 1812.01070): starting from molecules
with a QED in [0.7, 0.8], reach 0.9 at a Tanimoto similarity to the start of at least 0.4. With
--compare_random the same number of molecules, drawn from a Gaussian around each seed's code, is
scored as well. With --keep_scaffold every molecule has the Bemis-Murcko scaffold of its seed.
Run again with the same --table, an interrupted search goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit.Chem.Scaffolds import MurckoScaffold
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.optimization.scorers import parse_scorers

from ..evidence import provenance

DRAWN = 6


@dataclass
class Arguments:
    """What to optimise, and how long."""

    seeds: str = field(
        default=str(Path(__file__).parents[2] / "data" / "moses_test.smi"),
        metadata={"help": "Molecules to start from."},
    )
    count: int = field(default=8, metadata={"help": "How many of them."})
    skip: int = field(default=0, metadata={"help": "How many to leave out before."})
    scorers: list[str] = field(
        default_factory=lambda: ["qed"],
        metadata={"help": "Built-in names or file.py:function, each with =weight if it is not 1."},
    )
    budget: int = field(default=100, metadata={"help": "Molecules scored for each seed."})
    goal: float | None = field(
        default=None, metadata={"help": "Score at which the search of a seed ends."}
    )
    step: float = field(
        default=0.5, metadata={"help": "First radius of the search, in the spread of the codes."}
    )
    min_similarity: float = field(default=0.4, metadata={"help": "Tanimoto, to the seed."})
    keep_scaffold: bool = field(default=False, metadata={"help": "Each seed's, in all it finds."})
    success: float = field(default=0.9, metadata={"help": "Score that counts as a success."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    table: str | None = field(default=None, metadata={"help": "CSV file of all that is scored."})
    compare_random: bool = field(default=False, metadata={"help": "Draw as many at random, too."})
    random_step: float = field(
        default=0.5, metadata={"help": "Spread of the random draws, in that of the codes."}
    )
    seed: int = field(default=0, metadata={"help": "Of the random numbers."})
    picture: str | None = field(default=None, metadata={"help": "Where to draw the best."})
    json: str | None = field(default=None, metadata={"help": "Write the figures there, too."})


def search(
    generator: MoleculeGenerator, seeds: list[str], args: Arguments, **options: object
) -> pd.DataFrame:
    """The best molecule of each seed; with scaffolds to be kept by a search for each of them."""
    scorer = parse_scorers(args.scorers)
    options |= {"budget": args.budget, "goal": args.goal, "seed": args.seed}
    options |= {"min_similarity": args.min_similarity}
    if not args.keep_scaffold:
        found = generator.optimize(seeds, scorer, **options)
        print(found)
        return found.best
    parts = []
    table = options.pop("table", None)
    for number, one in enumerate(tqdm(seeds, desc=options.get("strategy", "evolution"))):
        scaffold = MurckoScaffold.MurckoScaffoldSmiles(one)
        path = table and Path(table).with_stem(f"{Path(table).stem}-{number}")
        found = generator.optimize([one], scorer, keep=scaffold or None, table=path, **options)
        if found.interrupted:
            raise KeyboardInterrupt
        parts.append(found.best)
    return pd.concat(parts, ignore_index=True)


def figures(best: pd.DataFrame, success: float) -> dict[str, float]:
    """Means over the seeds."""
    return {
        "seeds": len(best),
        "seed_score": best["seed_score"].mean(),
        "best_score": best["score"].mean(),
        "gain": (best["score"] - best["seed_score"]).mean(),
        "success": (best["score"] >= success).mean(),
        "calls_per_seed": best["calls"].mean(),
    }


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean, from 10,000 resamplings."""
    random = np.random.default_rng(0)
    means = random.choice(values, (10_000, len(values))).mean(axis=1)
    return tuple(np.quantile(means, (0.025, 0.975)).tolist())


def draw(best: pd.DataFrame, path: str) -> None:
    """Seeds beside the best molecules found from them."""
    smiles, legends = [], []
    gain = best["score"] - best["seed_score"]
    for row in best.loc[gain.sort_values(ascending=False).index[:DRAWN]].itertuples():
        smiles += [row.seed_smiles, row.smiles]
        legends += [
            f"seed, {row.seed_score:.2f}",
            f"{row.score:.2f}, similarity {row.similarity:.2f}",
        ]
    write_whole(path, draw_grid(smiles, legends, columns=4))


def main(argv: Sequence[str] | None = None) -> None:
    """Search, compare, print, draw."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    rows = islice(read_smiles(args.seeds), args.skip, args.skip + args.count)
    seeds = [row.text for row in rows]
    generator = MoleculeGenerator(args.checkpoint)
    best = search(generator, seeds, args, step=args.step, table=args.table)
    result = {"evolution": figures(best, args.success)}
    if args.compare_random and "interrupted" not in set(best["stopped"]):
        chance = search(generator, seeds, args, strategy="random", step=args.random_step)
        result["random"] = figures(chance, args.success)
        difference = (best["score"] - chance["score"]).to_numpy()
        low, high = bootstrap(difference)
        result["difference"] = {
            "mean": difference.mean(),
            "low": low,
            "high": high,
            "better": int((difference > 0).sum()),
            "worse": int((difference < 0).sum()),
        }
    print(json.dumps(result, indent=2, default=float))
    if args.picture:
        draw(best[best["smiles"].notna()], args.picture)
        print(f"Drawn to {args.picture}.")
    if args.json:
        made = {**provenance(), "weights": generator.fingerprint}
        text = json.dumps({**made, **result}, indent=2, default=float)
        write_whole(args.json, text + "\n")


if __name__ == "__main__":
    main()
