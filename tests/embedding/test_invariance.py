# SPDX-License-Identifier: Apache-2.0
"""A vector is a function of its molecule: properties over random lists, batches and writings."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.chemistry.smiles import canonicalize, randomize
from cmim_hf.embedding.sharded_library import Library, embed_shards

MOLECULES = 120
TOLERANCE = 1e-5  # of the norm, in float32
HALF = 0.05  # the same in bfloat16, which keeps 8 bits
few = settings(max_examples=25, deadline=None, database=None)
indices = st.lists(st.integers(0, MOLECULES - 1), min_size=1, max_size=24)


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(
        list_checkpoints()["tiny"], representation="both", on_invalid="none", progress=False
    )


@pytest.fixture(scope="module")
def pool(sample):
    """Molecules of MOSES, and of one atom to a hundred."""
    odd = ["C", "[Na+].[Cl-]", "C" * 100, "N[C@@H](C)C(=O)" * 12 + "O", "F/C=C/Cl", "[13CH4]"]
    return [canonicalize(text) for text in [*odd, *(row.text for row in sample)][:MOLECULES]]


@pytest.fixture(scope="module")
def expected(embedder, pool):
    """Each molecule's vector, alone in its batch and without padding."""
    return np.concatenate([embedder.embed([text]) for text in pool])


def distance(found, expected):
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


@pytest.fixture(scope="module")
def budgets():
    """Embedders of other batch sizes, from one molecule a batch to all in one."""
    tiny = list_checkpoints()["tiny"]
    return [
        MoleculeEmbedder(tiny, representation="both", batch_tokens=tokens, progress=False)
        for tokens in (1, 60, 300, 10_000)
    ]


@few
@given(picked=indices, budget=st.integers(0, 3), seed=st.integers(0, 10**6))
def test_order_batches_duplicates_and_writings(budgets, pool, expected, picked, budget, seed):
    written = [randomize(pool[one], seed + place) for place, one in enumerate(picked)]
    assert distance(budgets[budget].embed(written), expected[picked]) <= TOLERANCE


@few
@given(picked=indices, places=st.sets(st.integers(0, 30), max_size=8))
def test_invalid_rows_between_change_no_other(embedder, pool, expected, picked, places):
    rows = [pool[one] for one in picked]
    for place in sorted(places):
        rows.insert(min(place, len(rows)), "C(C")
    found, kept = embedder.embed(rows, on_invalid="skip", return_indices=True)
    assert [rows[one] for one in kept] == [pool[one] for one in picked]
    assert distance(found, expected[picked]) <= TOLERANCE


@few
@given(picked=indices, pads=st.integers(0, 200))
def test_padding(embedder, pool, expected, picked, pads):
    batch = embedder.tokenizer([pool[one] for one in picked], padding=True, return_tensors="pt")
    ids = torch.nn.functional.pad(
        batch["input_ids"], (0, pads), value=embedder.tokenizer.pad_token_id
    )
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, pads))
    with torch.no_grad():
        found = embedder.model.get_representation(ids, mask, representation="both").numpy()
    assert distance(found, expected[picked]) <= TOLERANCE


@pytest.fixture(scope="module")
def precisions():
    """Embedders in double and in half precision."""
    tiny = list_checkpoints()["tiny"]
    return [
        MoleculeEmbedder(tiny, representation="both", dtype=dtype, progress=False)
        for dtype in ("float64", "bfloat16")
    ]


@few
@given(picked=indices)
def test_half_and_double_precision_stay_near(precisions, pool, expected, picked):
    double, half = (each.embed([pool[one] for one in picked]) for each in precisions)
    assert distance(double, expected[picked]) <= TOLERANCE
    assert 0 < distance(half, expected[picked]) <= HALF


@settings(max_examples=4, deadline=None, database=None)
@given(ranks=st.integers(1, 5), shard_rows=st.integers(7, 60), order=st.randoms())
def test_processes_and_shards(embedder, pool, expected, ranks, shard_rows, order):
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "molecules.smi")
        some = pool[:50]
        source.write_text("\n".join(some))
        library = Library(Path(place, "library"), (str(source),), shard_rows)
        library.open(embedder)
        for rank in order.sample(range(ranks), ranks):
            list(embed_shards(library.pending(rank, ranks), embedder))
        assert library.close()["read"] == len(some)
        table = pq.read_table(library.folder)
    assert table["smiles"].to_pylist() == some
    vectors = table["embedding"].combine_chunks().flatten().to_numpy()
    assert distance(vectors.reshape(len(some), -1), expected[: len(some)]) <= TOLERANCE
