# SPDX-License-Identifier: Apache-2.0
"""Molecules that are read, parsed and tokenised while a model trains on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from . import length_buckets
from .length_buckets import bucketed_order
from .row_encoder import REJECT_KINDS, Rejects, RowEncoder, none_usable, reject_table
from .smiles_files import Row
from .worker_pool import chunked


class StreamedMolecules(IterableDataset):
    """Reads, parses and tokenises molecules as they are asked for, pass after pass, without end.

    The sources are read in turn, a row of each, until all are at their end. `MEGA * batch_size`
    usable rows at a time are put into the order of `LengthBucketSampler` by (seed, epoch, number
    of the mega-batch). Single examples are yielded in that order, so a process that takes its share
    of every `batch_size` gets molecules of nearly equal lengths. The rows that do not fill the last
    batch are left out.

    An example is a dict of `input_ids` (length,), `row` (its number among the usable rows, in
    the order of reading) and `epoch`.

    Args:
        sources: Each called without arguments for a fresh pass over its rows, such as
            `functools.partial(read_smiles, "molecules.smi")`.
        tokenizer: As in `RowEncoder`, like the next three.
        max_length: Most tokens of a molecule.
        canonicalize: Write each molecule as RDKit does first.
        standardize: Or its parent.
        batch_size: As in `LengthBucketSampler`, like `seed`.
        seed: Of the order.
        rejects_path: A table of the rejected rows of the current pass, written as they come. Give
            it in one process only.
    """

    def __init__(
        self,
        sources: Sequence[Callable[[], Iterable[Row]]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        canonicalize: bool,
        standardize: str = "none",
        batch_size: int,
        seed: int = 0,
        rejects_path: str | os.PathLike | None = None,
    ) -> None:
        """Keep the arguments; opens nothing."""
        self.sources = list(sources)
        self.encoder = RowEncoder(tokenizer, max_length, canonicalize, standardize)
        self.batch_size = batch_size
        self.seed = seed
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
            ValueError: More than one data-loader process, no usable row, or too few for a batch.
        """
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"StreamedMolecules runs in {worker.num_workers} data-loader processes, each of "
                "which would read every row; set `dataloader_num_workers` to 0 or 1, or prepare "
                "the molecules first."
            )
        for epoch in count(int(self._epoch)):
            yield from self.one_pass(epoch)

    def one_pass(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Yield the examples of one pass."""
        examples = self._examples(epoch)
        for number in count():
            mega_batch = list(islice(examples, length_buckets.MEGA * self.batch_size))
            if number == 0 and len(mega_batch) < self.batch_size:
                raise ValueError(
                    f"{len(mega_batch)} usable rows do not fill one batch of {self.batch_size}; "
                    "use more data or a smaller batch."
                )
            if not mega_batch:
                return
            random = np.random.default_rng([self.seed, epoch, number])
            lengths = np.array([len(example["input_ids"]) for example in mega_batch])
            for index in bucketed_order(lengths, self.batch_size, random):
                yield mega_batch[index]

    def _examples(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Yield the usable rows in the order of reading, counting and listing the others."""
        self._rejected.zero_()
        first, usable = Rejects(), 0
        path = self.rejects_path
        with nullcontext() if path is None else reject_table(path) as write:
            for chunk in chunked(_round_robin(self.sources)):
                encoded = self.encoder(chunk)
                first = first or encoded.rejects[:3]
                for kind, number in Rejects(encoded.rejects).counts.items():
                    self._rejected[REJECT_KINDS.index(kind)] += number
                if write is not None:
                    write(encoded.rejects)
                for ids in encoded.rows():
                    yield {"input_ids": ids, "row": usable, "epoch": epoch}
                    usable += 1
        if usable == 0:
            raise none_usable(int(self._rejected.sum()), first)


def _round_robin(sources: Iterable[Callable[[], Iterable[Row]]]) -> Iterator[Row]:
    streams = [iter(source()) for source in sources]
    while streams:
        for stream in list(streams):
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
            else:
                yield row
