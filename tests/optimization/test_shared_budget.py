# SPDX-License-Identifier: Apache-2.0
"""One search from many molecules: its budget, whose seed a molecule counts for, going on."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_latent_search import SIZE, START, TARGET, decode, nearness, search

from cmim_hf import MoleculeGenerator
from cmim_hf.chemistry.properties import qed
from cmim_hf.chemistry.smiles import similarity

RANDOM = np.random.default_rng(0)
CODES = RANDOM.uniform(-1.5, 3.0, (12, SIZE))
CODES = np.array([code for code in CODES if decode(code[None])[0]])
SEEDS = decode(CODES)


def pool(scorer=nearness, **options):
    settings = {"seeds": SEEDS, "codes": CODES, "shared_budget": True, "budget": 300, **options}
    return search(scorer, **{"population": 20, "step": 0.3, **settings})


def test_one_budget_is_spent_by_all_and_the_best_come_first():
    asked = []

    def count(smiles):
        asked.append(smiles)
        return nearness(smiles)

    found = pool(count, budget=150)
    assert found.calls == len(found.table) == len(asked) == len(set(asked)) == 150
    assert asked[: len(SEEDS)] == SEEDS and found.table["call"].tolist() == [*range(1, 151)]
    assert len(found.best) == 100 and found.best["score"].is_monotonic_decreasing
    assert found.best["smiles"].is_unique
    assert found.best["score"].tolist() == sorted(found.table["score"], reverse=True)[:100]
    first, start = found.best["score"][0], found.table["score"][: len(SEEDS)].max()
    said = f"The best score is {first:.3g}, among the seeds {start:.3g}; 150 scored, 0 of them in"
    assert str(found).startswith(said) and "(stopped: budget)" in str(found)
    assert set(found.best["calls"]) == {150} and set(found.best["stopped"]) == {"budget"}


def test_a_shared_budget_finds_more_than_one_divided_among_the_seeds():
    shared = [pool(seed=seed).best["score"][0] for seed in range(3)]
    divided = [
        search(seeds=SEEDS, codes=CODES, budget=300 // len(SEEDS), seed=seed, step=0.3).best[
            "score"
        ]
        for seed in range(3)
    ]
    chance = [pool(seed=seed, strategy="random").best["score"][0] for seed in range(3)]
    assert np.mean(shared) > max(one.max() for one in divided) and np.mean(shared) > max(chance)
    assert max(shared) == 0 == nearness("N".join("C" * length for length in TARGET))


def test_a_molecule_counts_for_the_seed_that_it_is_most_like():
    found = pool(budget=100, min_similarity=0.7)
    assert found.calls == 100
    for _, row in found.table.iterrows():
        near = [similarity(one, row["smiles"]) for one in SEEDS]
        assert row["similarity"] == max(near) == near[row["seed"]] >= 0.7
        assert row["seed_smiles"] == SEEDS[row["seed"]]
    scores = dict(zip(SEEDS, found.table["score"], strict=False))
    assert found.best["seed_score"].tolist() == [scores[one] for one in found.best["seed_smiles"]]
    assert found.broken["similarity below 0.7"] > 0


def test_seeds_that_come_twice_count_once():
    doubled = pool(seeds=SEEDS * 2, codes=np.concatenate([CODES, CODES]), budget=60)
    assert doubled.calls == len(doubled.table) == 60 and doubled.table["smiles"].is_unique


def test_a_budget_too_small_for_the_seeds_is_refused():
    with pytest.raises(ValueError, match=f"at least 1 for each of {len(SEEDS)} seeds; got 3"):
        pool(budget=3)
    assert pool(budget=len(SEEDS)).calls == len(SEEDS)


def test_a_pool_of_which_nothing_new_comes_ends():
    found = pool(decode=lambda codes: [START] * len(codes), budget=100)
    assert found.calls == len(SEEDS) + 1 and set(found.best["stopped"]) == {"exhausted"}


@pytest.mark.parametrize("call", [7, 90])
def test_a_killed_pool_goes_on_as_if_it_had_not_been(tmp_path, call):
    """Among the seeds, or later."""
    code = f"""
    import os, signal
    from test_shared_budget import nearness, pool
    asked = 0
    def scorer(smiles):
        global asked
        asked += 1
        if asked == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return nearness(smiles)
    pool(scorer, table="killed.csv", budget=120)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    asked = []

    def scorer(smiles):
        asked.append(smiles)
        return nearness(smiles)

    resumed = pool(scorer, table=tmp_path / "killed.csv", budget=120)
    whole = pool(budget=120)
    assert resumed.reused == call - 1 and asked == whole.table["smiles"].tolist()[call - 1 :]
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    pd.testing.assert_frame_equal(resumed.best, whole.best)


def test_an_interrupted_pool_returns_what_it_found():
    asked = []

    def scorer(smiles):
        asked.append(smiles)
        if len(asked) == 60:
            signal.raise_signal(signal.SIGINT)
        return nearness(smiles)

    found = pool(scorer)
    assert found.interrupted and found.calls == 59 == found.best["calls"][0] == len(found.best)
    assert set(found.best["stopped"]) == {"interrupted"}


def test_the_checkpoint_starts_from_what_it_draws():
    generator = MoleculeGenerator("tiny", seed=0, progress=False)
    starts = sorted(filter(None, generator.sample(60, prior="fitted")), key=qed)[:15]
    found = generator.optimize(
        starts, "qed", shared_budget=True, budget=60, population=15, on_invalid="skip"
    )
    assert found.calls == 60 and found.best["score"][0] == qed(found.best["smiles"][0])
    later = found.table[found.table["iteration"] > 0]
    assert later["score"].mean() > found.table["score"][:15].mean() + 0.05
    assert later["score"].max() > found.table["score"][:15].max() + 0.1


def test_a_small_seed_may_grow_far_beyond_its_size():
    generator = MoleculeGenerator(seed=0, progress=False)
    found = generator.optimize(["CC"], size_of, budget=60, step=1.0)
    tokens = generator.tokenizer(["CC", found.best["smiles"][0]])["input_ids"]
    assert len(tokens[1]) > 2 * len(tokens[0]) + 2


def size_of(smiles):
    """Its length."""
    return len(smiles)
