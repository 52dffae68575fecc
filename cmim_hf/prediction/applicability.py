# SPDX-License-Identifier: Apache-2.0
"""How far a molecule is from those a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5
MOST = 20_000
"""Training molecules that are kept, at random if there are more."""

_ARRAYS = ("vectors", "mean", "std", "distances")


class ApplicabilityDomain:
    """Distances to the training molecules, as percentiles of those among themselves.

    A distance is the mean of those to the five nearest training molecules, between vectors whose
    coordinates are standardised. Its percentile is the share of the training molecules that are
    nearer to their own five: 0 is among them, 100 further out than any of them.

    Args:
        arrays: `vectors` (n, size), standardised; `mean` and `std` (size,) that did so;
            `distances` (n,), sorted, of each of them to the others.

    Example:
        >>> vectors = np.random.default_rng(0).normal(size=(500, 3))
        >>> domain = ApplicabilityDomain.fit(vectors)
        >>> inside, outside = domain.percentiles(np.array([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]))
        >>> bool(inside < 20), float(outside)
        (True, 100.0)
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Index the vectors."""
        self._vectors, self._mean, self._std, self._distances = (arrays[name] for name in _ARRAYS)
        self._nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self._vectors)))
        self._nearest.fit(self._vectors)

    @classmethod
    def fit(cls, vectors: np.ndarray) -> ApplicabilityDomain:
        """The domain of molecules by their vectors (n, size), each molecule once.

        Raises:
            ValueError: Fewer than two.
        """
        if len(vectors) < 2:
            raise ValueError("Distances among training molecules need at least two of them.")
        if len(vectors) > MOST:
            rows = np.random.default_rng(0).choice(len(vectors), MOST, replace=False)
            vectors = vectors[np.sort(rows)]
        mean, std = vectors.mean(axis=0), vectors.std(axis=0)
        std[std == 0] = 1
        scaled = ((vectors - mean) / std).astype(np.float32)
        nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(scaled) - 1)).fit(scaled)
        distances = np.sort(nearest.kneighbors()[0].mean(axis=1)).astype(np.float32)
        return cls(
            {
                "vectors": scaled,
                "mean": mean.astype(np.float32),
                "std": std.astype(np.float32),
                "distances": distances,
            }
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What the constructor takes."""
        values = (self._vectors, self._mean, self._std, self._distances)
        return dict(zip(_ARRAYS, values, strict=True))

    def percentiles(self, vectors: np.ndarray) -> np.ndarray:
        """From 0 to 100 for each vector of (rows, size): (rows,)."""
        if not len(vectors):
            return np.empty(0)
        found, _ = self._nearest.kneighbors((vectors - self._mean) / self._std)
        places = np.searchsorted(self._distances, found.mean(axis=1).astype(np.float32))
        return 100 * places / len(self._distances)
