# SPDX-License-Identifier: Apache-2.0
"""What can be the text of a molecule at all, before any chemistry."""

from __future__ import annotations

import reprlib
from typing import Any


def text_problem(text: Any) -> tuple[str, str] | None:
    """Why `text` cannot be a SMILES: None if it can, else the kind of problem and the reason.

    The kinds are "not text" (no string), "empty" and "not printable": a SMILES consists of
    printable ASCII characters without spaces.
    """
    if not isinstance(text, str):
        return "not text", f"{reprlib.repr(text)} of type {type(text).__name__} is no string"
    if not text:
        return "empty", "the text is empty"
    if text.isascii() and text.isprintable() and " " not in text:
        return None
    where = next(i for i, character in enumerate(text) if not "!" <= character <= "~")
    reason = f"{text[where]!r} at position {where + 1} is not printable ASCII or is a space"
    return "not printable", reason


__all__ = ["text_problem"]
