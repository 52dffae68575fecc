# SPDX-License-Identifier: Apache-2.0
"""Similarities of many fingerprints to many, as matrix products."""

from __future__ import annotations

import numpy as np


def tanimoto(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tanimoto similarities |A ∩ B| / |A ∪ B| of rows of bits: (n, bits), (m, bits) to (n, m).

    0 where neither row has a bit.

        >>> tanimoto(np.array([[1, 1, 0]]), np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0]])).tolist()
        [[0.5, 0.0, 1.0]]
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    both = (first @ second.T).astype(float)
    either = first.sum(axis=1, dtype=float)[:, None] + second.sum(axis=1, dtype=float) - both
    return both / np.maximum(either, 1)
