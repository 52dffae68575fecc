# SPDX-License-Identifier: Apache-2.0
"""What is computed together, whose turn it is, and what becomes of errors and of calls given up."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from cmim_hf.serving import batching
from cmim_hf.serving.batching import Batcher, Call, CallEnded


class Slow:
    """A batcher of which the first batch waits until others queue."""

    def __init__(self, most=10, function=lambda rows: [2 * row for row in rows], seconds=99):
        self.batches, self.begun, self.go = [], threading.Event(), threading.Event()

        def compute(rows, *settings):
            self.begun.set()
            assert self.go.wait(10)
            return function(rows, *settings)

        self.batcher = Batcher(
            {"double": (compute, most), "other": (lambda rows: rows, most)},
            lambda name, rows: self.batches.append((name, rows)),
            seconds,
        )
        self.threads = ThreadPoolExecutor(16)
        self.futures = [self.ask([0])]
        assert self.begun.wait(10)

    def ask(self, rows, name="double", call=None, settings=()):
        call = call or Call()
        return self.threads.submit(self.batcher.map, name, settings, rows, call)

    def queued(self, number):
        while len(self.batcher._jobs) < number:  # nothing outside tells it
            threading.Event().wait(0.005)


@pytest.fixture
def slow():
    made = []

    def make(**options):
        made.append(Slow(**options))
        return made[-1]

    yield make
    for one in made:
        one.go.set()
        one.batcher.close()
        one.threads.shutdown()


def test_what_waits_is_computed_together_and_goes_to_who_asked(slow):
    one = slow()
    asked = []
    for number in range(5):
        asked.append(one.ask([number, number + 100]))
        one.queued(number + 1)
    one.go.set()
    found = [future.result(10) for future in asked]
    assert found == [[2 * n, 2 * n + 200] for n in range(5)]
    assert one.batches == [("double", 1), ("double", 10)]


def test_kinds_and_settings_are_not_mixed(slow):
    one = slow(function=lambda rows, *settings: [(row, settings) for row in rows])
    asked = []
    for place, (name, settings) in enumerate(
        [("double", (1,)), ("other", ()), ("double", (2,)), ("double", (1,))]
    ):
        asked.append(one.ask([place], name, settings=settings))
        one.queued(place + 1)
    one.go.set()
    found = [future.result(10) for future in asked]
    assert found == [[(0, (1,))], [1], [(2, (2,))], [(3, (1,))]]
    assert [rows for _, rows in one.batches[1:]] == [2, 1, 1]


def test_a_long_call_does_not_hold_up_a_short_one(slow):
    computed = []

    def double(rows):
        computed.append(list(rows))
        return [2 * row for row in rows]

    one = slow(most=10, function=double)
    long = one.ask(list(range(95)))
    one.queued(1)
    short = one.ask([1001, 1002])
    one.queued(2)
    one.go.set()
    assert short.result(10) == [2002, 2004]
    assert long.result(10) == [2 * n for n in range(95)]
    assert sorted(computed[1]) == [*range(8), 1001, 1002]  # of the first batch that they share
    assert [rows for _, rows in one.batches] == [1, *[10] * 9, 7]


def test_only_the_guilty_get_an_error(slow):
    def fail(rows):
        if -1 in rows:
            raise ValueError("no -1")
        return [2 * row for row in rows]

    one = slow(function=fail)
    good, bad, other = one.ask([1]), one.ask([2, -1]), one.ask([3])
    one.queued(3)
    one.go.set()
    assert (good.result(10), other.result(10)) == ([2], [6])
    with pytest.raises(ValueError, match="no -1"):
        bad.result(10)


def test_another_number_of_results_is_an_error(slow):
    one = slow(function=lambda rows: rows[1:])
    one.go.set()
    with pytest.raises(RuntimeError, match="0 results for 1 rows"):
        one.futures[0].result(10)


def test_a_call_that_was_given_up_is_not_computed(slow):
    one = slow(most=10)
    call = Call()
    gone, kept = one.ask(list(range(50)), call=call), one.ask([7])
    one.queued(2)
    call.end()
    with pytest.raises(CallEnded):
        gone.result(10)  # before the batch that is computed has ended
    one.go.set()
    assert kept.result(10) == [14]
    assert sum(rows for _, rows in one.batches) == 2


def test_closing_finishes_what_waits_and_takes_no_more(slow):
    one = slow(most=3)
    asked = one.ask(list(range(8)))
    one.queued(1)
    one.go.set()
    one.batcher.close()
    assert asked.result(1) == [2 * n for n in range(8)]
    with pytest.raises(CallEnded):
        one.batcher.map("double", (), [1], Call())
    assert one.batcher.map("double", (), [], Call()) == []


def test_batches_have_fewer_rows_where_they_take_long_and_more_again(slow, monkeypatch):
    waits, now = [0.3] * 6 + [0.0] * 99, [0.0]
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def compute(rows):
        now[0] += waits.pop(0)
        return rows

    one = slow(most=64, function=compute, seconds=0.2)
    asked = one.ask(list(range(200)))
    one.queued(1)
    one.go.set()
    assert asked.result(10) == list(range(200))
    sizes = [rows for _, rows in one.batches]
    # one row; then full, halved as long as they take long, but not below a 16th; then doubled
    assert sizes == [1, 64, 32, 16, 8, 4, 4, 8, 16, 32, 16]
