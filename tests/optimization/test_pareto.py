# SPDX-License-Identifier: Apache-2.0
"""Orders by several objectives, and searches that go by them."""

import sys

import numpy as np
import pytest
from test_latent_search import START, nearness, search

from cmim_hf.optimization.pareto import best_first, front_ranks


def dominates(first, second):
    return all(a >= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def ranks(values):
    """By the definition: peel off what nothing dominates."""
    left, found = set(range(len(values))), {}
    for rank in range(len(values)):
        front = {i for i in left if not any(dominates(values[j], values[i]) for j in left)}
        found |= dict.fromkeys(front, rank)
        left -= front
    return [found[i] for i in range(len(values))]


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_fronts_are_those_of_the_definition(columns):
    values = np.random.default_rng(columns).integers(0, 6, (60, columns)).astype(float)
    assert front_ranks(values).tolist() == ranks(values.tolist())


def test_within_a_front_the_ends_come_first_and_then_the_lonely():
    front = np.array([[0, 10.0], [1, 9], [2, 8], [6, 5], [10, 0]])
    assert best_first(np.array([*front, [0, 0]]))[:3].tolist() == [0, 4, 3]
    assert best_first(np.array([*front, [0, 0]]))[-1] == 5


def test_one_column_is_sorted_and_equals_keep_their_order():
    assert best_first(np.array([[1.0], [2.0], [2.0], [-1.0]])).tolist() == [1, 2, 0, 3]


def test_columns_of_one_value_do_not_divide_by_zero():
    assert best_first(np.array([[1.0, 5], [1, 7], [1, 6]])).tolist() == [1, 2, 0]


def carbons(smiles):
    return smiles.count("C")


def test_the_front_holds_what_nothing_else_of_its_search_dominates():
    found = search({nearness: 1.0, carbons: -1.0}, seeds=[START, "CCNCC"], budget=80, pareto=True)
    for seed, rows in found.table.groupby("seed"):
        values = [(row["nearness"], -row["carbons"]) for _, row in rows.iterrows()]
        best = {one for one, rank in zip(rows["smiles"], ranks(values), strict=True) if rank == 0}
        assert set(found.front[found.front["seed"] == seed]["smiles"]) == best and best
    assert f"{len(found.front)} molecules are on a Pareto front." in str(found)
    assert list(found.front.columns) == list(found.table.columns)


def volume(values, corner):
    """Area that two objectives dominate beyond a corner."""
    area, height = 0.0, corner[1]
    for x, y in sorted(values, reverse=True):
        if y > height and x > corner[0]:
            area, height = area + (x - corner[0]) * (y - height), y
    return area


def test_a_search_by_fronts_covers_more_than_one_by_the_sum():
    """Near the target are 23 carbons; the fewer, the better by the second objective."""
    scorer = {nearness: 1.0, carbons: -1.0}
    areas = {True: [], False: []}
    for pareto, seed in ((pareto, seed) for pareto in areas for seed in range(3)):
        table = search(scorer, budget=250, step=0.5, pareto=pareto, seed=seed).table
        areas[pareto].append(
            volume(zip(table["nearness"], -table["carbons"], strict=True), (-30, -40))
        )
    assert np.mean(areas[True]) > np.mean(areas[False]) + 20


def test_only_the_sign_of_a_weight_matters():
    light, heavy = (
        search({nearness: 1.0, carbons: weight}, budget=60, pareto=True).table["smiles"]
        for weight in (-1.0, -1000.0)
    )
    assert light.tolist() == heavy.tolist()


def test_the_similarity_to_the_seed_may_be_an_objective():
    found = search({nearness: 1.0, "similarity": 1.0}, budget=60, pareto=True)
    assert START in found.front["smiles"].tolist()  # nothing is more like it


def test_one_term_is_refused():
    with pytest.raises(ValueError, match="at least two terms, .* this one has nearness"):
        search(pareto=True)


def test_without_moocore_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moocore", None)
    assert search(budget=10).best["calls"][0] == 10

    def paid(smiles):
        raise AssertionError("a score was asked for")

    with pytest.raises(ImportError, match=r"pip install 'cmim-hf\[optimize\]'"):
        search({paid: 1.0, carbons: -1.0}, pareto=True)
