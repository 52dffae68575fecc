# SPDX-License-Identifier: Apache-2.0
"""Labelled molecules to train on, to choose the epoch by and to report, from one table or three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..chemistry.moses import smiles_without_stereo
from ..chemistry.smiles import parse
from ..data.row_encoder import EncodedRows, Rejects, RowEncoder, none_usable
from ..data.smiles_files import Batch, Row, read_batches
from ..data.tables import find_column
from .fine_tuning_arguments import DRAWN, FRACTIONS, FineTuningArguments
from .label_columns import read_labels
from .table_division import (
    PARTS,
    given_split,
    random_split,
    read_times,
    scaffold_split,
    time_split,
)


@dataclass
class Part:
    """The usable rows of one part of the data.

    Attributes:
        rows: As they stand in the table.
        tokens: Ids of each.
        labels: (rows, targets), NaN where missing.
        keys: The molecule of each, without marks of stereo: what is not to be in two parts.
    """

    rows: list[Row]
    tokens: list[list[int]]
    labels: np.ndarray
    keys: list[str]

    def examples(self, task: str) -> list[dict[str, Any]]:
        """What the Trainer's collator takes; classes are whole numbers, -100 where missing."""
        labels = self.labels
        if task == "multiclass":
            labels = np.nan_to_num(labels, nan=-100).astype(int)
        pairs = zip(self.tokens, labels.tolist(), strict=True)
        return [{"input_ids": ids, "labels": labels} for ids, labels in pairs]

    def encoded(self) -> EncodedRows:
        """The molecules as an embedder takes them."""
        return EncodedRows.of(self.tokens)

    def take(self, places: Sequence[int]) -> Part:
        """Some of the rows."""
        return Part(
            [self.rows[place] for place in places],
            [self.tokens[place] for place in places],
            self.labels[places],
            [self.keys[place] for place in places],
        )


@dataclass
class LabelledParts:
    """What a run learns from.

    Attributes:
        parts: `train`, `valid` and `test`.
        task: `regression`, `binary` or `multiclass`.
        classes: The names of the classes of `multiclass`, by number; else none.
        words: How no and yes are written, of `binary`.
        split: What divided the table: `random`, `scaffold`, `time`, `column`; or `tables`.
        rejects: The rows that cannot be used.
        notes: How labels and split were read, to be told.
    """

    parts: dict[str, Part]
    task: str
    classes: list[str]
    words: tuple[str, str]
    split: str
    rejects: Rejects
    notes: list[str]


@dataclass
class _Table:
    """All rows, the cells of each target, what divides them, and the cells that it goes by."""

    rows: list[Row]
    targets: dict[str, list[Any]]
    split: str
    division: list[Any]


def read_parts(args: FineTuningArguments, tokenizer: PreTrainedTokenizerBase) -> LabelledParts:
    """Read, parse, tokenise and divide; what is unusable is set aside.

    Raises:
        ValueError: A missing column, labels or times that cannot be read, or a part without a
            usable row.
    """
    table = _read(args)
    encoder = RowEncoder(tokenizer, tokenizer.model_max_length, True, args.standardize)
    encoded = encoder(table.rows)
    kept = encoded.kept.tolist()
    if not kept:
        raise none_usable(len(table.rows), encoded.rejects)
    rows = [table.rows[place] for place in kept]
    cells = {name: [column[place] for place in kept] for name, column in table.targets.items()}
    labels = read_labels(rows, cells, args.task)
    if args.class_weights == "balanced" and labels.task == "regression":
        raise ValueError("`class_weights` balanced is for classes; the labels are numbers.")
    labelled = np.flatnonzero(~np.isnan(labels.values).all(axis=1))
    if not len(labelled):
        raise ValueError(f"No usable row has a label in {', '.join(args.targets)}.")
    if unlabelled := len(rows) - len(labelled):
        labels.notes.append(f"{unlabelled} usable rows without any label are left out.")
    keys = [smiles_without_stereo(parse(text)) for text in encoded.texts(tokenizer)]
    usable = Part(rows, [ids.tolist() for ids in encoded.rows()], labels.values, keys)
    usable, kept = usable.take(labelled), [kept[place] for place in labelled]
    if table.split in DRAWN:
        names = _drawn(args, table.split, usable, [table.division[place] for place in kept])
    else:
        everywhere = given_split(table.division, args.data)
        names = everywhere[kept]
        for part in (part for part in PARTS if part not in names):
            own = [row for row, name in zip(table.rows, everywhere, strict=True) if name == part]
            unusable = [reject for reject in encoded.rejects if reject.row in own]
            if not unusable and own:
                raise ValueError(f"{part}: none of its {len(own)} rows has a label.")
            raise ValueError(f"{part}: {none_usable(len(own), unusable)}")
    parts = {part: usable.take(np.flatnonzero(names == part)) for part in PARTS}
    notes = [*labels.notes, *_told(args, table.split)]
    rejects = Rejects(encoded.rejects)
    about = (labels.task, labels.classes, labels.words, table.split)
    return LabelledParts(parts, *about, rejects, notes)


def _read(args: FineTuningArguments) -> _Table:
    table = _Table([], {name: [] for name in args.targets}, args.split or "", [])
    three = zip(PARTS, (args.train, args.validation, args.test), strict=True)
    for part, path in three if args.data is None else [("", args.data)]:
        for batch in read_batches(path, column=args.smiles_column):
            table.rows += batch.rows()
            for name, cells in table.targets.items():
                cells += _cells(batch, name, "targets")
            if part:
                table.split = "tables"
            elif not table.split:
                named = "split" in map(str.lower, batch.columns.column_names)
                table.split = "column" if named else "random"
            table.division += _division(args, table.split, part, batch)
    if table.split not in DRAWN and args.fractions != FRACTIONS:
        raise ValueError(
            "`fractions` is for a table that is divided here: pass `split` random, scaffold or "
            "time, or leave it out."
        )
    return table


def _division(args: FineTuningArguments, split: str, part: str, batch: Batch) -> list[Any]:
    if split == "column":
        if "split" not in map(str.lower, batch.columns.column_names):
            raise ValueError(
                f"{batch.source} has no column split, as `split` column needs: add one (train, "
                "valid, test), or choose another `split`."
            )
        return _cells(batch, "split", "split")
    if split == "time":
        return _cells(batch, args.time_column, "time_column")
    return [part] * len(batch.smiles)


def _cells(batch: Batch, column: str, argument: str) -> list[Any]:
    name = find_column(batch.columns.column_names, column, batch.source, argument)
    return batch.columns.column(name).to_pylist()


def _drawn(args: FineTuningArguments, split: str, usable: Part, cells: list[Any]) -> np.ndarray:
    """The part of each usable row of a table that is divided here."""
    if split == "random":
        molecules = range(len(usable.rows)) if args.copies else usable.keys
        names = random_split(molecules, args.fractions)
    elif split == "scaffold":
        names = scaffold_split(usable.keys, args.fractions)
    else:
        times = read_times(usable.rows, args.time_column, cells)
        names = time_split(times, args.fractions)
    if empty := [part for part in PARTS if part not in names]:
        raise ValueError(
            f"{args.data} has {len(set(usable.keys))} molecules; divided by `split` {split} with "
            f"`fractions` {' '.join(map(str, args.fractions))} they leave none for "
            f"{' and '.join(empty)}. Give more molecules, another `split` or other `fractions`, a "
            "column split (train, valid, test), or three tables (`train`, `validation`, `test`)."
        )
    return names


def _told(args: FineTuningArguments, split: str) -> list[str]:
    """What divides the table, in words."""
    if split == "tables":
        return []
    if split == "column":
        return [f"The column split of {args.data} says what is train, valid and test."]
    train, valid, test = (f"{100 * fraction:g} %" for fraction in args.fractions)
    ways = {
        "random": "of the molecules, drawn at random",
        "scaffold": "of the rows, by whole scaffolds, the commonest in train",
        "time": f"of the rows, the latest by {args.time_column} in test",
    }
    why = "" if args.split else f"{args.data} has no column split: "
    return [f"{why}train, valid and test are {train}, {valid} and {test} {ways[split]}."]


def leave_out_copies(parts: dict[str, Part]) -> int:
    """Leave out of train and valid the molecules that a later part has; how many rows these are.

    Molecules that differ in marks of stereo alone are one.

    Raises:
        ValueError: Nothing would be left of a part.
    """
    seen: set[str] = set()
    left_out = 0
    for name in reversed(PARTS):
        own = parts[name].keys
        kept = [place for place, molecule in enumerate(own) if molecule not in seen]
        if not kept:
            raise ValueError(
                f"All molecules of {name} are in another part, too: split them anew, or pass "
                "`copies` true."
            )
        left_out += len(own) - len(kept)
        seen.update(own)
        parts[name] = parts[name].take(kept)
    return left_out
