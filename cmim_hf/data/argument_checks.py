# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that several calls take."""

import operator
from collections.abc import Iterable
from typing import Any


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an `int`.

    Raises:
        ValueError: It is no whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"`{name}` is a whole number from {least}, not {value!r}.")
    return number


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise a ValueError that lists the choices, if `value` is none of them."""
    if value not in known:
        raise ValueError(f"Unknown `{name}` {value!r}; choose one of {', '.join(known)}.")
