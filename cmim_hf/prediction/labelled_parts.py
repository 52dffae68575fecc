# SPDX-License-Identifier: Apache-2.0
"""Labelled molecules to train on, to choose the epoch by and to report, from one table or three."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from ..data.labelling import numbers
from ..data.row_encoder import EncodedRows, Rejects, RowEncoder, none_usable
from ..data.smiles_files import Row, read_batches
from .fine_tuning_arguments import FineTuningArguments

PARTS = ("train", "valid", "test")
_NAMES = {**dict(zip(PARTS, PARTS, strict=True)), "validation": "valid", "val": "valid"}
_FEWEST = 10  # molecules of which a tenth is one


@dataclass
class Part:
    """The usable rows of one part of the data.

    Attributes:
        rows: As they stand in the table.
        tokens: Ids of each.
        labels: (rows, targets), NaN where missing.
    """

    rows: list[Row]
    tokens: list[list[int]]
    labels: np.ndarray

    def examples(self) -> list[dict[str, Any]]:
        """What the Trainer's collator takes."""
        pairs = zip(self.tokens, self.labels.tolist(), strict=True)
        return [{"input_ids": ids, "labels": labels} for ids, labels in pairs]

    def encoded(self) -> EncodedRows:
        """The molecules as an embedder takes them."""
        lengths = np.array([len(ids) for ids in self.tokens], np.int64)
        tokens = np.array([one for ids in self.tokens for one in ids], np.uint32)
        return EncodedRows(tokens, lengths, np.arange(len(lengths)), [])

    def take(self, places: Sequence[int]) -> Part:
        """Some of the rows."""
        return Part(
            [self.rows[place] for place in places],
            [self.tokens[place] for place in places],
            self.labels[places],
        )


def read_parts(
    args: FineTuningArguments, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, Part], Rejects]:
    """Read, parse and tokenise `train`, `valid` and `test`; what is unusable is set aside.

    Raises:
        ValueError: A missing column, a label that is no number, or a part without a usable row.
    """
    rows, labels, split = [], [], []
    three = zip(PARTS, (args.train, args.validation, args.test), strict=True)
    for part, path in three if args.data is None else [(None, args.data)]:
        for batch in read_batches(path, column=args.smiles_column):
            rows += batch.rows()
            labels += zip(
                *(numbers(batch, name, "--targets") for name in args.targets), strict=True
            )
            if part is not None:
                split += [part] * len(batch.smiles)
            elif "split" in batch.columns.column_names:
                split += batch.columns["split"].to_pylist()
    encoded = RowEncoder(tokenizer, tokenizer.model_max_length, canonicalize=True)(rows)
    names = _named(split, args.data) if split else _drawn(rows, encoded, args.data)
    kept = encoded.kept
    sequences = [ids.tolist() for ids in _sequences(encoded)]
    usable = Part([rows[place] for place in kept], sequences, np.array(labels, float)[kept])
    parts = {part: usable.take(np.flatnonzero(names[kept] == part)) for part in PARTS}
    for part in (name for name in PARTS if not parts[name].rows):
        own = [row for row, name in zip(rows, names, strict=True) if name == part]
        rejects = [reject for reject in encoded.rejects if reject.row in own]
        raise ValueError(f"{part}: {none_usable(len(own), rejects)}")
    return parts, Rejects(encoded.rejects)


def _named(split: list[Any], path: str | None) -> np.ndarray:
    names = [str(text).strip().lower() for text in split]
    if unknown := sorted(set(names) - set(_NAMES)):
        raise ValueError(f"Column split of {path} holds {unknown}; expected {list(_NAMES)}.")
    return np.array([_NAMES[name] for name in names])


def _drawn(rows: list[Row], encoded: EncodedRows, path: str) -> np.ndarray:
    keys: list[Hashable] = [row.text for row in rows]
    for place, ids in zip(encoded.kept.tolist(), _sequences(encoded), strict=True):
        keys[place] = tuple(ids)
    if (molecules := len(set(keys))) < _FEWEST:
        raise ValueError(
            f"{path} has {molecules} molecules and no column split: a tenth of them, to choose the "
            f"epoch by, and another, to test, is none. Give at least {_FEWEST}, or a column split "
            "(train, valid, test), or three tables (--train, --validation, --test)."
        )
    print(f"{path} has no column split: a random tenth of the molecules is valid, another is test.")
    return random_split(keys)


def random_split(keys: Sequence[Hashable]) -> np.ndarray:
    """A tenth of the molecules valid, a tenth test, the others train; the same in every run.

    Args:
        keys: Of each row's molecule: equal ones, however they are written, go to one part.

    >>> random_split(["CCO"] * 11 + [str(number) for number in range(9)]).tolist().count("test")
    1
    """
    molecule, different = pd.factorize(pd.Series(keys, dtype=object), use_na_sentinel=False)
    order = np.random.default_rng(0).permutation(len(different))
    names = np.full(len(different), "train")
    tenth = len(different) // 10
    names[order[:tenth]], names[order[tenth : 2 * tenth]] = "valid", "test"
    return names[molecule]


def _sequences(encoded: EncodedRows) -> list[np.ndarray]:
    return np.split(encoded.tokens, np.cumsum(encoded.lengths))[:-1]


def leave_out_copies(parts: dict[str, Part]) -> int:
    """Leave out of train and valid the molecules that a later part has; how many rows these are.

    Raises:
        ValueError: Nothing would be left of a part.
    """
    seen: set[tuple[int, ...]] = set()
    left_out = 0
    for name in reversed(PARTS):
        own = [tuple(ids) for ids in parts[name].tokens]
        kept = [place for place, molecule in enumerate(own) if molecule not in seen]
        if not kept:
            raise ValueError(
                f"All molecules of {name} are in another part, too: split them anew, or pass "
                "--copies true."
            )
        left_out += len(own) - len(kept)
        seen.update(own)
        parts[name] = parts[name].take(kept)
    return left_out
