# SPDX-License-Identifier: Apache-2.0
"""The table of scores: each molecule scored once, every failure recorded, every row kept."""

import json
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from cmim_hf.chemistry.smiles import similarity
from cmim_hf.optimization.score_table import PATIENCE, ScoreTable
from cmim_hf.optimization.scorers import as_scorer, batch_scorer

SEEDS = ["CCO", "CCN"]


def alkane(length):
    return "C" * length


class Counting:
    """Number of atoms of an alkane; remembers what it was asked."""

    def __init__(self, answer=len):
        self.asked, self.answer = [], answer

    def __call__(self, smiles):
        self.asked.append(smiles)
        return self.answer(smiles)


def table_of(scorer, **options):
    return ScoreTable(as_scorer(scorer), SEEDS, **options)


def ask_one(table, seed, smiles, iteration=1):
    (value,) = table.score([(seed, smiles)], iteration)
    return value


def errors(table):
    return table.frame()["error"].tolist()


def failures(table):
    return table.counts()[2]


def test_a_molecule_is_scored_once_whichever_seed_asks():
    counting = Counting()
    table = table_of(counting)
    asked = [(0, "CC"), (1, "CC"), (0, "CC"), (1, "CCC")]
    assert [ask_one(table, seed, smiles, 7) for seed, smiles in asked] == [2.0, 2.0, 2.0, 3.0]
    assert counting.asked == ["CC", "CCC"]
    assert table.counts() == (2, 0, {})


def test_rows_say_who_asked_and_what_came():
    table = table_of(Counting())
    ask_one(table, 0, "CC", 0)
    ask_one(table, 1, "CC", 3)
    ask_one(table, 1, "CCC", 4)
    expected = pd.DataFrame(
        {
            "seed": [0, 1, 1],
            "seed_smiles": ["CCO", "CCN", "CCN"],
            "smiles": ["CC", "CC", "CCC"],
            "score": [2.0, 2.0, 3.0],
            "similarity": [
                similarity("CCO", "CC"),
                similarity("CCN", "CC"),
                similarity("CCN", "CCC"),
            ],
            "error": ["", "", ""],
            "iteration": [0, 3, 4],
            "call": [1, 1, 2],
        }
    )
    pd.testing.assert_frame_equal(table.frame(), expected)


def test_terms_have_columns_and_the_similarity_is_that_to_each_seed():
    counting = Counting()
    table = table_of({counting: 1.0, "similarity": 10.0})
    scores = [ask_one(table, seed, "CCO", 1) for seed in (0, 1)]
    assert scores == [3 + 10 * 1.0, 3 + 10 * similarity("CCN", "CCO")]
    assert scores[1] < scores[0] and counting.asked == ["CCO"]
    rows = table.frame()
    assert list(rows["Counting"]) == [3.0, 3.0]
    assert list(rows.columns)[:5] == ["seed", "seed_smiles", "smiles", "score", "Counting"]


@pytest.mark.parametrize(
    "value",
    [3, np.float32(3), np.array(3.0), np.array([3]), np.array([[3.0]]), torch.tensor([3.0]),
     pd.Series([3.0], index=[7]), [3.0], [[3.0]], Fraction(3)],
)  # fmt: skip
def test_what_holds_one_number_is_that_score(value):
    score = ask_one(table_of(lambda smiles: value), 0, "CC")
    assert score == 3.0 and type(score) is float
    assert ask_one(table_of(lambda smiles: True), 0, "CC") == 1.0


@pytest.mark.parametrize(
    ("value", "error", "kind"),
    [
        (None, "returned None", "returned None"),
        (math.nan, "returned nan", "returned nan"),
        (-math.inf, "returned -inf", "returned -inf"),
        ("0.5", "returned a str, not a number: '0.5'", "returned a str, not a number"),
        ([1.0, 2], "returned a list, not a number: [1.0, 2]", "returned a list, not a number"),
        (["1"], "returned a list, not a number: ['1']", "returned a list, not a number"),
        (1j, "returned a complex, not a number: 1j", "returned a complex, not a number"),
        (
            torch.ones(2),
            "returned a Tensor, not a number: tensor([1., 1.])",
            "returned a Tensor, not a number",
        ),
    ],
)
def test_what_is_no_finite_number_is_recorded(value, error, kind):
    table = table_of(lambda smiles: value)
    assert math.isnan(ask_one(table, 0, "CC", 1))
    assert errors(table) == [error]
    assert failures(table) == {kind: 1}


def test_an_exception_is_recorded_in_one_line_and_not_asked_for_again():
    def fail(smiles):
        raise ValueError("no\n pose" + "!" * 500)

    counting = Counting(fail)
    table = table_of({"qed": 1.0, counting: 1.0})
    for seed in (0, 1, 0):
        assert math.isnan(ask_one(table, seed, "CC", 1))
    error = table.frame()["error"][0]
    assert re.fullmatch(r"Counting raised ValueError: no pose!+\.\.\.", error)
    assert len(error) == len("Counting raised ValueError: ") + 200
    assert counting.asked == ["CC"]
    assert failures(table) == {"Counting raised ValueError": 1}
    assert table.frame()["qed"][0] > 0 and np.isnan(table.frame()["Counting"][0])


def test_after_a_term_that_failed_the_others_are_not_computed():
    last = Counting()
    table = table_of({Counting(lambda smiles: None): 1.0, last: 1.0})
    assert math.isnan(ask_one(table, 0, "CC", 1))
    assert last.asked == []


def test_a_sum_that_overflows_is_recorded():
    table = table_of({Counting(lambda smiles: 1e308): 10.0})
    assert math.isnan(ask_one(table, 0, "CC", 1))
    assert failures(table) == {"sum is inf": 1}


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_ctrl_c_is_not_a_failure_of_the_scorer(timeout):
    def fail(smiles):
        raise KeyboardInterrupt

    table = table_of(fail, timeout=timeout)
    with pytest.raises(KeyboardInterrupt):
        ask_one(table, 0, "CC", 1)
    assert len(table.frame()) == 0


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_scorer_that_exits_has_failed(timeout):
    table = table_of(lambda smiles: sys.exit(3), timeout=timeout)
    assert math.isnan(ask_one(table, 0, "CC", 1))
    assert errors(table) == ["raised SystemExit: 3"]


def test_a_late_call_is_left_behind_and_the_next_is_made():
    def slow(smiles):
        time.sleep(30 if smiles == "CC" else 0)
        return len(smiles)

    table = table_of(slow, timeout=0.2)
    with pytest.warns(RuntimeWarning, match=r"longer than 0.2 s. Python cannot stop"):
        assert math.isnan(ask_one(table, 0, "CC", 1))
    assert ask_one(table, 0, "CCC", 1) == 3.0
    assert errors(table) == ["took longer than 0.2 s", ""]
    assert failures(table) == {"took longer than 0.2 s": 1}


def test_after_ctrl_c_and_an_exception_the_next_calls_are_made():
    threads = set()

    def scorer(smiles):
        threads.add(threading.get_ident())
        if smiles == "CCCCC":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        return 1 / (len(smiles) - 2)

    table = table_of(scorer, timeout=60)
    assert ask_one(table, 0, "CCC") == 1.0
    with pytest.raises(KeyboardInterrupt):
        ask_one(table, 0, "CCCCC")
    assert math.isnan(ask_one(table, 0, "CC")) and ask_one(table, 0, "CCCC") == 0.5
    assert table.frame()["smiles"].tolist() == ["CCC", "CC", "CCCC"]
    assert failures(table) == {"raised ZeroDivisionError": 1}
    assert threading.get_ident() not in threads


def test_a_scorer_that_fails_from_the_start_is_broken(tmp_path):
    def fail(smiles):
        raise RuntimeError("no licence")

    path = tmp_path / "table.csv"
    with table_of(fail, path=path) as table:
        for length in range(1, PATIENCE):
            ask_one(table, 0, alkane(length), 1)
        with pytest.raises(RuntimeError, match=r"C: raised RuntimeError: no licence"):
            ask_one(table, 0, alkane(PATIENCE), 1)
    assert pd.read_csv(path)["error"].tolist() == ["raised RuntimeError: no licence"] * PATIENCE


def test_a_scorer_that_worked_once_is_not_broken():
    table = table_of(lambda smiles: 1.0 if smiles == "C" else None)
    for length in range(1, 3 * PATIENCE):
        ask_one(table, 0, alkane(length), 1)
    assert failures(table) == {"returned None": 3 * PATIENCE - 2}


def ask(path, lengths, scorer, **options):
    with table_of(scorer, path=path, **options) as table:
        for length in lengths:
            for seed in (0, 1):
                ask_one(table, seed, alkane(length), length)
    return table


@pytest.mark.parametrize(
    "make", [lambda f: f, lambda f: {f: -1.0}, lambda f: {f: 1 / 3, "qed": 1.0, "similarity": 1.0}]
)
def test_a_table_goes_on_where_it_ended(tmp_path, make):
    def odd(smiles):
        return len(smiles) / 7

    whole, parts = tmp_path / "whole.csv", tmp_path / "new" / "parts.csv"
    expected = ask(whole, range(1, 9), make(Counting(odd)))
    first, second = Counting(odd), Counting(odd)
    ask(parts, range(1, 5), make(first))
    resumed = ask(parts, range(1, 9), make(second))
    assert parts.read_bytes() == whole.read_bytes()
    assert first.asked == [alkane(n) for n in range(1, 5)]
    assert second.asked == [alkane(n) for n in range(5, 9)]
    pd.testing.assert_frame_equal(resumed.frame(), expected.frame())
    assert (resumed.counts(), expected.counts()) == ((8, 4, {}), (8, 0, {}))
    read = pd.read_csv(whole, keep_default_na=False, na_values={"score": [""]})
    assert read["score"].tolist() == pytest.approx(expected.frame()["score"].tolist(), nan_ok=True)


def test_what_failed_is_tried_again_and_the_last_word_counts(tmp_path):
    path = tmp_path / "table.csv"

    def broken(smiles):
        if len(smiles) % 2:
            raise ValueError('a "quoted",\ntext')
        return len(smiles)

    first = ask(path, range(1, 5), broken)
    assert failures(first) == {"raised ValueError": 2}
    counting = Counting()
    counting.__name__ = "broken"
    fixed = ask(path, range(1, 5), counting)
    assert counting.asked == ["C", "CCC"] and fixed.counts() == (4, 2, {})
    assert fixed.frame()["score"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    counting.asked.clear()
    assert ask(path, range(1, 5), counting).counts()[1] == 4 and counting.asked == []


def test_a_changed_scorer_is_said(tmp_path):
    path = tmp_path / "table.csv"

    def length(smiles):
        return len(smiles)

    ask(path, [1, 2], length)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(path, [1, 2], length)

    def changed(smiles):
        return -len(smiles)

    changed.__name__ = "length"
    with pytest.warns(RuntimeWarning, match="The source of length has changed since"):
        assert ask(path, [1, 2], changed).frame()["score"].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("damaged", ["{bad", "[]", b"\xff\xfe"])
def test_damaged_settings_are_said(tmp_path, damaged):
    path = tmp_path / "table.csv"
    ask(path, [1], len)
    damaged = damaged if isinstance(damaged, bytes) else damaged.encode()
    (tmp_path / "table.csv.json").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"table.csv.json is damaged"):
        ask(path, [1], len)


def test_a_table_that_is_no_text_is_said(tmp_path):
    path = tmp_path / "table.csv"
    ask(path, [1], len)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="table.csv is damaged: .*utf-8"):
        ask(path, [1], len)
    with pytest.raises(ValueError, match="must end in one of .csv"):
        ask(tmp_path / "table.parquet", [1], len)


def test_rows_are_in_the_file_before_the_next_is_asked_for(tmp_path):
    path = tmp_path / "table.csv"
    lines = []

    def look(smiles):
        lines.append(path.read_text().count("\n"))
        return 1.0

    with table_of(look, path=path) as table:
        for length in (1, 2, 3):
            ask_one(table, 0, alkane(length), 1)
    assert lines == [1, 2, 3]  # header and rows before


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "table.csv"
    ask(path, range(1, 4), len)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    counting = Counting()
    with ScoreTable(as_scorer(len), SEEDS, path=path) as table:
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])
        assert ask_one(table, 0, "C", 1) == 1.0 and table.counts()[1] == 1
    ask(path, range(1, 4), len)
    assert path.read_bytes() == whole and counting.asked == []


def test_a_table_of_which_only_half_the_header_was_written_is_begun_again(tmp_path):
    path = tmp_path / "table.csv"
    ask(path, range(1, 4), len)
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    ask(path, range(1, 4), len)
    assert path.read_bytes() == whole


def test_another_run_is_refused_by_name_of_what_differs(tmp_path):
    path = tmp_path / "table.csv"
    ask(path, [1], len, settings={"budget": 10, "step": 0.5, "checkpoint": "tiny"})
    before = path.read_bytes(), (tmp_path / "table.csv.json").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint was 'tiny', now 'big'; step was 0.5, now 1"):
        ask(path, [1], len, settings={"budget": 10, "step": 1, "checkpoint": "big"})
    with pytest.raises(ValueError, match=r"weights was {'len': 1.0}, now {'len': 2.0}"):
        ask(path, [1], {len: 2.0}, settings={"budget": 10, "step": 0.5, "checkpoint": "tiny"})
    with pytest.raises(ValueError, match="budget was 10, now 9"):
        ask(path, [1], len, settings={"budget": 9, "step": 0.5, "checkpoint": "tiny"})
    with pytest.raises(ValueError, match=r"seeds was \['CCO', 'CCN'\], now \['CCO'\]"):
        ScoreTable(
            as_scorer(len),
            SEEDS[:1],
            path=path,
            settings={"budget": 10, "step": 0.5, "checkpoint": "tiny"},
        )
    assert before == (path.read_bytes(), (tmp_path / "table.csv.json").read_bytes())


def test_a_larger_budget_goes_on_and_is_kept(tmp_path):
    path = tmp_path / "table.csv"
    ask(path, [1], len, settings={"budget": 10})
    assert ask(path, [1, 2], len, settings={"budget": 20}).counts()[1] == 1
    assert json.loads((tmp_path / "table.csv.json").read_text()) == {
        "weights": {"len": 1.0},
        "seeds": SEEDS,
        "budget": 20,
        "sources": {},
    }


def test_a_table_of_someone_else_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("smiles,score\nCC,2\n")
    with pytest.raises(ValueError, match=r"not table.csv.json"):
        ask(path, [1], len)
    assert path.read_text() == "smiles,score\nCC,2\n"


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "table.csv"
    ask(path, [1, 2], len)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("CCN", "CCN,"), *lines[3:]]))
    with pytest.raises(ValueError, match=r"table.csv is damaged: .*line 3, saw 9"):
        ask(path, [1], len)
    for bad, reason in (
        ("0,CCO,CC,two,0.5,,1,2\n", "two.*Remove the line"),
        ("0,CCO,CC\n", "is damaged"),
        ("0,CCO,CC,2.0,0.5,,1,\n", "is damaged"),
    ):
        path.write_text("".join([*lines[:3], bad, *lines[4:]]))
        with pytest.raises(ValueError, match=f"table.csv is damaged: .*{reason}|{reason}"):
            ask(path, [1], len)
    path.write_text("smiles,score\n")
    with pytest.raises(ValueError, match="has the columns smiles, score; seed, seed_smiles"):
        ask(path, [1], len)


@batch_scorer
def lengths(smiles):
    return np.array([[float(len(one))] for one in smiles])


def test_a_batch_scorer_gets_what_is_new_once_and_in_order():
    given = []

    def model(smiles):
        given.append(smiles)
        return [len(one) for one in smiles]

    table = table_of(batch_scorer(model))
    assert table.score([(0, "CCC"), (1, "C"), (0, "CCC"), (1, "CCC")]) == [3.0, 1.0, 3.0, 3.0]
    assert table.score([(0, "C"), (0, "CCCC"), (1, "CC")], 1) == [1.0, 4.0, 2.0]
    assert table.score([(0, "C")]) == [1.0]
    assert given == [["CCC", "C"], ["CCCC", "CC"]]
    rows = table.frame()
    assert rows["smiles"].tolist() == ["CCC", "C", "CCC", "C", "CCCC", "CC"]
    assert rows["call"].tolist() == [1, 2, 1, 2, 3, 4]
    assert rows["iteration"].tolist() == [0, 0, 0, 1, 1, 1] and table.counts() == (4, 0, {})


def test_batch_scorers_and_others_are_summed_and_fail_molecule_by_molecule(tmp_path):
    single = Counting(lambda smiles: None if smiles == "CC" else 0.5)
    path = tmp_path / "t.csv"
    with table_of({single: 1.0, lengths: 10.0}, timeout=30, path=path) as table:
        scores = table.score([(0, "C"), (0, "CC"), (0, "CCC")])
    assert scores == [10.5, pytest.approx(math.nan, nan_ok=True), 30.5]
    assert single.asked == ["C", "CC", "CCC"] and errors(table)[1] == "Counting returned None"
    assert table.frame()["lengths"].tolist() == [1.0, pytest.approx(math.nan, nan_ok=True), 3.0]
    with table_of({single: 1.0, lengths: 10.0}, path=path) as again:
        assert again.score([(0, "CCC"), (0, "C")]) == [30.5, 10.5]
    assert again.counts() == (2, 2, {}) and single.asked == ["C", "CC", "CCC"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda smiles: [1.0, math.nan, None], ["", "returned nan", "returned None"]),
        (lambda smiles: torch.tensor([1.0, 2.0, 3.0]), [""] * 3),
        (lambda smiles: pd.Series([1.0, 2.0, 3.0], index=[9, 8, 7]), [""] * 3),
        (lambda smiles: [1.0, 2.0], ["returned another number of values: 2 for 3"] * 3),
        (lambda smiles: 0.5, ["returned a float, not one number for each molecule: 0.5"] * 3),
        (lambda smiles: 1 / 0, ["raised ZeroDivisionError: division by zero"] * 3),
        (lambda smiles: smiles.clear(), ["returned None, not one number for each molecule"] * 3),
    ],
)
def test_what_a_batch_scorer_may_return(answer, error):
    table = table_of(batch_scorer(answer))
    scores = table.score([(0, "C"), (0, "CC"), (0, "CCC")])
    assert errors(table) == error
    assert [math.isnan(value) for value in scores] == [one != "" for one in error]


def test_a_late_batch_is_left_behind():
    table = table_of(batch_scorer(lambda smiles: time.sleep(30)), timeout=0.2)
    with pytest.warns(RuntimeWarning, match="longer than 0.2 s"):
        table.score([(0, "C"), (0, "CC")])
    assert errors(table) == ["took longer than 0.2 s"] * 2
