# SPDX-License-Identifier: Apache-2.0
"""Molecules between two.

Decode codes at equal steps from one molecule's to another's: `pair` and `step` (from 1), `smiles`
(empty where there is no molecule), `similarity_first` and `similarity_second` (Tanimoto, to the two
ends). A picture has a walk a row: the ends as given, and the molecules between, each once.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .options import (
    BATCH_ROWS,
    add_decoding_options,
    add_generation_options,
    add_standardize_option,
    checked_outputs,
    load_generator,
)
from .reports import say, say_drawn, share, two_digits
from .seeds import encode_rows, given_rows

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from ..generation.generator import MoleculeGenerator
    from .molecule_files import Picture

WORDS = {"column": "--columns"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("ends", nargs="*", metavar="SMILES", help="the first and second end")
    parser.add_argument("--pairs", help="a table of pairs, in place of the two ends")
    parser.add_argument(
        "--columns",
        default="first,second",
        help="those of --pairs with the ends (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="both ends included (default: %(default)s)"
    )
    parser.add_argument(
        "--method",
        default="linear",
        choices=("linear", "spherical"),
        help="the straight line (the default), or the arc",
    )
    add_decoding_options(parser)
    add_standardize_option(parser)
    add_generation_options(parser, "molecule, tab, step")


def run(options: argparse.Namespace) -> None:
    """Write the paths of one pair, or of a table of pairs."""
    from .molecule_files import MOST_DRAWN, molecule_writer

    inputs = [options.pairs] if options.pairs else []
    output, picture = checked_outputs(options, inputs)
    if bool(options.pairs) == bool(options.ends) or len(options.ends) not in (0, 2):
        raise ValueError("Give two SMILES, or --pairs FILE.")
    generator = load_generator(options, standardize=options.standardize)
    counts, walks = Counter(), []
    with molecule_writer(output, "smiles", name="step") as write:
        for start, first, second in _pairs(options, generator):
            how = {name: getattr(options, name) for name in ("method", "attempts", "candidates")}
            paths = generator.interpolate(first, second, options.steps, **how)
            table = _table(start, first, second, paths)
            write(table)
            counts["pairs"] += len(paths)
            counts["valid"] += table.num_rows - table["smiles"].null_count
            few = min(len(paths), MOST_DRAWN - len(walks)) if picture.path else 0
            walks += map(drawn_walk, first[:few], second[:few], paths[:few])
        picture = _draw(picture.path, walks)
    number = counts["pairs"] * options.steps
    say(
        f"Interpolated {counts['pairs']:,} pairs in {options.steps} steps: "
        f"{share(counts['valid'], number)} of {number:,} are valid molecules."
    )
    say_drawn(picture)


def _pairs(
    options: argparse.Namespace, generator: MoleculeGenerator
) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number of a first pair, and first and second ends of it and those that follow."""
    from ..data.smiles_files import read_batches
    from ..data.tables import find_column

    if options.ends:
        encoded = encode_rows(generator, given_rows("the two ends", options.ends), None)
        first, second = generator.texts(encoded)
        yield 1, [first], [second]
        return
    names = options.columns.split(",")
    if len(names) != 2:
        raise ValueError(f"--columns names two columns, as first,second; not {options.columns!r}.")
    rows = max(1, BATCH_ROWS // max(1, options.steps))
    for batch in read_batches(options.pairs, column=names[0], batch_rows=rows):
        other = find_column(batch.columns.column_names, names[1], batch.source)
        ends = given_rows(batch.source, batch.columns[other].to_pylist(), batch.start)
        read = [encode_rows(generator, rows, None) for rows in (batch.rows(), ends)]
        yield batch.start, *map(generator.texts, read)


def drawn_walk(first: str, second: str, path: list[str | None]) -> list[tuple[str, str]]:
    """Molecules and legends of a row: the ends, and between them what differs from both, once each.

    An end that its own code was not decoded to is said not to be reached. The others' legends are
    the similarities to the first end and to the second.

    >>> drawn_walk("CCO", "CCN", ["CCO", "CCO", None, "CC", "CC", "CCC"])[:2]
    [('CCO', 'first'), ('CC', '0.14 / 0.14')]
    >>> drawn_walk("CCO", "CCN", ["CCO", "CCO", None, "CC", "CC", "CCC"])[2:]
    [('CCC', '0.43 / 0.43'), ('CCN', 'second, not reached')]
    """
    from ..chemistry.smiles import similarities

    between = [one for one in dict.fromkeys(path) if one not in (None, first, second)]
    near = zip(*(similarities(end, between) for end in (first, second)), strict=True)
    return [
        (first, "first" if path[0] == first else "first, not reached"),
        *(
            (one, " / ".join(map(two_digits, pair)))
            for one, pair in zip(between, near, strict=True)
        ),
        (second, "second" if path[-1] == second else "second, not reached"),
    ]


def _draw(path: Path | None, walks: list[list[tuple[str, str]]]) -> Picture:
    """A row for each walk, or several where it is long."""
    from .molecule_files import Picture

    columns = min(max(map(len, walks), default=1), 10)
    picture = Picture(path, columns)
    for walk in walks:
        for smiles, legend in walk + [(None, "")] * (-len(walk) % columns):
            picture.add(smiles, legend)
    picture.save()
    return picture


def _table(
    start: int, first: list[str], second: list[str], paths: list[list[str | None]]
) -> pa.Table:
    import pyarrow as pa

    from ..chemistry.smiles import similarities

    columns = {name: [] for name in ("pair", "step", "smiles")}
    near = {"similarity_first": [], "similarity_second": []}
    for pair, (one, other, path) in enumerate(zip(first, second, paths, strict=True), start):
        columns["pair"] += [pair] * len(path)
        columns["step"] += range(1, len(path) + 1)
        columns["smiles"] += path
        near["similarity_first"] += similarities(one, path)
        near["similarity_second"] += similarities(other, path)
    types = dict(zip(columns, (pa.int64(), pa.int64(), pa.string()), strict=True))
    columns = {name: pa.array(values, types[name]) for name, values in columns.items()}
    return pa.table(
        columns | {name: pa.array(values, pa.float64()) for name, values in near.items()}
    )
