# SPDX-License-Identifier: Apache-2.0
"""Numbers known of molecules, as training reads them: standardised, a byte each, with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.property_head_cmim import LIMIT, QUANTILES, quantile_levels

MISSING = np.int8(-128)
_PER_UNIT = 31  # bytes' steps in one standard deviation: ±4 is ±124


@dataclass(frozen=True)
class PropertyScale:
    """How properties are standardised: Φ⁻¹(F(y)), F being the distribution of a property's values.

    `quantiles` (properties, `QUANTILES`), float32, rising, are F⁻¹ at `quantile_levels`.
    """

    names: tuple[str, ...]
    quantiles: np.ndarray

    def __eq__(self, other: object) -> bool:
        """The same names and quantiles, in the same order."""
        if not isinstance(other, PropertyScale):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.quantiles, other.quantiles)

    @classmethod
    def fit(cls, names: Sequence[str], values: np.ndarray) -> PropertyScale:
        """Measure the distribution of each property: `values` (rows, properties), NaN for gaps.

        Raises:
            ValueError: A repeated name, or a column that is nowhere known or constant.

        >>> scale = PropertyScale.fit(["logP"], np.array([[0.0], [1.0], [np.nan], [2.0]]))
        >>> scale.standardized(np.array([[0.0], [1.0], [2.0], [np.nan]])).ravel().tolist()
        [-124, 0, 124, -128]
        """
        if len(set(names)) < len(names):
            raise ValueError(f"Properties need different names, got {', '.join(names)}.")
        quantiles = np.empty((len(names), QUANTILES), np.float32)
        for place, name in enumerate(names):
            known = values[~np.isnan(values[:, place]), place]
            if not len(known):
                raise ValueError(f"Property {name!r} has no value at all: leave it out.")
            if known.min() == known.max():
                raise ValueError(
                    f"Property {name!r} is {known[0]:g} for all {len(known)} labelled molecules: "
                    "there is nothing to learn from it; leave it out."
                )
            quantiles[place] = np.quantile(known.astype(np.float64), quantile_levels().numpy())
        return cls(tuple(names), quantiles)

    def standardized(self, values: np.ndarray) -> np.ndarray:
        """Φ⁻¹(F(y)) in 31sts, clipped to ±`LIMIT`, as int8; `as_floats` divides.

        Of a value that is frequent F is the middle of its step. `values` are (rows, properties),
        finite or NaN, which becomes `MISSING`.
        """
        levels = quantile_levels().numpy()
        codes = np.full(values.shape, MISSING, np.int8)
        for place, quantiles in enumerate(self.quantiles.astype(np.float64)):
            known = values[~np.isnan(values[:, place]), place]
            upper = np.interp(known, quantiles, levels)
            lower = -np.interp(-known, -quantiles[::-1], -levels[::-1])
            normal = torch.special.ndtri(torch.from_numpy((upper + lower) / 2)).numpy()
            rounded = np.rint(normal.clip(-LIMIT, LIMIT) * _PER_UNIT)
            codes[~np.isnan(values[:, place]), place] = rounded
        return codes


def as_floats(codes: np.ndarray) -> np.ndarray:
    """Standardised labels (..., properties) as float32, NaN where not known."""
    return np.where(codes == MISSING, np.float32(np.nan), codes / np.float32(_PER_UNIT))


@dataclass(frozen=True)
class PropertyLabels:
    """Labels of some of a set of molecules.

    `codes` (labelled molecules, properties), int8, are those of `PropertyScale.standardized`;
    `places` (molecules,), int32, each molecule's row among them, -1 where it has none.
    """

    codes: np.ndarray
    places: np.ndarray
    scale: PropertyScale

    @classmethod
    def of_values(
        cls, values: np.ndarray, rows: np.ndarray, molecules: int, scale: PropertyScale
    ) -> PropertyLabels:
        """Labels of the molecules `rows`, with `values` (rows, properties) in their own units."""
        places = np.full(molecules, -1, np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        return cls(scale.standardized(values), places, scale)

    def take(self, rows: np.ndarray) -> PropertyLabels:
        """The labels of some of the molecules, in the order of `rows`."""
        places = self.places[rows]
        labelled = places >= 0
        codes = self.codes[places[labelled]]
        places[labelled] = np.arange(len(codes), dtype=np.int32)
        return PropertyLabels(codes, places, self.scale)

    def __getitem__(self, row: int) -> np.ndarray:
        """The labels of a molecule (properties,), float32, NaN where not known."""
        place = self.places[row]
        if place < 0:
            return np.full(self.codes.shape[1], np.nan, np.float32)
        return as_floats(self.codes[place])
