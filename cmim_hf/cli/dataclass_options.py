# SPDX-License-Identifier: Apache-2.0
"""Options that are the fields of a dataclass."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..checkpoints import checkpoint_name

Settings = TypeVar("Settings")


def add_dataclass_options(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add an option for each field: its type and default, and of its metadata help and choices.

    As transformers' `HfArgumentParser`, which costs the import of transformers: a list takes a word
    or more, a truth value true or false, or nothing for true, and names with underscores are
    taken, too; the help has those with dashes.
    """
    hints = get_type_hints(settings)
    for one in fields(settings):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        told = one.metadata["help"]
        if default not in (None, []):
            told += f" (default: {_shown(default)})"
        form = {"dest": one.name, "default": default, **_form(hints[one.name])}
        if "choices" in one.metadata:
            form["choices"] = one.metadata["choices"]
        dashed, plain = (f"--{one.name.replace('_', mark)}" for mark in "-_")
        parser.add_argument(*one.metadata.get("aliases", ()), dashed, help=told, **form)
        if plain != dashed:
            parser.add_argument(plain, help=argparse.SUPPRESS, **form)


def read_dataclass(settings: type[Settings], options: argparse.Namespace) -> Settings:
    """The dataclass as the options say.

    Raises:
        ValueError: The dataclass refuses them.
    """
    return settings(**{one.name: getattr(options, one.name) for one in fields(settings)})


def _form(hint: Any) -> dict[str, Any]:
    """How the words of an option of this type are read."""
    (kind,) = {*get_args(hint)} - {NoneType} if NoneType in get_args(hint) else {hint}
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
        return {"type": kind, "nargs": "+"}
    return {"type": _truth, "nargs": "?", "const": True} if kind is bool else {"type": kind}


def _truth(word: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if word.lower() not in words:
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return words[word.lower()]


def _shown(default: Any) -> str:
    if isinstance(default, list):
        return " ".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else checkpoint_name(str(default))
