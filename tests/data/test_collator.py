# SPDX-License-Identifier: Apache-2.0
"""Batches for training: exact tensors, keys, second views."""

import numpy as np
import pytest
import torch
from packed_rows import decoded, pack, rows_of
from torch.utils.data import DataLoader

from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.data.collator import CMIMCollator, molecule_key
from cmim_hf.data.length_buckets import LengthBucketSampler
from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.model.molecule_tokenizer_cmim import CMIMMoleculeTokenizer


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
    canonical = [canonicalize(text) for text in texts]
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
    with pytest.raises(ValueError, match=r"'row' and 'epoch', got \['input_ids'\]"):
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


def test_second_views_of_a_fine_tuned_checkpoint_are_not_canonical(packed, tokenizer, tmp_path):
    """Its tokenizer, called, would write each as the first view is written."""
    tokenizer.save_pretrained(tmp_path)
    reads = CMIMMoleculeTokenizer.save_in_place_of(tmp_path, "none")
    examples = [packed[i] for i in range(8)]
    expected, found = (
        CMIMCollator(one, views=2, seed=7)(examples)["input_ids"] for one in (tokenizer, reads)
    )
    assert torch.equal(found, expected)
