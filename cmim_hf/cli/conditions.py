# SPDX-License-Identifier: Apache-2.0
"""What is asked of the molecules that a command makes, as options."""

from __future__ import annotations

import argparse
from typing import Any


def add_condition_options(parser: argparse.ArgumentParser) -> None:
    """Add patterns to keep and to forbid, and ranges of properties."""
    pattern = "a SMILES, a scaffold with attachment points as *c1ccc(*)cc1, or a SMARTS"
    for name, what in (("--keep", "every molecule has"), ("--forbid", "no molecule has")):
        parser.add_argument(
            name,
            action="append",
            metavar="PATTERN",
            help=f"{pattern}, which {what}; may be given several times",
        )
    parser.add_argument(
        "--range",
        action="append",
        metavar="NAME=LOWEST:HIGHEST",
        help="of a property, as mw=:500 or logp=0:4: mw, logp, tpsa, hbd, hba, rotatable_bonds, "
        "rings, heavy_atoms, charge, qed, sa_score, or a descriptor of RDKit's; may be given "
        "several times",
    )


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments `keep`, `forbid` and `ranges` that were given, which can be read.

    Raises:
        ValueError: One that cannot be read.
    """
    given = {"keep": options.keep, "forbid": options.forbid, "ranges": _ranges(options.range or [])}
    given = {name: value for name, value in given.items() if value}
    if given:
        from ..optimization.constraints import Constraints

        Constraints(**given)
    return given


def _ranges(texts: list[str]) -> dict[str, tuple[float | None, float | None]]:
    ranges = {}
    for text in texts:
        name, _, limits = text.partition("=")
        if name in ranges:
            raise ValueError(f"--range gives {name} twice; give it one range.")
        try:
            low, high = (float(limit) if limit.strip() else None for limit in limits.split(":"))
        except ValueError:
            raise ValueError(
                f"--range is NAME=LOWEST:HIGHEST, of which one may be missing, as mw=:500 or "
                f"logp=0:4, not {text!r}."
            ) from None
        ranges[name] = (low, high)
    return ranges
