# SPDX-License-Identifier: Apache-2.0
"""The cosine of two vectors of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping


def cosine_similarity(
    predicted: Mapping[str, int], reference: Mapping[str, int], what: str
) -> float:
    """`Σ_k a_k b_k / (‖a‖ ‖b‖)` over the union of the keys, in [0, 1].

    Args:
        predicted: Counts of the molecules predicted.
        reference: Counts of those in `reference_smiles`.
        what: What is counted, in the plural.

    Raises:
        ValueError: A side without any count, of which no angle is defined.
    """
    sides = {"predictions": predicted, "reference_smiles": reference}
    if empty := [side for side, counts in sides.items() if not counts]:
        raise ValueError(
            f"The molecules of {' and '.join(empty)} have no {what}, so their similarity by these "
            "is not defined; give molecules that have some."
        )
    shared = sum(count * reference.get(key, 0) for key, count in predicted.items())
    norms = math.hypot(*predicted.values()) * math.hypot(*reference.values())
    return min(shared / norms, 1.0)


__all__ = ["cosine_similarity"]
