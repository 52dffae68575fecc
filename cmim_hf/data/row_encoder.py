# SPDX-License-Identifier: Apache-2.0
"""From rows of SMILES to token ids: checks, chemistry, tokens; what cannot be used is set aside."""

import csv
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..atomic_files import written_whole
from ..model.smiles_text_cmim import text_problem
from .packed_molecules import PackedMolecules, token_dtype
from .smiles_files import Row

REJECT_KINDS = ("not text", "empty", "not printable", "does not parse", "too long")

_CHUNK_ROWS = 512
_worker_encoder: Callable[[list], Any] | None = None  # set in the processes of `prepare` only

Item = TypeVar("Item")
Encoded = TypeVar("Encoded")


class Reject(NamedTuple):
    """A row that is not used: its kind (one of `REJECT_KINDS`) and the reason in words."""

    row: Row
    kind: str
    reason: str


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


@dataclass
class Rejects:
    """The rows that were not used, in order."""

    items: list[Reject] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.items)

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each kind that occurred, the most frequent first."""
        return dict(Counter(item.kind for item in self.items).most_common())

    def write(self, path: str | os.PathLike) -> None:
        """Write a table with tabs between the columns source, row, text, reason."""
        kind = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
        with written_whole(Path(path)) as new, open(new, "w", **kind) as stream:
            reject_table(stream).writerows(map(reject_fields, self.items))


def reject_table(stream: IO[str]) -> Any:
    """Write the header of a table of rejects; return a `csv` writer for its rows."""
    table = csv.writer(stream, delimiter="\t", lineterminator="\n")
    table.writerow(("source", "row", "text", "reason"))
    return table


def reject_fields(reject: Reject) -> tuple[str, int, str, str]:
    """Return the fields of a reject in the order of `reject_table`."""
    return (reject.row.source, reject.row.number, reject.row.text, reject.reason)


def none_usable(number: int, first: Sequence[Reject]) -> ValueError:
    """Return the error for a run whose every row was rejected; `first` are some of the rejects."""
    if number == 0:
        return ValueError("The rows to prepare are empty; give at least one molecule.")
    reasons = "; ".join(f"{r.row.source} row {r.row.number}: {r.reason}" for r in first[:3])
    return ValueError(f"None of the {number} rows is usable. The first reasons: {reasons}")


class RowEncoder:
    """Turns rows into token ids, or says why not; never raises for what a row holds.

    Args:
        tokenizer: appends its end token itself.
        max_length: most tokens a molecule may have, the end token included.
        canonicalize: write each molecule as RDKit does first; without it rows are only checked
            to be printable, and RDKit is not imported.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, canonicalize: bool
    ) -> None:
        """Keep the arguments; ValueError where `max_length` leaves no room."""
        if max_length < 2:
            raise ValueError(f"max_length is at least 2 (one token and the end), not {max_length}.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.canonicalize = canonicalize

    def __call__(self, rows: Sequence[Row]) -> EncodedRows:
        """Return the ids of the usable rows and the rejects, both in the order of `rows`."""
        texts: list[str | None] = []
        rejects: dict[int, Reject] = {}
        for index, row in enumerate(rows):
            text, problem = self._read(row.text)
            if problem is not None:
                rejects[index] = Reject(row, *problem)
            texts.append(text)
        kept = [index for index, text in enumerate(texts) if text is not None]
        chosen = [texts[index] for index in kept]
        encoded = self._ids(chosen) if chosen else []
        usable, places = [], []
        for index, ids in zip(kept, encoded, strict=True):
            if len(ids) > self.max_length:
                reason = f"{len(ids)} tokens with the end token; at most {self.max_length} fit"
                rejects[index] = Reject(rows[index], "too long", reason)
            else:
                usable.append(ids)
                places.append(index)
        flat = np.fromiter(chain.from_iterable(usable), token_dtype(self.tokenizer))
        lengths = np.fromiter(map(len, usable), np.int64, len(usable))
        rejected = [rejects[index] for index in sorted(rejects)]
        return EncodedRows(flat, lengths, np.array(places, np.int64), rejected)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]

    @cached_property
    def _backend(self) -> Tokenizer:
        """A copy free of the padding and truncation that a call of the tokenizer may leave."""
        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        return backend

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copy out, which would be pickled without its settings."""
        return {name: value for name, value in self.__dict__.items() if name != "_backend"}

    def _read(self, text: Any) -> tuple[str | None, tuple[str, str] | None]:
        if problem := text_problem(text):
            return None, problem
        if not self.canonicalize:
            return text, None
        from ..chemistry.smiles import canonicalize

        try:
            return canonicalize(text), None
        except ValueError as error:
            return None, ("does not parse", str(error))


def prepare(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    canonicalize: bool,
    num_workers: int = 0,
    progress: bool = True,
) -> tuple[PackedMolecules, Rejects]:
    """Parse and tokenise rows into packed molecules; rows that cannot be used are set aside.

    Args:
        rows: read once, in order, a bounded number ahead.
        tokenizer: as in `RowEncoder`, like the next two.
        max_length: nothing is cut: a longer molecule is a reject.
        canonicalize: write each molecule as RDKit does first.
        num_workers: processes that work beside this one; 0 works in this one. They are spawned,
            so a script calls this below `if __name__ == "__main__":`. The result is the same.
        progress: show a bar.

    Returns:
        The molecules in the order of their rows, and the rejected rows.

    Raises:
        ValueError: no row is usable (with the first three reasons).
        ChildProcessError: a worker ended before its time.
    """
    encoder = RowEncoder(tokenizer, max_length, canonicalize)
    encoded = encode_rows(rows, encoder, num_workers=num_workers, progress=progress)
    molecules = PackedMolecules.from_tokens(encoded.tokens, encoded.lengths, tokenizer)
    return molecules, Rejects(encoded.rejects)


def encode_rows(
    rows: Iterable[Row], encoder: RowEncoder, *, num_workers: int = 0, progress: bool = True
) -> EncodedRows:
    """Encode all rows; those that cannot be used are among `EncodedRows.rejects`.

    Args:
        rows: as in `prepare`, like the next two; so are the errors.
        encoder: of the rows.
        num_workers: processes beside this one.
        progress: show a bar.
    """
    parts = []
    with tqdm(desc="Preparing molecules", unit=" rows", disable=not progress) as bar:
        for part in encode_in_order(encoder, chunked(rows), num_workers):
            parts.append(part)
            bar.update(part.number)
    encoded = EncodedRows.concatenate(parts) if parts else encoder([])
    if len(encoded.lengths) == 0:
        raise none_usable(len(encoded.rejects), encoded.rejects)
    return encoded


def chunked(rows: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut rows into pieces of the size that `encode_in_order` is fast with."""
    remaining = iter(rows)
    while chunk := list(islice(remaining, _CHUNK_ROWS)):
        yield chunk


def encode_in_order(
    encoder: Callable[[list[Item]], Encoded], chunks: Iterable[list[Item]], num_workers: int
) -> Iterator[Encoded]:
    """Encode chunk after chunk, in order; `chunks` is read a bounded number ahead.

    Args:
        encoder: works in this process, or a copy of it in each worker: a `RowEncoder`, say.
        chunks: pieces of a few hundred rows.
        num_workers: as in `prepare`.

    Raises:
        ChildProcessError: A worker ended before its time.
    """
    if num_workers == 0:
        yield from map(encoder, chunks)
        return
    context = multiprocessing.get_context("spawn")
    pending = deque()
    try:
        with ProcessPoolExecutor(num_workers, context, _set_encoder, (encoder,)) as pool:
            for chunk in chunks:
                pending.append(_submit(pool, chunk))
                if len(pending) > 4 * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"One of the {num_workers} processes that parse molecules ended before its time. If it "
            "was killed, perhaps for want of memory, run this again with fewer workers. A script "
            'that starts workers keeps what it runs below `if __name__ == "__main__":`.'
        ) from error


def _submit(pool: ProcessPoolExecutor, chunk: list) -> Future:
    try:
        return pool.submit(_encode, chunk)
    except OSError as error:
        if error.errno is not None:  # the system's own, such as too many processes
            raise
        # a pool that is being closed for a dead worker has lost its pipe before it says so
        raise BrokenProcessPool(str(error)) from error


def _set_encoder(encoder: Callable[[list], Any]) -> None:
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    torch.set_num_threads(1)
    _worker_encoder = encoder


def _encode(rows: list) -> Any:
    return _worker_encoder(rows)
