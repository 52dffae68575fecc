# SPDX-License-Identifier: Apache-2.0
"""Look at a checkpoint: reconstructions and nearest neighbours of molecules it has not seen.

python examples/explore.py --checkpoint runs/tiny --picture runs/tiny.png
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeEmbedder, MoleculeGenerator
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.chemistry.smiles import canonicalize, similarity
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.embedding.nearest import nearest_neighbors


@dataclass
class Arguments:
    """What to look at."""

    checkpoint: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Folder or Hub id."})
    molecules: str = field(
        default=str(Path(__file__).parent / "data" / "moses_test.smi"),
        metadata={"help": "A file of molecules held out of training."},
    )
    count: int = field(default=1000, metadata={"help": "How many of them to read."})
    queries: int = field(default=4, metadata={"help": "How many to show neighbours of."})
    neighbors: int = field(default=4, metadata={"help": "How many neighbours of each."})
    picture: str = field(default="neighbors.png", metadata={"help": "Where to draw them."})


def compared(first: str, second: str | None) -> tuple[bool, float]:
    """Whether two canonical SMILES are one molecule, and their similarity; 0 if there is none."""
    return first == second, 0.0 if second is None else similarity(first, second)


def main() -> None:
    """Print reconstructions and neighbours, and draw the neighbours."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    embedder = MoleculeEmbedder(args.checkpoint)
    given = [row.text for row in islice(read_smiles(args.molecules), args.count)]
    embeddings, kept = embedder.embed(given, on_invalid="skip", return_indices=True)
    smiles = [canonicalize(given[row]) for row in kept]
    if len(smiles) < len(given):
        print(f"{len(given) - len(smiles)} of {len(given)} rows are no molecules and left out.")
    reconstructions = MoleculeGenerator(args.checkpoint).reconstruct(smiles)

    similar = [compared(*pair) for pair in zip(smiles, reconstructions, strict=True)]
    print("\nReconstructions (molecule -> code -> molecule)")
    for given, written, (exact, tanimoto) in islice(
        zip(smiles, reconstructions, similar, strict=True), 8
    ):
        how = "exact" if exact else f"Tanimoto {tanimoto:.2f}"
        print(f"  {given}\n  {written or 'no molecule'}   {how}\n")
    share = np.mean([exact for exact, _ in similar])
    print(
        f"Of {len(smiles)} molecules {share:.1%} come back exactly; mean Tanimoto similarity "
        f"{np.mean([tanimoto for _, tanimoto in similar]):.2f} (an invalid one counts 0).\n"
    )

    print("Nearest neighbours by informative embedding (cosine)")
    drawn: list[tuple[str, str]] = []
    found = nearest_neighbors(embeddings[: args.queries], embeddings, args.neighbors + 1)
    for query, (rows, cosines) in enumerate(zip(*found, strict=True)):
        print(f"  {smiles[query]}")
        drawn.append((smiles[query], "query"))
        others = [pair for pair in zip(rows, cosines, strict=True) if pair[0] != query]
        for row, cosine in others[: args.neighbors]:
            print(f"    {cosine:.2f}  {smiles[row]}")
            drawn.append((smiles[row], f"cosine {cosine:.2f}"))
    image = draw_grid(*map(list, zip(*drawn, strict=True)), columns=args.neighbors + 1)
    write_whole(args.picture, image)
    print(f"\nDrawn to {args.picture}.")


if __name__ == "__main__":
    run_script(main)
