# SPDX-License-Identifier: Apache-2.0
"""Columns of a table as labels: numbers, yes or no, or one class of several; and which it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.labelling import is_missing, number
from ..data.smiles_files import Row

WORD_PAIRS = (("false", "true"), ("no", "yes"), ("inactive", "active"), ("negative", "positive"))
"""What is 0 and what is 1, whatever the case and the blanks around."""

MOST_CLASSES = 50
"""More different words in a column are taken for classes only where the task is stated."""

_LIKE_A_NUMBER = re.compile(r"[<>=~≤≥±]*\s*[-+−]?[.,]?\d")
_FEW_NUMBERS = 20  # up to so many whole numbers from 0 may be classes
_FEWER_NUMBERS = 5  # and up to so many from elsewhere


@dataclass
class Labels:
    """What is to be learned of each row.

    Attributes:
        task: `regression`, `binary` or `multiclass`.
        values: (rows, targets), NaN where missing: numbers, 0 and 1, or the class from 0.
        classes: The names of the classes of `multiclass`, by number; else none.
        words: How no and yes are written, of `binary`; 0 and 1 where targets differ in it.
        notes: How the cells were read, to be told.
    """

    task: str
    values: np.ndarray
    classes: list[str] = field(default_factory=list)
    words: tuple[str, str] = ("0", "1")
    notes: list[str] = field(default_factory=list)


@dataclass
class _Column:
    """What the cells of a column hold.

    Attributes:
        name: Of the column.
        values: (rows,) numbers, NaN where there is none.
        words: (rows,) in lower case, "" where there is none.
        shown: The commonest writing of each word.
        missing: How often each word occurs that says that there is nothing.
    """

    name: str
    values: np.ndarray
    words: np.ndarray
    shown: dict[str, str]
    missing: Counter[str]

    @property
    def kind(self) -> str:
        """Which of "nothing", "yes or no", "words", "few whole numbers" and "numbers" it holds."""
        if self.shown:
            return "yes or no" if _pair(self.shown) else "words"
        found = _different(self.values)
        if found <= {0, 1} or found <= {-1, 1}:
            return "yes or no" if found else "nothing"
        few = 2 < len(found) <= _FEW_NUMBERS and found == set(range(len(found)))
        fewer = 2 <= len(found) <= _FEWER_NUMBERS < len(self.values) / 2
        few |= fewer and all(value == round(value) for value in found)
        return "few whole numbers" if few else "numbers"


def read_labels(
    rows: Sequence[Row], cells: Mapping[str, Sequence[Any]], task: str | None = None
) -> Labels:
    """The labels in the columns `cells`, by name, of `rows`.

    Empty cells and words such as na or null are missing. A column whose words are one of
    `WORD_PAIRS`, or whose numbers are 0 and 1 or -1 and 1, is of yes and no. Without a `task`: all
    columns are of yes and no: binary; one column with 3 to `MOST_CLASSES` words: multiclass;
    numbers: regression. Classes are in the order of their names, whole numbers by size.

    Raises:
        ValueError: Numbers and words in one column, words of two pairs, columns that do not go
            together or not with the task, or a task that must be stated.

    >>> row = Row("a.csv", 1, "CCO")
    >>> read_labels([row] * 3, {"toxic": ["Yes", " no", ""]}).values.ravel().tolist()
    [1.0, 0.0, nan]
    >>> read_labels([row] * 3, {"phase": ["solid", "gas", "liquid"]}).classes
    ['gas', 'liquid', 'solid']
    """
    columns = [_read(rows, name, column) for name, column in cells.items()]
    task = task or _guess(columns)
    notes = [
        f"Column {column.name!r}: {word!r} is read as no label, {count} times."
        for column in columns
        for word, count in column.missing.items()
    ]
    if task == "multiclass":
        values, classes = _classes(columns)
        notes.append(f"The classes are {', '.join(classes)}.")
        return Labels(task, values, classes, notes=notes)
    wrong = {"binary": ("words", "few whole numbers", "numbers"), "regression": ("words",)}[task]
    for column in columns:
        if column.kind in wrong or (task == "regression" and column.shown):
            fits = "yes and no, 0 and 1 or -1 and 1" if task == "binary" else "numbers"
            raise ValueError(
                f"`task` {task} needs {fits}, or nothing where a label is missing; column "
                f"{column.name!r} holds {_examples(column)}. Leave `task` out to have it read off."
            )
    words = [("0", "1")]
    if task == "binary":
        words = list(map(_read_yes_and_no, columns))
        notes += [
            f"Column {column.name!r}: {no!r} is read as 0, {yes!r} as 1."
            for column, (no, yes) in zip(columns, words, strict=True)
            if (no, yes) != ("0", "1")
        ]
    both = words[0] if len(set(words)) == 1 else ("0", "1")
    return Labels(task, np.stack([c.values for c in columns], axis=1), words=both, notes=notes)


def _read(rows: Sequence[Row], name: str, cells: Sequence[Any]) -> _Column:
    values = np.full(len(cells), np.nan)
    words = np.full(len(cells), "", object)
    missing: Counter[str] = Counter()
    for place, cell in enumerate(cells):
        text = "" if cell is None else str(cell).strip()
        if is_missing(cell):
            missing.update([text] if text else [])
            continue
        try:
            values[place] = number(text)
        except ValueError:
            words[place] = text.lower()
        if np.isinf(values[place]):
            raise _no_label(rows[place], name, cell, "is no finite number")
    numbers, texts = np.flatnonzero(~np.isnan(values)), np.flatnonzero(words)
    if len(numbers) and len(texts):
        few, many = sorted((numbers, texts), key=lambda places: (len(places), -places[0]))
        kind = "is a number among words" if few is numbers else "is no number"
        others = f"{kind}, while row {rows[many[0]].number} holds {cells[many[0]]!r}"
        raise _no_label(rows[few[0]], name, cells[few[0]], others)
    written: dict[str, Counter[str]] = {}
    for place in texts:
        written.setdefault(words[place], Counter())[str(cells[place]).strip()] += 1
    shown = {word: max(sorted(counts), key=counts.get) for word, counts in written.items()}
    return _Column(name, values, words, shown, missing)


def _no_label(row: Row, name: str, cell: Any, reason: str) -> ValueError:
    return ValueError(
        f"{row.source}, row {row.number}: column {name!r} holds {cell!r}, which {reason}. Write "
        "all labels of a column in one way; leave a cell empty where there is none."
    )


def _guess(columns: Sequence[_Column]) -> str:
    """The task that the labels are for; ValueError where it must be stated."""
    kinds = {column.name: column.kind for column in columns if column.kind != "nothing"}
    for column in columns:
        if column.kind == "words":
            _check_classes(column)
            return "multiclass"
    if set(kinds.values()) <= {"yes or no"}:
        return "binary"
    if "yes or no" in kinds.values():
        yes = next(name for name, kind in kinds.items() if kind == "yes or no")
        number = next(name for name, kind in kinds.items() if kind != "yes or no")
        raise ValueError(
            f"Of the `targets` {yes!r} is yes or no, {number!r} is not: learn them in two runs, or "
            "pass `task` regression if all are numbers."
        )
    if set(kinds.values()) == {"few whole numbers"}:
        told = _examples(next(column for column in columns if column.kind != "nothing"))
        raise ValueError(
            f"The labels are a few whole numbers, {told}: amounts, or classes? Pass "
            "`task` regression for amounts, or `task` multiclass for classes (of one target)."
        )
    return "regression"


def _check_classes(column: _Column) -> None:
    """ValueError for words that need a word of the user to be taken for classes."""
    held = f"Column {column.name!r} holds {_examples(column)}"
    known = [pair for pair in WORD_PAIRS if column.shown.keys() & set(pair)]
    if len(known) > 1:
        raise ValueError(
            f"{held}: yes and no in {len(known)} writings. Write one of them throughout, or pass "
            "`task` multiclass if each word is a class."
        )
    if like := [text for word, text in column.shown.items() if _LIKE_A_NUMBER.match(word)]:
        raise ValueError(
            f"{held}, of which {like[0]!r} begins like a number: write numbers with a point, "
            "without units, < or >, or pass `task` multiclass if each is the name of a class."
        )
    if len(column.shown) <= 2:
        pairs = ", ".join("/".join(reversed(pair)) for pair in WORD_PAIRS)
        raise ValueError(
            f"{held}, and which is yes cannot be told: write one of {pairs}, 1/0 or 1/-1, or pass "
            "`task` multiclass to learn each word as a class."
        )
    if len(column.shown) > MOST_CLASSES:
        raise ValueError(
            f"{held}, {len(column.shown)} different words: is it the column with the labels? Pass "
            "`task` multiclass to learn each as a class."
        )


def _classes(columns: Sequence[_Column]) -> tuple[np.ndarray, list[str]]:
    """The class of each row (rows, 1), and the names of the classes."""
    if len(columns) > 1:
        told = ", ".join(f"{column.name!r} ({_examples(column)})" for column in columns[:3])
        raise ValueError(
            f"One class of several is learned of one target, not of {len(columns)}: {told}. Name "
            "one by `targets`."
        )
    (column,) = columns
    if column.shown:
        order = sorted(column.shown, key=column.shown.get)
        names = [column.shown[word] for word in order]
        numbers = {word: number for number, word in enumerate(order)}
        values = np.array([numbers.get(word, np.nan) for word in column.words], float)
    else:
        found = sorted(_different(column.values))
        if any(value != round(value) for value in found):
            raise ValueError(
                f"`task` multiclass needs words or whole numbers; column {column.name!r} holds "
                f"{_examples(column)}."
            )
        names = [str(int(value)) for value in found]
        values = column.values.copy()
        there = ~np.isnan(values)
        values[there] = np.searchsorted(found, values[there])
    if barred := [name for name in names if "|" in name]:
        raise ValueError(
            f"Column {column.name!r}: the class {barred[0]!r} has a | in its name, which stands "
            "between labels in predictions; rename it."
        )
    if len(names) < 2:
        raise ValueError(
            f"`task` multiclass needs two classes at least; column {column.name!r} holds "
            f"{_examples(column)}."
        )
    return values[:, None], names


def _read_yes_and_no(column: _Column) -> tuple[str, str]:
    """Turn a column's `values` into 0 and 1; how it writes these."""
    if column.shown:
        no, yes = _pair(column.shown)
        for word, value in ((no, 0.0), (yes, 1.0)):
            column.values[column.words == word] = value
        return column.shown.get(no, no), column.shown.get(yes, yes)
    if -1 in _different(column.values):
        column.values[column.values == -1] = 0.0
        return "-1", "1"
    return "0", "1"


def _pair(words: Mapping[str, str]) -> tuple[str, str] | None:
    """The pair that all `words` are of."""
    return next((pair for pair in WORD_PAIRS if words.keys() <= set(pair)), None)


def _different(values: np.ndarray) -> set[float]:
    return set(values[~np.isnan(values)].tolist())


def _examples(column: _Column) -> str:
    """Some of what a column holds."""
    found = sorted(column.shown.values()) or [f"{v:g}" for v in sorted(_different(column.values))]
    return ", ".join(map(repr, found[:4])) + (" ..." if len(found) > 4 else "") or "no label"
