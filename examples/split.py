# SPDX-License-Identifier: Apache-2.0
"""Divide molecules into training, validation and test files, without what must stay unseen.

    python examples/split.py --sources moses zinc.smi.gz --exclude moses:test moses:test_scaffolds \
        --output data/split

Two rows are the same molecule if RDKit writes them alike without marks of stereo. Of each
source `validation` and `test` molecules are drawn; whatever equals one of them, or an excluded
one, is left out of the training molecules of *all* sources, and so are repeated rows.

Writes `train.smi.gz` (all sources, shuffled, as RDKit writes them) and the same by source,
`<source>.train.smi.gz`, to name one twice in a run that shall see it more often; besides
`<source>.validation.smi` and `<source>.test.smi`, `rejects.tsv` (rows that do not parse) and
`split.json` (the counts).
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from rdkit import Chem
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from cmim_hf.atomic_files import write_whole, written_whole
from cmim_hf.chemistry.moses import smiles_without_stereo
from cmim_hf.chemistry.smiles import SmilesError, parse
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.row_encoder import Reject, Rejects
from cmim_hf.data.smiles_files import Row, read_smiles

CHUNK_ROWS = 2000


@dataclass
class Arguments:
    """What to divide, and how."""

    sources: list[str] = field(metadata={"help": "Files, Hub datasets, moses: as in pretrain.py."})
    output: str = field(metadata={"help": "The folder to write."})
    exclude: list[str] = field(
        default_factory=list, metadata={"help": "Sources of molecules that must stay unseen."}
    )
    validation: int = field(default=2000, metadata={"help": "Held out of each source to choose."})
    test: int = field(default=2000, metadata={"help": "Held out of each source to report."})
    max_atoms: int | None = field(
        default=None, metadata={"help": "Leave larger molecules (heavy atoms) out of all files."}
    )
    seed: int = field(default=0, metadata={"help": "Of the drawing and the shuffling."})
    workers: int = field(default=1, metadata={"help": "Processes that parse."})


def main() -> None:
    """Parse everything once, draw what is held out, write the files."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    names = [Path(source).name.split(".")[0].replace(":", "_") for source in args.sources]
    if len(set(names)) < len(names):
        raise ValueError(f"Two sources have the same name in {', '.join(names)}: rename one.")
    rejects = Rejects()
    with ProcessPoolExecutor(args.workers) as pool:
        unseen = {key for source in args.exclude for _, key, _ in parsed(pool, source, rejects)}
        tables = [list(parsed(pool, source, rejects)) for source in args.sources]
    shuffle = random.Random(args.seed)
    held_out: dict[str, list[str]] = {}
    counts: dict[str, dict[str, int]] = {}
    reserved: set[str] = set()
    for name, table in zip(names, tables, strict=True):
        counts[name] = {"rows": len(table)}
        if args.max_atoms is not None:
            table[:] = (row for row in table if row[2] <= args.max_atoms)
        counts[name]["small enough"] = len(table)
        table[:] = (row for row in table if row[1] not in unseen)
        counts[name]["not excluded"] = len(table)
        shuffle.shuffle(table)
        drawn = draw(table, reserved, args.validation + args.test)
        held_out[f"{name}.validation.smi"] = drawn[: args.validation]
        held_out[f"{name}.test.smi"] = drawn[args.validation :]
    train: dict[str, list[str]] = {}
    taken = set(reserved)
    for name, table in zip(names, tables, strict=True):
        kept = [smiles for smiles, key, _ in table if key not in reserved]
        fresh = [smiles for smiles in dict.fromkeys(kept) if smiles not in taken]
        taken.update(fresh)
        counts[name]["train"] = len(fresh)
        train[f"{name}.train.smi.gz"] = fresh
    together = [smiles for fresh in train.values() for smiles in fresh]
    shuffle.shuffle(together)
    write(Path(args.output), {"train.smi.gz": together, **train}, held_out, rejects)
    report = {"arguments": asdict(args), "counts": counts, "train": len(together)}
    write_whole(Path(args.output, "split.json"), json.dumps(report, indent=2) + "\n")
    print(json.dumps(counts, indent=2))
    print(
        f"{len(together):,} training molecules in {args.output}; {len(rejects)} rows do not parse"
    )


def parsed(
    pool: ProcessPoolExecutor, source: str, rejects: Rejects
) -> Iterator[tuple[str, str, int]]:
    """Canonical SMILES, key and heavy atoms of each molecule of a source; the rest is rejected."""
    with tqdm(desc=Path(source).name, unit=" rows") as bar:
        for good, bad in pool.map(read_chunk, chunks(read_smiles(source))):
            rejects.items += bad
            bar.update(len(good) + len(bad))
            yield from good


def chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Pieces of a size worth sending to a process."""
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def read_chunk(rows: list[Row]) -> tuple[list[tuple[str, str, int]], list[Reject]]:
    """Parse rows: canonical SMILES, the same without stereo, heavy atoms."""
    good, bad = [], []
    for row in rows:
        try:
            molecule = parse(row.text)
        except SmilesError as error:
            bad.append(Reject(row, "does not parse", f"it {error.reason}"))
            continue
        smiles = Chem.MolToSmiles(molecule)
        marked = any(mark in smiles for mark in "@/\\[")
        key = smiles_without_stereo(molecule) if marked else smiles
        good.append((smiles, key, molecule.GetNumHeavyAtoms()))
    return good, bad


def draw(table: list[tuple[str, str, int]], reserved: set[str], count: int) -> list[str]:
    """Take the first `count` molecules whose keys are not reserved yet, and reserve them."""
    drawn = []
    for smiles, key, _ in table:
        if len(drawn) == count:
            break
        if key not in reserved:
            reserved.add(key)
            drawn.append(smiles)
    return drawn


def write(
    folder: Path, train: dict[str, list[str]], held_out: dict[str, list[str]], rejects: Rejects
) -> None:
    """Write the files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, smiles in held_out.items():
        write_whole(folder / name, "\n".join(smiles) + "\n")
    for name, smiles in train.items():
        with (
            written_whole(folder / name) as path,
            gzip.open(path, "wt", compresslevel=4) as stream,
        ):
            stream.writelines(f"{text}\n" for text in smiles)
    rejects.write(folder / "rejects.tsv")


if __name__ == "__main__":
    run_script(main)
