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
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..chemistry.smiles import canonicalize
from .score_table import Oracle
from .scorers import Scorer, as_scorer

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
        table: Every molecule scored, one row for each seed that it was found from (see `Oracle`);
            `iteration` counts rounds, the seeds themselves come at 0.
        best: One row a seed: `seed`, `seed_smiles`, `seed_score`, then of its best feasible
            molecule `smiles`, `score` and `similarity` (None and nan if the scorer failed for
            all), `calls` (molecules scored for this seed) and why it `stopped`: "budget",
            "exhausted" (only known molecules came) or "interrupted".
        calls: Molecules scored. One that several seeds found is counted once.
        reused: How many of them had their score in the table already.
        failures: How often the scorer failed, by kind.
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
    scorer: str | Callable[[str], float] | Mapping | Scorer,
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
    with the step doubled if it came upon none since its start.

    The same arguments give the same result, if `decode` is deterministic. So a run that died goes
    on when it is started again with the same `table`: it repeats its way with the scores that it
    finds there.

    Args:
        seeds: SMILES to start from; one that comes twice is searched twice, with other draws.
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
        timeout: Seconds for one call of the scorer, see `Oracle`; None waits for ever.
        table: CSV file for the molecules scored, see `Oracle`.
        seed: Of the random numbers; numpy's global ones are neither used nor changed.
        progress: Show a bar.
        settings: What makes `codes` and `decode`, such as the checkpoint; a table made with other
            settings is refused.

    Raises:
        ImportError: `"cma"` without the package cma.
        TypeError: `scorer` is no scorer, or a number is of another type.
        ValueError: An argument out of its range, a seed that is no molecule, or a table made with
            other settings.
        RuntimeError: The scorer fails from the start, see `Oracle.score`.
    """
    scorer = as_scorer(scorer)
    codes, spread = _checked_codes(seeds, codes, spread)
    _check_numbers(strategy, budget, population, step, min_similarity, timeout)
    seeds = [_canonical_seed(row, smiles) for row, smiles in enumerate(seeds)]
    about = {
        "strategy": strategy,
        "budget": operator.index(budget),
        "population": operator.index(population),
        "step": float(step),
        "min_similarity": float(min_similarity),
        "seed": operator.index(seed),
        **(settings or {}),
    }
    searches = [
        _Search(row, code, spread, step, population, _SAMPLERS[strategy], (seed, row))
        for row, code in enumerate(codes)
    ]
    with (
        Oracle(scorer, seeds, timeout=timeout, table=table, settings=about) as oracle,
        tqdm(total=budget * len(seeds), desc="scored", disable=not progress) as bar,
    ):
        _run(searches, decode, _Judge(oracle, budget, min_similarity, bar), seeds)
        rows = oracle.rows()
        return Optimization(
            table=rows,
            best=_best(rows, searches, seeds),
            calls=oracle.calls,
            reused=oracle.reused,
            failures=oracle.failures,
            interrupted=any(search.stopped == "interrupted" for search in searches),
        )


class _Search:
    """The search of one seed: a sampler, and when to start it again or to stop."""

    def __init__(
        self,
        row: int,
        code: np.ndarray,
        spread: np.ndarray,
        step: float,
        population: int,
        kind: type[_CMASampler] | type[_RandomSampler],
        entropy: tuple[int, int],
    ) -> None:
        self.row, self._code, self._spread = row, code, spread
        self._random = np.random.default_rng(entropy)
        self._step, self._population, self._kind = step, population, kind
        self._fruitless = 0  # starts in a row that came upon no new molecule
        self.stopped = ""
        self._start()

    def ask(self) -> np.ndarray:
        """Codes (population, size) to try."""
        self._drawn = self._sampler.ask()
        return self._code + self._spread * self._drawn

    def tell(self, ranks: np.ndarray, new: int) -> None:
        """Learn from the ranks of what was asked, `new` of them molecules scored first here."""
        self._stale = 0 if new else self._stale + 1
        self._fruitful |= bool(new)
        if self._stale < STALE_ROUNDS:
            self._sampler.tell(self._drawn, ranks)
            return
        self._fruitless = 0 if self._fruitful else self._fruitless + 1
        if self._fruitless <= DOUBLINGS:
            self._start()
        else:
            self.stopped = "exhausted"

    def _start(self) -> None:
        self._stale, self._fruitful = 0, False
        step = self._step * 2**self._fruitless
        self._sampler = self._kind(self._population, step, len(self._code), self._random)


class _Judge:
    """Scores the candidates of a search within its budget, and ranks them."""

    def __init__(self, oracle: Oracle, budget: int, min_similarity: float, bar: tqdm) -> None:
        self._oracle, self._bar = oracle, bar
        self._budget, self._min_similarity = budget, min_similarity
        self._spent: Counter[int] = Counter()

    def score(self, row: int, smiles: str, iteration: int) -> float:
        """The score of a molecule for one seed, counted if it is new there."""
        if not self._oracle.knows(row, smiles):
            self._spent[row] += 1
            self._bar.update()
        return self._oracle.score(row, smiles, iteration)

    def left(self, row: int) -> int:
        """Molecules that may still be scored for a seed."""
        return self._budget - self._spent[row]

    def rank(
        self, row: int, candidates: Sequence[str | None], iteration: int
    ) -> tuple[np.ndarray, int] | None:
        """Ranks (population,), 0 the best, and the number of new molecules.

        None where the budget ends at one of the candidates.
        """
        before = self.left(row)
        keys = []
        for smiles in candidates:
            if smiles is None:
                keys.append((3, 0.0))
                continue
            near = self._oracle.similarity(row, smiles)
            if near < self._min_similarity:
                keys.append((1, -near))
                continue
            if not self.left(row) and not self._oracle.knows(row, smiles):
                return None
            score = self.score(row, smiles, iteration)
            keys.append((2, 0.0) if math.isnan(score) else (0, -score))
        return mean_ranks(keys), before - self.left(row)


def mean_ranks(keys: Sequence[tuple[int, float]]) -> np.ndarray:
    """Ranks from 0 of pairs in their order; equal pairs share the mean of their ranks."""
    _, inverse, counts = np.unique(
        np.array(keys, dtype=float), axis=0, return_inverse=True, return_counts=True
    )
    return (counts.cumsum() - (counts + 1) / 2)[inverse.ravel()]


class _RandomSampler:
    """y ~ N(0, step² I), whatever the ranks."""

    def __init__(
        self, population: int, step: float, size: int, random: np.random.Generator
    ) -> None:
        self._shape, self._step, self._random = (population, size), step, random

    def ask(self) -> np.ndarray:
        return self._step * self._random.standard_normal(self._shape)

    def tell(self, drawn: np.ndarray, ranks: np.ndarray) -> None:
        pass


class _CMASampler:
    """CMA-ES around 0; its covariance is diagonal for codes longer than `LARGEST_FULL`."""

    def __init__(
        self, population: int, step: float, size: int, random: np.random.Generator
    ) -> None:
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
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(size), step, options)

    def ask(self) -> np.ndarray:
        return np.array(self._strategy.ask())

    def tell(self, drawn: np.ndarray, ranks: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of steps that grow fast where all ranks are equal
            self._strategy.tell(list(drawn), list(ranks))


_SAMPLERS = {"cma": _CMASampler, "random": _RandomSampler}


def _run(searches: list[_Search], decode: Decode, judge: _Judge, seeds: list[str]) -> None:
    """Rounds until every search has stopped; one that is interrupted says so."""
    try:
        for search, smiles in zip(searches, seeds, strict=True):
            judge.score(search.row, smiles, 0)
            if not judge.left(search.row):
                search.stopped = "budget"
        iteration = 0
        while active := [search for search in searches if not search.stopped]:
            iteration += 1
            asked = [search.ask() for search in active]
            decoded = decode(np.concatenate(asked))
            if len(decoded) != sum(map(len, asked)):
                raise ValueError(
                    f"decode got {sum(map(len, asked))} codes and returned {len(decoded)} "
                    "molecules; it must return one, or None, for each code."
                )
            start = 0
            for search, codes in zip(active, asked, strict=True):
                ranked = judge.rank(search.row, decoded[start : start + len(codes)], iteration)
                start += len(codes)
                if ranked is None or not judge.left(search.row):
                    search.stopped = "budget"
                else:
                    search.tell(*ranked)
    except KeyboardInterrupt:
        for search in searches:
            search.stopped = search.stopped or "interrupted"


def _best(table: pd.DataFrame, searches: list[_Search], seeds: list[str]) -> pd.DataFrame:
    """One row a seed. Infeasible molecules are not in the table."""
    rows = []
    for search, smiles in zip(searches, seeds, strict=True):
        own = table[table["seed"] == search.row]
        scored = own[own["score"].notna()]
        top = scored.loc[scored["score"].idxmax()] if len(scored) else {}
        start = own[own["iteration"] == 0]["score"]
        rows.append(
            {
                "seed": search.row,
                "seed_smiles": smiles,
                "seed_score": start.iloc[0] if len(start) else math.nan,
                "smiles": top.get("smiles"),
                "score": top.get("score", math.nan),
                "similarity": top.get("similarity", math.nan),
                "calls": len(own),
                "stopped": search.stopped,
            }
        )
    return pd.DataFrame(rows)


def _canonical_seed(row: int, smiles: str) -> str:
    try:
        return canonicalize(smiles)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Seed {row}: {error}") from error


def _checked_codes(
    seeds: Sequence[str], codes: np.ndarray, spread: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(seeds, str):
        raise TypeError(f"seeds is a list of SMILES, not one string: give [{seeds!r}].")
    if len(seeds) == 0:
        raise ValueError("optimize got no seed; give it at least one SMILES.")
    codes = np.asarray(codes, dtype=float)
    if codes.ndim != 2 or len(codes) != len(seeds) or not codes.size:
        raise ValueError(
            f"codes must be (seeds, size), here ({len(seeds)}, size); got {codes.shape}."
        )
    if not np.isfinite(codes).all():
        row = int(np.flatnonzero(~np.isfinite(codes).all(axis=1))[0])
        raise ValueError(f"The code of seed {row} ({seeds[row]!r}) is not finite.")
    spread = np.ones(codes.shape[1]) if spread is None else np.asarray(spread, dtype=float)
    if spread.shape != codes.shape[1:]:
        raise ValueError(f"spread must be (size,) = {codes.shape[1:]}, got {spread.shape}.")
    if not (np.isfinite(spread).all() and (spread >= 0).all() and spread.any()):
        raise ValueError("spread must be finite, not negative, and not zero everywhere.")
    return codes, spread


def _check_numbers(
    strategy: str,
    budget: int,
    population: int,
    step: float,
    min_similarity: float,
    timeout: float | None,
) -> None:
    if strategy not in _SAMPLERS:
        raise ValueError(f"strategy is one of {', '.join(_SAMPLERS)}, not {strategy!r}.")
    if budget < 1:
        raise ValueError(
            f"budget is the number of molecules scored a seed, at least 1; got {budget}."
        )
    if population < 4:
        raise ValueError(f"population must be at least 4, got {population}.")
    if not 0 < step < math.inf:
        raise ValueError(f"step must be positive and finite, got {step}.")
    if not 0 <= min_similarity <= 1:
        raise ValueError(f"min_similarity is in [0, 1], got {min_similarity}.")
    if timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"timeout is a number of seconds above 0, at most {threading.TIMEOUT_MAX:.0f}, or None "
            f"to wait for ever; got {timeout}."
        )


__all__ = ["Optimization", "optimize"]
