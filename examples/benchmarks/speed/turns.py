# SPDX-License-Identifier: Apache-2.0
"""Rates of several ways to do one thing, measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Turns:
    """What was measured, one figure a round.

    Attributes:
        rates: way to its rates; the first way is ours.
        limits: rates that the matrix products would allow ours.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    limits: list[float] = field(default_factory=list)

    def row(self, name: str) -> dict[str, float | None]:
        """Median rate; how many times it the first way's is; ours as a share of the limit."""
        ours = next(iter(self.rates.values()))
        rates = self.rates[name]
        share = None
        if self.limits and rates is ours:
            share = _median_ratio(ours, self.limits)
        return {
            "molecules/s": statistics.median(rates),
            "the first is, times": _median_ratio(ours, rates),
            "share of limit": share,
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
        limit: gives the rate that the matrix products would allow ours; asked after it has run.
    """
    turns = Turns({name: [] for name in ways})
    for _ in range(rounds):
        for place, (name, way) in enumerate(ways.items()):
            turns.rates[name].append(way())
            if place == 0 and limit:
                turns.limits.append(limit())
    return turns


def _median_ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(first, second, strict=True))
