# SPDX-License-Identifier: Apache-2.0
"""What is asked of every molecule: substructures to keep, others to avoid, ranges of properties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real
from typing import Any

from ..chemistry.named_properties import property_named
from ..chemistry.smiles import parse
from ..chemistry.substructures import Pattern

_READ_AS = {
    "SMILES": "a SMILES",
    "SMARTS": "SMARTS",
    "scaffold": "a scaffold with substituents at its attachment points alone",
}

Range = tuple[float | None, float | None]

_Check = Callable[[Any], str | None]  # of a parsed molecule; the words of what it breaks


@dataclass(frozen=True)
class Constraints:
    """Conditions that a molecule holds or breaks.

    Patterns are SMILES, scaffolds with attachment points or SMARTS, see
    [`~cmim_hf.chemistry.substructures.Pattern`]; names of properties are short ones or RDKit's, see
    [`~cmim_hf.chemistry.named_properties.property_named`].

        >>> wanted = Constraints(keep="[*:1]c1ccccc1", forbid=["[OH]", "[F,Cl,Br,I]"],
        ...                      ranges={"mw": (None, 150), "logp": (0, 4)})
        >>> wanted.broken(["Cc1ccccc1", "CC", "OCc1ccccc1", "NCCCCCCc1ccccc1"])
        [None, 'keep [*:1]c1ccccc1', 'forbid [OH]', 'mw above 150']

    Args:
        keep: Patterns that must all be in the molecule; one string, or several. (None is none, here
            and below.)
        forbid: Patterns of which none may be.
        ranges: For names of properties the lowest and the highest value, both allowed; None where
            there is no limit.

    Raises:
        TypeError: A pattern is no string, `ranges` no mapping, or a limit no number.
        ValueError: A pattern that cannot be read, an unknown property, or a range that is no pair,
            empty, NaN or without any limit.
    """

    keep: str | Sequence[str] | None = None
    forbid: str | Sequence[str] | None = None
    ranges: Mapping[str, Range] | None = None

    def __post_init__(self) -> None:
        """Check everything, and keep it as tuples and a dictionary."""
        for name in ("keep", "forbid"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        object.__setattr__(self, "ranges", _ranges(self.ranges))

    def __bool__(self) -> bool:
        """Whether there is any condition."""
        return bool(self.keep or self.forbid or self.ranges)

    def broken(self, smiles: Iterable[str]) -> list[str | None]:
        """For each molecule the first condition that it breaks, in words; None if it holds all.

        Their order is that of the arguments: patterns to keep, those to avoid, ranges.

        Raises:
            ValueError: What is no molecule, as `chemistry.smiles.parse` does.
        """
        checks = [*self._patterns, *self._limits]
        return [_first(checks, parse(one)) for one in smiles]

    def check_seeds(self, seeds: Iterable[str]) -> None:
        """Refuse seeds without a pattern of `keep`, or with one of `forbid`.

        Around such a seed hardly a molecule would hold. Ranges do not bind it: an optimisation may
        begin outside of them.

        Raises:
            ValueError: It names the seed and the pattern.
        """
        for row, seed in enumerate(seeds):
            if words := _first(self._patterns, parse(seed)):
                argument, _, text = words.partition(" ")
                raise ValueError(
                    f"The seed {seed} (row {row}) has {'no' if argument == 'keep' else 'a'} match "
                    f"of the pattern {text!r} in `{argument}`, which was read as "
                    f"{_READ_AS[Pattern(text).kind]}: leave the seed out, or change the pattern."
                )

    @cached_property
    def _patterns(self) -> list[_Check]:
        checks = []
        for argument, texts in (("keep", self.keep), ("forbid", self.forbid)):
            checks += [partial(_pattern_broken, argument, Pattern(text)) for text in texts]
        return checks

    @cached_property
    def _limits(self) -> list[_Check]:
        return [
            partial(_range_broken, name, property_named(name), *limits)
            for name, limits in self.ranges.items()
        ]


def _first(checks: Iterable[_Check], molecule: Any) -> str | None:
    return next((words for check in checks if (words := check(molecule))), None)


def _pattern_broken(argument: str, pattern: Pattern, molecule: Any) -> str | None:
    wanted = argument == "keep"
    return None if pattern.is_in(molecule) == wanted else f"{argument} {pattern.text}"


def _range_broken(
    name: str,
    function: Callable[[Any], float],
    low: float | None,
    high: float | None,
    molecule: Any,
) -> str | None:
    value = function(molecule)
    if math.isnan(value):
        return f"{name} without a value"
    if low is not None and value < low:
        return f"{name} below {low:g}"
    return f"{name} above {high:g}" if high is not None and value > high else None


def _texts(argument: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Patterns of an argument, each once; all of them can be read."""
    given = [] if given is None else [given] if isinstance(given, str) else given
    if isinstance(given, bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"`{argument}` is a pattern or a list of them, not {given!r:.80}.")
    texts = list(given)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"A pattern of `{argument}` is a string, not {text!r:.80}.")
        try:
            Pattern(text)
        except ValueError as error:
            raise ValueError(f"`{argument}`: {error}") from None
    return tuple(dict.fromkeys(texts))


def _ranges(given: Mapping[str, Any] | None) -> dict[str, Range]:
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise TypeError(
            "`ranges` is a dictionary of names of properties and their limits, as "
            f"{{'mw': (None, 500)}}, not {given!r:.80}."
        )
    return {name: _range(name, limits) for name, limits in given.items()}


def _range(name: str, given: Any) -> Range:
    """Lowest and highest value, checked; infinite ones are None."""
    try:
        property_named(name)
    except ValueError as error:
        raise ValueError(f"`ranges`: {error}") from None
    where = f"The range of {name} in `ranges` is"
    if isinstance(given, str | Mapping | Set) or not isinstance(given, Iterable):
        raise TypeError(f"{where} a pair (lowest or None, highest or None), not {given!r:.80}.")
    limits = list(given)
    if len(limits) != 2:
        raise ValueError(f"{where} a pair (lowest or None, highest or None), not {given!r:.80}.")
    for limit in limits:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Real)):
            raise TypeError(f"{where} of numbers or None, not of {limit!r:.80}.")
    low, high = (None if limit is None else float(limit) for limit in limits)
    low, high = None if low == -math.inf else low, None if high == math.inf else high
    if low is None and high is None:
        raise ValueError(f"{where} without limits; give a lowest or a highest value.")
    if any(limit is not None and not math.isfinite(limit) for limit in (low, high)):
        raise ValueError(f"{where} ({low}, {high}), which no finite number is in.")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{where} empty: {low:g} is above {high:g}.")
    return low, high
