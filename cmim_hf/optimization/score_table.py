# SPDX-License-Identifier: Apache-2.0
"""Score molecules once each, whatever the scorer does, and keep every result in a table."""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import math
import os
import queue
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import pandas as pd

from ..atomic_files import check_output, write_whole, writing
from ..chemistry.smiles import similarity
from .scorers import ROW_FIELDS, SIMILARITY, Scorer

PATIENCE = 20
"""A scorer whose first calls all fail, so many in a row, is taken for broken."""


class Oracle:
    """A scorer with a memory.

    A molecule is given to the scorer once, whichever seeds ask for it; of a term that depends on
    the seed (`"similarity"`) only that term is computed again. What the scorer does wrong becomes
    the molecule's `error` and its score nan: an exception, a result that is not a finite number, a
    call that takes too long.

    Each (seed, molecule) is a row: `seed` (index), `seed_smiles`, `smiles`, `score`, a column for
    each of `Scorer.columns`, `similarity` (Tanimoto to the seed), `error` (empty if none),
    `iteration`, and `call`, the running number of the scorer's call.

    Args:
        scorer: What is computed.
        seeds: Canonical SMILES that the searches start from.
        timeout: Seconds that one call of a term may take; None waits for ever. With a limit, calls
            run in a thread of their own. Python cannot stop a thread: a late call is left behind
            and may go on computing.
        table: A CSV file to which rows are appended as they are made. What an earlier run with
            the same settings left there is not computed again.
        settings: What else a table must have been made with (JSON types). It is kept beside the
            table in `<table>.json` with the scorer's weights and the seeds. A larger `"budget"`
            than the table's is accepted, which is the way to go on. Molecules for which the
            scorer failed are given to it again; of a function whose source has changed a warning
            says so.

    Raises:
        ValueError: The table was made with other settings, or is damaged.

    Attributes:
        calls: Molecules given to the scorer, or found in the table, in this run.
        reused: How many of these were in the table.
        failures: How often the scorer failed in this run, by kind.
    """

    def __init__(
        self,
        scorer: Scorer,
        seeds: Sequence[str],
        *,
        timeout: float | None = None,
        table: str | os.PathLike | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the table, if there is one."""
        self.scorer, self.seeds, self.timeout = scorer, list(seeds), timeout
        self.calls = self.reused = 0
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._similarities: dict[tuple[int, str], float] = {}
        self._known: dict[str, dict[str, Any]] = {}
        self._counted: set[str] = set()
        self._worker: _Worker | None = None
        self._table: _Table | None = None
        self._columns = [*ROW_FIELDS[:4], *scorer.columns, *ROW_FIELDS[4:]]
        self._last_call = 0
        if table is not None:
            about = {"weights": scorer.weights, "seeds": self.seeds, **(settings or {})}
            self._table = _Table(table, self._columns, about, _sources(scorer))
            for row in self._table.rows.values():
                self._last_call = max(self._last_call, row["call"])
                if row["error"]:  # what failed may have been mended: it is tried again
                    continue
                self._known[row["smiles"]] = row
                if not scorer.columns:  # the only term is the score
                    row = self._known[row["smiles"]] = {**row, scorer.terms[0].name: row["score"]}
        self._in_table = set(self._known)

    def __enter__(self) -> Self:
        """The oracle itself; leaving closes its table."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the table's file."""
        if self._table is not None:
            self._table.close()

    def similarity(self, seed: int, smiles: str) -> float:
        """Tanimoto similarity of a molecule to a seed, computed once."""
        key = (seed, smiles)
        if key not in self._similarities:
            self._similarities[key] = similarity(self.seeds[seed], smiles)
        return self._similarities[key]

    def knows(self, seed: int, smiles: str) -> bool:
        """Whether this molecule was asked for, for this seed and in this run."""
        return (seed, smiles) in self._rows

    def score(self, seed: int, smiles: str, iteration: int) -> float:
        """The score of a molecule, nan if the scorer failed.

        Args:
            seed: Index of the seed that the molecule was found from.
            smiles: The molecule, canonical.
            iteration: Kept in the row that the first call makes.

        Raises:
            RuntimeError: The scorer failed at each of its first `PATIENCE` molecules.
        """
        key = (seed, smiles)
        if key not in self._rows:
            known = self._known.get(smiles) or self._compute(smiles)
            row = self._row(seed, smiles, iteration, known)
            if self._table is not None:
                self._table.append(seed, row)
            self._known[smiles] = known
            self._rows[key] = row
            self._count(row)
        return self._rows[key]["score"]

    def rows(self) -> pd.DataFrame:
        """The rows of this run, in the order in which they were asked for."""
        return pd.DataFrame(list(self._rows.values()), columns=self._columns)

    def _compute(self, smiles: str) -> dict[str, Any]:
        """Values of the terms that do not depend on the seed, error, number of the call."""
        self._last_call += 1
        known: dict[str, Any] = {"error": "", "call": self._last_call}
        for term in self.scorer.terms:
            if term.function is None:
                continue
            value, error = self._call(term.function, smiles)
            known[term.name] = value
            if error:
                named = f"{term.name} " if len(self.scorer.terms) > 1 else ""
                known["error"] = named + error
                break
        return known

    def _row(self, seed: int, smiles: str, iteration: int, known: dict[str, Any]) -> dict[str, Any]:
        near = self.similarity(seed, smiles)
        score, error = math.nan, known["error"]
        if not error:
            score = self.scorer.combine({**known, SIMILARITY: near})
            if not math.isfinite(score):
                score, error = math.nan, f"sum is {score}: a term or its weight is too large"
        return {
            "seed": seed,
            "seed_smiles": self.seeds[seed],
            "smiles": smiles,
            "score": score,
            **{name: known.get(name, math.nan) for name in self.scorer.columns},
            SIMILARITY: near,
            "error": error,
            "iteration": iteration,
            "call": known["call"],
        }

    def _count(self, row: dict[str, Any]) -> None:
        smiles, error = row["smiles"], row["error"]
        if smiles in self._counted:
            return
        self._counted.add(smiles)
        self.calls += 1
        self.reused += smiles in self._in_table
        if error:
            kind = error.partition(": ")[0]
            self.failures[kind] += 1
            self.examples.setdefault(kind, f"{smiles}: {error}")
        if self.failures.total() == self.calls == PATIENCE:
            raise RuntimeError(
                f"The scorer failed for each of its first {PATIENCE} molecules, as for "
                f"{'; '.join(list(self.examples.values())[:3])}. Mend the scorer, or raise the "
                f"timeout if it is only slow."
            )

    def _call(self, function: Callable[[str], float], smiles: str) -> tuple[float, str]:
        """Value and error of one call: one of nan and "" is in its place."""
        try:
            if self.timeout is None:
                value = function(smiles)
            else:
                value = self._call_in_time(function, smiles)
        except _Late:
            return math.nan, f"took longer than {self.timeout:g} s"
        except (Exception, SystemExit) as error:  # a scorer may wrap a command's main function
            return math.nan, f"raised {type(error).__name__}: {_one_line(str(error))}"
        return _number(value)

    def _call_in_time(self, function: Callable[[str], float], smiles: str) -> Any:
        worker, self._worker = self._worker or _Worker(), None
        try:
            value = worker.call(function, smiles, self.timeout)
        except _Late:
            warnings.warn(
                f"A call of the scorer took longer than {self.timeout:g} s. Python cannot stop it, "
                "so it goes on beside the next ones until it ends.",
                RuntimeWarning,
                stacklevel=5,
            )
            raise
        except Exception:
            self._worker = worker
            raise
        self._worker = worker
        return value


class _Late(Exception):
    """A call did not end in time."""


class _Worker:
    """A daemon thread that makes one call after another, until one is late."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def call(self, function: Callable[[str], float], smiles: str, timeout: float) -> Any:
        self._jobs.put((function, smiles))
        try:
            value, error = self._results.get(timeout=timeout)
        except BaseException as error:
            self._jobs.put(None)  # the thread ends when its call does
            if isinstance(error, queue.Empty):
                raise _Late from None
            raise
        if error is not None:
            raise error
        return value

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, smiles = job
            try:
                self._results.put((function(smiles), None))
            except BaseException as error:  # raised again where the call was asked for
                self._results.put((None, error))


class _Table:
    """Rows in a CSV file, each handed to the system before the next is computed."""

    def __init__(
        self,
        table: str | os.PathLike,
        columns: list[str],
        settings: dict[str, Any],
        sources: dict[str, str],
    ) -> None:
        Path(table).absolute().parent.mkdir(parents=True, exist_ok=True)
        self.path = path = check_output(table, (".csv",))
        self._columns = columns
        settings = json.loads(json.dumps(settings))  # as they will be read
        beside = path.with_name(path.name + ".json")
        if path.exists():
            earlier = _read_settings(path, beside)
            _warn_of_changes(path, earlier.pop("sources", {}), sources)
            _check_settings(path, earlier, settings)
        write_whole(beside, json.dumps({**settings, "sources": sources}, indent=2) + "\n")
        self.rows = self._read() if path.exists() else {}
        self.stream: IO[str] = open(  # closed by the oracle
            path, "a", encoding="utf-8", errors="backslashreplace", newline=""
        )
        self._writer = csv.DictWriter(self.stream, columns, lineterminator="\n")
        if self.stream.tell() == 0:
            with writing(path):
                self._writer.writeheader()
                self.stream.flush()

    def append(self, seed: int, row: dict[str, Any]) -> None:
        earlier = self.rows.get((seed, row["smiles"]))
        if earlier is not None and not earlier["error"]:
            return
        row = {
            name: "" if isinstance(value, float) and math.isnan(value) else value
            for name, value in row.items()
        }
        with writing(self.path):
            self._writer.writerow(row)
            self.stream.flush()

    def close(self) -> None:
        with writing(self.path):
            self.stream.close()

    def _read(self) -> dict[tuple[int, str], dict[str, Any]]:
        """Rows by seed and molecule; a last line that was not finished is cut off the file."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        try:
            lines = list(csv.reader(whole.decode("utf-8").split("\n")[:-1]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{self.path} is damaged: it is no table in UTF-8 ({error}). Give another table."
            ) from error
        if lines and lines[0] != self._columns:
            raise ValueError(
                f"{self.path} has the columns {', '.join(lines[0])}; {', '.join(self._columns)} "
                "are expected. Give another table, or remove this one."
            )
        rows = {}
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = self._typed(line)
            except ValueError as error:
                raise ValueError(
                    f"Line {number} of {self.path} is damaged ({error}). Remove the line to have "
                    "its molecule scored again."
                ) from error
            rows[row["seed"], row["smiles"]] = row
        return rows

    def _typed(self, line: list[str]) -> dict[str, Any]:
        if len(line) != len(self._columns):
            raise ValueError(f"{len(line)} fields in place of {len(self._columns)}")
        row: dict[str, Any] = dict(zip(self._columns, line, strict=True))
        for name, text in row.items():
            if name in ("seed", "iteration", "call"):
                row[name] = int(text)
            elif name not in ("seed_smiles", "smiles", "error"):
                row[name] = float(text or "nan")
        return row


def _read_settings(table: Path, beside: Path) -> dict[str, Any]:
    """What made a table, from the file beside it."""
    if not beside.is_file():
        raise ValueError(
            f"{table} is there but not {beside.name}, which says what made it. Give another table."
        )
    try:
        earlier = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{beside} is damaged ({error}). Give another table.") from error
    if not isinstance(earlier, dict):
        raise ValueError(f"{beside} is damaged: it holds no settings. Give another table.")
    return earlier


def _sources(scorer: Scorer) -> dict[str, str]:
    """A digest of each term's source, where Python can tell it."""
    sources = {}
    for term in scorer.terms:
        try:
            text = inspect.getsource(term.function)
        except (TypeError, OSError):
            continue
        sources[term.name] = hashlib.sha256(text.encode()).hexdigest()
    return sources


def _warn_of_changes(table: Path, earlier: dict[str, str], sources: dict[str, str]) -> None:
    changed = [name for name, digest in sources.items() if earlier.get(name, digest) != digest]
    if changed:
        warnings.warn(
            f"The source of {', '.join(changed)} has changed since {table} was made; the scores in "
            "it are used as they stand. If they no longer hold, give another table.",
            RuntimeWarning,
            stacklevel=6,
        )


def _check_settings(table: Path, earlier: dict[str, Any], settings: dict[str, Any]) -> None:
    differing = [
        f"{name} was {_shown(earlier.get(name))}, now {_shown(settings.get(name))}"
        for name in sorted({*earlier, *settings})
        if earlier.get(name) != settings.get(name)
        and not (name == "budget" and earlier.get(name, math.inf) < settings.get(name, 0))
    ]
    if differing:
        raise ValueError(
            f"{table} was made with other settings: {'; '.join(differing)}. Give them as they "
            "were (only a larger budget goes on), or another table."
        )


def _number(value: Any) -> tuple[float, str]:
    """A result as a float, and what is wrong with it."""
    if value is None:
        return math.nan, "returned None"
    try:
        if isinstance(value, str | bytes):
            raise TypeError  # float() would read a number from it
        number = float(value)
    except Exception:
        shown = _one_line(_shown(value))
        return math.nan, f"returned a {type(value).__name__}, not a number: {shown}"
    return (number, "") if math.isfinite(number) else (math.nan, f"returned {number}")


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = ["PATIENCE", "Oracle"]
