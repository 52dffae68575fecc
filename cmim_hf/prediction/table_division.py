# SPDX-License-Identifier: Apache-2.0
"""Which rows of a table are to train on, to choose the epoch by and to test: three ways to say."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from ..chemistry.scaffolds import murcko_scaffold
from ..data.labelling import number
from ..data.smiles_files import Row

PARTS = ("train", "valid", "test")
_NAMES = {**dict(zip(PARTS, PARTS, strict=True)), "validation": "valid", "val": "valid"}


def given_split(cells: Sequence[Any], where: str) -> np.ndarray:
    """The part of each row that a column of the table `where` says.

    Raises:
        ValueError: It holds something else than train, valid, validation, val and test.
    """
    names = [str(cell).strip().lower() for cell in cells]
    if unknown := sorted(set(names) - set(_NAMES)):
        raise ValueError(f"Column split of {where} holds {unknown}; expected {list(_NAMES)}.")
    return np.array([_NAMES[name] for name in names])


def random_split(keys: Sequence[Hashable], fractions: Sequence[float]) -> np.ndarray:
    """Valid and test drawn from the molecules, the others train; the same in every run.

    Args:
        keys: Of each row's molecule: equal ones, however they are written, go to one part.
        fractions: Of the molecules, in the order of `PARTS`; valid and test are rounded down.

    >>> keys = ["CCO"] * 11 + [str(number) for number in range(9)]
    >>> random_split(keys, (0.8, 0.1, 0.1)).tolist().count("test")
    1
    """
    molecule, different = pd.factorize(pd.Series(keys, dtype=object), use_na_sentinel=False)
    order = np.random.default_rng(0).permutation(len(different))
    names = np.full(len(different), "train")
    valid, test = _counts(fractions, len(different))
    names[order[:valid]], names[order[valid : valid + test]] = "valid", "test"
    return names[molecule]


def scaffold_split(smiles: Sequence[str], fractions: Sequence[float]) -> np.ndarray:
    """All molecules of a Bemis-Murcko scaffold in one part, the commonest scaffolds in train.

    Scaffolds go by their number of rows, then by name, into train as long as it keeps to its
    fraction of the rows, else into valid as long as both do, else into test, as in DeepChem and
    Chemprop; the first always into train. Of molecules without a ring each is its own scaffold.

    >>> scaffold_split(["Cc1ccccc1", "Oc1ccccc1", "CCO", "c1ccncc1"], (0.5, 0.25, 0.25)).tolist()
    ['train', 'train', 'valid', 'test']
    """
    scaffold, names = pd.factorize(pd.Series([murcko_scaffold(text) for text in smiles]))
    rows = np.bincount(scaffold)
    valid, test = _counts(fractions, len(smiles))
    train = len(smiles) - valid - test
    taken, parts = dict.fromkeys(PARTS, 0), {}
    for group in sorted(range(len(names)), key=lambda group: (-rows[group], names[group])):
        if taken["train"] + rows[group] <= train or not parts:
            parts[group] = "train"
        elif taken["train"] + taken["valid"] + rows[group] <= train + valid:
            parts[group] = "valid"
        else:
            parts[group] = "test"
        taken[parts[group]] += rows[group]
    return np.array([parts[group] for group in scaffold])


def time_split(times: Sequence[float], fractions: Sequence[float]) -> np.ndarray:
    """The latest rows test, those before valid, the others train.

    Rows of one time go to one part: each border is the one between two times that leaves the number
    of later rows nearest to its fraction.

    Raises:
        ValueError: There are fewer than three times.

    >>> time_split([2019, 2020, 2021, 2021, 2022], (0.6, 0.2, 0.2)).tolist()
    ['train', 'train', 'valid', 'valid', 'test']
    """
    different, rows = np.unique(times, return_counts=True)
    if len(different) < 3:
        raise ValueError(
            f"The rows have {len(different)} different times; three parts need three. Choose "
            "another `time_column`, or another `split`."
        )
    later = np.cumsum(rows[::-1])  # rows of the latest time, of the latest two, ...
    valid, test = _counts(fractions, len(times))
    ends = int(np.argmin(np.abs(later[:-2] - test))) + 1
    both = ends + int(np.argmin(np.abs(later[ends:-1] - valid - test))) + 1
    parts = np.repeat(PARTS, (len(different) - both, both - ends, ends))
    return parts[np.searchsorted(different, times)]


def read_times(rows: Sequence[Row], name: str, cells: Sequence[Any]) -> list[float]:
    """A column of numbers, or of ISO dates as seconds.

    A date is 2021-03-05, 2021-03, or with a time behind; one without a zone is of UTC.

    Raises:
        ValueError: A cell is empty or neither, or the column holds both.
    """
    times, kinds = [], []
    for row, cell in zip(rows, cells, strict=True):
        text = "" if cell is None else str(cell).strip()
        kind, time = _time(text)
        if kind is None or kind != (kinds or [kind])[0]:
            expected = kinds[0] if kinds else "number and no date such as 2021-03-05"
            raise ValueError(
                f"{row.source}, row {row.number}: `time_column` {name!r} holds {cell!r}, which is "
                f"no {expected}. All rows need a time: numbers, or ISO dates, throughout."
            )
        times.append(time)
        kinds.append(kind)
    return times


def _time(text: str) -> tuple[str | None, float]:
    try:
        time = number(text)
        return ("number" if np.isfinite(time) else None), time
    except ValueError:
        pass
    if re.fullmatch(r"\d{4}-\d{2}", text):
        text += "-01"
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None, np.nan
    return "date", (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _counts(fractions: Sequence[float], number: int) -> tuple[int, int]:
    """How many of `number` are valid, and test."""
    valid, test = (int(fraction * number + 1e-6) for fraction in fractions[1:])
    return valid, test
