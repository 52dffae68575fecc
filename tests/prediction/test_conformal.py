# SPDX-License-Identifier: Apache-2.0
"""Intervals and sets of labels hold the truth as often as they say."""

import numpy as np
import pytest

from cmim_hf.prediction.conformal import bound, checked_level, label_bounds


def test_the_bound_is_the_next_rank_of_one_row_more():
    scores = np.array([4.0, 1.0, np.nan, 3.0, 2.0])
    assert [bound(scores, level) for level in (0.2, 0.4, 0.6, 0.8)] == [1, 2, 3, 4]
    assert bound(scores, 0.81) == bound(np.array([]), 0.5) == bound(np.array([]), 1e-12) == np.inf
    assert bound(scores, 1e-12) == 1
    assert bound(np.arange(1.0, 100.0), 0.9) == 90  # and no rounding of .9 * 100 gives 91


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_new_rows_are_covered_at_the_level(level):
    random = np.random.default_rng(0)
    covered = [
        np.mean(random.exponential(size=500) <= bound(random.exponential(size=99), level))
        for _ in range(400)
    ]
    assert np.mean(covered) == pytest.approx(level, abs=0.01)


def test_each_label_has_a_bound_of_its_own_so_that_the_rare_one_is_covered():
    random = np.random.default_rng(0)

    def draw(number):
        labels = (random.random(number) < 0.1).astype(float)
        yes = np.clip(random.normal(0.1 + 0.3 * labels, 0.15), 0, 1)  # the rare label comes out low
        return np.stack([1 - yes, yes], axis=1), labels

    calibration, labels = draw(2000)
    bounds = label_bounds(calibration, np.where(np.arange(2000) < 50, np.nan, labels), 0.9)
    values, truth = draw(20_000)
    ruled_in = 1 - values <= bounds
    for label in (0, 1):
        own = truth == label
        assert ruled_in[own, label].mean() == pytest.approx(0.9, abs=0.04)
    assert bounds[1] > 0.7 > bounds[0]


@pytest.mark.parametrize("level", [0, 1, -1, 90, np.nan])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match="`level` is between 0 and 1"):
        checked_level(level)
