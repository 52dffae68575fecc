# SPDX-License-Identifier: Apache-2.0
"""A table of scores: each molecule scored once, every result kept, on the disk if asked for."""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import pandas as pd
from tqdm.auto import tqdm

from ..atomic_files import check_output, write_whole, writing
from ..chemistry.smiles import similarity
from .scorer_calls import call_scorer, shown
from .scorers import FIXED_COLUMNS, SIMILARITY, Scorer

PATIENCE = 20
"""A scorer that fails for so many molecules, and has not worked before, is taken for broken."""


class ScoreTable:
    """The scores of a run, and a memory of them.

    A molecule is given to the scorer once, whichever seeds ask for it; of a term that depends on
    the seed (`"similarity"`) only that term is computed again. Where the scorer fails (see
    [`~cmim_hf.optimization.scorer_calls.call_scorer`]), the molecule's score is nan and the reason
    is its `error`.

        >>> from cmim_hf.optimization.scorers import as_scorer
        >>> table = ScoreTable(as_scorer(len), ["CCO"])
        >>> table.score([(0, "CCO"), (0, "CC"), (0, "CCO")])
        [3.0, 2.0, 3.0]
        >>> table.frame()[["seed_smiles", "smiles", "score", "error", "call"]].values.tolist()
        [['CCO', 'CCO', 3.0, '', 1], ['CCO', 'CC', 2.0, '', 2]]

    Args:
        scorer: What is computed.
        seeds: Canonical SMILES that the searches start from.
        timeout: Seconds that one call of a term may take, see `call_scorer`.
        path: A CSV file to which rows are appended as they are made. What an earlier run with the
            same settings left there is not computed again, but for molecules for which the scorer
            failed. Of a function whose source has changed a warning says so.
        settings: What else a table must have been made with (JSON types). It is kept beside the
            table in `<path>.json` with the scorer's weights and the seeds. A larger `"budget"`
            than the table's is accepted, which is the way to go on.

    Raises:
        ValueError: The table was made with other settings, or is damaged.
    """

    def __init__(
        self,
        scorer: Scorer,
        seeds: Sequence[str],
        *,
        timeout: float | None = None,
        path: str | os.PathLike | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the file, if there is one."""
        self.scorer, self.seeds, self.timeout = scorer, list(seeds), timeout
        self.columns = [*FIXED_COLUMNS[:4], *scorer.columns, *FIXED_COLUMNS[4:]]
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._values: dict[str, dict[str, Any]] = {}  # of the terms, of each molecule
        self._works = False
        self._kept: set[tuple[int, str]] = set()
        self._earlier = self._last = 0  # numbers of calls
        self._stream: IO[str] | None = None
        if path is not None:
            self._open(path, {"weights": scorer.weights, "seeds": self.seeds, **(settings or {})})

    def __enter__(self) -> Self:
        """The table itself; leaving closes its file."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        if self._stream is not None:
            with writing(self._stream.name):
                self._stream.close()

    def score(
        self, asked: Sequence[tuple[int, str]], iteration: int = 0, bar: tqdm | None = None
    ) -> list[float]:
        """The scores of molecules in their order, nan where the scorer failed.

        Each row is in the file before the next molecule is scored; where a term takes a list, all
        new molecules are scored first.

        Args:
            asked: Index of a seed, and a canonical SMILES found from it.
            iteration: Kept in the rows that this call makes.
            bar: Moved on by each of these rows.

        Raises:
            RuntimeError: The scorer failed for each of its first `PATIENCE` molecules.
        """
        for batch in [asked] if self.scorer.takes_list else [[one] for one in asked]:
            self._compute([one for _, one in batch])
            for seed, smiles in batch:
                if (seed, smiles) not in self._rows:
                    self._add(seed, smiles, iteration)
                    if bar is not None:
                        bar.update()
            self._check_that_it_works()
        return [self._rows[one]["score"] for one in asked]

    def values(self, seed: int, smiles: str) -> list[float]:
        """Weight times value of each term of a molecule that was scored, nan where it failed."""
        row = self._rows[seed, smiles]
        if row["error"]:
            return [math.nan] * len(self.scorer.terms)
        if not self.scorer.columns:
            return [row["score"]]
        return [term.weight * row[term.name] for term in self.scorer.terms]

    def frame(self) -> pd.DataFrame:
        """The rows of this run, in the order in which they were asked for.

        A row for each seed and molecule: `seed` (index), `seed_smiles`, `smiles`, `score`, a column
        for each of `Scorer.columns`, `similarity` (Tanimoto, to the seed), `error` (empty if none),
        `iteration`, and `call`, the number of the molecule among those given to the scorer.
        """
        return pd.DataFrame(list(self._rows.values()), columns=self.columns)

    def counts(self) -> tuple[int, int, Counter[str]]:
        """Molecules scored in this run, those of them found in the file, and failures by kind."""
        molecules = self.frame().drop_duplicates("smiles")
        kinds = Counter(_kind(error) for error in molecules["error"] if error)
        return len(molecules), int((molecules["call"] <= self._earlier).sum()), kinds

    def _compute(self, smiles: Iterable[str]) -> None:
        """Values of the terms that do not depend on a seed, of molecules not seen before."""
        new = [one for one in dict.fromkeys(smiles) if one not in self._values]
        found: dict[str, dict[str, Any]] = {one: {"error": ""} for one in new}
        for term in self.scorer.terms:
            left = [one for one in new if not found[one]["error"]]
            if term.function is None or not left:
                continue
            named = f"{term.name} " if len(self.scorer.terms) > 1 else ""
            for one, (value, error) in zip(
                left, call_scorer(term, left, self.timeout), strict=True
            ):
                found[one] |= {term.name: value, "error": named + error if error else ""}
        for number, one in enumerate(new, self._last + 1):
            found[one]["call"] = number
        self._last += len(new)
        self._values |= found

    def _add(self, seed: int, smiles: str, iteration: int) -> None:
        values = self._values[smiles]
        near = similarity(self.seeds[seed], smiles)
        score, error = math.nan, values["error"]
        if not error:
            score = self.scorer.combine({**values, SIMILARITY: near})
            if not math.isfinite(score):
                score, error = math.nan, f"sum is {score}: a term or its weight is too large"
        self._works |= not error
        row = {
            "seed": seed,
            "seed_smiles": self.seeds[seed],
            "smiles": smiles,
            "score": score,
            **{name: values.get(name, math.nan) for name in self.scorer.columns},
            SIMILARITY: near,
            "error": error,
            "iteration": iteration,
            "call": values["call"],
        }
        self._write(row)
        self._rows[seed, smiles] = row

    def _check_that_it_works(self) -> None:
        if self._works:
            return
        failed = {row["smiles"]: row["error"] for row in self._rows.values()}
        if len(failed) >= PATIENCE:
            kinds: dict[str, str] = {}
            for smiles, error in failed.items():
                kinds.setdefault(_kind(error), f"{smiles}: {error}")
            raise RuntimeError(
                f"The scorer failed for each of its first {len(failed)} molecules, as for "
                f"{'; '.join(list(kinds.values())[:3])}. Fix the scorer, or raise `timeout` if it "
                "is only slow."
            )

    def _open(self, path: str | os.PathLike, settings: dict[str, Any]) -> None:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        path = check_output(path, (".csv",))
        beside = path.with_name(path.name + ".json")
        settings = json.loads(json.dumps(settings))  # as they will be read
        sources = _sources(self.scorer)
        if path.exists():
            _check_settings(path, beside, settings, sources)
        write_whole(beside, json.dumps({**settings, "sources": sources}, indent=2) + "\n")
        if path.exists():
            self._remember(_read(path, self.columns))
        self._stream = open(  # closed by __exit__
            path, "a", encoding="utf-8", errors="backslashreplace", newline=""
        )
        if self._stream.tell() == 0:
            self._write({name: name for name in self.columns})

    def _remember(self, table: pd.DataFrame) -> None:
        """Take over the scores of an earlier run; what failed is tried again."""
        self._earlier = self._last = int(table["call"].max()) if len(table) else 0
        rows = table[(table["error"] == "") & table["score"].notna()]
        self._kept = set(zip(rows["seed"], rows["smiles"], strict=True))
        if not self.scorer.columns:  # the only term is the score
            rows = rows.assign(**{self.scorer.terms[0].name: rows["score"]})
        rows = rows.drop_duplicates("smiles", keep="last").set_index("smiles")
        self._values = rows.to_dict("index")

    def _write(self, row: dict[str, Any]) -> None:
        if self._stream is None or (row["seed"], row["smiles"]) in self._kept:
            return
        fields = ["" if value != value else value for value in row.values()]  # nan
        with writing(self._stream.name):
            csv.writer(self._stream, lineterminator="\n").writerow(fields)
            self._stream.flush()


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """The rows of a file; a last line that was not finished is cut off it."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    kinds = {"seed": int, "seed_smiles": str, "smiles": str, "error": str, "iteration": int}
    kinds["call"] = int
    readers = {name: kinds.get(name, _float_or_gap) for name in columns}
    if not whole:
        return pd.DataFrame(columns=columns)
    try:
        names = pd.read_csv(path, nrows=0).columns.tolist()
        if names != columns:
            raise ValueError(
                f"it has the columns {', '.join(names)}; {', '.join(columns)} are expected"
            )
        return pd.read_csv(path, converters=readers, keep_default_na=False)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Remove the lines that are wrong, to have their molecules "
            "scored again, or give another table."
        ) from error


def _float_or_gap(text: str) -> float:
    return float(text or "nan")  # exact, as pandas' own reading of numbers is not


def _kind(error: str) -> str:
    return error.partition(": ")[0]


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


def _check_settings(
    table: Path, beside: Path, settings: dict[str, Any], sources: dict[str, str]
) -> None:
    """Refuse a table that was made with other settings; warn of functions that have changed."""
    try:
        earlier = json.loads(beside.read_text(encoding="utf-8"))
        digests = earlier.pop("sources", {})
    except FileNotFoundError:
        raise ValueError(
            f"{table} is there but not {beside.name}, which says what made it. Give another table."
        ) from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{beside} is damaged ({error}). Give another table.") from error
    differing = [
        f"{name} was {shown(earlier.get(name))}, now {shown(settings.get(name))}"
        for name in sorted({*earlier, *settings})
        if earlier.get(name) != settings.get(name)
        and not (name == "budget" and earlier.get(name, math.inf) < settings.get(name, 0))
    ]
    if differing:
        raise ValueError(
            f"{table} was made with other settings: {'; '.join(differing)}. Give them as they "
            "were (only a larger budget goes on), or another table."
        )
    changed = [name for name, digest in sources.items() if digests.get(name, digest) != digest]
    if changed:
        warnings.warn(
            f"The source of {', '.join(changed)} has changed since {table} was made; the scores in "
            "it are used as they stand. If they no longer hold, give another table.",
            RuntimeWarning,
            stacklevel=2,
        )
