# SPDX-License-Identifier: Apache-2.0
"""Searches among molecules that satisfy constraints."""

import numpy as np
import pytest
from test_latent_search import START, decode, nearness, search

from cmim_hf.optimization.constraints import Constraints


@pytest.mark.parametrize("strategy", ["evolution", "random"])
@pytest.mark.parametrize("shared_budget", [False, True])
def test_only_what_satisfies_the_constraints_is_scored(strategy, shared_budget):
    asked, tried = [], []

    def count(smiles):
        asked.append(smiles)
        return nearness(smiles)

    def watch(codes):
        tried.extend(decode(codes))
        return tried[-len(codes) :]

    constraints = Constraints(keep="CCNCC", forbid="CCCCCC", ranges={"mw": (200, 350)})
    options = {"strategy": strategy, "shared_budget": shared_budget}
    found = search(count, decode=watch, step=0.8, constraints=constraints, population=20, **options)
    assert found.calls == 60 and constraints.broken(asked) == [None] * 60
    distinct = [one for one in dict.fromkeys(tried) if one not in (None, START)]
    broken = [one for one in constraints.broken(distinct) if one]
    assert found.broken.total() == len(broken) > 5
    assert dict(found.broken) == {kind: broken.count(kind) for kind in set(broken)}
    line = next(line for line in str(found).splitlines() if line.startswith("Not scored"))
    assert all(f"{number} {kind}" in line for kind, number in found.broken.items())


def test_a_seed_out_of_range_is_scored_but_never_best():
    lightest = Constraints(ranges={"mw": (None, 290)})  # START has 323
    found = search(lambda smiles: smiles.count("C"), step=0.5, constraints=lightest, budget=30)
    assert found.best["seed_score"][0] == 18 and found.best["score"][0] < 18
    assert lightest.broken([found.best["smiles"][0]]) == [None]
    alone = search(constraints=Constraints(ranges={"mw": (10, 20)}), budget=30, population=8)
    assert alone.best["smiles"][0] is None and np.isnan(alone.best["score"][0])
    assert alone.best["stopped"][0] == "exhausted" and alone.best["calls"][0] == 1


def test_a_table_made_with_other_constraints_is_refused(tmp_path):
    table = tmp_path / "table.csv"
    first = search(table=table, constraints=Constraints(ranges={"mw": (None, 600)}), budget=20)
    again = search(table=table, constraints=Constraints(ranges={"mw": (None, 600)}), budget=20)
    assert again.reused == 20 and again.best.equals(first.best)
    with pytest.raises(ValueError, match="constraints was .*600.*, now None"):
        search(table=table, budget=20)
