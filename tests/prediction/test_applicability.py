# SPDX-License-Identifier: Apache-2.0
"""Distances to the training molecules as percentiles."""

import numpy as np
import pytest

from cmim_hf.prediction import applicability
from cmim_hf.prediction.applicability import ApplicabilityDomain


def test_molecules_of_the_same_kind_spread_over_the_percentiles_and_others_are_far():
    random = np.random.default_rng(0)
    domain = ApplicabilityDomain.fit(random.normal(3, [1, 100], (2000, 2)))
    like = domain.percentiles(random.normal(3, [1, 100], (2000, 2)))
    assert np.quantile(like, [0.25, 0.5, 0.75]) == pytest.approx([25, 50, 75], abs=5)
    far = domain.percentiles(np.array([[3.0, 3.0], [3.0, 1003.0], [13.0, 3.0]]))
    assert far[0] < 60 and far[1:].tolist() == [100, 100]  # each coordinate in its own unit
    assert domain.percentiles(np.empty((0, 2))).shape == (0,)


def test_arrays_make_the_same_domain():
    vectors = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    vectors[:, 1] = 7  # the same for all
    domain = ApplicabilityDomain.fit(vectors)  # fewer than six molecules
    again = ApplicabilityDomain(domain.arrays())
    queries = np.random.default_rng(2).normal(size=(9, 3))
    assert np.array_equal(domain.percentiles(queries), again.percentiles(queries))
    assert np.isfinite(domain.percentiles(queries)).all()


def test_a_part_of_many_molecules_is_kept(monkeypatch):
    monkeypatch.setattr(applicability, "MOST", 50)
    vectors = np.random.default_rng(0).normal(size=(200, 2))
    assert ApplicabilityDomain.fit(vectors).arrays()["vectors"].shape == (50, 2)
    with pytest.raises(ValueError, match="at least two"):
        ApplicabilityDomain.fit(vectors[:1])
