# SPDX-License-Identifier: Apache-2.0
"""The order of molecules, streams of them, and batches."""

import functools
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_rows import SAMPLE, decoded, pack, rows_of
from torch.utils.data import DataLoader

from cmim_hf.chemistry import smiles as chem
from cmim_hf.data.collator import CMIMCollator, molecule_key
from cmim_hf.data.length_buckets import LengthBucketSampler
from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.data.streamed_molecules import StreamedMolecules


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 90), max_size=300),
    batch_size=st.integers(1, 40),
    mega=st.integers(1, 5),
    bucket=st.booleans(),
)
def test_sampler_yields_rows_once_in_whole_batches(lengths, batch_size, mega, bucket):
    sampler = LengthBucketSampler(lengths, batch_size, mega=mega, bucket=bucket)
    order = list(sampler)
    assert len(order) == len(sampler) == len(lengths) // batch_size * batch_size
    assert set(order) <= set(range(len(lengths))) and len(set(order)) == len(order)


def test_sampler_buckets_and_shuffles_batches():
    lengths = np.random.default_rng(0).integers(2, 100, 4007)
    sampler = LengthBucketSampler(lengths, 16, seed=5, mega=125)
    order = np.array(list(sampler))
    whole = lengths[order[:4000]].reshape(-1, 16)
    assert np.mean(whole.max(1) - whole.min(1)) < 4
    assert abs(np.corrcoef(np.arange(250), whole.mean(1))[0, 1]) < 0.2
    # What is left out is a random choice of all lengths, not the longest.
    left = [set(range(4007)) - set(order)]
    sampler.set_epoch(1)
    left.append(set(range(4007)) - set(sampler))
    assert len(left[0]) == len(left[1]) == 7 and left[0] != left[1]
    assert np.ptp(lengths[list(left[0])]) > 30
    plain = np.array(list(LengthBucketSampler(lengths, 16, seed=5, bucket=False)))
    spread = lengths[plain[:4000]].reshape(-1, 16)
    assert np.mean(spread.max(1) - spread.min(1)) > 60


def test_sampler_order_depends_on_seed_and_epoch_alone():
    lengths = list(range(2, 52)) * 4
    sampler = LengthBucketSampler(lengths, 8, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert list(LengthBucketSampler(lengths, 8, seed=2)) != orders[0]
    for sizes in ({"batch_size": 0}, {"batch_size": 1, "mega": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            LengthBucketSampler(lengths, **sizes)


def stream(texts_of_sources, tokenizer, **arguments):
    settings = {"max_length": 128, "canonicalize": False, "batch_size": 4, "mega": 3} | arguments
    sources = [functools.partial(rows_of, *texts) for texts in texts_of_sources]
    return StreamedMolecules(sources, tokenizer, **settings)


def test_stream_reads_in_turn_and_every_row_once(tokenizer):
    streamed = stream([["C", "CC"], [], ["N", "NN", "NNN"]], tokenizer, batch_size=5)
    by_row = sorted(streamed.one_pass(0), key=lambda item: item["row"])
    assert decoded(by_row, tokenizer) == ["C", "N", "CC", "NN", "NNN"]


def test_stream_orders_by_length_within_mega_batches(sample, tokenizer):
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
    streamed = stream([[row.text for row in sample[:400]]], tokenizer, batch_size=8, mega=10)
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


def test_stream_in_worker_processes(tokenizer):
    streamed = stream([["CCO", "", "N"]], tokenizer, batch_size=2)
    for epoch in (0, 4):
        loader = DataLoader(streamed, batch_size=None, num_workers=1)
        streamed.set_epoch(epoch)
        items = itertools.islice(loader, 4)
        assert [item["epoch"] for item in items] == [epoch, epoch, epoch + 1, epoch + 1]
        assert streamed.rejected == {"empty": 1}
    with pytest.raises(ValueError, match="in 2 data-loader processes"):
        list(DataLoader(streamed, batch_size=None, num_workers=2))


def test_collator_exact_tensors(tokenizer):
    c, o, end = (tokenizer.convert_tokens_to_ids(token) for token in ("C", "O", "</s>"))
    examples = list(pack(rows_of("CCO", "O", "CCO"), tokenizer))
    batch = CMIMCollator(tokenizer)(examples)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert list(batch) == ["input_ids", "attention_mask", "labels", "keys"]
    assert batch["input_ids"].tolist() == [[c, c, o, end], [o, end, 0, 0], [c, c, o, end]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[c, c, o, end], [o, end, -100, -100], [c, c, o, end]]
    assert batch["keys"][0] == batch["keys"][2] != batch["keys"][1]
    assert batch["keys"][0] == molecule_key([c, c, o, end])


def test_keys_are_fixed_numbers(sample, tokenizer):
    assert molecule_key([1, 2, 3]) == molecule_key(np.array([1, 2, 3], np.uint16))
    # BLAKE2b with 8 bytes of the little-endian 32-bit numbers, as any other program computes it.
    assert molecule_key([5, 6, 70000]) == -6129411609401767329
    keys = CMIMCollator(tokenizer)(list(pack(sample, tokenizer)))["keys"]
    assert len(keys.unique()) == len(sample)


def test_second_view_is_a_writing_of_the_same_molecule(packed, tokenizer):
    collator = CMIMCollator(tokenizer, views=2, seed=7)
    examples = [packed[i] for i in range(64)]
    batch = collator(examples)
    assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 128
    assert batch["keys"].shape == (64,)
    texts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert texts[:64] == decoded(examples, tokenizer)
    canonical = [chem.canonicalize(text) for text in texts]
    assert canonical[:64] == canonical[64:]
    assert sum(a != b for a, b in zip(texts[:64], texts[64:], strict=True)) > 60
    # A function of (seed, epoch, row), whatever the rest of the batch.
    alone = collator(examples[10:11])["input_ids"][1]
    assert tokenizer.decode(alone, skip_special_tokens=True) == texts[74]
    for other in (
        CMIMCollator(tokenizer, views=2, seed=8)(examples[10:11]),
        collator([examples[10] | {"epoch": 1}]),
        collator([examples[10] | {"row": 9999}]),
    ):
        assert tokenizer.decode(other["input_ids"][1], skip_special_tokens=True) != texts[74]


def test_second_view_too_long_is_the_first(tokenizer):
    examples = list(pack(rows_of("CC(C)Oc1ccccc1"), tokenizer))
    limit = len(examples[0]["input_ids"])
    collator = CMIMCollator(tokenizer, views=2, max_length=limit)
    same = 0
    for epoch in range(40):
        first, second = collator([examples[0] | {"epoch": epoch}])["input_ids"]
        assert len(first) == limit
        same += bool((first == second).all())
    assert 5 < same < 40


def test_collator_errors(tokenizer):
    with pytest.raises(ValueError, match="views is 1, or 2"):
        CMIMCollator(tokenizer, views=3)
    collator = CMIMCollator(tokenizer, views=2)
    with pytest.raises(ValueError, match=r"'row' and 'epoch'; \['row', 'epoch'\] missing"):
        collator([{"input_ids": [4, 2]}])


def test_a_molecule_that_does_not_parse_is_its_own_second_view(tokenizer):
    collator = CMIMCollator(tokenizer, views=2)
    first, second = collator(list(pack(rows_of("C1CC"), tokenizer)))["input_ids"]
    assert first.tolist() == second.tolist() == tokenizer("C1CC")["input_ids"]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_epoch_reaches_persistent_workers(packed, tokenizer, tmp_path, context):
    packed.save(tmp_path / "packed")
    molecules, _ = PackedMolecules.load(tmp_path / "packed").split(250, seed=0)
    sampler = LengthBucketSampler(molecules.lengths, 10, dataset=molecules)
    arguments = {"sampler": sampler, "batch_size": 10}
    loader = DataLoader(
        molecules,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=CMIMCollator(tokenizer, views=2),
        **arguments,
    )
    here = DataLoader(molecules, collate_fn=CMIMCollator(tokenizer, views=2), **arguments)
    seen = []
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        seen.append([batch["input_ids"] for batch in loader])
        expected = [batch["input_ids"] for batch in here]
        assert all(map(torch.equal, seen[-1], expected))
    texts = [
        {text for batch in epoch for text in tokenizer.batch_decode(batch[10:])} for epoch in seen
    ]
    assert len(texts[0] & texts[1]) < 10


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rdkit", "datasets"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.length_buckets import LengthBucketSampler
from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import Row
from cmim_hf.model.tokenization_cmim import default_tokenizer

tokenizer = default_tokenizer()
molecules, rejects = prepare(
    [Row("a", 1, "CCO"), Row("a", 2, "")], tokenizer, max_length=9, canonicalize=False
)
molecules = PackedMolecules.load(sys.argv[1], tokenizer)
sampler = LengthBucketSampler(molecules.lengths, 8, seed=1)
sampler.set_epoch(2)
order = list(sampler)
print(order)
batch = CMIMCollator(tokenizer)([molecules[i] for i in order[:8]])
assert batch["input_ids"].shape[0] == 8
try:
    CMIMCollator(tokenizer, views=2)([molecules[0]])
except ImportError as error:
    print(error)
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prepared_data_needs_neither_rdkit_nor_datasets_and_orders_agree(packed, tmp_path):
    packed.save(tmp_path / "packed")
    order, error = run_python(BLOCKED, tmp_path / "packed").splitlines()
    sampler = LengthBucketSampler(packed.lengths, 8, seed=1)
    sampler.set_epoch(2)
    assert json.loads(order) == list(sampler)
    assert "needs RDKit" in error


def test_sample_data_has_no_duplicates_and_no_overlap():
    train = {row.text for row in read_smiles(SAMPLE.with_name("moses_train.smi.gz"))}
    test = {row.text for row in read_smiles(SAMPLE)}
    assert (len(train), len(test), len(train & test)) == (50_000, 1000, 0)
