# SPDX-License-Identifier: Apache-2.0
"""One search: which codes it tries, which molecules it has scored, when it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chemistry.smiles import fingerprints
from ..chemistry.tanimoto import tanimoto
from .pareto import best_first
from .score_model import ScoreModel, uphill
from .score_table import ScoreTable

if TYPE_CHECKING:
    from .constraints import Constraints

TRIED = 3
"""Codes decoded in a round for each molecule that may be scored in it."""

PUSH = 0.9
"""Longest step in the direction in which scores grow, over the length of random steps, √size."""

INWARD = 0.3
"""Codes are divided by √(1 + INWARD · radius²): else they drift out, where few are molecules."""

PARENTS = 100
"""Molecules at most, the best, around which codes are drawn."""

LIFETIME = 500
"""Molecules scored until one is no parent any more: else a search stays with its first finds."""

CHANGE = 0.5
"""Standard deviation of the logarithm of a radius around that of its parent."""

LEARNED = 500
"""Molecules at most that models of the scores learn from: half the best, half the latest."""

FIRST_LEARNED = 10
"""Molecules from which on there are such models."""

RESERVE = 300
"""Molecules at most that wait to be scored, those of the best prediction."""

WINDOW = 30
"""Rounds after which all radii are doubled, if they found fewer molecules than half of one may."""

DOUBLINGS = 2
"""How often they are, in a row; then the search ends: what is left costs too much to find."""


@dataclass(frozen=True)
class Found:
    """A molecule, and where it was found.

    Attributes:
        row: Index of the seed that it counts for, of several the most similar.
        smiles: Canonical.
        code: (size,) in float32.
        radius: With which the code was drawn.
        bits: Its fingerprint, packed.
        near: Its similarity to the seed.
    """

    row: int
    smiles: str
    code: np.ndarray
    radius: float
    bits: np.ndarray
    near: float


class Evolution:
    """The search around one seed, or around several that share a budget.

    Args:
        rows: Indices of the seeds.
        codes: (rows, size), their codes.
        spread: (size,), the scale of each coordinate.
        about: Settings by name, see [`~cmim_hf.optimization.latent_search.optimize`].
        constraints: What a molecule must satisfy to be scored.
        table: Of the scores.

    Attributes:
        stopped: Why it ended: "goal", "budget", "exhausted" or "interrupted"; empty until then.
        spent: Molecules scored or asked for.
        broken: Molecules that it came upon and that were not feasible, by what they broke.
        barred: Seeds that are not feasible.
    """

    def __init__(
        self,
        rows: Sequence[int],
        codes: np.ndarray,
        spread: np.ndarray,
        about: dict[str, Any],
        constraints: Constraints | None,
        table: ScoreTable,
    ) -> None:
        """Keep the arguments; `asked` are the seeds."""
        self._spread, self._about, self._table = spread.astype(np.float32), about, table
        self._constraints = constraints
        self._random = np.random.default_rng((about["seed"], rows[0]))
        self._rows = np.array(rows)
        self._prints = fingerprints(table.seeds[row] for row in rows)
        self._seeds = [
            Found(row, table.seeds[row], code, about["step"], np.packbits(bits), 1.0)
            for row, code, bits in zip(rows, codes.astype(np.float32), self._prints, strict=True)
        ]
        self._scored: list[Found] = []
        self._values: list[list[float]] = []
        self._misses: list[Found] = []  # the infeasible ones most similar to their seeds
        self._reserve: list[Found] = []
        self._doublings = 0  # of the radii
        self.stopped = ""
        self.broken: Counter[str] = Counter()
        first: dict[str, Found] = {}
        for one in self._seeds:
            first.setdefault(one.smiles, one)
        self._wanted, self._seen = list(first.values()), set(first)
        # in this window, from the first codes on: rounds, and molecules to be scored
        self._rounds, self._found = -1, -len(self._wanted)
        self.barred = {
            one.smiles
            for one, problem in zip(self._wanted, self._problems(self._wanted), strict=True)
            if problem
        }
        self.spent = len(self._wanted)

    @property
    def left(self) -> int:
        """Molecules that may still be scored."""
        return self._about["budget"] - self.spent

    @property
    def asked(self) -> list[tuple[int, str]]:
        """What is to be scored next: index of a seed and SMILES."""
        return [(one.row, one.smiles) for one in self._wanted]

    def codes(self) -> np.ndarray:
        """Codes (n, size) to decode, in float32."""
        parents, number = self._parents(), self._about["population"]
        random = self._random
        if self._about["strategy"] == "random":
            chosen = random.integers(len(parents), size=number)
            change = np.ones(number)
        else:
            number *= TRIED
            weights = 1 / (np.arange(len(parents)) + 2.0)
            chosen = random.choice(len(parents), number, p=weights / weights.sum())
            change = np.exp(CHANGE * random.standard_normal(number))
        self._drawn = change * [parents[i].radius for i in chosen]
        steps = random.standard_normal((number, len(self._spread))) + self._pushes(number)
        radii = 2**self._doublings * self._drawn[:, None]
        codes = np.stack([parents[i].code for i in chosen]) + radii * self._spread * steps
        if self._about["strategy"] != "random":
            codes /= np.sqrt(1 + INWARD * radii**2)
        self._tried = codes.astype(np.float32)
        return self._tried

    def choose(self, molecules: Sequence[str | None]) -> None:
        """Take what the codes decoded to, and choose what is to be scored of all that waits."""
        places: dict[str, int] = {}
        for place, one in enumerate(molecules):
            if one is not None and one not in self._seen:
                places.setdefault(one, place)
        self._seen.update(places)
        self._admit(places)
        number = min(len(self._reserve), self._about["population"], self.left)
        if self._about["strategy"] != "random":
            number = min(number, -(-len(self._reserve) // TRIED))
            self._sort_reserve(number)
        self._wanted, self._reserve = self._reserve[:number], self._reserve[number:][:RESERVE]
        self.spent += number

    def learn(self) -> None:
        """Take the scores of what was asked for; double all radii, or stop, if that was little."""
        for one in self._wanted:
            if self._about["pareto"]:
                values = self._table.values(one.row, one.smiles)
            else:
                values = self._table.score([(one.row, one.smiles)])
            if one.smiles in self.barred:
                self._misses.append(one)
            elif np.isfinite(values).all():
                self._scored.append(one)
                self._values.append(values)
        goal = self._about["goal"]
        if goal is not None and self._values and max(self._values)[0] >= goal:
            self.stopped = "goal"
        elif not self.left:
            self.stopped = "budget"
        self._rounds, self._found = self._rounds + 1, self._found + len(self._wanted)
        if self._rounds == WINDOW:
            few = self._found < self._about["population"] / 2
            self._doublings = self._doublings + 1 if few else 0
            self._rounds = self._found = 0
            if self._doublings > DOUBLINGS:
                self.stopped = "exhausted"

    def _parents(self) -> list[Found]:
        """What codes are drawn around, the best first."""
        if self._about["strategy"] == "random":
            return self._seeds
        young = range(len(self._scored))[-LIFETIME:]
        parents = [self._scored[i] for i in self._order(young)[:PARENTS]]
        few = self._misses[: max(0, self._about["population"] - len(parents))]
        return parents + few or self._seeds

    def _order(self, among: Sequence[int]) -> np.ndarray:
        """These places in what was scored, the best first."""
        values = [self._values[i] for i in among]
        return np.array(among)[best_first(np.array(values))] if values else np.arange(0)

    def _pushes(self, number: int) -> np.ndarray:
        """Steps (number, size) in which scores grow; each weighs several objectives otherwise."""
        if self._about["strategy"] == "random" or len(self._scored) < FIRST_LEARNED:
            return np.zeros((number, len(self._spread)))
        rows = self._learned()
        scale = np.where(self._spread > 0, self._spread, np.inf)
        codes = np.stack([self._scored[i].code for i in rows]) / scale
        slopes = uphill(codes, np.array(self._values)[rows])
        weights = self._random.dirichlet(np.ones(len(slopes)), number)
        longest = PUSH * np.sqrt(len(self._spread))
        return longest * self._random.random((number, 1)) * (weights @ slopes)

    def _learned(self) -> np.ndarray:
        """Places in what was scored, of what models learn from."""
        all_of_them = range(len(self._scored))
        latest = all_of_them[-LEARNED // 2 :]
        return np.union1d(self._order(all_of_them)[: LEARNED // 2], latest)

    def _admit(self, places: dict[str, int]) -> None:
        """Put new molecules to those that wait, or to the misses if they are not feasible."""
        smiles = list(places)
        prints = fingerprints(smiles)
        near = tanimoto(prints, self._prints)
        closest = near.argmax(axis=1) if smiles else []
        found = [
            Found(
                int(self._rows[at]),
                one,
                self._tried[place],
                float(self._drawn[place]),
                np.packbits(bits),
                float(likeness[at]),
            )
            for (one, place), bits, likeness, at in zip(
                places.items(), prints, near, closest, strict=True
            )
        ]
        problems = self._problems(found)
        self.broken.update(filter(None, problems))
        for one, problem in zip(found, problems, strict=True):
            (self._misses if problem else self._reserve).append(one)
        self._misses.sort(key=lambda one: -one.near)
        del self._misses[self._about["population"] :]

    def _problems(self, found: Sequence[Found]) -> list[str | None]:
        """Why each molecule is not feasible, None if it is."""
        least = self._about["min_similarity"]
        far = f"similarity below {least:g}"
        problems = [far if one.near < least else None for one in found]
        near = [one for one in found if one.near >= least]
        if self._constraints and near:
            rest = iter(self._constraints.broken([one.smiles for one in near]))
            problems = [problem or next(rest) for problem in problems]
        return problems

    def _sort_reserve(self, number: int) -> None:
        """Put what a model of the scores expects to be best first, if there is a choice."""
        if len(self._scored) < FIRST_LEARNED or len(self._reserve) <= number:
            return
        rows = self._learned()
        model = ScoreModel(_unpacked([self._scored[i] for i in rows]), np.array(self._values)[rows])
        expected = model.predict(_unpacked(self._reserve))
        self._reserve = [self._reserve[i] for i in best_first(expected)]


def _unpacked(found: Sequence[Found]) -> np.ndarray:
    return np.unpackbits(np.stack([one.bits for one in found]), axis=1)
