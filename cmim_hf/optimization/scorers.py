# SPDX-License-Identifier: Apache-2.0
"""What a molecule is optimised for: any callable from a SMILES to a number, or a sum of such.

A scorer is higher for better molecules. `as_scorer` accepts what users have at hand: a function,
the name of a built-in one, or a dictionary of these and their weights. `parse_scorers` reads what
they write on a command line.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType

from ..chemistry.properties import logp, penalized_logp, qed, sa_score
from ..chemistry.smiles import canonicalize, similarity

BUILT_IN = {"logp": logp, "penalized_logp": penalized_logp, "qed": qed, "sa_score": sa_score}
"""Scorers known by name; of `sa_score` lower is easier, so give it a negative weight."""

SIMILARITY = "similarity"
"""Name of the Tanimoto similarity to the molecule that the search started from."""

ROW_FIELDS = (
    "seed",
    "seed_smiles",
    "smiles",
    "score",
    SIMILARITY,
    "error",
    "iteration",
    "call",
)
"""Columns that every table of scored molecules has; the terms of a scorer come after `score`."""


@dataclass(frozen=True)
class Term:
    """One summand of a scorer.

    Attributes:
        name: Of the column that keeps its values.
        weight: What its value is multiplied by.
        function: From a SMILES to a number; None is the similarity to the molecule's own seed.
    """

    name: str
    weight: float
    function: Callable[[str], float] | None


@dataclass(frozen=True)
class Scorer:
    """A weighted sum of named terms, Σ weight · value.

    Attributes:
        terms: The summands, in the order in which they are computed.
    """

    terms: tuple[Term, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the terms whose values a table shows beside score and similarity."""
        if len(self.terms) == 1 and self.terms[0].weight == 1:
            return []
        return [term.name for term in self.terms if term.function is not None]

    @property
    def weights(self) -> dict[str, float]:
        """Name and weight of each term."""
        return {term.name: term.weight for term in self.terms}

    def combine(self, values: Mapping[str, float]) -> float:
        """The score of a molecule whose terms have these values."""
        return sum(term.weight * values[term.name] for term in self.terms)


def weighted_sum(weights: Mapping[str | Callable[[str], float], float]) -> Scorer:
    """Sum scorers: `weighted_sum({"qed": 1.0, "sa_score": -0.2, my_function: 0.5})`.

    Args:
        weights: The weight of each term. A term is a callable, a name of `BUILT_IN`, or
            `"similarity"`. Callables are named after their functions, with a number behind a name
            that is taken.

    Raises:
        TypeError: A term is neither name nor callable, or a weight is no number.
        ValueError: No term, an unknown name, or a weight that is zero or not finite.
    """
    if not weights:
        raise ValueError("A weighted sum got no term; give it at least one, as {'qed': 1.0}.")
    terms: list[Term] = []
    for what, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise TypeError(f"The weight of {what!r} is a number, not {weight!r}.")
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(f"The weight of {what!r} is finite and not zero, not {weight}.")
        taken = [*BUILT_IN, *ROW_FIELDS, *(term.name for term in terms)]
        name, function = _named(what, taken)
        terms.append(Term(name, float(weight), function))
    return Scorer(tuple(terms))


def as_scorer(what: str | Callable[[str], float] | Mapping | Scorer) -> Scorer:
    """Make a scorer of a callable, a built-in name, a dictionary of weights, or a scorer.

    Raises:
        TypeError: It is none of these.
        ValueError: As in `weighted_sum`.
    """
    if isinstance(what, Scorer):
        return what
    if isinstance(what, Mapping):
        return weighted_sum(what)
    if isinstance(what, str) or callable(what):
        return weighted_sum({what: 1.0})
    raise TypeError(
        f"A scorer is a function from a SMILES to a number, one of the names {_names()}, or a "
        f"dictionary of these and their weights; got a {type(what).__name__}: {what!r:.80}."
    )


def parse_scorers(texts: Iterable[str]) -> Scorer:
    """The weighted sum of `name`, `name=weight` and `path/to/file.py:function=weight`.

    Args:
        texts: The terms: names of `BUILT_IN`, `"similarity"`, and what `load_scorer` imports. A
            weight, 1 if there is none, stands behind the last `=`; so paths may hold that sign.

    Raises:
        TypeError: One string in place of a list.
        ValueError: A weight that is no number, a function that cannot be loaded, a term given
            twice, and as in `weighted_sum`.
        FileNotFoundError: No such file.
    """
    if isinstance(texts, str):
        raise TypeError(f"Expected a list of scorers, got the single text {texts!r}; pass [it].")
    weights: dict[str | Callable[[str], float], float] = {}
    places = set()
    for text in texts:
        name, weight = _name_and_weight(text)
        try:
            term = load_scorer(name) if ":" in name else name
            repeated = _place(name) in places or term in weights
        except (AttributeError, ImportError, TypeError) as error:
            raise ValueError(f"The scorer {text} cannot be used: {error}") from error
        if repeated:
            raise ValueError(f"The scorer {name} is given twice; give it one weight.")
        places.add(_place(name))
        weights[term] = weight
    return weighted_sum(weights)


def similarity_to(reference: str) -> Callable[[str], float]:
    """A scorer: the Tanimoto similarity to one molecule (see `chem.similarity`).

    Raises:
        TypeError: `reference` is not a string.
        ValueError: It is no molecule.
    """
    reference = canonicalize(reference)

    def score(smiles: str) -> float:
        return similarity(reference, smiles)

    score.__name__ = f"similarity_to({reference})"
    return score


def load_scorer(location: str) -> Callable[[str], float]:
    """Import a scorer that a user wrote.

    Args:
        location: `"path/to/file.py:function"` or `"package.module:function"`. The file's folder,
            or for a module the working folder, comes first where Python looks for modules, as it
            does when Python runs a script.

    Raises:
        ValueError: `location` is not of this form.
        FileNotFoundError: No such file.
        ImportError: No such module.
        AttributeError: Nothing of this name in it.
        TypeError: What has this name cannot be called.
    """
    source, colon, name = location.rpartition(":")
    if not (source and colon and name):
        raise ValueError(
            f"{location!r} names no scorer; write 'path/to/file.py:function' or "
            "'package.module:function'."
        )
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    if not hasattr(module, name):
        others = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise AttributeError(f"{source} has no {name!r}; it has {', '.join(others) or 'nothing'}.")
    found = getattr(module, name)
    if not callable(found):
        raise TypeError(f"{location} is a {type(found).__name__}; a scorer is a function.")
    return found


def _name_and_weight(text: str) -> tuple[str, float]:
    name, sign, weight = text.rpartition("=")
    if not sign or ":" in weight:  # a sign before the colon belongs to the path
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise ValueError(f"The weight of the scorer {text} is no number: {weight!r}.") from None


def _place(name: str) -> str:
    """One text for all ways to write a file's path: each load makes new functions of it."""
    source, _, function = name.rpartition(":")
    return f"{Path(source).resolve()}:{function}" if source.endswith(".py") else name


def _named(
    what: str | Callable[[str], float], taken: list[str]
) -> tuple[str, Callable[[str], float] | None]:
    if isinstance(what, str):
        if what == SIMILARITY:
            return what, None
        if what not in BUILT_IN:
            hint = " (load_scorer imports a function of a file)" if ":" in what else ""
            raise ValueError(f"There is no scorer {what!r}{hint}; the names are {_names()}.")
        return what, BUILT_IN[what]
    if not callable(what):
        raise TypeError(f"A term is a name of {_names()} or a callable, not {what!r:.80}.")
    base = getattr(what, "__name__", type(what).__name__).strip("<>")
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name, what


def _names() -> str:
    return ", ".join(map(repr, sorted([*BUILT_IN, SIMILARITY])))


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} (relative paths start at {Path.cwd()}).")
    _search_first(path.resolve().parent)
    name = f"scorer_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    _search_first(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise ImportError(
            f"There is no module {name!r} to load a scorer from; give its dotted name, or a path "
            "that ends in .py."
        ) from error


def _search_first(folder: Path) -> None:
    if os.fspath(folder) not in sys.path:
        sys.path.insert(0, os.fspath(folder))


__all__ = [
    "BUILT_IN",
    "Scorer",
    "Term",
    "as_scorer",
    "load_scorer",
    "parse_scorers",
    "similarity_to",
    "weighted_sum",
]
