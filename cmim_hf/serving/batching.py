# SPDX-License-Identifier: Apache-2.0
"""One thread owns a model; what many callers ask of it is computed together: [`Batcher`]."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

Compute = Callable[..., Sequence[Any]]
"""From rows, and settings, to one result for each row, which depends on that row alone."""


class CallEnded(KeyboardInterrupt):
    """Nobody waits for a call any more: as after Ctrl-C, a search returns what it has found."""


class Call:
    """What one client asked for: `end` it, and what it waits for is given up."""

    def __init__(self) -> None:
        """Begin."""
        self._lock = threading.Lock()
        self._waiting: list[Future] = []
        self.ended = False

    def end(self) -> None:
        """Let what waits raise [`CallEnded`], and all that is asked from now on."""
        with self._lock:
            self.ended = True
            for future in self._waiting:
                _fail(future, CallEnded())

    def check(self) -> None:
        """Raise [`CallEnded`] if it has ended."""
        if self.ended:
            raise CallEnded

    def wait(self, future: Future) -> Any:
        """The result of a future, or [`CallEnded`]."""
        with self._lock:
            self.check()
            self._waiting.append(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._waiting.remove(future)


def _fail(future: Future, error: BaseException) -> None:
    with suppress(InvalidStateError):  # it may have a result, or an error, already
        future.set_exception(error)


class _Job:
    """Rows of one caller that wait, and the results that are there."""

    def __init__(self, key: tuple[str, tuple], rows: Sequence[Any], call: Call) -> None:
        self.key, self.rows, self.call = key, rows, call
        self.given = 0  # rows that were handed out
        self.results: list[Any] = []
        self.done: Future[list[Any]] = Future()

    @property
    def left(self) -> int:
        return len(self.rows) - self.given

    def take(self, number: int) -> Sequence[Any]:
        part = self.rows[self.given : self.given + number]
        self.given += len(part)
        return part

    def add(self, results: Sequence[Any]) -> None:
        self.results.extend(results)
        if len(self.results) == len(self.rows):
            with suppress(InvalidStateError):
                self.done.set_result(self.results)

    def fail(self, error: BaseException) -> None:
        self.given = len(self.rows)
        _fail(self.done, error)


class Batcher:
    """Computes rows of many callers in batches, in a thread of its own.

    While a batch is computed, callers queue up; then all that waits of the kind that came first is
    taken, as many rows as a batch may have, in equal shares. So no call waits for others to come,
    and a short one is not held up by a long one for longer than a batch. A row's result does not
    depend on what it is batched with, if `functions` are such. Where a batch fails, its callers'
    parts are computed one by one, and only those that fail again get the error.

        >>> power = lambda rows, exponent: [n**exponent for n in rows]
        >>> batcher = Batcher({"power": (power, 100)})
        >>> batcher.map("power", (2,), [1, 2, 3], Call())
        [1, 4, 9]
        >>> batcher.close()

    Args:
        functions: What can be computed, by name, each with the most rows of a batch.
        watch: Told the name and the number of rows of each batch.
        seconds: That a batch shall take at most: after a full one that took longer the next ones of
            its kind have half the rows, down to a 16th; after one that took half the time, twice.
    """

    def __init__(
        self,
        functions: Mapping[str, tuple[Compute, int]],
        watch: Callable[[str, int], None] = lambda name, rows: None,
        seconds: float = 1.0,
    ) -> None:
        """Start the thread."""
        self._seconds = seconds
        self._rooms = {name: most for name, (_, most) in functions.items()}
        self._functions, self._watch = dict(functions), watch
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        with self._changed:
            return sum(job.left for job in self._jobs)

    def map(
        self, name: str, settings: tuple[Hashable, ...], rows: Sequence[Any], call: Call
    ) -> list[Any]:
        """Results of rows, in their order, as `functions[name](rows, *settings)` gives them.

        Raises:
            CallEnded: The call was given up, or the batcher is closed.
        """
        if not len(rows):
            return []
        job = _Job((name, settings), rows, call)
        with self._changed:
            if self._closed:
                raise CallEnded
            self._jobs.append(job)
            self._changed.notify()
        return call.wait(job.done)

    def close(self) -> None:
        """Compute what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (parts := self._next()):
                    if self._closed:
                        return
                    self._changed.wait()
            self._compute(parts)
            del parts  # else the last batch stays in memory while nothing comes

    def _next(self) -> list[tuple[_Job, Sequence[Any]]]:
        """Rows for the next batch, with whose they are."""
        for job in self._jobs:
            if job.call.ended:
                job.fail(CallEnded())
        self._jobs = [job for job in self._jobs if job.left]
        if not self._jobs:
            return []
        key = self._jobs[0].key
        room = self._rooms[key[0]]
        alike, parts = [job for job in self._jobs if job.key == key][:room], []
        for number, job in enumerate(sorted(alike, key=lambda job: job.left)):
            part = job.take(room // (len(alike) - number))
            room -= len(part)
            parts.append((job, part))
        taken = {id(job) for job in alike}  # what is left of these comes last
        self._jobs.sort(key=lambda job: id(job) in taken)
        return parts

    def _adapt(self, name: str, rows: int, seconds: float) -> None:
        """Choose the rows of the next batches: half of them may well take as long as all."""
        room, most = self._rooms[name], self._functions[name][1]
        if seconds > self._seconds and 2 * rows > room:
            self._rooms[name] = max(room // 2, -(-most // 16))
        elif seconds < self._seconds / 2 and rows == room:
            self._rooms[name] = min(2 * room, most)

    def _compute(self, parts: list[tuple[_Job, Sequence[Any]]]) -> None:
        name, settings = parts[0][0].key
        rows = [row for _, part in parts for row in part]
        self._watch(name, len(rows))
        start = time.perf_counter()
        try:
            results = self._functions[name][0](rows, *settings)
            if len(results) != len(rows):
                raise RuntimeError(f"{name} gave {len(results)} results for {len(rows)} rows.")
        except Exception as error:
            if len(parts) == 1:
                parts[0][0].fail(error)
            else:
                for part in parts:
                    self._compute([part])
            return
        self._adapt(name, len(rows), time.perf_counter() - start)
        start = 0
        for job, part in parts:
            job.add(results[start : start + len(part)])
            start += len(part)
