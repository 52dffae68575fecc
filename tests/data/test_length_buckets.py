# SPDX-License-Identifier: Apache-2.0
"""The order of molecules: whole batches of near lengths, the same wherever it is computed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmim_hf.data import length_buckets
from cmim_hf.data.length_buckets import LengthBucketSampler


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 90), max_size=300),
    batch_size=st.integers(1, 40),
    bucket=st.booleans(),
)
def test_sampler_yields_rows_once_in_whole_batches(lengths, batch_size, bucket):
    sampler = LengthBucketSampler(lengths, batch_size, bucket=bucket)
    order = list(sampler)
    assert len(order) == len(sampler) == len(lengths) // batch_size * batch_size
    assert set(order) <= set(range(len(lengths))) and len(set(order)) == len(order)


def test_sampler_buckets_and_shuffles_batches(monkeypatch):
    monkeypatch.setattr(length_buckets, "MEGA", 125)
    lengths = np.random.default_rng(0).integers(2, 100, 4007)
    sampler = LengthBucketSampler(lengths, 16, seed=5)
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


def test_the_order_is_that_of_earlier_versions(monkeypatch):
    """A run that is resumed goes on in it."""
    monkeypatch.setattr(length_buckets, "MEGA", 2)
    sampler = LengthBucketSampler([2, 9, 4, 7, 3, 8, 5, 6], 2, seed=1)
    sampler.set_epoch(3)
    assert list(sampler) == [4, 6, 0, 2, 3, 5, 7, 1]
