# SPDX-License-Identifier: Apache-2.0
"""Batches for training: prepared or streamed molecules, in an order that wastes little padding.

Prepared data (`prepare`, then `PackedMolecules.load`) needs neither RDKit nor `datasets` here.
Whatever is random is a function of (seed, epoch) and a position, so a run can be resumed and every
process sees the same order.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, Sampler, get_worker_info
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .packed_molecules import PackedMolecules, tokenizer_fingerprint
from .row_encoder import (
    REJECT_KINDS,
    Reject,
    Rejects,
    RowEncoder,
    none_usable,
    prepare,
    reject_fields,
    reject_table,
)
from .smiles_files import Row

__all__ = [
    "CMIMCollator",
    "LengthBucketSampler",
    "PackedMolecules",
    "Rejects",
    "StreamedMolecules",
    "molecule_key",
    "prepare",
    "tokenizer_fingerprint",
]

_STREAM_ROWS = 512

logger = logging.get_logger(__name__)


class LengthBucketSampler(Sampler[int]):
    """Yields rows so that each `batch_size` consecutive ones have nearly equal lengths.

    Rows are permuted, cut into mega-batches of `mega * batch_size`, sorted by length within each,
    cut into batches, and the batches are shuffled. The rows beyond the last whole batch are left
    out of the epoch, another random choice in each: a short batch has fewer negatives, and unequal
    ones on several devices cannot be compared. The order is a function of (seed, epoch) alone.

    Args:
        lengths: tokens of each row (rows,).
        batch_size: the global batch: rows a device × devices.
        seed: of the order.
        mega: batches in a mega-batch; more of them means less padding and less mixing.
        bucket: False gives a plain permutation.
        dataset: told each new epoch, for items that depend on it. Trainers tell the sampler, but
            not always the dataset as well.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        mega: int = 50,
        bucket: bool = True,
        dataset: PackedMolecules | None = None,
    ) -> None:
        """Keep the arguments; ValueError where a size is below 1."""
        _check_sizes(batch_size, mega)
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.mega = mega
        self.bucket = bucket
        self.dataset = dataset
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, of the dataset as well."""
        self.epoch = epoch
        if self.dataset is not None:
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch."""
        random = np.random.default_rng([self.seed, self.epoch])
        if self.bucket:
            order = _bucketed(self.lengths, self.batch_size, self.mega, random)
        else:
            order = random.permutation(len(self.lengths))
        yield from map(int, order[: len(self)])


class StreamedMolecules(IterableDataset):
    """Reads, parses and tokenises molecules as they are asked for, pass after pass, without end.

    The sources are read in turn, a row of each, until all are at their end. `mega * batch_size`
    usable rows at a time are sorted by length and cut into batches, and the batches are shuffled by
    (seed, epoch, number of the mega-batch). Single examples are yielded in that order, so a
    process that takes its share of every `batch_size` gets molecules of nearly equal lengths. The
    rows that do not fill the last batch are left out.

    An example is a dict of `input_ids` (length,), `row` (its number among the usable rows, in
    the order of reading) and `epoch`.

    Args:
        sources: each called without arguments for a fresh pass over its rows, such as
            `functools.partial(read_smiles, "molecules.smi")`.
        tokenizer: as in `prepare`, like the next two.
        max_length: nothing is cut: a longer molecule is a reject.
        canonicalize: write each molecule as RDKit does first.
        batch_size: as in `LengthBucketSampler`, like the next two.
        seed: of the order.
        mega: batches in a mega-batch.
        rejects_path: a table of the rejected rows of the current pass, written as they come. Give
            it in one process only.
    """

    def __init__(
        self,
        sources: Sequence[Callable[[], Iterable[Row]]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        canonicalize: bool,
        batch_size: int,
        seed: int = 0,
        mega: int = 50,
        rejects_path: str | os.PathLike | None = None,
    ) -> None:
        """Keep the arguments; ValueError where a size is too small. Opens nothing."""
        _check_sizes(batch_size, mega)
        self.sources = list(sources)
        self.encoder = RowEncoder(tokenizer, max_length, canonicalize)
        self.batch_size = batch_size
        self.seed = seed
        self.mega = mega
        self.rejects_path = rejects_path
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._rejected = torch.zeros(len(REJECT_KINDS), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, in every process."""
        self._epoch.fill_(epoch)

    @property
    def rejected(self) -> dict[str, int]:
        """Rows of each kind rejected so far in the current pass, wherever it runs."""
        counts = zip(REJECT_KINDS, self._rejected.tolist(), strict=True)
        return {kind: count for kind, count in counts if count}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the examples of one pass after the other, from the epoch that is set.

        It has no end, so that a trainer, which cannot know how long a pass is, finds the place of
        any step by counting batches.

        Raises:
            ValueError: more than one data-loader process, no usable row, or too few for a batch.
        """
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"StreamedMolecules runs in {worker.num_workers} data-loader processes, each of "
                "which would read every row; set dataloader_num_workers to 0 or 1, or prepare the "
                "molecules first."
            )
        for epoch in count(int(self._epoch)):
            yield from self.one_pass(epoch)

    def one_pass(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Yield the examples of one pass."""
        examples = self._examples(epoch)
        number = 0
        while chunk := list(islice(examples, self.mega * self.batch_size)):
            random = np.random.default_rng([self.seed, epoch, number])
            lengths = np.array([len(example["input_ids"]) for example in chunk])
            for index in _bucketed(lengths, self.batch_size, self.mega, random):
                yield chunk[index]
            number += 1
        if number == 1 and len(lengths) < self.batch_size:
            raise ValueError(
                f"{len(lengths)} usable rows do not fill one batch of {self.batch_size}; "
                "use more data or a smaller batch."
            )

    def _examples(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Yield the usable rows in the order of reading, counting the others."""
        rows = _round_robin(self.sources)
        self._rejected.zero_()
        first: list[Reject] = []
        usable = 0
        with ExitStack() as stack:
            table = None
            if self.rejects_path is not None:
                # Line buffering, so that the table can be read while the pass runs.
                options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
                stream = stack.enter_context(open(self.rejects_path, "w", buffering=1, **options))
                table = reject_table(stream)
            while chunk := list(islice(rows, _STREAM_ROWS)):
                encoded = self.encoder(chunk)
                first = first or encoded.rejects[:3]
                self._count(encoded.rejects)
                if table is not None:
                    table.writerows(map(reject_fields, encoded.rejects))
                for ids in np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1]):
                    if len(ids):
                        yield {"input_ids": ids, "row": usable, "epoch": epoch}
                        usable += 1
        if usable == 0:
            raise none_usable(int(self._rejected.sum()), first)

    def _count(self, rejects: Iterable[Reject]) -> None:
        for kind, number in Counter(reject.kind for reject in rejects).items():
            self._rejected[REJECT_KINDS.index(kind)] += number


class CMIMCollator:
    """Pads examples to one batch, with a key for each molecule and, for InfoNCE, a second view.

    A batch of B examples becomes, with R = views · B rows and L the longest of them,
    `input_ids` (R, L), `attention_mask` (R, L; 1 on real tokens), `labels` (R, L; −100 where
    padded) and `keys` (B,), all int64; and, where the examples have them, `property_labels`
    (B, properties), float32. Rows B to 2B are the second view: a random writing of
    each molecule that is a function of (seed, epoch, row) alone. Where there is none (the molecule
    does not parse) or it is longer than `max_length`, the first view stands in for it.

    Args:
        tokenizer: the one the examples were made with.
        views: 1 or 2; 2 needs RDKit and examples with `row` and `epoch`.
        max_length: most tokens of a second view; None means `tokenizer.model_max_length`.
        seed: of the random writings.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        views: int = 1,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the arguments; ValueError for another number of views or no padding token."""
        if views not in (1, 2):
            raise ValueError(f"views is 1, or 2 for InfoNCE, not {views!r}.")
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token; give it one (pad_token).")
        self.tokenizer = tokenizer
        self.views = views
        self.max_length = tokenizer.model_max_length if max_length is None else max_length
        self.seed = seed

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some examples, in their order."""
        rows = [np.asarray(example["input_ids"], np.int64) for example in examples]
        keys = torch.tensor([molecule_key(ids) for ids in rows])
        if self.views == 2:
            rows += [self._second_view(example) for example in examples]
        lengths = np.array([len(ids) for ids in rows])
        real = np.arange(lengths.max()) < lengths[:, None]
        input_ids = np.full(real.shape, self.tokenizer.pad_token_id, np.int64)
        input_ids[real] = np.concatenate(rows)
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
            "labels": torch.from_numpy(np.where(real, input_ids, -100)),
            "keys": keys,
        }
        if "property_labels" in examples[0]:
            labels = np.stack([example["property_labels"] for example in examples])
            batch["property_labels"] = torch.from_numpy(labels)
        return batch

    def _second_view(self, example: Mapping[str, Any]) -> np.ndarray:
        try:
            from ..chemistry.smiles import randomize
        except ImportError as error:
            raise ImportError(
                f"views=2 writes molecules at random, which needs RDKit: {error}. "
                "Run `pip install rdkit`, or choose an objective other than infonce."
            ) from error
        missing = [key for key in ("row", "epoch") if key not in example]
        if missing:
            raise ValueError(
                f"views=2 needs examples with 'row' and 'epoch'; {missing} missing from "
                f"{sorted(example)}. Use PackedMolecules or StreamedMolecules, and set "
                "remove_unused_columns=False in the training arguments."
            )
        ids = np.asarray(example["input_ids"], np.int64)
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        key = f"{self.seed},{example['epoch']},{example['row']}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        try:
            writing = randomize(text, seed)
        except ValueError as error:
            logger.warning_once(
                f"Row {example['row']} has no random writing and is its own second view, as all "
                f"further rows of the kind: {error} Prepare molecules with canonicalize=True."
            )
            return ids
        second = self.tokenizer(writing, verbose=False)["input_ids"]
        return np.asarray(second, np.int64) if len(second) <= self.max_length else ids


def molecule_key(input_ids: Sequence[int] | np.ndarray) -> int:
    """Return a signed 64-bit hash (BLAKE2b) of token ids: equal ids, equal key, in any process."""
    content = np.asarray(input_ids).astype("<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _bucketed(
    lengths: np.ndarray, batch_size: int, mega: int, random: np.random.Generator
) -> np.ndarray:
    """Return rows in whole batches of near lengths, in random order; a random rest is left out."""
    order = random.permutation(len(lengths))
    whole = len(order) - len(order) % batch_size
    batches = [np.empty((0, batch_size), np.int64)]
    for start in range(0, whole, mega * batch_size):
        rows = order[start : min(start + mega * batch_size, whole)]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches.append(rows.reshape(-1, batch_size))
    return random.permutation(np.concatenate(batches)).reshape(-1)


def _round_robin(sources: Iterable[Callable[[], Iterable[Row]]]) -> Iterator[Row]:
    streams = [iter(source()) for source in sources]
    while streams:
        for stream in list(streams):
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
            else:
                yield row


def _check_sizes(batch_size: int, mega: int) -> None:
    if batch_size < 1 or mega < 1:
        raise ValueError(f"batch_size and mega are at least 1, not {batch_size} and {mega}.")
