# SPDX-License-Identifier: Apache-2.0
"""Points visited in turns, and what their seconds say beside the count of operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evidence import interval
from .scaling_points import Point


def measure(points: Sequence[Point], rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each point in each round, and the share of its limit that it reached.

    A round asks the limits and visits all points once, in an order of its own, so that a slow
    spell of the machine hits no curve alone.

    Returns:
        Two arrays (rounds, points).
    """
    random = np.random.default_rng(0)
    seconds, shares = np.empty((2, rounds, len(points)))
    for turn in range(rounds):
        rates = {limit: limit() for limit in dict.fromkeys(point.limit for point in points)}
        for place in random.permutation(len(points)):
            point = points[place]
            seconds[turn, place] = point.visit()
            shares[turn, place] = point.flops / seconds[turn, place] / rates[point.limit]
    return seconds, shares


def point_rows(
    points: Sequence[Point], seconds: np.ndarray, shares: np.ndarray, axis: str
) -> list[dict[str, Any]]:
    """A row for each point: medians over the rounds beside what the count of operations predicts.

    Args:
        points: of one or more works; a work's first is what its others are compared with.
        seconds: (rounds, points).
        shares: (rounds, points).
        axis: the name of `at`.
    """
    firsts: dict[str, tuple[float, float]] = {}
    rows = []
    for point, taken, reached in zip(points, seconds.T, shares.T, strict=True):
        median = float(np.median(taken))
        first_seconds, first_flops = firsts.setdefault(point.work, (median, point.flops))
        measured, predicted = median / first_seconds, point.flops / first_flops
        rows.append(
            {
                "work": point.work,
                axis: point.at,
                "seconds": median,
                "(max - min) / median": float(np.ptp(taken)) / median,
                "times the first": measured,
                "predicted": predicted,
                "measured / predicted": measured / predicted,
                "share of limit": float(np.median(reached)),
            }
        )
    return rows


def exponent_rows(points: Sequence[Point], seconds: np.ndarray) -> list[dict[str, Any]]:
    """For each work the exponent of its seconds (rounds, points) in `at`, 1 for linear.

    Measured of the medians over rounds, its 95 % interval of the rounds' own exponents, and
    predicted of the operations.
    """
    rows = []
    for work in dict.fromkeys(point.work for point in points):
        mine = [place for place, point in enumerate(points) if point.work == work]
        at = [points[place].at for place in mine]
        _, low, high = interval([exponent(at, taken) for taken in seconds[:, mine]])
        rows.append(
            {
                "work": work,
                "exponent": exponent(at, np.median(seconds[:, mine], axis=0)),
                "from": low,
                "to": high,
                "predicted": exponent(at, [points[place].flops for place in mine]),
            }
        )
    return rows


def exponent(at: Sequence[float], costs: Sequence[float] | np.ndarray) -> float:
    """The slope of log cost against log size, by least squares; NaN of fewer than two sizes."""
    if len(set(at)) < 2:
        return math.nan
    return float(np.polyfit(np.log(at), np.log(costs), 1)[0])
