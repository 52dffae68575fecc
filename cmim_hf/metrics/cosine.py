# SPDX-License-Identifier: Apache-2.0
"""The cosine of two vectors of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping


def cosine_similarity(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """`Σ_k a_k b_k / (‖a‖ ‖b‖)` over the union of the keys, in [0, 1].

    Raises:
        ValueError: A vector without any count, of which no angle is defined.
    """
    if not first or not second:
        raise ValueError(
            f"The cosine of counts needs entries on both sides, got {len(first)} and {len(second)}."
        )
    shared = sum(count * second.get(key, 0) for key, count in first.items())
    norms = math.hypot(*first.values()) * math.hypot(*second.values())
    return min(shared / norms, 1.0)


__all__ = ["cosine_similarity"]
