# SPDX-License-Identifier: Apache-2.0
"""Search a latent space for molecules that score higher, starting from given ones.

From each seed runs a search of its own; the candidates of all of them are decoded in one call a
round, which is where batched decoding pays.
"""

from __future__ import annotations

import math
import operator
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .score_table import ScoreTable
from .scorers import Scorer, as_scorer

if TYPE_CHECKING:
    import cma

STALE_ROUNDS = 30
"""After so many rounds without a new molecule a search starts again from its seed."""

DOUBLINGS = 2
"""How often in a row it doubles its step, where a start came upon no new molecule; then it ends."""

LARGEST_FULL = 256
"""Numbers in a code up to which CMA-ES learns a full covariance; time and memory grow as n²."""

Decode = Callable[[np.ndarray], Sequence[str | None]]


@dataclass
class Optimization:
    """What a search found.

    Attributes:
        table: Every molecule scored, one row for each seed that it was found from (see
            `ScoreTable.frame`); `iteration` counts rounds, the seeds themselves come at 0.
        best: One row a seed: `seed`, `seed_smiles`, `seed_score`, then of its best feasible
            molecule `smiles`, `score` and `similarity` (None and nan if the scorer failed for
            all), `calls` (molecules scored for this seed) and why it `stopped`: "budget",
            "exhausted" (only known molecules came) or "interrupted".
        calls: Molecules scored. One that several seeds found is counted once.
        reused: How many of them had their score in the table already.
        failures: How many of them the scorer failed for, by kind.
        interrupted: Ctrl-C ended the run.
    """

    table: pd.DataFrame
    best: pd.DataFrame
    calls: int
    reused: int
    failures: Counter[str]
    interrupted: bool

    def __str__(self) -> str:
        """What was found and what went wrong, in a line each."""
        gain = (self.best["score"] - self.best["seed_score"]).mean()
        better = (self.best["score"] > self.best["seed_score"]).sum()
        why = Counter(self.best["stopped"])
        lines = [
            f"{better} of {len(self.best)} molecules improved, by {gain:.3g} on average; "
            f"{self.calls} scored, {self.reused} of them in an earlier run (stopped: "
            f"{', '.join(f'{number} {reason}' for reason, number in why.items())})."
        ]
        if self.failures:
            failed = self.table[self.table["error"] != ""]
            kinds = failed["error"].str.partition(": ")[0]
            shown = []
            for kind, count in self.failures.most_common():
                first = failed[kinds == kind].iloc[0]
                shown.append(f"{count} {kind}, first {first['error']!r} for {first['smiles']}")
            lines.append(f"The scorer failed in {self.failures.total()} calls: {'; '.join(shown)}.")
        return "\n".join(lines)


def optimize(
    seeds: Sequence[str],
    codes: np.ndarray,
    decode: Decode,
    scorer: str | Callable[[Any], Any] | Mapping | Scorer,
    *,
    strategy: Literal["cma", "random"] = "cma",
    budget: int = 500,
    population: int = 20,
    step: float = 0.3,
    spread: np.ndarray | None = None,
    min_similarity: float = 0.0,
    timeout: float | None = None,
    table: str | os.PathLike | None = None,
    seed: int = 0,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Optimization:
    """Look for molecules of higher score around the codes of given ones.

    Candidates are z = code + spread · y. With `"cma"`, y is drawn and adapted by CMA-ES (Hansen
    2016, arXiv 1604.00772), from N(0, step² I) on. Its covariance is full up to `LARGEST_FULL`
    numbers in a code, diagonal beyond (Ros and Hansen 2008). It sees ranks only, so scores may
    have any scale. A round ranks feasible molecules by score, then those less similar to the seed
    than `min_similarity`, by similarity, then those for which the scorer failed, then codes that
    decode to no molecule. With `"random"`, y ~ N(0, step² I) throughout.

    A search that comes upon no new molecule in `STALE_ROUNDS` rounds starts again from its seed,
    with the step doubled if it came upon none since its start. (Restarts of the package cma go by
    stagnation of the function's values, which on molecules comes long before new ones end.)

    The same arguments give the same result, if `decode` is deterministic. So a run that died goes
    on when it is started again with the same `table`: it repeats its way with the scores that it
    finds there.

    Args:
        seeds: Canonical SMILES to start from; one that comes twice is searched twice, with other
            draws.
        codes: (seeds, size), their codes.
        decode: From codes (n, size) to n canonical SMILES, None where there is no molecule.
        scorer: Higher is better; see `as_scorer`.
        strategy: See above.
        budget: Molecules scored for each seed, itself included. Molecules that are not feasible
            are not scored.
        population: Candidates of a seed and round, at least 4.
        step: Initial standard deviation, in units of `spread`.
        spread: (size,), the scale of each coordinate; ones by default.
        min_similarity: Tanimoto similarity to its seed that a molecule must have, in [0, 1].
        timeout: Seconds for one call of the scorer, see `ScoreTable`; None waits for ever.
        table: CSV file for the molecules scored, see `ScoreTable`.
        seed: Of the random numbers; numpy's global ones are neither used nor changed.
        progress: Show a bar.
        settings: What makes `codes` and `decode`, such as the checkpoint; a table made with other
            settings is refused.

    Raises:
        ImportError: `"cma"` without the package cma.
        TypeError: `scorer` is no scorer, or a number is of another type.
        ValueError: An argument out of its range, a seed that is no molecule, or a table made with
            other settings.
        RuntimeError: The scorer fails from the start, see `ScoreTable.score`.
    """
    scorer = as_scorer(scorer)
    codes = np.asarray(codes, dtype=float)
    about = {
        "strategy": strategy,
        "budget": operator.index(budget),
        "population": operator.index(population),
        "step": float(step),
        "min_similarity": float(min_similarity),
        "seed": operator.index(seed),
        **(settings or {}),
    }
    _check(seeds, codes, about, timeout)
    spread = np.ones(codes.shape[1]) if spread is None else np.asarray(spread, dtype=float)
    searches = [_Search(row, code, spread, about) for row, code in enumerate(codes)]
    with (
        ScoreTable(scorer, seeds, timeout=timeout, path=table, settings=about) as scores,
        tqdm(total=budget * len(seeds), desc="scored", disable=not progress) as bar,
    ):
        _run(searches, decode, scores, bar)
    found = scores.frame()
    calls, reused, failures = scores.counts()
    return Optimization(
        table=found,
        best=_best(found, searches, seeds),
        calls=calls,
        reused=reused,
        failures=failures,
        interrupted=any(search.stopped == "interrupted" for search in searches),
    )


class _Search:
    """The search of one seed: what it asks for, when it starts again, why it stopped."""

    def __init__(self, row: int, code: np.ndarray, spread: np.ndarray, about: dict) -> None:
        self.row, self._code, self._spread, self._about = row, code, spread, about
        self._random = np.random.default_rng((about["seed"], row))
        self._fruitless = 0  # starts in a row that came upon no new molecule
        self._spent = 1  # on the seed
        self.stopped = ""
        self._start()

    def ask(self) -> np.ndarray:
        """Codes (population, size) to try."""
        if self._strategy is not None:
            self._drawn = np.array(self._strategy.ask())
        else:
            shape = (self._about["population"], len(self._code))
            self._drawn = self._step * self._random.standard_normal(shape)
        return self._code + self._spread * self._drawn

    @property
    def left(self) -> int:
        """Molecules that may still be scored."""
        return self._about["budget"] - self._spent

    def choose(self, molecules: Sequence[str | None], table: ScoreTable) -> list[tuple[int, str]]:
        """What to score of a round's molecules: those feasible and new, within the budget."""
        self._molecules = molecules
        distinct = list(dict.fromkeys(one for one in molecules if one is not None))
        self._near = dict(zip(distinct, table.similarities(self.row, distinct), strict=True))
        new = [
            (self.row, one)
            for one in distinct
            if self._near[one] >= self._about["min_similarity"] and not table.knows(self.row, one)
        ][: self.left]
        self._spent += len(new)
        self._found = bool(new)
        return new

    def learn(self, table: ScoreTable) -> None:
        """Adapt to the ranks of a round, or start again, or stop."""
        self._stale = 0 if self._found else self._stale + 1
        self._fruitful |= self._found
        if self._stale < STALE_ROUNDS:
            if self._strategy is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of steps that grow where all ranks are equal
                    self._strategy.tell(list(self._drawn), list(mean_ranks(self._keys(table))))
            return
        self._fruitless = 0 if self._fruitful else self._fruitless + 1
        if self._fruitless <= DOUBLINGS:
            self._start()
        else:
            self.stopped = "exhausted"

    def _keys(self, table: ScoreTable) -> list[tuple[int, float]]:
        """Class and value of each candidate, the best first in their order."""
        keys = []
        for one in self._molecules:
            if one is None:
                keys.append((3, 0.0))
            elif self._near[one] < self._about["min_similarity"]:
                keys.append((1, -self._near[one]))
            else:
                (score,) = table.score([(self.row, one)])
                keys.append((2, 0.0) if math.isnan(score) else (0, -score))
        return keys

    def _start(self) -> None:
        self._stale, self._fruitful = 0, False
        self._step = self._about["step"] * 2**self._fruitless
        self._strategy = None
        if self._about["strategy"] == "cma":
            size, population = len(self._code), self._about["population"]
            self._strategy = _cma(size, self._step, population, self._random)


def _cma(
    size: int, step: float, population: int, random: np.random.Generator
) -> cma.CMAEvolutionStrategy:
    """CMA-ES around 0; its covariance is diagonal for codes longer than `LARGEST_FULL`."""
    try:
        import cma
    except ImportError as error:
        raise ImportError(
            "Strategy 'cma' is the package cma: pip install 'cmim-hf[optimize]' (strategy "
            "'random' works without it)."
        ) from error
    options = {
        "popsize": population,
        "CMA_diagonal": size > LARGEST_FULL,
        "randn": lambda *shape: random.standard_normal(shape),
        "verbose": -10,
        "verb_log": 0,
    }
    return cma.CMAEvolutionStrategy(np.zeros(size), step, options)


def mean_ranks(keys: Sequence[tuple[int, float]]) -> np.ndarray:
    """Ranks from 0 of pairs in their order; equal pairs share the mean of their ranks."""
    _, inverse, counts = np.unique(
        np.array(keys, dtype=float), axis=0, return_inverse=True, return_counts=True
    )
    return (counts.cumsum() - (counts + 1) / 2)[inverse.ravel()]


def _run(searches: list[_Search], decode: Decode, table: ScoreTable, bar: tqdm) -> None:
    """Rounds until every search has stopped; one that is interrupted says so."""
    try:
        table.score([(search.row, table.seeds[search.row]) for search in searches], bar=bar)
        for iteration in count(1):
            for search in searches:
                search.stopped = search.stopped or ("" if search.left else "budget")
            active = [search for search in searches if not search.stopped]
            if not active:
                return
            asked = [search.ask() for search in active]
            decoded = decode(np.concatenate(asked))
            if len(decoded) != sum(map(len, asked)):
                raise ValueError(
                    f"decode got {sum(map(len, asked))} codes and returned {len(decoded)} "
                    "molecules; it must return one, or None, for each code."
                )
            rest = iter(decoded)
            wanted = [
                one
                for search, codes in zip(active, asked, strict=True)
                for one in search.choose(list(islice(rest, len(codes))), table)
            ]
            table.score(wanted, iteration, bar)
            for search in active:
                if search.left:
                    search.learn(table)
    except KeyboardInterrupt:
        for search in searches:
            search.stopped = search.stopped or "interrupted"


def _best(table: pd.DataFrame, searches: list[_Search], seeds: Sequence[str]) -> pd.DataFrame:
    """One row a seed. Infeasible molecules are not in the table."""
    scored = table.dropna(subset="score")
    top = scored.sort_values("score", ascending=False, kind="stable").groupby("seed").first()
    best = pd.DataFrame(
        {
            "seed_smiles": seeds,
            "seed_score": table[table["iteration"] == 0].set_index("seed")["score"],
            **{name: top[name] for name in ("smiles", "score", "similarity")},
            "calls": table.groupby("seed").size(),
            "stopped": [search.stopped for search in searches],
        },
        index=pd.RangeIndex(len(seeds), name="seed"),
    )
    best["smiles"] = best["smiles"].astype(object).where(best["smiles"].notna(), None)
    return best.fillna({"calls": 0}).astype({"calls": int}).reset_index()


def _check(
    seeds: Sequence[str], codes: np.ndarray, about: Mapping[str, Any], timeout: float | None
) -> None:
    if isinstance(seeds, str):
        raise TypeError(f"seeds is a list of SMILES, not one string: give [{seeds!r}].")
    if codes.ndim != 2 or len(codes) != len(seeds) or not np.isfinite(codes).all():
        raise ValueError(
            f"codes are finite and (seeds, size), here ({len(seeds)}, size); got {codes.shape}."
        )
    longest = threading.TIMEOUT_MAX
    for good, problem in (
        (len(seeds), "optimize got no seed; give it at least one SMILES"),
        (about["strategy"] in ("cma", "random"), "`strategy` is cma or random, not {strategy!r}"),
        (about["budget"] >= 1, "`budget`, molecules scored a seed, is at least 1; got {budget}"),
        (about["population"] >= 4, "`population` must be at least 4, got {population}"),
        (0 < about["step"] < math.inf, "`step` must be positive and finite, got {step}"),
        (0 <= about["min_similarity"] <= 1, "`min_similarity` is in [0, 1], got {min_similarity}"),
        (
            timeout is None or 0 < timeout <= longest,
            f"`timeout` is a number of seconds above 0, at most {longest:.0f}, or None to wait for "
            f"ever; got {timeout}",
        ),
    ):
        if not good:
            raise ValueError(problem.format(**about) + ".")
