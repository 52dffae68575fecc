# SPDX-License-Identifier: Apache-2.0
"""What a molecule is optimised for: any function from a SMILES to a number, or a sum of such.

A score is higher for better molecules. [`as_scorer`] accepts what users have at hand,
[`parse_scorers`] what they write on a command line, and [`batch_scorer`] marks a function that
wants a list of molecules.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from ..chemistry.properties import logp, penalized_logp, qed, sa_score

BUILT_IN = {"logp": logp, "penalized_logp": penalized_logp, "qed": qed, "sa_score": sa_score}
"""Scorers known by name; of `sa_score` lower is easier, so give it a negative weight."""

SIMILARITY = "similarity"
"""Name of the Tanimoto similarity to the molecule that the search started from."""

FIXED_COLUMNS = ("seed", "seed_smiles", "smiles", "score", SIMILARITY, "error", "iteration", "call")
"""Columns that every table of scores has; the terms of a scorer come after `score`."""


@dataclass(frozen=True)
class Term:
    """One summand of a scorer.

    Attributes:
        name: Of the column that keeps its values.
        weight: What its value is multiplied by.
        function: From a SMILES to a number, or of a list (see [`batch_scorer`]); None is the
            similarity to the molecule's own seed.
    """

    name: str
    weight: float
    function: Callable[[Any], Any] | None

    @property
    def takes_list(self) -> bool:
        """Whether the function is given many molecules at once."""
        return bool(getattr(self.function, "takes_list", False))


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
    def takes_list(self) -> bool:
        """Whether one of the terms is given many molecules at once."""
        return any(term.takes_list for term in self.terms)

    @property
    def weights(self) -> dict[str, float]:
        """Name and weight of each term."""
        return {term.name: term.weight for term in self.terms}

    def combine(self, values: Mapping[str, float]) -> float:
        """The score of a molecule whose terms have these values."""
        return sum(term.weight * values[term.name] for term in self.terms)


def batch_scorer(function: Callable[[list[str]], Sequence[float]]) -> Callable[[list[str]], Any]:
    """Mark a function as a scorer of many molecules at once: a model, or a batch to dock.

    It is called once a round with the new molecules of all searches, canonical SMILES, none of them
    twice in a run, and returns one number for each, in their order: a list, an array (n,) or
    (n, 1), a series or a tensor. NaN or None says that a molecule has no score. An exception, or
    another number of values, leaves all molecules of that call without one.

        model = joblib.load("activity.joblib")  # a scikit-learn pipeline that takes SMILES
        generator.optimize(seeds, batch_scorer(model.predict))

    In a file that a command line names, `score = batch_scorer(model.predict)` makes
    `--scorer my.py:score` such a scorer, and so does `@batch_scorer` above a function. An object of
    one's own may have an attribute `takes_list = True` instead.

        >>> from cmim_hf.chemistry.smiles import similarities
        >>> like_ethanol = batch_scorer(lambda smiles: similarities("CCO", smiles))
        >>> like_ethanol(["OCC", "C"]), as_scorer({like_ethanol: -1}).takes_list
        ([1.0, 0.0], True)

    Raises:
        TypeError: `function` cannot be called.
    """
    if not callable(function):
        raise TypeError(f"A batch scorer is a function of a list of SMILES, not {function!r:.80}.")

    @wraps(function)
    def scores(smiles: list[str]) -> Sequence[float]:
        return function(smiles)

    if not hasattr(function, "__name__"):
        scores.__name__ = type(function).__name__
    scores.takes_list = True
    return scores


def as_scorer(what: str | Callable[[Any], Any] | Mapping | Scorer) -> Scorer:
    """Make a scorer of what a user has at hand.

        >>> as_scorer({"qed": 1.0, len: -0.02, "similarity": 0.5}).weights
        {'qed': 1.0, 'len': -0.02, 'similarity': 0.5}

    Args:
        what: A callable, a name of `BUILT_IN`, `"similarity"`, a mapping of these to their weights
            (a weighted sum), or a scorer. Callables are named after their functions, with a number
            behind a name that is taken.

    Raises:
        TypeError: It is none of these, or a weight is no number.
        ValueError: No term, an unknown name, or a weight that is zero or not finite.
    """
    if isinstance(what, Scorer):
        return what
    if isinstance(what, str) or callable(what):
        what = {what: 1.0}
    if not isinstance(what, Mapping):
        raise TypeError(
            f"A scorer is a function from a SMILES to a number, one of the names {_names()}, or a "
            f"dictionary of these and their weights; got a {type(what).__name__}: {what!r:.80}."
        )
    if not what:
        raise ValueError("A scorer got no term; give it at least one, as {'qed': 1.0}.")
    terms: list[Term] = []
    for one, weight in what.items():
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise TypeError(f"The weight of {one!r} is a number, not {weight!r}.")
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(f"The weight of {one!r} is finite and not zero, not {weight}.")
        taken = {*BUILT_IN, *FIXED_COLUMNS, *(term.name for term in terms)}
        terms.append(_term(one, float(weight), taken))
    return Scorer(tuple(terms))


def parse_scorers(texts: Iterable[str]) -> Scorer:
    """The weighted sum of `name`, `name=weight` and `path/to/file.py:function=weight`.

        >>> parse_scorers(["qed", "sa_score=-0.1", "operator:length_hint=0.01"]).weights
        {'qed': 1.0, 'sa_score': -0.1, 'length_hint': 0.01}

    Args:
        texts: The terms: names of `BUILT_IN`, `"similarity"`, and what `load_scorer` imports. A
            weight, 1 if there is none, stands behind the last `=`; so paths may hold that sign.

    Raises:
        ValueError: A weight that is no number, a function that cannot be loaded, a term given
            twice, and as in `as_scorer`.
        FileNotFoundError: No such file.
    """
    weights: dict[str | Callable[[Any], Any], float] = {}
    places = set()
    for text in texts:
        name, sign, weight = text.rpartition("=")
        if not sign or ":" in weight:  # a sign before the colon belongs to the path
            name, weight = text, "1"
        source, _, function = name.rpartition(":")
        place = f"{Path(source).resolve()}:{function}" if source.endswith(".py") else name
        try:
            factor = float(weight)
        except ValueError:
            raise ValueError(f"The weight of the scorer {text} is no number: {weight!r}.") from None
        try:
            term = load_scorer(name) if source else name
            repeated = place in places or term in weights
        except (AttributeError, ImportError, TypeError) as error:
            raise ValueError(f"The scorer {text} cannot be used: {error}") from error
        if repeated:
            raise ValueError(f"The scorer {name} is given twice; give it one weight.")
        places.add(place)
        weights[term] = factor
    return as_scorer(weights)


def load_scorer(location: str) -> Callable[[Any], Any]:
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
    source, _, name = location.rpartition(":")
    if not (source and name):
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


def _term(what: Any, weight: float, taken: set[str]) -> Term:
    if what == SIMILARITY:
        return Term(what, weight, None)
    if isinstance(what, str):
        if what not in BUILT_IN:
            hint = " (load_scorer imports a function of a file)" if ":" in what else ""
            raise ValueError(f"There is no scorer {what!r}{hint}; the names are {_names()}.")
        return Term(what, weight, BUILT_IN[what])
    if not callable(what):
        raise TypeError(f"A term is a name of {_names()} or a callable, not {what!r:.80}.")
    base = name = getattr(what, "__name__", type(what).__name__).strip("<>")
    number = 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return Term(name, weight, what)


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
