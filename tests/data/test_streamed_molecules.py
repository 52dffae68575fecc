# SPDX-License-Identifier: Apache-2.0
"""Molecules that are read while a model trains."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.data_loader import IterableDatasetShard
from packed_rows import decoded, rows_of
from torch.utils.data import DataLoader

from cmim_hf.data import length_buckets
from cmim_hf.data.streamed_molecules import StreamedMolecules


def stream(texts_of_sources, tokenizer, **arguments):
    settings = {"max_length": 128, "canonicalize": False, "batch_size": 4} | arguments
    sources = [functools.partial(rows_of, *texts) for texts in texts_of_sources]
    return StreamedMolecules(sources, tokenizer, **settings)


def test_stream_reads_in_turn_and_every_row_once(tokenizer):
    streamed = stream([["C", "CC"], [], ["N", "NN", "NNN"]], tokenizer, batch_size=5)
    by_row = sorted(streamed.one_pass(0), key=lambda item: item["row"])
    assert decoded(by_row, tokenizer) == ["C", "N", "CC", "NN", "NNN"]


def test_stream_orders_by_length_within_mega_batches(sample, tokenizer, monkeypatch):
    monkeypatch.setattr(length_buckets, "MEGA", 3)
    texts = [row.text for row in sample[:50]]
    streamed = stream([texts], tokenizer)
    order = list(streamed.one_pass(0))
    rows = [item["row"] for item in order]
    assert decoded(order, tokenizer) == [texts[row] for row in rows]
    assert len(rows) == 48  # the last two rows fill no batch
    for start in (0, 12, 24, 36):
        assert sorted(rows[start : start + 12]) == list(range(start, start + 12))
        batches = [order[i : i + 4] for i in range(start, start + 12, 4)]
        ranges = sorted(
            (min(len(i["input_ids"]) for i in b), max(len(i["input_ids"]) for i in b))
            for b in batches
        )
        assert ranges[0][1] <= ranges[1][0] and ranges[1][1] <= ranges[2][0]
    again = list(streamed.one_pass(1))
    endless = [item["row"] for item in itertools.islice(streamed, 110)]
    assert endless == (rows + [item["row"] for item in again] + endless[96:])
    streamed.set_epoch(1)
    assert next(iter(streamed))["row"] == again[0]["row"]
    assert [item["row"] for item in again] != rows
    assert sorted(item["row"] for item in again) == list(range(48))
    assert {item["epoch"] for item in again} == {1}


def test_stream_shards_give_ranks_batches_of_one_length(sample, tokenizer):
    streamed = stream([[row.text for row in sample[:400]]], tokenizer, batch_size=8)
    shards = [
        list(
            itertools.islice(
                IterableDatasetShard(streamed, batch_size=4, num_processes=2, process_index=rank),
                200,
            )
        )
        for rank in (0, 1)
    ]
    rows = [[item["row"] for item in shard] for shard in shards]
    assert sorted(rows[0] + rows[1]) == list(range(400))
    spreads = []
    for start in range(0, 200, 4):
        both = [*shards[0][start : start + 4], *shards[1][start : start + 4]]
        spreads.append(np.ptp([len(item["input_ids"]) for item in both]))
    assert np.mean(spreads) < 4


def test_stream_counts_and_writes_rejects(tokenizer, tmp_path):
    path = tmp_path / "rejects.tsv"
    streamed = stream(
        [["CCO", "C1CC", "", "N"]], tokenizer, canonicalize=True, rejects_path=path, batch_size=2
    )
    for _ in range(2):
        assert len(list(streamed.one_pass(0))) == 2
        assert streamed.rejected == {"empty": 1, "does not parse": 1}
        assert [line.split("\t")[1] for line in path.read_text().splitlines()] == ["row", "2", "3"]
    with pytest.raises(ValueError, match="None of the 2 rows is usable"):
        list(stream([["", "C C"]], tokenizer))
    with pytest.raises(ValueError, match="3 usable rows do not fill one batch of 4"):
        list(stream([["C", "CC", "CCC"]], tokenizer))


def test_stream_in_worker_processes(tokenizer, monkeypatch):
    streamed = stream([["CCO", "", "N"]], tokenizer, batch_size=2)
    for epoch in (0, 4):
        loader = DataLoader(streamed, batch_size=None, num_workers=1)
        streamed.set_epoch(epoch)
        items = itertools.islice(loader, 4)
        assert [item["epoch"] for item in items] == [epoch, epoch, epoch + 1, epoch + 1]
        assert streamed.rejected == {"empty": 1}
    # In real ones, PyTorch waits ten seconds after the error.
    two = SimpleNamespace(num_workers=2)
    monkeypatch.setattr("cmim_hf.data.streamed_molecules.get_worker_info", lambda: two)
    with pytest.raises(ValueError, match="in 2 data-loader processes"):
        next(iter(streamed))
