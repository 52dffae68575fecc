# SPDX-License-Identifier: Apache-2.0
"""Optimisation on a landscape with a known best molecule, and through the checkpoint."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cmim_hf import MoleculeGenerator
from cmim_hf.chemistry.properties import qed
from cmim_hf.chemistry.smiles import canonicalize, similarity
from cmim_hf.optimization import evolution
from cmim_hf.optimization.evolution import CHANGE, INWARD
from cmim_hf.optimization.latent_search import optimize
from cmim_hf.optimization.scorers import batch_scorer

SIZE = 6
TARGET = (8, 0, 5, 1, 7, 2)
START = "CCCNCCCNCCCNCCCNCCCNCCC"


def decode(codes):
    """Chains of carbons between nitrogens, whose lengths are the rounded codes; some are none."""
    lengths = np.clip(np.round(2 * np.asarray(codes)) + 3, 0, 9).astype(int)
    return [
        None if row.sum() % 7 == 3 else canonicalize("N".join("C" * length for length in row))
        for row in lengths
    ]


def nearness(smiles):
    """0 at the chain of the lengths `TARGET`, less elsewhere."""
    lengths = [len(part) for part in smiles.split("N")]
    if len(lengths) != SIZE:
        return -50.0
    return -min(
        sum(abs(a - b) for a, b in zip(order, TARGET, strict=True))
        for order in (lengths, lengths[::-1])
    )


def search(scorer=nearness, seeds=(START,), codes=None, **options):
    codes = np.zeros((len(seeds), SIZE)) if codes is None else codes
    settings = {"budget": 60, "progress": False, **options}
    return optimize(seeds, codes, settings.pop("decode", decode), scorer, **settings)


def test_evolution_comes_nearer_to_the_best_molecule_than_random_search():
    seeds = [START] * 4
    best = {
        strategy: search(seeds=seeds, strategy=strategy, step=0.5, budget=300).best
        for strategy in ("evolution", "random")
    }
    assert best["evolution"]["calls"].tolist() == best["random"]["calls"].tolist() == [300] * 4
    assert best["evolution"]["score"].mean() > best["random"]["score"].mean() + 6
    assert best["evolution"]["score"].min() > best["random"]["score"].max() + 3
    assert best["evolution"]["score"].max() == 0


@pytest.mark.parametrize("strategy", ["evolution", "random"])
@pytest.mark.parametrize("budget", [1, 2, 33])
def test_the_budget_is_what_is_scored_for_each_seed(strategy, budget):
    asked = []

    def count(smiles):
        asked.append(smiles)
        return nearness(smiles)

    found = search(count, seeds=[START, "CCNCC"], strategy=strategy, budget=budget)
    assert found.table.groupby("seed").size().tolist() == [budget, budget]
    assert found.best["calls"].tolist() == [budget, budget]
    assert found.best["stopped"].tolist() == ["budget", "budget"]
    assert not found.table.duplicated(["seed", "smiles"]).any()
    assert len(asked) == len(set(asked)) == found.calls == found.table["smiles"].nunique()
    assert not found.interrupted and not found.failures


def test_a_goal_ends_the_search_that_reaches_it_with_its_round():
    seeds = [START, "CCNCC"]
    codes = np.array([np.zeros(SIZE), np.full(SIZE, 60.0)])  # whence one molecule comes
    found = search(seeds=seeds, codes=codes, goal=-8, budget=200, step=0.5, population=10)
    assert found.best["stopped"].tolist() == ["goal", "exhausted"]
    own = found.table[found.table["seed"] == 0]
    reached = own[own["score"] >= -8]["iteration"].unique()
    assert reached.tolist() == [own["iteration"].max()] and len(own) < 200
    whole = search(seeds=seeds, codes=codes, budget=200, step=0.5, population=10).table
    kept = whole[whole["seed"] == 0]["smiles"].tolist()[: len(own)]
    assert own["smiles"].tolist() == kept
    assert search(goal=-100).best["calls"][0] == 1  # the seed has it


def test_the_seeds_are_scored_first_and_are_the_best_where_nothing_is_better():
    found = search(lambda smiles: -len(smiles), seeds=["C", "CCO"], budget=30)
    assert found.table["smiles"][:2].tolist() == ["C", "CCO"]
    assert found.table["iteration"].tolist()[:3] == [0, 0, 1]
    assert found.best["smiles"][0] == "C" and found.best["score"][0] == -1
    assert found.best["seed_smiles"].tolist() == ["C", "CCO"]
    assert found.best["seed_score"].tolist() == [-1, -3]


def test_the_best_is_the_highest_row_of_its_seed():
    found = search(seeds=[START, "CCNCC"], budget=50)
    for _, row in found.best.iterrows():
        own = found.table[found.table["seed"] == row["seed"]]
        assert row["score"] == own["score"].max() == nearness(row["smiles"])
        assert row["similarity"] == similarity(row["seed_smiles"], row["smiles"])


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_molecules_unlike_the_seed_are_neither_scored_nor_best(strategy):
    asked = []

    def count(smiles):
        asked.append(smiles)
        return nearness(smiles)

    found = search(count, strategy=strategy, min_similarity=0.6, budget=40)
    assert len(asked) == 40 and min(similarity(START, smiles) for smiles in asked) >= 0.6
    assert found.best["similarity"][0] >= 0.6
    free = search(strategy=strategy, budget=40)
    assert free.table["similarity"].min() < 0.6


def test_where_nothing_is_feasible_the_search_turns_to_what_is_like_the_seed():
    """From the code of another molecule; only the seed itself is feasible."""
    nearness_of_rounds = []

    def watch(codes):
        molecules = decode(codes)
        near = [similarity(START, smiles) for smiles in molecules if smiles]
        nearness_of_rounds.append(np.mean(near))
        return molecules

    far = np.array([[2.5, -1.0, 2.0, -1.0, 2.5, -1.0]])
    search(codes=far, decode=watch, min_similarity=1.0, step=0.3, budget=2)
    assert np.mean(nearness_of_rounds[15:25]) > nearness_of_rounds[0] + 0.15


def test_only_the_order_of_scores_matters():
    plain = search(budget=80)
    warped = search(lambda smiles: float(np.exp(nearness(smiles) / 10) * 1e-9), budget=80)
    assert warped.table["smiles"].tolist() == plain.table["smiles"].tolist()


def test_one_call_decodes_a_round_of_all_seeds():
    sizes = []

    def count(codes):
        sizes.append(len(codes))
        return decode(codes)

    search(seeds=[START, "CCNCC", "CNC"], decode=count, population=12, budget=20)
    assert sizes[0] == 108 and set(sizes) <= {36, 72, 108}


def test_even_the_best_molecule_is_no_parent_any_more_once_many_others_were_scored(monkeypatch):
    def runs():
        scores = iter(range(10_000, 0, -1))  # the first are the best
        return search(lambda _: next(scores), budget=640, step=0.5, population=20).table["smiles"]

    aged = runs()
    monkeypatch.setattr(evolution, "LIFETIME", 10_000)
    kept = runs()
    first = (aged != kept).argmax()
    assert 500 < first < 560 and (aged != kept)[first:].mean() > 0.9


def test_spread_scales_each_coordinate():
    seen = []

    def keep(codes):
        seen.append(np.array(codes))
        return decode(codes)

    code = np.full((1, SIZE), 0.25)
    spread = np.array([0.0, 0.1, 1.0, 1.0, 1.0, 1.0])
    search(decode=keep, codes=code, spread=spread, step=0.5, strategy="random", population=400)
    first = seen[0] - code
    assert (first[:, 0] == 0).all()
    assert first[:, 1:].std(axis=0) == pytest.approx(0.5 * spread[1:], rel=0.15)


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_evolution_draws_codes_inwards_so_that_they_do_not_drift_out(strategy):
    seen = []

    def keep(codes):
        seen.append(np.array(codes))
        return decode(codes)

    code = np.full((1, SIZE), 5.0)
    search(decode=keep, codes=code, step=1.0, strategy=strategy, population=2000)
    radii = np.exp(CHANGE * np.random.default_rng(0).standard_normal(100_000))
    expected = 5 * np.mean((1 + INWARD * radii**2) ** -0.5) if strategy == "evolution" else 5
    assert seen[0].mean(axis=0) == pytest.approx(np.full(SIZE, expected), abs=0.1)
    assert expected < 4.4 or strategy == "random"


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_search_that_finds_nothing_new_starts_again_with_larger_steps_and_stops(strategy):
    steps = []

    def none(codes):
        steps.append(np.std(codes))
        return [None] * len(codes)

    found = search(decode=none, strategy=strategy, step=0.1, population=100)
    assert found.best["stopped"][0] == "exhausted" and found.best["calls"][0] == 1
    assert len(steps) == 90
    begun = np.array([np.mean(steps[start : start + 2]) for start in (0, 30, 60)])
    wider = np.exp(CHANGE**2) if strategy == "evolution" else 1  # root of the mean square radius
    assert begun / wider == pytest.approx([0.1, 0.2, 0.4], rel=0.15)
    assert "1 exhausted" in str(found)


def test_where_larger_steps_came_upon_enough_molecules_the_next_are_the_first_again():
    steps = []

    def few(codes):
        steps.append(np.square(codes).mean())
        new = {5: "CC", 35: "CCC", 60: "CCCC"}.get(len(steps))
        return [new, *[None] * (len(codes) - 1)]

    found = search(decode=few, step=0.1, strategy="random", population=4)
    assert found.best["calls"][0] == 4 and found.best["stopped"][0] == "exhausted"
    radii = np.sqrt(np.reshape(steps, (-1, 30)).mean(axis=1))  # one is less than half of four
    assert radii == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.4], rel=0.15)


def test_runs_repeat_and_leave_the_random_numbers_of_others_alone():
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    first = search(seed=1, population=5)
    assert np.random.rand() == expected
    np.random.seed(4)
    pd.testing.assert_frame_equal(search(seed=1, population=5).table, first.table)
    other = search(seed=2, population=5)
    assert other.table["smiles"].tolist() != first.table["smiles"].tolist()


def test_seeds_of_one_molecule_search_differently():
    found = search(seeds=[START, START])
    halves = [set(rows["smiles"]) for _, rows in found.table.groupby("seed")]
    assert len(halves[0] ^ halves[1]) > 20


def test_failures_rank_last_are_counted_and_said():
    def fragile(smiles):
        if smiles.count("C") % 3 == 0:
            raise OSError("no pose")
        return None if smiles.count("C") % 3 == 1 else nearness(smiles)

    found = search(fragile, seeds=["CC"], budget=120)
    rows = found.table
    errors = rows["error"].value_counts().to_dict()
    assert set(errors) == {"", "raised OSError: no pose", "returned None"}
    assert (rows["score"].isna() == (rows["error"] != "")).all()
    assert found.failures == {
        "raised OSError": errors["raised OSError: no pose"],
        "returned None": errors["returned None"],
    }
    assert found.best["calls"][0] == 120 and found.best["smiles"][0].count("C") % 3 == 2
    said = str(found).splitlines()[1]
    assert said.startswith(f"The scorer failed in {found.failures.total()} calls: ")
    first = rows[rows["error"] == "returned None"]["smiles"].iloc[0]
    assert f"{errors['returned None']} returned None, first 'returned None' for {first}" in said
    number = errors["raised OSError: no pose"]
    assert f"{number} raised OSError, first 'raised OSError: no pose' for " in said


def test_where_the_seed_fails_the_others_are_searched():
    def fragile(smiles):
        if smiles == START:
            raise ValueError("this one")
        return nearness(smiles)

    found = search(fragile, budget=30)
    assert np.isnan(found.best["seed_score"][0]) and found.best["score"][0] > -50
    assert found.failures == {"raised ValueError": 1}


def test_where_all_fail_there_is_no_best():
    found = search(lambda smiles: None, budget=10)
    row = found.best.iloc[0]
    assert row["smiles"] is None and np.isnan(row["score"]) and row["calls"] == 10
    assert "0 of 1 molecules improved" in str(found)


def test_a_broken_scorer_stops_the_run_and_leaves_its_table(tmp_path):
    def broken(smiles):
        raise ImportError("no module named dock")

    with pytest.raises(RuntimeError, match="ImportError: no module named dock"):
        search(broken, table=tmp_path / "table.csv")
    assert len(pd.read_csv(tmp_path / "table.csv")) == 20


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": 0}, ValueError, "at least 1; got 0"),
        ({"budget": 2.5}, TypeError, "float"),
        ({"population": 3}, ValueError, "at least 4, got 3"),
        ({"step": 0.0}, ValueError, "positive and finite, got 0.0"),
        ({"step": float("nan")}, ValueError, "got nan"),
        ({"min_similarity": 1.5}, ValueError, r"in \[0, 1\], got 1.5"),
        ({"min_similarity": float("nan")}, ValueError, "got nan"),
        ({"goal": float("nan")}, ValueError, "`goal` is a number, not nan"),
        ({"goal": 1.0, "pareto": True}, ValueError, "`goal` is a score, and with `pareto`"),
        ({"timeout": 0}, ValueError, "seconds above 0, .* got 0"),
        ({"strategy": "cma"}, ValueError, "evolution or random, not 'cma'"),
        ({"scorer": "QED"}, ValueError, "no scorer 'QED'"),
        ({"scorer": 3}, TypeError, "got a int"),
        ({"seeds": []}, ValueError, "no seed"),
        ({"seeds": "CC"}, TypeError, r"give \['CC'\]"),
        ({"seeds": ["CC", "C1CC"], "codes": np.zeros((2, SIZE))}, ValueError, "unclosed ring"),
        ({"codes": np.zeros((2, SIZE))}, ValueError, r"here \(1, size\); got \(2, 6\)"),
        ({"codes": np.zeros((1, 2, 3))}, ValueError, r"got \(1, 2, 3\)"),
        ({"codes": np.full((1, SIZE), np.nan)}, ValueError, "codes are finite"),
        ({"decode": lambda codes: ["CC"]}, ValueError, "got 60 codes and returned 1"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        search(**arguments)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    """In a process of its own, killed within the 45th call of the scorer."""
    code = f"""
    import os, signal
    from test_latent_search import nearness, search
    asked = 0
    def scorer(smiles):
        global asked
        asked += 1
        if asked == 45:
            os.kill(os.getpid(), signal.SIGKILL)
        return nearness(smiles)
    search(scorer, seeds=["{START}", "CCNCC"], table="killed.csv")
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
    table = tmp_path / "killed.csv"
    assert len(pd.read_csv(table)["smiles"].unique()) == 44
    with open(table, "a") as stream:
        stream.write("1,CCNCC,CCN")  # a line that was being written
    asked = []

    def scorer(smiles):
        asked.append(smiles)
        return nearness(smiles)

    resumed = search(scorer, seeds=[START, "CCNCC"], table=table)
    whole = search(scorer, seeds=[START, "CCNCC"], table=tmp_path / "whole.csv")
    assert resumed.reused == 44 and whole.reused == 0
    assert asked == [*whole.table["smiles"].unique()[44:], *whole.table["smiles"].unique()]
    pd.testing.assert_frame_equal(resumed.best, whole.best)
    assert table.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    settings = [
        json.loads((tmp_path / f"{name}.csv.json").read_text()) for name in ("killed", "whole")
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("where", ["scorer", "scorer in time", "decode"])
def test_ctrl_c_returns_what_was_found(tmp_path, where):
    asked = []

    def scorer(smiles):
        asked.append(smiles)
        if len(asked) == 45 and where != "decode":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return nearness(smiles)

    def interrupted(codes):
        if len(asked) > 40:
            signal.raise_signal(signal.SIGINT)
        return decode(codes)

    found = search(
        scorer,
        seeds=[START, "CCNCC"],
        decode=interrupted if where == "decode" else decode,
        timeout=60 if where == "scorer in time" else None,
        table=tmp_path / "table.csv",
    )
    assert found.interrupted and found.best["stopped"].tolist() == ["interrupted"] * 2
    expected = len(asked) if where == "decode" else 44
    assert found.calls == found.table["smiles"].nunique() == expected >= 40
    assert found.best["score"].tolist() == found.table.groupby("seed")["score"].max().tolist()
    kept = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(kept, found.table)


def test_a_larger_budget_goes_on_and_other_settings_are_refused(tmp_path):
    table = tmp_path / "table.csv"
    small = search(
        table=table, budget=np.int64(30), step=np.float64(0.5), settings={"checkpoint": "a"}
    )
    asked = []

    def count(smiles):
        asked.append(smiles)
        return nearness(smiles)

    count.__name__ = "nearness"
    large = search(count, table=table, budget=50, settings={"checkpoint": "a"})
    assert large.table["smiles"][:30].tolist() == small.table["smiles"].tolist()
    assert asked == large.table["smiles"][30:].tolist() and large.calls == 50
    plain = search(budget=50)
    pd.testing.assert_frame_equal(large.table, plain.table)
    for options, named in (
        ({"settings": {"checkpoint": "b"}}, "checkpoint was 'a', now 'b'"),
        ({"step": 0.25}, "step was .*, now 0.25"),
        ({"budget": 49}, "budget was 50, now 49"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"strategy": "random"}, "strategy was 'evolution', now 'random'"),
        ({"min_similarity": 0.4}, "min_similarity was 0.0, now 0.4"),
        ({"scorer": {nearness: 2.0}}, "weights was"),
    ):
        with pytest.raises(ValueError, match=named):
            search(
                **{"table": table, "budget": 50, "settings": {"checkpoint": "a"}, **options},
            )


def test_a_batch_scorer_is_called_once_a_round_with_new_feasible_molecules():
    given = []

    @batch_scorer
    def model(smiles):
        given.append(smiles)
        return np.array([nearness(one) for one in smiles])

    options = {"seeds": [START, "CCNCC", "CNC"], "budget": 50, "min_similarity": 0.3}
    together, single = search(model, **options), search(nearness, **options)
    pd.testing.assert_frame_equal(together.table, single.table)
    pd.testing.assert_frame_equal(together.best, single.best)
    assert given[0] == [START, "CCNCC", "CNC"]
    flat = [one for smiles in given for one in smiles]
    assert len(flat) == len(set(flat)) == together.calls and None not in flat
    assert len(given) <= together.table["iteration"].max() + 1


def test_where_some_seeds_have_no_best_molecule_it_is_none():
    found = search(lambda smiles: None if "O" in smiles else 1.0, seeds=["CO", "CN"], budget=1)
    assert found.best["smiles"].tolist() == [None, "CN"]


def test_the_checkpoint_finds_better_molecules_near_two_seeds():
    seeds = ["CC(=O)Nc1ccc(OCC(O)CNC(C)C)cc1", "O=C(Nc1ccccc1)c1ccc(Cl)cc1"]
    generator = MoleculeGenerator("tiny", progress=False)
    found = generator.optimize(seeds, "qed", budget=25, step=0.5, min_similarity=0.3)
    assert found.best["calls"].tolist() == [25, 25]
    assert (found.best["score"] > found.best["seed_score"]).all()
    for _, row in found.best.iterrows():
        assert row["score"] == qed(row["smiles"]) and row["similarity"] >= 0.3
