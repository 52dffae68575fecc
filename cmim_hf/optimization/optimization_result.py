# SPDX-License-Identifier: Apache-2.0
"""What a search found, in tables and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from .evolution import Evolution
from .pareto import front_ranks
from .score_table import ScoreTable

BEST = 100
"""Molecules at most that are called the best of a shared budget."""


@dataclass
class Optimization:
    """What a search found.

    Attributes:
        table: Every molecule scored, one row for each seed that it was found from (see
            `ScoreTable.frame`); `iteration` counts rounds, the seeds themselves come at 0.
        best: One row a seed: `seed`, `seed_smiles`, `seed_score`, then of its best feasible
            molecule `smiles`, `score` and `similarity` (None and nan if the scorer failed for
            all), `calls` (molecules scored for this seed) and why it `stopped`: "goal", "budget",
            "exhausted" (hardly a new molecule came) or "interrupted". With a shared budget a row
            for each of the 100 best molecules instead, the best first; `calls` are those of all.
        front: With `pareto` the feasible molecules of each search that no other of it dominates:
            rows of `table`.
        calls: Molecules scored. One that several seeds found is counted once.
        reused: How many of them had their score in the table already.
        failures: How many of them the scorer failed for, by kind.
        broken: Molecules that the searches came upon and that were not feasible, so not scored, by
            what they broke.
        interrupted: Ctrl-C ended the run.
        shared_budget: All seeds had one search.
    """

    table: pd.DataFrame
    best: pd.DataFrame
    front: pd.DataFrame | None
    calls: int
    reused: int
    failures: Counter[str]
    broken: Counter[str]
    interrupted: bool
    shared_budget: bool

    @classmethod
    def of(
        cls, searches: Sequence[Evolution], scores: ScoreTable, shared: bool, pareto: bool
    ) -> Self:
        """Gather what searches found."""
        table = scores.frame()
        calls, reused, failures = scores.counts()
        barred = {one for search in searches for one in search.barred}
        feasible = table[table["score"].notna() & ~table["smiles"].isin(barred)]
        best = _best_of_all if shared else _best_of_each
        broken = sum((search.broken for search in searches), Counter())
        return cls(
            table=table,
            best=best(table, feasible, searches, scores.seeds),
            front=_fronts(feasible, scores, shared) if pareto else None,
            calls=calls,
            reused=reused,
            failures=failures,
            broken=broken,
            interrupted=any(search.stopped == "interrupted" for search in searches),
            shared_budget=shared,
        )

    def __str__(self) -> str:
        """What was found and what went wrong, in a line each."""
        before, after = self.best["seed_score"], self.best["score"]
        why = Counter(self.best["stopped"])
        if self.shared_budget:
            start = self.table.loc[self.table["iteration"] == 0, "score"].max()
            found = f"The best score is {after.max():.3g}, among the seeds {start:.3g}"
            stops = ", ".join(why)
        else:
            gain = (after - before).mean()
            better = (after > before).sum()
            found = f"{better} of {len(after)} molecules improved, by {gain:.3g} on average"
            stops = ", ".join(f"{number} {reason}" for reason, number in why.items())
        lines = [
            f"{found}; {self.calls} scored, {self.reused} of them in an earlier run (stopped: "
            f"{stops})."
        ]
        if self.front is not None:
            lines.append(f"{len(self.front)} molecules are on a Pareto front.")
        if self.broken:
            kinds = ", ".join(f"{number} {kind}" for kind, number in self.broken.most_common())
            lines.append(f"Not scored, since not feasible: {kinds}.")
        if self.failures:
            failed = self.table[self.table["error"] != ""]
            kinds = failed["error"].str.partition(": ")[0]
            shown = []
            for kind, count in self.failures.most_common():
                first = failed[kinds == kind].iloc[0]
                shown.append(f"{count} {kind}, first {first['error']!r} for {first['smiles']}")
            lines.append(f"The scorer failed in {self.failures.total()} calls: {'; '.join(shown)}.")
        return "\n".join(lines)


def _best_of_each(
    table: pd.DataFrame,
    feasible: pd.DataFrame,
    searches: Sequence[Evolution],
    seeds: Sequence[str],
) -> pd.DataFrame:
    """One row a seed."""
    top = feasible.sort_values("score", ascending=False, kind="stable").groupby("seed").first()
    best = pd.DataFrame(
        {
            "seed_smiles": seeds,
            "seed_score": _seed_scores(table),
            **{name: top[name] for name in ("smiles", "score", "similarity")},
            "calls": table.groupby("seed").size(),
            "stopped": [search.stopped for search in searches],
        },
        index=pd.RangeIndex(len(seeds), name="seed"),
    )
    best["smiles"] = best["smiles"].astype(object).where(best["smiles"].notna(), None)
    return best.fillna({"calls": 0}).astype({"calls": int}).reset_index()


def _best_of_all(
    table: pd.DataFrame,
    feasible: pd.DataFrame,
    searches: Sequence[Evolution],
    seeds: Sequence[str],
) -> pd.DataFrame:
    """The `BEST` molecules, the best first."""
    top = feasible.sort_values("score", ascending=False, kind="stable").head(BEST)
    return pd.DataFrame(
        {
            "seed": top["seed"],
            "seed_smiles": top["seed_smiles"],
            "seed_score": top["seed"].map(_seed_scores(table)),
            **{name: top[name] for name in ("smiles", "score", "similarity")},
            "calls": len(table),
            "stopped": searches[0].stopped,
        }
    ).reset_index(drop=True)


def _seed_scores(table: pd.DataFrame) -> pd.Series:
    return table[table["iteration"] == 0].set_index("seed")["score"]


def _fronts(feasible: pd.DataFrame, scores: ScoreTable, shared: bool) -> pd.DataFrame:
    """Rows that no other of their search dominates."""
    groups = [feasible] if shared else [rows for _, rows in feasible.groupby("seed")]
    kept = []
    for rows in groups:
        pairs = zip(rows["seed"], rows["smiles"], strict=True)
        values = np.array([scores.values(seed, smiles) for seed, smiles in pairs])
        kept += [
            place for place, rank in zip(rows.index, front_ranks(values), strict=True) if rank == 0
        ]
    return feasible.loc[kept].reset_index(drop=True)
