# SPDX-License-Identifier: Apache-2.0
"""Molecules of higher score, near given ones.

Search around the codes of molecules for others that a scorer prefers, and write the best for each
seed. Ctrl-C ends the search and writes what was found. Example: cmim optimize
'CC(=O)Nc1ccc(O)cc1' --scorer qed --scorer sa_score=-0.1 --scorer my.py:score=0.5 --min-similarity
0.4 --table all.csv -o best.csv
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .conditions import add_condition_options, conditions
from .exit_status import INTERRUPTED
from .options import (
    add_generation_options,
    add_on_invalid_option,
    add_source_options,
    add_standardize_option,
    checked_outputs,
    load_generator,
)
from .reports import say, say_drawn, say_invalid
from .seeds import encode_rows, given_rows

if TYPE_CHECKING:
    from ..data.smiles_files import Row
    from ..optimization.optimization_result import Optimization
    from .molecule_files import Picture

WORDS = {"ranges": "--range"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "seeds",
        nargs="+",
        help="SMILES, or files of them as `cmim reconstruct` reads (- for standard input); a file "
        "whose name tells no type needs --file-type",
    )
    parser.add_argument(
        "--scorer",
        action="append",
        required=True,
        metavar="NAME[=WEIGHT]",
        help="qed, logp, penalized_logp, sa_score (lower is easier), similarity (to the seed), or "
        "a function from a SMILES to a number (or, marked by batch_scorer, from a list of them): "
        "file.py:function, package.module:function; may be "
        "given several times, the weighted sum counts",
    )
    parser.add_argument(
        "--table",
        help="a .csv file of all molecules scored, to which the same command, with a larger "
        "--budget if you like, goes on after an end of any kind",
    )
    parser.add_argument(
        "--budget",
        type=int,
        default=500,
        help="molecules scored for each seed, or for all together (default: %(default)s)",
    )
    parser.add_argument("--goal", type=float, help="score at which a search ends")
    parser.add_argument(
        "--shared-budget",
        action="store_true",
        help="one search from all seeds; its 100 best molecules are written",
    )
    parser.add_argument(
        "--pareto",
        action="store_true",
        help="take the scorers for several objectives; the molecules that no other beats in all "
        "of them are written",
    )
    parser.add_argument(
        "--min-similarity",
        type=float,
        default=0.0,
        help="Tanimoto similarity to the seed that a molecule must have (default: %(default)s)",
    )
    add_condition_options(parser)
    parser.add_argument("--timeout", type=float, help="seconds for one call of a scorer")
    parser.add_argument(
        "--strategy",
        default="evolution",
        choices=("evolution", "random"),
        help="codes around the best molecules so far (the default), or around the seed",
    )
    parser.add_argument(
        "--step",
        type=float,
        default=0.5,
        help="first radius of the search, in spreads of the training molecules' codes (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--population",
        type=int,
        help="molecules scored in a round of a search (default: 20, or 12 with --shared-budget)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random numbers (default: %(default)s)"
    )
    add_on_invalid_option(parser, what="seed")
    add_standardize_option(parser)
    add_source_options(parser)
    add_generation_options(parser, "best molecule, tab, seed")


def run(options: argparse.Namespace) -> int:
    """Search, and write what was found."""
    from ..atomic_files import check_output
    from ..data.source_files import expanded
    from ..optimization.scorers import parse_scorers

    files = expanded(text for text in options.seeds if _is_source(text, options.file_type))
    output, picture = checked_outputs(options, files)
    if options.table and check_output(options.table, (".csv",), files) == output:
        raise ValueError("--table and --output name one file; give two.")
    scorer, asked = parse_scorers(options.scorer), conditions(options)
    generator = load_generator(options, standardize=options.standardize)
    rows = list(_seed_rows(options))
    encoded = encode_rows(generator, rows, options.on_invalid)
    names = ("budget", "min_similarity", "timeout", "strategy", "step", "population", "goal")
    names += ("shared_budget", "pareto")
    given = {name: getattr(options, name) for name in (*names, "table", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        found = generator.optimize(encoded, scorer, on_invalid="skip", **asked, **given)
    except (ImportError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    _write_best(output, picture, found)
    say(str(found))
    for row in found.table[found.table["error"] != ""].head(3).to_dict("records"):
        say(f"  {row['smiles']}: {row['error']}")
    say_invalid(Counter(reject.kind for reject in encoded.rejects), encoded.rejects[:3])
    say_drawn(picture)
    if not found.interrupted:
        return 0
    how = "The same command goes on." if options.table else "With --table a run can go on."
    say(f"Interrupted; {options.output} holds the best so far. {how}")
    return INTERRUPTED


def _is_source(text: str, file_type: str | None) -> bool:
    """Whether a seed on the command line is the name of a file, not a SMILES.

    That a file has this name is not enough: one called `CCO` would hide the molecule.
    """
    from ..data.source_files import names_a_file

    if text == "-" or names_a_file(text):
        return True
    said = file_type is not None or os.path.dirname(text) != ""
    return said and os.path.exists(text) and not os.path.isdir(text)


def _seed_rows(options: argparse.Namespace) -> Iterator[Row]:
    from ..data.smiles_files import read_smiles

    for number, text in enumerate(options.seeds, 1):
        if _is_source(text, options.file_type):
            yield from read_smiles(
                text, column=options.column, split=options.split, file_type=options.file_type
            )
        else:
            yield from given_rows("the seeds of the command line", [text], number)


def _write_best(output: Path | None, picture: Picture, found: Optimization) -> None:
    import pyarrow as pa

    from .molecule_files import molecule_writer

    with molecule_writer(output, "smiles", name="seed_smiles") as write:
        rows = found.best if found.front is None else found.front
        write(pa.Table.from_pandas(rows, preserve_index=False))
        for row in rows.to_dict("records"):
            score = row.get("seed_score")
            picture.add(row["seed_smiles"], "seed" if score is None else f"seed {score:.3g}")
            near = f"{row['score']:.3g} (similarity {row['similarity']:.2f})"
            picture.add(row["smiles"], near if row["smiles"] else "none")
        picture.save()
