# SPDX-License-Identifier: Apache-2.0
"""What can be the text of a molecule at all, before any chemistry."""

from __future__ import annotations

import logging
import re
import reprlib
from functools import cache
from typing import Any

_VARIABLE = {
    "m": "a bond to one of several atoms",
    "LN": "a part that is repeated",
    "RG": "R-groups",
    "Sg": "a polymer",
}
_VARIABLE_FEATURE = re.compile(
    r"(?:^|,)(?:(m|LN|RG):|(Sg):(?:n|mon|mer|co|xl|mod|any|grf|alt|ran|blk):)"
)
_LABELS_AND_COORDINATES = re.compile(r"\$[^$]*\$|\([^)]*\)")

_tell_once = cache(logging.getLogger(__name__).warning)


def without_extension(text: Any) -> Any:
    """The SMILES of a CXSMILES: `"C[C@H](F)Cl |&1:1|"` becomes `"C[C@H](F)Cl"`.

    The extension, what stands behind a blank between two `|`, says of a molecule what a SMILES
    cannot, such as that a stereo centre is racemic; it is dropped, as the model reads SMILES alone,
    and a warning says so once. One that makes several molecules of the SMILES (Markush structures,
    polymers) stays, for `text_problem` to refuse. What has no extension comes back as it is, text
    or not.
    """
    smiles, extension = _parted(text)
    if extension is None or _variable(extension):
        return text
    if extension:
        _tell_once(
            "Of CXSMILES the SMILES alone are read: what their extensions, between two |, say of "
            "racemic and relative centres, coordinates or labels is left out."
        )
    return smiles


def _parted(text: Any) -> tuple[Any, str | None]:
    """A SMILES, and the content of its extension if it has one."""
    if isinstance(text, str) and text.endswith("|"):
        smiles, _, extension = text.partition(" ")
        if len(extension) > 1 and extension.startswith("|"):
            return smiles, extension[1:-1]
    return text, None


def _variable(extension: str) -> str | None:
    """The first feature of an extension that makes several molecules of one SMILES, in words."""
    found = _VARIABLE_FEATURE.search(_LABELS_AND_COORDINATES.sub("", extension))
    return found and _VARIABLE[found[1] or found[2]]


def text_problem(text: Any) -> tuple[str, str] | None:
    """Why `text` cannot be a SMILES: None if it can, else the kind of problem and the reason.

    The kinds are "not text" (no string), "empty", "not printable": a SMILES consists of printable
    ASCII characters without spaces; and "does not parse": a CXSMILES of several molecules.
    """
    if not isinstance(text, str):
        return "not text", f"{reprlib.repr(text)} of type {type(text).__name__} is no string"
    if not text:
        return "empty", "the text is empty"
    if text.isascii() and text.isprintable() and " " not in text:
        return None
    if (extension := _parted(text)[1]) is not None and (what := _variable(extension)):
        return "does not parse", f"it stands for several molecules: its extension has {what}"
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
