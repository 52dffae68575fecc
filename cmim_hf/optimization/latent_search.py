# SPDX-License-Identifier: Apache-2.0
"""Search a latent space for molecules that score higher, starting from given ones.

Each seed has a search of its own, or all share one; the candidates of all searches are decoded in
one call a round, which is where batched decoding pays.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm.auto import tqdm

from .evolution import Evolution
from .optimization_result import Optimization
from .pareto import front_ranks
from .score_table import ScoreTable
from .scorers import Scorer, as_scorer

if TYPE_CHECKING:
    import pandas as pd

    from .constraints import Constraints

STRATEGIES = ("evolution", "random")

Decode = Callable[[np.ndarray], Sequence[str | None]]


def optimize(
    seeds: Sequence[str],
    codes: np.ndarray,
    decode: Decode,
    scorer: str | Callable[[Any], Any] | Mapping | Scorer,
    *,
    strategy: Literal["evolution", "random"] = "evolution",
    shared_budget: bool = False,
    budget: int = 500,
    goal: float | None = None,
    population: int | None = None,
    step: float = 0.5,
    spread: np.ndarray | None = None,
    min_similarity: float = 0.0,
    constraints: Constraints | None = None,
    pareto: bool = False,
    timeout: float | None = None,
    table: str | os.PathLike | None = None,
    seed: int = 0,
    progress: bool = True,
    watch: Callable[[pd.DataFrame], bool | None] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Optimization:
    """Look for molecules of higher score around the codes of given ones.

    Candidates are z = (code + radius · spread · (ε + u · 0.9 √size · g)) / √(1 + 0.3 radius²), with
    ε ~ N(0, I) and u ~ U(0, 1): without the divisor codes drift out from one round to the next.
    The codes are those from which the best of the last 500 molecules scored were decoded, the i-th
    best chosen with a probability ∝ 1 / (i + 1). That even the best are parents for a while only
    leads out of dead ends (ageing, Real et al. 2018, arXiv 1802.01548). A radius is that of the
    parent times exp(N(0, 1/4)), from `step` on, so radii that find good molecules spread. g is the
    direction in which scores grow (see
    [`~cmim_hf.optimization.score_model.uphill`]). Three times as many candidates are decoded as are
    scored: a model of the scores (see [`~cmim_hf.optimization.score_model.ScoreModel`]) chooses
    among those that are new and feasible, and the others wait for their turn. Only the order of
    scores matters. Where few molecules are feasible, those most similar to the seed, too, are
    parents. With `"random"`, the radius is `step`, the parents are the seeds throughout, there is
    no g, no divisor and nothing chooses.

    A search that comes upon fewer new molecules in 30 rounds than half of what it may score in one
    doubles its radii, twice in a row at most; then it ends, "exhausted".

    The same arguments give the same result, if `decode` is deterministic. So a run that died goes
    on when it is started again with the same `table`: it repeats its way with the scores that it
    finds there.

    Args:
        seeds: Canonical SMILES to start from; without a shared budget one that comes twice is
            searched twice, with other draws.
        codes: (seeds, size), their codes.
        decode: From codes (n, size) to n canonical SMILES, None where there is no molecule.
        scorer: Higher is better; see `as_scorer`.
        strategy: See above.
        shared_budget: One search from all seeds, with one budget, for the best molecules wherever
            they come from. A molecule then counts for the seed that it is most similar to.
        budget: Molecules scored for each seed, or with a shared budget for all of them, the seeds
            included. Molecules that are not feasible are not scored.
        goal: A search ends with the round in which a molecule has this score or a higher one.
        population: Molecules that a search scores in a round, at least 4; by default 20, with a
            shared budget 12.
        step: First radius, in units of `spread`.
        spread: (size,), the scale of each coordinate; ones by default.
        min_similarity: Tanimoto similarity to its seed that a molecule must have, in [0, 1].
        constraints: What else a molecule must satisfy to be feasible.
        pareto: Rank by the scorer's terms (each times its weight, of which only the sign matters)
            as several objectives, see [`~cmim_hf.optimization.pareto.best_first`], instead of by
            their sum.
        timeout: Seconds for one call of the scorer, see `ScoreTable`; None waits for ever.
        table: CSV file for the molecules scored, see `ScoreTable`.
        seed: Of the random numbers; numpy's global ones are neither used nor changed.
        progress: Show a bar.
        watch: Called after each round with the molecules scored so far, see `ScoreTable.frame`;
            where it returns True, the search ends as after Ctrl-C.
        settings: What makes `codes` and `decode`, such as the checkpoint; a table made with other
            settings is refused.

    Raises:
        ImportError: `pareto` without the package moocore.
        TypeError: `scorer` is no scorer, or a number is of another type.
        ValueError: An argument out of its range, a seed that is no molecule, or a table made with
            other settings.
        RuntimeError: The scorer fails from the start, see `ScoreTable.score`.
    """
    scorer = as_scorer(scorer)
    codes = np.asarray(codes, dtype=float)
    population = (12 if shared_budget else 20) if population is None else population
    about = {
        "strategy": strategy,
        "shared_budget": bool(shared_budget),
        "budget": operator.index(budget),
        "goal": None if goal is None else float(goal),
        "population": operator.index(population),
        "step": float(step),
        "min_similarity": float(min_similarity),
        "constraints": dataclasses.asdict(constraints) if constraints else None,
        "pareto": bool(pareto),
        "seed": operator.index(seed),
        **(settings or {}),
    }
    _check(seeds, codes, about, timeout)
    if pareto:
        front_ranks(np.zeros((1, 2)))  # needs a package: not only after scores were paid for
    if pareto and goal is not None:
        raise ValueError("`goal` is a score, and with `pareto` there is none to be reached.")
    if pareto and len(scorer.terms) < 2:
        raise ValueError(
            "`pareto` needs a scorer of at least two terms, as {'qed': 1, 'sa_score': -1}; this "
            f"one has {', '.join(scorer.weights)}."
        )
    spread = np.ones(codes.shape[1]) if spread is None else np.asarray(spread, dtype=float)
    groups = [list(range(len(seeds)))] if shared_budget else [[row] for row in range(len(seeds))]
    with ScoreTable(scorer, seeds, timeout=timeout, path=table, settings=about) as scores:
        searches = [
            Evolution(rows, codes[rows], spread, about, constraints, scores) for rows in groups
        ]
        with tqdm(total=budget * len(searches), desc="scored", disable=not progress) as bar:
            _run(searches, decode, scores, bar, watch)
    return Optimization.of(searches, scores, shared_budget, pareto)


def _run(
    searches: list[Evolution],
    decode: Decode,
    table: ScoreTable,
    bar: tqdm,
    watch: Callable[[pd.DataFrame], bool | None] | None,
) -> None:
    """Rounds until every search has stopped; one that is interrupted says so."""
    try:
        for iteration in count():
            active = [search for search in searches if not search.stopped]
            table.score([one for search in active for one in search.asked], iteration, bar)
            for search in active:
                search.learn()
            if watch is not None and watch(table.frame()):
                raise KeyboardInterrupt
            active = [search for search in active if not search.stopped]
            if not active:
                return
            tried = [search.codes() for search in active]
            decoded = decode(np.concatenate(tried))
            if len(decoded) != sum(map(len, tried)):
                raise ValueError(
                    f"decode got {sum(map(len, tried))} codes and returned {len(decoded)} "
                    "molecules; it must return one, or None, for each code."
                )
            rest = iter(decoded)
            for search, codes in zip(active, tried, strict=True):
                search.choose(list(islice(rest, len(codes))))
    except KeyboardInterrupt:
        for search in searches:
            search.stopped = search.stopped or "interrupted"


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
    starts = len(set(seeds)) if about["shared_budget"] else 1
    for good, problem in (
        (len(seeds), "optimize got no seed; give it at least one SMILES"),
        (
            about["strategy"] in STRATEGIES,
            "`strategy` is evolution or random, not {strategy!r}",
        ),
        (about["budget"] >= 1, "`budget`, molecules scored a seed, is at least 1; got {budget}"),
        (
            about["budget"] >= starts,
            f"a shared `budget` is at least 1 for each of {starts} seeds; got {{budget}}",
        ),
        (about["goal"] is None or not math.isnan(about["goal"]), "`goal` is a number, not {goal}"),
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
