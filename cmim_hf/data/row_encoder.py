# SPDX-License-Identifier: Apache-2.0
"""From rows of SMILES to token ids: checks, chemistry, tokens; what cannot be used is a reject.

Worker processes import this file: it needs neither torch nor transformers.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, compress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from ..atomic_files import written_whole
from ..model.parent_molecule_cmim import STANDARDS
from ..model.smiles_text_cmim import text_problem
from .argument_checks import check_choice, whole_number
from .smiles_files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REJECT_KINDS = ("not text", "empty", "not printable", "does not parse", "too long")


class Reject(NamedTuple):
    """A row that is not used: its kind (one of `REJECT_KINDS`) and the reason in words."""

    row: Row
    kind: str
    reason: str


class Rejects(list[Reject]):
    """The rows that were not used, in order."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each kind that occurred, the most frequent first."""
        return dict(Counter(reject.kind for reject in self).most_common())

    def write(self, path: str | os.PathLike) -> None:
        """Write them as `reject_table` does, all or none."""
        with written_whole(Path(path)) as new, reject_table(new) as write:
            write(self)


@contextmanager
def reject_table(path: str | os.PathLike) -> Iterator[Callable[[Iterable[Reject]], None]]:
    """Give what writes rejects to a table with tabs between source, row, text and reason.

    It can be read as it grows.
    """
    options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with open(path, "w", buffering=1, **options) as stream:
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow(("source", "row", "text", "reason"))
        yield lambda rejects: table.writerows((*row[:3], reason) for row, _, reason in rejects)


def none_usable(number: int, first: Sequence[Reject]) -> ValueError:
    """The error for `number` rows that were all rejected; `first` are some of the rejects."""
    if number == 0:
        return ValueError("The rows to prepare are empty; give at least one molecule.")
    reasons = "; ".join(f"{r.row.source} row {r.row.number}: {r.reason}" for r in first[:3])
    return ValueError(f"None of the {number} rows is usable. The first reasons: {reasons}")


def check_standardize(standardize: str, canonicalize: bool) -> None:
    """Raise a ValueError for an unknown choice, or for a parent of what shall not be parsed."""
    check_choice("standardize", standardize, STANDARDS)
    if standardize != "none" and not canonicalize:
        raise ValueError(
            f"`standardize` is {standardize!r}, for which molecules are parsed, but `canonicalize` "
            "says to take their SMILES as they are: choose one."
        )


class EncodedRows(NamedTuple):
    """Usable rows, in order: `tokens` flat (sum of `lengths`), `lengths` (rows,); and the rest.

    `kept` (rows,) are the places of the usable rows among all rows, from 0.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    kept: np.ndarray
    rejects: list[Reject]

    @property
    def number(self) -> int:
        """Rows in all, usable or not."""
        return len(self.lengths) + len(self.rejects)

    def first(self, number: int) -> "EncodedRows":
        """The first usable rows, at most so many, without the rest."""
        lengths = self.lengths[:number]
        return EncodedRows(self.tokens[: lengths.sum()], lengths, np.arange(len(lengths)), [])

    def rows(self) -> list[np.ndarray]:
        """The tokens of each usable row."""
        ends = np.cumsum(self.lengths)[:-1]
        return np.split(self.tokens, ends) if len(self.lengths) else []

    def texts(self, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """The usable rows as they were read: canonical SMILES, where `RowEncoder` makes such."""
        rows = [row.tolist() for row in self.rows()]
        return tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []

    @classmethod
    def of(cls, rows: "Sequence[Sequence[int] | np.ndarray]") -> "EncodedRows":
        """Rows of which the tokens of each are given."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.concatenate(rows) if len(rows) else np.empty(0, np.uint16)
        return cls(tokens, lengths, np.arange(len(rows)), [])

    @classmethod
    def concatenate(cls, parts: "Sequence[EncodedRows]") -> "EncodedRows":
        """Join at least one part, in order."""
        starts = accumulate((part.number for part in parts), initial=0)
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([start + part.kept for start, part in zip(starts, parts, strict=False)]),
            [reject for part in parts for reject in part.rejects],
        )


class RowEncoder:
    """Turns rows into token ids, or says why not; never raises for what a row holds.

    Args:
        tokenizer: Appends its end token itself.
        max_length: Most tokens of a molecule, the end token included. Nothing is cut: a longer one
            is a reject.
        canonicalize: Write each molecule as RDKit does first; without it rows are only checked to
            be printable, and RDKit is not imported.
        standardize: `"parent"` takes the parent of each molecule (its largest fragment, neutral,
            see [`~cmim_hf.model.parent_molecule_cmim.parent`]), `"none"` the molecule as it is.

    Raises:
        ValueError: `max_length` leaves no room, or the errors of `check_standardize`.

    >>> from cmim_hf import default_tokenizer
    >>> encode = RowEncoder(default_tokenizer(), max_length=64, canonicalize=True)
    >>> encoded = encode([Row("list", 1, "OCC"), Row("list", 2, "C1CC")])
    >>> encoded.tokens.tolist() == default_tokenizer()("CCO")["input_ids"]
    True
    >>> encoded.kept.tolist(), encoded.rejects[0].kind
    ([0], 'does not parse')
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        canonicalize: bool,
        standardize: str = "none",
    ) -> None:
        """Copy what is needed of the tokenizer."""
        check_standardize(standardize, canonicalize)
        self.max_length = whole_number("max_length", max_length, 2)  # one token and the end
        self.canonicalize, self.standardize = canonicalize, standardize
        # Free of the padding and truncation that a call of the tokenizer may leave.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._split_special_tokens = tokenizer.split_special_tokens
        self._dtype = np.promote_types(np.uint16, np.min_scalar_type(len(tokenizer) - 1))

    def __call__(self, rows: Sequence[Row]) -> EncodedRows:
        """The ids of the usable rows, as uint16 (uint32 of many tokens), and the rejects."""
        texts: list[str] = []
        places: list[int] = []
        rejects: dict[int, Reject] = {}
        for place, row in enumerate(rows):
            text, problem = self._read(row)
            if problem is None:
                texts.append(text)
                places.append(place)
            else:
                rejects[place] = Reject(row, *problem)
        if self._backend.encode_special_tokens != self._split_special_tokens:
            # lost where pickled; not set each time, which fails while another thread encodes
            self._backend.encode_special_tokens = self._split_special_tokens
        ids = [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        kept = np.array(places, np.int64)
        fits = lengths <= self.max_length
        for place, length in zip(kept[~fits].tolist(), lengths[~fits].tolist(), strict=True):
            reason = f"{length} tokens with the end token; at most {self.max_length} fit"
            rejects[place] = Reject(rows[place], "too long", reason)
        tokens = np.fromiter(chain.from_iterable(compress(ids, fits)), self._dtype)
        in_order = [rejects[place] for place in sorted(rejects)]
        return EncodedRows(tokens, lengths[fits], kept[fits], in_order)

    def _read(self, row: Row) -> tuple[str, tuple[str, str] | None]:
        text = row.text
        if row.reason is not None:
            return text, ("does not parse", row.reason)
        if (problem := text_problem(text)) or not self.canonicalize:
            return text, problem
        from ..chemistry.smiles import SmilesError, parse, write

        try:
            molecule = parse(text)
            if self.standardize == "parent":
                from ..chemistry.standardization import standardized

                molecule = standardized(molecule)
            return write(molecule), None
        except SmilesError as error:
            return text, ("does not parse", f"it {error.reason}")
