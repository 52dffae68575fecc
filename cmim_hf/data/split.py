# SPDX-License-Identifier: Apache-2.0
"""Divide molecules into training, validation and test files, without what must stay unseen."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from ..atomic_files import write_whole, written_whole
from .argument_checks import whole_number
from .row_encoder import Reject, Rejects
from .smiles_files import Row, read_smiles
from .source_files import expanded
from .worker_pool import chunked, encode_in_order


@dataclass(frozen=True)
class SplitOptions:
    """How sources are divided.

    Attributes:
        exclude: Sources of molecules that must stay unseen.
        validation: Molecules held out of each source to choose by.
        test: Likewise, to report.
        max_atoms: Leave molecules of more heavy atoms out of all files.
        seed: Of the drawing and the shuffling.
        column: As in `read_smiles`.
        num_workers: As in `encode_in_order`.
    """

    exclude: Sequence[str | os.PathLike] = ()
    validation: int = 2000
    test: int = 2000
    max_atoms: int | None = None
    seed: int = 0
    column: str | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        """ValueError for a negative number of molecules."""
        for name in ("validation", "test"):
            whole_number(name, getattr(self, name), 0)


class _Molecule(NamedTuple):
    """`key` is the canonical SMILES without marks of stereo; `atoms` are the heavy ones."""

    smiles: str
    key: str
    atoms: int


def split_sources(
    sources: Sequence[str | os.PathLike], output: str | os.PathLike, options: SplitOptions
) -> tuple[dict[str, dict[str, int]], Rejects]:
    """Divide sources into files of a folder.

    Two rows are the same molecule if RDKit writes them alike without marks of stereo. Of each
    source `validation` and `test` molecules are drawn; whatever equals one of them, or an excluded
    one, is left out of the training molecules of *all* sources, and so are repeated rows.

    Writes `train.smi.gz` (all sources, shuffled, as RDKit writes them) and the same by source,
    `<source>.train.smi.gz`, to name one twice in a run that shall see it more often; besides
    `<source>.validation.smi` and `<source>.test.smi`, `rejects.tsv` (rows that do not parse) and
    `split.json` (the counts).

    Returns:
        What is left of each source after each step, and the rows that do not parse.

    Raises:
        ValueError: Two sources of one name, or one with too few molecules to hold out.
    """
    sources = expanded(sources)
    names = [Path(source).name.split(".")[0].replace(":", "_") for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"Two sources have the same name in {', '.join(names)}: rename one.")
    rejects = Rejects()
    unseen = {one.key for source in options.exclude for one in _read(source, options, rejects)}
    tables = [list(_read(source, options, rejects)) for source in sources]
    counts: dict[str, dict[str, int]] = {}
    files: dict[str, list[str]] = {}
    reserved: set[str] = set()
    shuffle = random.Random(options.seed)
    for name, table in zip(names, tables, strict=True):
        counts[name] = {"rows": len(table)}
        if options.max_atoms is not None:
            table[:] = (one for one in table if one.atoms <= options.max_atoms)
        counts[name]["small enough"] = len(table)
        table[:] = (one for one in table if one.key not in unseen)
        counts[name]["not excluded"] = len(table)
        shuffle.shuffle(table)
        drawn = _draw(name, table, reserved, options.validation + options.test)
        files[f"{name}.validation.smi"] = drawn[: options.validation]
        files[f"{name}.test.smi"] = drawn[options.validation :]
    taken = set(reserved)
    together: list[str] = []
    for name, table in zip(names, tables, strict=True):
        kept = dict.fromkeys(one.smiles for one in table if one.key not in reserved)
        fresh = [smiles for smiles in kept if smiles not in taken]
        taken.update(fresh)
        together += fresh
        counts[name]["train"] = len(fresh)
        files[f"{name}.train.smi.gz"] = fresh
    shuffle.shuffle(together)
    report = {"sources": list(map(str, sources)), **asdict(options), "counts": counts}
    _write(Path(output), {"train.smi.gz": together, **files}, rejects, report)
    return counts, rejects


def _read(
    source: str | os.PathLike, options: SplitOptions, rejects: Rejects
) -> Iterator[_Molecule]:
    rows = chunked(read_smiles(source, column=options.column))
    with tqdm(desc=Path(source).name, unit=" rows") as bar:
        for good, bad in encode_in_order(_read_chunk, rows, options.num_workers):
            rejects += bad
            bar.update(len(good) + len(bad))
            yield from good


def _read_chunk(rows: list[Row]) -> tuple[list[_Molecule], list[Reject]]:
    from ..chemistry.moses import smiles_without_stereo
    from ..chemistry.smiles import SmilesError, parse, write

    good, bad = [], []
    for row in rows:
        if row.reason is not None:
            bad.append(Reject(row, "does not parse", row.reason))
            continue
        try:
            molecule = parse(row.text)
        except SmilesError as error:
            bad.append(Reject(row, "does not parse", f"it {error.reason}"))
            continue
        smiles = write(molecule)
        marked = any(mark in smiles for mark in "@/\\[")
        key = smiles_without_stereo(molecule) if marked else smiles
        good.append(_Molecule(smiles, key, molecule.GetNumHeavyAtoms()))
    return good, bad


def _draw(name: str, table: list[_Molecule], reserved: set[str], count: int) -> list[str]:
    """Take the first `count` molecules whose keys are not reserved yet, and reserve them."""
    drawn: list[str] = []
    for one in table:
        if len(drawn) == count:
            break
        if one.key not in reserved:
            reserved.add(one.key)
            drawn.append(one.smiles)
    if len(drawn) < count:
        raise ValueError(
            f"{name} has {len(drawn)} molecules to hold out, not {count}: ask for fewer by "
            "`validation` and `test`."
        )
    return drawn


def _write(folder: Path, files: dict[str, list[str]], rejects: Rejects, report: dict) -> None:
    """Write the files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, smiles in files.items():
        with written_whole(folder / name) as path:
            packed = name.endswith(".gz")
            opened = gzip.open(path, "wb", compresslevel=4) if packed else open(path, "wb")
            with opened as stream:
                stream.writelines(f"{text}\n".encode() for text in smiles)
    rejects.write(folder / "rejects.tsv")
    write_whole(folder / "split.json", json.dumps(report, indent=2, default=str) + "\n")
