# SPDX-License-Identifier: Apache-2.0
"""What can be the text of a molecule at all, before any chemistry."""

from __future__ import annotations

import reprlib
from typing import Any


def without_extension(text: Any) -> Any:
    """The SMILES of a CXSMILES: `"C[C@H](F)Cl |&1:1|"` becomes `"C[C@H](F)Cl"`.

    The extension, what stands behind a blank between two `|`, says of a molecule what a SMILES
    cannot, such as that a stereo centre is racemic; it is dropped, as the model reads SMILES alone.
    What has no extension comes back as it is, text or not.
    """
    if isinstance(text, str) and text.endswith("|"):
        smiles, _, extension = text.partition(" ")
        if len(extension) > 1 and extension.startswith("|"):
            return smiles
    return text


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


def length_problem(ids: list[int], limit: int) -> str | None:
    """Why a model that reads `limit` tokens cannot read these: None if it can."""
    if len(ids) <= limit:
        return None
    return f"it has {len(ids)} tokens, the model reads at most {limit}"


def refusal(text: Any, aim: str, reason: str, instead: str = "") -> ValueError:
    """The error of a text that cannot be `aim`, such as "embedded"."""
    shown = repr(text) if len(repr(text)) <= 80 else repr(text)[:77] + "..."
    return ValueError(f"The text {shown} cannot be {aim}: {reason}. Fix or remove it{instead}.")
