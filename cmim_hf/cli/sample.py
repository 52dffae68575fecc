# SPDX-License-Identifier: Apache-2.0
"""New molecules, from the prior or around given ones.

Decode random codes and write those that are molecules: `smiles`, and with --around also `seed` and
`similarity` (Tanimoto, to the seed). With --keep, --forbid or --range codes are drawn until there
are -n molecules that hold. Example: cmim sample -n 50 --around 'CC(=O)Nc1ccc(O)cc1' --radius 1
--keep '*c1ccc(*)cc1' --range mw=:300 --unique -o near.csv
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conditions import add_condition_options, conditions
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
    import pyarrow as pa

    from ..generation.decoding import DecodingInfo
    from ..generation.generator import MoleculeGenerator

WORDS = {"ranges": "--range"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "-n",
        type=int,
        required=True,
        help="codes to draw, with conditions molecules to find; with --around for each seed",
    )
    parser.add_argument(
        "--prior",
        metavar="{standard,fitted,FILE}",
        help="N(0, I), the default; the one that goes with the checkpoint, fitted to its training "
        "molecules' codes; or a .safetensors file, see cmim fit-prior",
    )
    parser.add_argument(
        "--around", metavar="SMILES", nargs="+", help="draw near these molecules, not from a prior"
    )
    parser.add_argument(
        "--radius",
        type=float,
        help="of the noise around the seeds' codes, in --unit; --around needs it, 0 is no noise",
    )
    parser.add_argument(
        "--unit",
        choices=("prior", "posterior", "aggregate"),
        help="of the radius: 1 (the default), the std of the seed's own posterior, or the spread "
        "of the training molecules' codes",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 decodes greedily (the default), more draws each token",
    )
    parser.add_argument("--top-k", type=int, help="draw among so many tokens only")
    parser.add_argument("--seed", type=int, help="of the random numbers, to draw the same again")
    parser.add_argument(
        "--unique",
        action="store_true",
        help="write each molecule once; with conditions, find so many different ones",
    )
    add_condition_options(parser)
    parser.add_argument(
        "--max-draws",
        type=int,
        default=100,
        help="with conditions, codes drawn at most for each molecule asked for (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--keep-invalid",
        action="store_true",
        help="write a row without a molecule for each code that decodes to none",
    )
    add_decoding_options(parser)
    add_standardize_option(parser)
    add_generation_options(parser, "molecule, and with --around tab, seed")


def run(options: argparse.Namespace) -> None:
    """Draw molecules into the output."""
    from .molecule_files import molecule_writer

    output, picture = checked_outputs(options, [])
    _check(options, output)
    asked = conditions(options)
    if asked and options.keep_invalid:
        raise ValueError(
            "--keep-invalid and --keep, --forbid or --range exclude each other: what is written "
            "under conditions holds them."
        )
    if asked:
        asked |= {"unique": options.unique, "max_draws": options.max_draws}
    generator = load_generator(options, seed=options.seed, standardize=options.standardize)
    counts, broken, known = Counter(), Counter(), set()
    with molecule_writer(output, "smiles", name="seed" if options.around else None) as write:
        for (seed, read), written, info in _drawn(options, generator, asked):
            counts["drawn"] += len(info.attempts)
            counts["redrawn"] += int((info.attempts > 1).sum())
            counts["valid"] += int((info.attempts > 0).sum())
            counts["found"] += sum(one is not None for one in written)
            broken.update(info.broken if asked else {})
            chosen = []
            for one in written:
                if one is None:
                    chosen += [one] if options.keep_invalid else []
                elif one not in known or not options.unique:
                    chosen.append(one)
                    known.add(one)
            table = _table(seed, read, chosen)
            write(table)
            counts["written"] += len(chosen)
            for row in table.to_pylist():
                legend = f"similarity {two_digits(row['similarity'])}" if seed else ""
                picture.add(row["smiles"], legend)
        picture.save()
    say(
        f"Drew {counts['drawn']:,} codes: {counts['valid']:,} "
        f"({share(counts['valid'], counts['drawn'])}) are valid molecules, "
        f"{counts['redrawn']:,} of them not at the first attempt"
        + ("" if asked else f", {len(known):,} of them distinct")
        + f". Wrote {counts['written']:,} rows."
    )
    if asked:
        _say_broken(options, counts, broken)
    if not counts["valid"] and (advice := _advice(options)):
        say(f"Try {', or '.join(advice)}.")
    say_drawn(picture)


def _check(options: argparse.Namespace, output: Path | None) -> None:
    if options.around:
        if options.radius is None:
            raise ValueError("--around needs --radius.")
        if options.prior:
            raise ValueError("--prior and --around exclude each other: choose one.")
    elif options.radius is not None or options.unit:
        raise ValueError("--radius and --unit belong to --around.")
    elif options.standardize != "none":
        raise ValueError("--standardize belongs to --around: it is for molecules that are given.")
    if options.keep_invalid and (output is None or output.suffix.lower() == ".smi"):
        raise ValueError(
            "--keep-invalid needs a table (.csv, .tsv or .parquet): lines of SMILES have no place "
            "for a row without a molecule."
        )


def _advice(options: argparse.Namespace) -> list[str]:
    """What else to try after a draw without any molecule."""
    advice = []
    if options.around and options.radius > 0:
        advice.append("a smaller --radius")
    elif not options.around:
        advice += ["--prior fitted"] if options.prior != "fitted" else []
        advice.append("--around a molecule with a small --radius")
    return advice + (["a lower --temperature"] if options.temperature > 0 else ["more --attempts"])


def _say_broken(options: argparse.Namespace, counts: Counter[str], broken: Counter[str]) -> None:
    """Say how many molecules hold what was asked, and what the draws were lost to."""
    wanted = options.n * len(options.around or [None])
    lost = ", ".join(f"{share(n, counts['drawn'])} {what}" for what, n in broken.most_common())
    say(
        f"Found {counts['found']:,} of {wanted:,} molecules that hold what was asked"
        + (f"; draws were lost to: {lost}." if lost else ".")
    )
    if counts["found"] < wanted:
        radius = "a smaller --radius, " if options.around and not options.unique else ""
        say(f"Try more --max-draws, {radius}or less of what costs most.")


def _drawn(
    options: argparse.Namespace, generator: MoleculeGenerator, asked: dict[str, Any]
) -> Iterator[tuple[tuple[str | None, str | None], list[str | None], DecodingInfo]]:
    """Seeds as given and as read (None without) and what was drawn around them, in parts."""
    how = {
        name: getattr(options, name) for name in ("temperature", "top_k", "attempts", "candidates")
    }
    how |= {"return_info": True, **asked}
    # an invalid seed is an error before the first is used
    encoded = encode_rows(generator, given_rows("--around", options.around or []), None)
    if asked:
        from ..optimization.constraints import Constraints

        patterns = {name: asked[name] for name in ("keep", "forbid") if name in asked}
        Constraints(**patterns).check_seeds(generator.texts(encoded))
    seeds = list(zip(options.around or [], generator.texts(encoded), strict=True))
    for seed, read in seeds or [(None, None)]:
        for start in range(0, max(options.n, 1), BATCH_ROWS):
            size = min(options.n - start, BATCH_ROWS)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*`max_draws`")  # the report says it
                if seed is None:
                    drawn = generator.sample(size, prior=options.prior or "standard", **how)
                else:
                    how["unit"] = options.unit or "prior"
                    drawn = generator.sample_around(read, options.radius, size, **how)
            yield (seed, read), *drawn


def _table(seed: str | None, read: str | None, chosen: list[str | None]) -> pa.Table:
    import pyarrow as pa

    from ..chemistry.smiles import similarities

    columns = {"smiles": pa.array(chosen, pa.string())}
    if seed:
        columns["seed"] = pa.array([seed] * len(chosen), pa.string())
        columns["similarity"] = pa.array(similarities(read, chosen), pa.float64())
    return pa.table(columns)
