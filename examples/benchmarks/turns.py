# SPDX-License-Identifier: Apache-2.0
"""Rates of several ways to do one thing, measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Turns:
    """Rates of each way in each round, ours the first.

    Attributes:
        rates: way to its rates, one a round.
        limits: rates that the matrix products would allow, by way, one a round.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    limits: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, rate: float, limit: float | None = None) -> None:
        """One round of one way."""
        self.rates.setdefault(name, []).append(rate)
        if limit is not None:
            self.limits.setdefault(name, []).append(limit)

    def row(self, name: str) -> dict[str, float | None]:
        """Median rate, how many times it is that of the first way, inversely, and share."""
        ours = next(iter(self.rates.values()))
        pairs = list(zip(ours, self.rates[name], strict=True))
        shares = [
            rate / limit
            for rate, limit in zip(self.rates[name], self.limits.get(name, []), strict=False)
        ]
        return {
            "molecules/s": statistics.median(self.rates[name]),
            "ours is": statistics.median(one / other for one, other in pairs),
            "share of limit": statistics.median(shares) if shares else None,
        }


def take_turns(
    ways: Mapping[str, Callable[[], float]],
    rounds: int,
    limit: Callable[[], float] | None = None,
) -> Turns:
    """Run each way once a round.

    Args:
        ways: each gives its rate; the first is ours.
        rounds: how often.
        limit: gives the rate that the matrix products would allow ours, measured in each round.
    """
    turns = Turns()
    for _ in range(rounds):
        bound = limit() if limit else None
        for place, (name, way) in enumerate(ways.items()):
            turns.add(name, way(), bound if place == 0 else None)
    return turns
