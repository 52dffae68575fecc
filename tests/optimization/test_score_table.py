# SPDX-License-Identifier: Apache-2.0
"""The oracle: each molecule scored once, every failure recorded, every row kept."""

import json
import math
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
from cmim_hf.optimization.score_table import PATIENCE, Oracle
from cmim_hf.optimization.scorers import as_scorer

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


def oracle_of(scorer, **options):
    return Oracle(as_scorer(scorer), SEEDS, **options)


def test_a_molecule_is_scored_once_whichever_seed_asks():
    counting = Counting()
    oracle = oracle_of(counting)
    assert not oracle.knows(0, "CC")
    asked = [(0, "CC"), (1, "CC"), (0, "CC"), (1, "CCC")]
    assert [oracle.score(seed, smiles, 7) for seed, smiles in asked] == [2.0, 2.0, 2.0, 3.0]
    assert counting.asked == ["CC", "CCC"]
    assert oracle.calls == 2 and oracle.reused == 0
    assert oracle.knows(0, "CC") and oracle.knows(1, "CC") and not oracle.knows(0, "CCC")


def test_rows_say_who_asked_and_what_came():
    oracle = oracle_of(Counting())
    oracle.score(0, "CC", 0)
    oracle.score(1, "CC", 3)
    oracle.score(1, "CCC", 4)
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
    pd.testing.assert_frame_equal(oracle.rows(), expected)


def test_terms_have_columns_and_the_similarity_is_that_to_each_seed():
    counting = Counting()
    oracle = oracle_of({counting: 1.0, "similarity": 10.0})
    scores = [oracle.score(seed, "CCO", 1) for seed in (0, 1)]
    assert scores == [3 + 10 * 1.0, 3 + 10 * similarity("CCN", "CCO")]
    assert scores[1] < scores[0] and counting.asked == ["CCO"]
    rows = oracle.rows()
    assert list(rows["Counting"]) == [3.0, 3.0]
    assert list(rows.columns)[:5] == ["seed", "seed_smiles", "smiles", "score", "Counting"]


@pytest.mark.parametrize(
    "value",
    [3, 3.0, np.float32(3), np.int64(3), np.array(3.0), torch.tensor(3.0), Fraction(3)],
)
def test_numbers_of_any_kind_are_scores(value):
    oracle = oracle_of(lambda smiles: value)
    score = oracle.score(0, "CC", 1)
    assert score == 3.0 and type(score) is float


def test_a_bool_is_a_score():
    assert oracle_of(lambda smiles: True).score(0, "CC", 1) == 1.0


@pytest.mark.parametrize(
    ("value", "error", "kind"),
    [
        (None, "returned None", "returned None"),
        (math.nan, "returned nan", "returned nan"),
        (-math.inf, "returned -inf", "returned -inf"),
        ("0.5", "returned a str, not a number: '0.5'", "returned a str, not a number"),
        ([1.0], "returned a list, not a number: [1.0]", "returned a list, not a number"),
        (1j, "returned a complex, not a number: 1j", "returned a complex, not a number"),
        (
            torch.ones(2),
            "returned a Tensor, not a number: tensor([1., 1.])",
            "returned a Tensor, not a number",
        ),
    ],
)
def test_what_is_no_finite_number_is_recorded(value, error, kind):
    oracle = oracle_of(lambda smiles: value)
    assert math.isnan(oracle.score(0, "CC", 1))
    assert oracle.rows()["error"].tolist() == [error]
    assert oracle.failures == {kind: 1} and oracle.calls == 1


def test_an_exception_is_recorded_in_one_line_and_not_asked_for_again():
    def fail(smiles):
        raise ValueError("no\n pose" + "!" * 500)

    counting = Counting(fail)
    oracle = oracle_of({"qed": 1.0, counting: 1.0})
    for seed in (0, 1, 0):
        assert math.isnan(oracle.score(seed, "CC", 1))
    error = oracle.rows()["error"][0]
    assert re.fullmatch(r"Counting raised ValueError: no pose!+\.\.\.", error)
    assert len(error) == len("Counting raised ValueError: ") + 200
    assert counting.asked == ["CC"]
    assert oracle.failures == {"Counting raised ValueError": 1}
    assert oracle.examples == {"Counting raised ValueError": f"CC: {error}"}
    assert oracle.rows()["qed"][0] > 0 and np.isnan(oracle.rows()["Counting"][0])


def test_after_a_term_that_failed_the_others_are_not_computed():
    last = Counting()
    oracle = oracle_of({Counting(lambda smiles: None): 1.0, last: 1.0})
    assert math.isnan(oracle.score(0, "CC", 1))
    assert last.asked == []


def test_a_sum_that_overflows_is_recorded():
    oracle = oracle_of({Counting(lambda smiles: 1e308): 10.0})
    assert math.isnan(oracle.score(0, "CC", 1))
    assert oracle.failures == {"sum is inf": 1}


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_ctrl_c_is_not_a_failure_of_the_scorer(timeout):
    def fail(smiles):
        raise KeyboardInterrupt

    oracle = oracle_of(fail, timeout=timeout)
    with pytest.raises(KeyboardInterrupt):
        oracle.score(0, "CC", 1)
    assert oracle.calls == 0 and len(oracle.rows()) == 0


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_scorer_that_exits_has_failed(timeout):
    oracle = oracle_of(lambda smiles: sys.exit(3), timeout=timeout)
    assert math.isnan(oracle.score(0, "CC", 1))
    assert oracle.rows()["error"].tolist() == ["raised SystemExit: 3"]


def test_a_late_call_is_left_behind_and_the_next_is_made():
    def slow(smiles):
        time.sleep(30 if smiles == "CC" else 0)
        return len(smiles)

    oracle = oracle_of(slow, timeout=0.2)
    with pytest.warns(RuntimeWarning, match=r"longer than 0.2 s. Python cannot stop"):
        assert math.isnan(oracle.score(0, "CC", 1))
    assert oracle.score(0, "CCC", 1) == 3.0
    assert oracle.rows()["error"].tolist() == ["took longer than 0.2 s", ""]
    assert oracle.failures == {"took longer than 0.2 s": 1}


def test_after_ctrl_c_the_next_call_is_made_by_another_thread():
    def slow(smiles):
        if smiles == "CC":
            signal.raise_signal(signal.SIGINT)
            time.sleep(3)
        return len(smiles)

    oracle = oracle_of(slow, timeout=60)
    with pytest.raises(KeyboardInterrupt):
        oracle.score(0, "CC", 1)
    assert oracle.score(0, "CCC", 1) == 3.0
    assert oracle.rows()["smiles"].tolist() == ["CCC"]


def test_with_a_timeout_exceptions_are_recorded_and_one_thread_makes_the_calls():
    threads = set()

    def score(smiles):
        threads.add(threading.get_ident())
        return 1 / (len(smiles) - 2)

    oracle = oracle_of(score, timeout=30)
    assert [oracle.score(0, alkane(length), 1) for length in (1, 3, 4)] == [-1.0, 1.0, 0.5]
    assert math.isnan(oracle.score(0, "CC", 1))
    assert oracle.failures == {"raised ZeroDivisionError": 1}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_a_scorer_that_fails_from_the_start_is_broken(tmp_path):
    def fail(smiles):
        raise RuntimeError("no licence")

    path = tmp_path / "table.csv"
    with oracle_of(fail, table=path) as oracle:
        for length in range(1, PATIENCE):
            oracle.score(0, alkane(length), 1)
        with pytest.raises(RuntimeError, match=r"C: raised RuntimeError: no licence"):
            oracle.score(0, alkane(PATIENCE), 1)
    assert pd.read_csv(path)["error"].tolist() == ["raised RuntimeError: no licence"] * PATIENCE


def test_a_scorer_that_worked_once_is_not_broken():
    oracle = oracle_of(lambda smiles: 1.0 if smiles == "C" else None)
    for length in range(1, 3 * PATIENCE):
        oracle.score(0, alkane(length), 1)
    assert oracle.failures == {"returned None": 3 * PATIENCE - 2}


def ask(path, lengths, scorer, **options):
    with oracle_of(scorer, table=path, **options) as oracle:
        for length in lengths:
            for seed in (0, 1):
                oracle.score(seed, alkane(length), length)
    return oracle


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
    pd.testing.assert_frame_equal(resumed.rows(), expected.rows())
    assert resumed.calls == expected.calls == 8
    assert (resumed.reused, expected.reused) == (4, 0)
    read = pd.read_csv(whole, keep_default_na=False, na_values={"score": [""]})
    assert read["score"].tolist() == pytest.approx(expected.rows()["score"].tolist(), nan_ok=True)


def test_what_failed_is_tried_again_and_the_last_word_counts(tmp_path):
    path = tmp_path / "table.csv"

    def broken(smiles):
        if len(smiles) % 2:
            raise ValueError('a "quoted",\ntext')
        return len(smiles)

    first = ask(path, range(1, 5), broken)
    assert first.failures == {"raised ValueError": 2}
    counting = Counting()
    counting.__name__ = "broken"
    mended = ask(path, range(1, 5), counting)
    assert counting.asked == ["C", "CCC"] and mended.reused == 2 and not mended.failures
    assert mended.rows()["score"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    counting.asked.clear()
    assert ask(path, range(1, 5), counting).reused == 4 and counting.asked == []


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
        assert ask(path, [1, 2], changed).rows()["score"].tolist() == [1, 1, 2, 2]


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
    with pytest.raises(ValueError, match="table.csv is damaged: it is no table in UTF-8"):
        ask(path, [1], len)
    with pytest.raises(ValueError, match="must end in one of .csv"):
        ask(tmp_path / "table.parquet", [1], len)


def test_rows_are_in_the_file_before_the_next_is_asked_for(tmp_path):
    path = tmp_path / "table.csv"
    lines = []

    def look(smiles):
        lines.append(path.read_text().count("\n"))
        return 1.0

    with oracle_of(look, table=path) as oracle:
        for length in (1, 2, 3):
            oracle.score(0, alkane(length), 1)
    assert lines == [1, 2, 3]  # header and rows before


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "table.csv"
    ask(path, range(1, 4), len)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    counting = Counting()
    with Oracle(as_scorer(len), SEEDS, table=path) as oracle:
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])
        assert oracle.score(0, "C", 1) == 1.0 and oracle.reused == 1
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
        Oracle(
            as_scorer(len),
            SEEDS[:1],
            table=path,
            settings={"budget": 10, "step": 0.5, "checkpoint": "tiny"},
        )
    assert before == (path.read_bytes(), (tmp_path / "table.csv.json").read_bytes())


def test_a_larger_budget_goes_on_and_is_kept(tmp_path):
    path = tmp_path / "table.csv"
    ask(path, [1], len, settings={"budget": 10})
    assert ask(path, [1, 2], len, settings={"budget": 20}).reused == 1
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
    with pytest.raises(ValueError, match=r"Line 3 of .*table.csv is damaged"):
        ask(path, [1], len)
    lines[3] = "0,CCO,CC,two,0.5,,1,2\n"
    path.write_text("".join(lines))
    with pytest.raises(ValueError, match=r"Line 4 of .*could not convert.*Remove the line"):
        ask(path, [1], len)
