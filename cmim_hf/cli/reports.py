# SPDX-License-Identifier: Apache-2.0
"""What commands say when they are done, on standard error: standard output is for molecules."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.row_encoder import Reject
    from .molecule_files import Picture


def say(text: str) -> None:
    """Print a line."""
    print(text, file=sys.stderr)


def say_invalid(kinds: Counter[str], first: list[Reject]) -> None:
    """Report the invalid rows by kind, and the first three of them with their reasons."""
    if not kinds:
        return
    say(f"Invalid: {', '.join(f'{number:,} {kind}' for kind, number in kinds.most_common())}.")
    for reject in first[:3]:
        where = f"{reject.row.source} row {reject.row.number}"
        say(f"  {where}, {reject.row.text!r:.80}: {reject.reason}")


def say_drawn(picture: Picture) -> None:
    """Report what a picture does not show."""
    if picture.path is None:
        return
    if not picture.drawn:
        say(f"There is nothing to draw; {picture.path} is not written.")
    elif picture.drawn < picture.added:
        say(f"{picture.path} shows the first {picture.drawn} of {picture.added:,} molecules.")


def share(number: int, of: int) -> str:
    """A part in per cent; of nothing it is "none"."""
    return f"{number / of:.1%}" if of else "none"


def two_digits(value: float | None) -> str:
    """A similarity as legends show it."""
    return "" if value is None else f"{value:.2f}"
