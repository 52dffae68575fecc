# SPDX-License-Identifier: Apache-2.0
"""The commands that write molecules: `cmim reconstruct`, `sample`, `interpolate`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    BATCH_ROWS,
    CELLS,
    add_outputs,
    canonical_texts,
    checked_outputs,
    encode_rows,
    given_rows,
    in_its_words,
    load_generator,
    say,
    say_drawn,
    say_invalid,
    share,
    similarity_or_none,
    two_digits,
)
from .molecule_files import LINE_SUFFIX, Picture, molecule_writer
from .optimization import add_optimize

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.row_encoder import EncodedRows
    from ..data.smiles_files import Batch, Row
    from ..generation.generator import MoleculeGenerator


def add_generation_commands(
    commands: argparse._SubParsersAction,
    source_options: argparse.ArgumentParser,
    model_options: argparse.ArgumentParser,
) -> None:
    """Add the four commands.

    Args:
        commands: Where to.
        source_options: How an input is read: `column`, `split`, `file_type`.
        model_options: What works on it: `checkpoint`, `device`, `dtype`.
    """
    model_options = argparse.ArgumentParser(add_help=False, parents=[model_options])
    model_options.add_argument(
        "--batch-size", type=int, help="codes decoded at once, if memory is short or plenty"
    )
    _add_reconstruct(commands, [source_options, model_options])
    _add_sample(commands, [model_options])
    _add_interpolate(commands, [model_options])
    add_optimize(commands, [source_options, model_options])


def _add_reconstruct(commands: argparse._SubParsersAction, parents: list) -> None:
    command = commands.add_parser(
        "reconstruct",
        parents=parents,
        help="molecules to codes and back",
        description="Write molecules as the model reconstructs them: the input's columns, then "
        "`reconstruction` (empty where the decoder wrote no molecule) and `exact` (whether it is "
        "the same molecule).",
    )
    command.set_defaults(run=in_its_words(_reconstruct))
    command.add_argument(
        "input",
        help="a .smi, .txt, .csv, .tsv (each also .gz) or .parquet file, a dataset of the Hub, "
        "'moses', or - for standard input",
    )
    add_outputs(command, "reconstruction, tab, input")
    command.add_argument(
        "--on-invalid",
        default="raise",
        choices=("raise", "none", "skip"),
        help="stop at an invalid row (the default), keep it with its reason in "
        "`reconstruction_error`, or leave it out",
    )


def _add_sample(commands: argparse._SubParsersAction, parents: list) -> None:
    command = commands.add_parser(
        "sample",
        parents=parents,
        help="new molecules, from the prior or around given ones",
        description="Decode random codes and write those that are molecules: `smiles`, and with "
        "--around also `seed` and `similarity` (Tanimoto, to the seed).",
    )
    command.set_defaults(run=in_its_words(_sample))
    command.add_argument(
        "-n", type=int, required=True, help="codes to draw, with --around for each seed"
    )
    add_outputs(command, "molecule, and with --around tab, seed")
    command.add_argument(
        "--prior",
        choices=("standard", "fitted"),
        help="N(0, I), the default, or a Gaussian with the mean and spread of the training "
        "molecules' codes",
    )
    command.add_argument(
        "--around", metavar="SMILES", nargs="+", help="draw near these molecules, not from a prior"
    )
    command.add_argument(
        "--radius", type=float, help="of the noise around the seeds' codes, in --unit"
    )
    command.add_argument(
        "--unit",
        choices=("prior", "posterior", "aggregate"),
        help="of the radius: 1 (the default), the std of the seed's own posterior, or the spread "
        "of the training molecules' codes",
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 decodes greedily (the default), more draws each token",
    )
    command.add_argument("--top-k", type=int, help="draw among so many tokens only")
    command.add_argument("--seed", type=int, help="of the random numbers, to draw the same again")
    command.add_argument("--unique", action="store_true", help="write each molecule once")
    command.add_argument(
        "--keep-invalid",
        action="store_true",
        help="write a row without a molecule for each code that decodes to none",
    )


def _add_interpolate(commands: argparse._SubParsersAction, parents: list) -> None:
    command = commands.add_parser(
        "interpolate",
        parents=parents,
        help="molecules between two",
        description="Decode codes at equal steps from one molecule's to another's: `pair` and "
        "`step` (from 1), `smiles` (empty where there is no molecule), `similarity_first` and "
        "`similarity_second` (Tanimoto, to the two ends).",
    )
    command.set_defaults(run=in_its_words(_interpolate))
    command.add_argument("ends", nargs="*", metavar="SMILES", help="the first and second end")
    command.add_argument("--pairs", help="a table of pairs, in place of the two ends")
    command.add_argument(
        "--columns",
        default="first,second",
        help="those of --pairs with the ends (default: %(default)s)",
    )
    add_outputs(command, "molecule, tab, step")
    command.add_argument(
        "--steps", type=int, default=8, help="both ends included (default: %(default)s)"
    )
    command.add_argument(
        "--method",
        default="linear",
        choices=("linear", "spherical"),
        help="the straight line (the default), or the arc",
    )


def _reconstruct(options: argparse.Namespace) -> None:
    from ..data.smiles_files import read_batches
    from ..embedding.tables import count_kinds

    output, picture = checked_outputs(options, [options.input], CELLS)
    generator = load_generator(options)
    batches = read_batches(
        options.input,
        column=options.column,
        split=options.split,
        file_type=options.file_type,
        batch_rows=BATCH_ROWS,
    )
    counts, kinds, first = Counter(), Counter(), []
    with molecule_writer(output, "reconstruction", name="input") as write:
        for batch in batches:
            encoded = encode_rows(generator, _rows(batch), options.on_invalid)
            texts = canonical_texts(generator, encoded)
            written = generator.reconstruct(texts)
            if output is None or output.suffix.lower() == LINE_SUFFIX:
                write(_lines(batch, encoded, written))
            else:
                write(_with_reconstructions(batch, encoded, texts, written, options.on_invalid))
            _draw_reconstructions(picture, texts, written)
            counts["read"] += len(batch.smiles)
            counts["molecules"] += len(written)
            counts["valid"] += sum(one is not None for one in written)
            counts["exact"] += sum(map(str.__eq__, texts, (one or "" for one in written)))
            kinds.update(count_kinds(encoded.rejects))
            first = (first + encoded.rejects)[:3]
        picture.save()
    of = counts["molecules"]
    say(
        f"Reconstructed {of:,} of {counts['read']:,} rows: {share(counts['exact'], of)} exactly, "
        f"{share(counts['valid'], of)} as a valid molecule."
    )
    say_invalid(kinds, first)
    say_drawn(picture)


def _sample(options: argparse.Namespace) -> None:
    output, picture = checked_outputs(options, [], CELLS)
    _check_sampling(options, output)
    generator = load_generator(options, seed=options.seed)
    counts, known = Counter(), set()
    with molecule_writer(output, "smiles", name="seed" if options.around else None) as write:
        for seed, written in _drawn(options, generator):
            counts["drawn"] += len(written)
            counts["valid"] += sum(one is not None for one in written)
            chosen = []
            for one in written:
                if one is None:
                    chosen += [one] if options.keep_invalid else []
                elif one not in known or not options.unique:
                    chosen.append(one)
                    known.add(one)
            near = [similarity_or_none(seed, one) for one in chosen] if seed else []
            write(_samples(seed, chosen, near))
            counts["written"] += len(chosen)
            for place, one in enumerate(chosen):
                picture.add(one, f"similarity {two_digits(near[place])}" if seed else "")
        picture.save()
    say(
        f"Drew {counts['drawn']:,} codes: {counts['valid']:,} "
        f"({share(counts['valid'], counts['drawn'])}) are valid molecules, {len(known):,} of them "
        f"distinct. Wrote {counts['written']:,} rows."
    )
    if not counts["valid"] and (advice := _advice(options)):
        say(f"Try {', or '.join(advice)}.")
    say_drawn(picture)


def _interpolate(options: argparse.Namespace) -> None:
    inputs = [options.pairs] if options.pairs else []
    output, picture = checked_outputs(options, inputs, max(1, min(options.steps, 10)))
    if bool(options.pairs) == bool(options.ends) or len(options.ends) not in (0, 2):
        raise ValueError("Give two SMILES, or --pairs FILE.")
    generator = load_generator(options)
    counts = Counter()
    with molecule_writer(output, "smiles", name="step") as write:
        for start, first, second in _pairs(options, generator):
            paths = generator.interpolate(first, second, options.steps, method=options.method)
            table = _paths_table(start, first, second, paths)
            write(table)
            counts["pairs"] += len(paths)
            counts["valid"] += table.num_rows - table["smiles"].null_count
            for row in table.to_pylist():
                near = (two_digits(row[f"similarity_{end}"]) for end in ("first", "second"))
                picture.add(row["smiles"], " / ".join(near) if row["smiles"] else "no molecule")
        picture.save()
    number = counts["pairs"] * options.steps
    say(
        f"Interpolated {counts['pairs']:,} pairs in {options.steps} steps: "
        f"{share(counts['valid'], number)} of {number:,} are valid molecules."
    )
    say_drawn(picture)


def _rows(batch: Batch) -> list[Row]:
    from ..data.smiles_files import Row

    return [
        Row(batch.source, number, text) for number, text in enumerate(batch.smiles, batch.start)
    ]


def _lines(batch: Batch, encoded: EncodedRows, written: list[str | None]) -> pa.Table:
    import pyarrow as pa

    given = [batch.smiles[place] for place in encoded.kept]
    return pa.table({"reconstruction": pa.array(written, pa.string()), "input": given})


def _with_reconstructions(
    batch: Batch,
    encoded: EncodedRows,
    texts: list[str],
    written: list[str | None],
    on_invalid: str,
) -> pa.Table:
    """The columns of the source and those of the result.

    Raises:
        ValueError: The source has a column of such a name.
    """
    import pyarrow as pa

    from ..data.invalid_rows import items_in_place

    exact = [one == text for one, text in zip(written, texts, strict=True)]
    added = {
        "reconstruction": pa.array(items_in_place(written, encoded, on_invalid), pa.string()),
        "exact": pa.array(items_in_place(exact, encoded, on_invalid), pa.bool_()),
    }
    table = batch.columns
    if on_invalid == "none":
        errors: list[str | None] = [None] * len(batch.smiles)
        for reject in encoded.rejects:
            errors[reject.row.number - batch.start] = reject.reason
        added["reconstruction_error"] = pa.array(errors, pa.string())
    elif encoded.rejects:
        table = table.take(pa.array(encoded.kept))
    for name, values in added.items():
        if name in table.column_names:
            raise ValueError(
                f"{batch.source} has a column {name!r} already, which the result needs; rename or "
                "drop it first."
            )
        table = table.append_column(name, values)
    return table


def _draw_reconstructions(picture: Picture, texts: list[str], written: list[str | None]) -> None:
    for text, one in zip(texts, written, strict=True):
        legend = ""
        if not picture.full:
            legend = (
                "no molecule"
                if one is None
                else f"similarity {two_digits(similarity_or_none(text, one))}"
            )
        picture.add(text, "input")
        picture.add(one, "exact" if one == text else legend)


def _check_sampling(options: argparse.Namespace, output: Path | None) -> None:
    if options.around:
        if options.radius is None:
            raise ValueError("--around needs --radius.")
        if options.prior:
            raise ValueError("--prior and --around exclude each other: choose one.")
    elif options.radius is not None or options.unit:
        raise ValueError("--radius and --unit belong to --around.")
    if options.keep_invalid and (output is None or output.suffix.lower() == LINE_SUFFIX):
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
    return advice + (["a lower --temperature"] if options.temperature > 0 else [])


def _drawn(
    options: argparse.Namespace, generator: MoleculeGenerator
) -> Iterator[tuple[str | None, list[str | None]]]:
    """Seeds (None without) and what was drawn around them, a bounded number at a time."""
    how = {"temperature": options.temperature, "top_k": options.top_k}
    if options.around:
        # An invalid seed is an error before the first is used.
        encode_rows(generator, given_rows("--around", options.around), "raise")
    for seed in options.around or [None]:
        left = options.n
        while True:
            size = min(left, BATCH_ROWS)
            if seed is None:
                yield None, generator.sample(size, prior=options.prior or "standard", **how)
            else:
                unit = options.unit or "prior"
                yield seed, generator.sample_around(seed, options.radius, size, unit=unit, **how)
            left -= size
            if left <= 0:
                break


def _samples(seed: str | None, chosen: list[str | None], near: list[float | None]) -> pa.Table:
    import pyarrow as pa

    columns = {"smiles": pa.array(chosen, pa.string())}
    if seed:
        columns["seed"] = pa.array([seed] * len(chosen), pa.string())
        columns["similarity"] = pa.array(near, pa.float64())
    return pa.table(columns)


def _pairs(
    options: argparse.Namespace, generator: MoleculeGenerator
) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number of a first pair, and first and second ends of it and those that follow."""
    from ..data.smiles_files import Row, find_column, read_batches

    if options.ends:
        encode_rows(generator, given_rows("the two ends", options.ends), "raise")
        yield 1, options.ends[:1], options.ends[1:]
        return
    names = options.columns.split(",")
    if len(names) != 2:
        raise ValueError(f"--columns names two columns, as first,second; not {options.columns!r}.")
    rows = max(1, BATCH_ROWS // max(1, options.steps))
    for batch in read_batches(options.pairs, column=names[0], batch_rows=rows):
        other = find_column(batch.columns.column_names, names[1], batch.source)
        second = [str(text or "") for text in batch.columns[other].to_pylist()]
        encode_rows(generator, _rows(batch), "raise")
        ends = [Row(batch.source, number, text) for number, text in enumerate(second, batch.start)]
        encode_rows(generator, ends, "raise")
        yield batch.start, batch.smiles, second


def _paths_table(
    start: int, first: list[str], second: list[str], paths: list[list[str | None]]
) -> pa.Table:
    import pyarrow as pa

    rows = [
        (pair, step, one, similarity_or_none(one_end, one), similarity_or_none(other_end, one))
        for pair, (one_end, other_end, path) in enumerate(
            zip(first, second, paths, strict=True), start
        )
        for step, one in enumerate(path, 1)
    ]
    types = (pa.int64(), pa.int64(), pa.string(), pa.float64(), pa.float64())
    names = ("pair", "step", "smiles", "similarity_first", "similarity_second")
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, names=names)


__all__ = ["add_generation_commands"]
