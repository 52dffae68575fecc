# SPDX-License-Identifier: Apache-2.0
"""Docstrings as mkdocstrings reads them.

References are written as in Hugging Face's documentation, [`name`] and [`~path.name`]; they become
links where the object has a place on a page, else code. What >>> begins becomes a block of code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

REFERENCE = re.compile(r"\[`(~?)\.?([\w.]+)`\]")
EXAMPLE = re.compile(r"^(Example:\n)((?: {4}.*\n?|\n)+)", re.MULTILINE)
SESSION = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
PAGES = Path(__file__).parent / "api"


class DocstringLinks(griffe.Extension):
    """Rewrites every docstring, once the whole package is known."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Find what has a place on a page, then rewrite."""
        text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
        names = re.findall(rf"^::: {pkg.name}\.(\S+)", text, re.MULTILINE)
        shown = {pkg[name].canonical_path for name in names}
        for one in objects(pkg):
            if one.docstring:
                value = SESSION.sub(r"```pycon\n\g<0>\n```", one.docstring.value)
                value = EXAMPLE.sub(fenced, value)
                one.docstring.value = REFERENCE.sub(
                    lambda match, one=one: linked(match, one, pkg, shown), value
                )


def objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    """An object and all that it holds, without what it imports."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from objects(member)


def fenced(match: re.Match[str]) -> str:
    """A section of examples as one block of code."""
    return f"{match[1]}    ```pycon\n{match[2].rstrip()}\n    ```\n\n"


def linked(
    match: re.Match[str], one: griffe.Object, package: griffe.Module, shown: set[str]
) -> str:
    """What a reference in the docstring of `one` becomes."""
    tilde, path = match.groups()
    words = f"`{path.rsplit('.', 1)[-1] if tilde else path}`"
    if path.startswith("transformers."):
        return words
    target = found(path, one, package)
    has_place = {target.canonical_path, target.parent.canonical_path} & shown
    return f"[{words}][{target.canonical_path}]" if has_place else words


def found(path: str, one: griffe.Object, package: griffe.Module) -> griffe.Object:
    """What a path means in the module of a docstring, those around it, or the package.

    Raises:
        LookupError: It names nothing there.
    """
    module = one.module
    while module:
        try:
            target = module[path.removeprefix(f"{package.name}.")]
            return target.final_target if target.is_alias else target
        except KeyError:
            module = module.parent
    raise LookupError(f"The docstring of {one.path} refers to {path}, which is not there.")
