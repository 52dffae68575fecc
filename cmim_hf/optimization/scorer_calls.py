# SPDX-License-Identifier: Apache-2.0
"""Calls of a user's scorer: a number or the reason why there is none, whatever the scorer does."""

from __future__ import annotations

import math
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from .scorers import Term


def call_scorer(
    term: Term, smiles: Sequence[str], timeout: float | None = None
) -> list[tuple[float, str]]:
    """The value of a term for each molecule, or nan and what went wrong.

    A molecule's own failure is an exception, a result that is no finite number (an array, tensor or
    list that holds one number is that number), or a call that takes too long. Of a term that takes
    a list the failure of a call is that of all its molecules.

        >>> from .scorers import as_scorer
        >>> call_scorer(as_scorer(lambda smiles: 1 / smiles.count("C")).terms[0], ["CC", "N"])
        [(0.5, ''), (nan, 'raised ZeroDivisionError: division by zero')]

    Args:
        term: Its function is not None.
        smiles: Each by a call of its own, or all by one if the term takes a list.
        timeout: Seconds that a call may take; None waits for ever. With a limit, each call runs in
            a thread of its own. Python cannot stop a thread: a late call is left behind and may go
            on computing.
    """
    if not term.takes_list:
        return [_attempt(term.function, one, timeout, lambda value: [value])[0] for one in smiles]
    return _attempt(term.function, list(smiles), timeout, lambda value: _one_each(value, smiles))


def _attempt(
    function: Callable[[Any], Any],
    given: str | list[str],
    timeout: float | None,
    split: Callable[[Any], Sequence[Any]],
) -> list[tuple[float, str]]:
    number = 1 if isinstance(given, str) else len(given)  # before the scorer can change the list
    try:
        value = function(given) if timeout is None else _in_time(function, given, timeout)
        return [_number(one) for one in split(value)]
    except _Unusable as error:
        problem = str(error)
    except (Exception, SystemExit) as error:  # a scorer may wrap a command's main function
        problem = f"raised {type(error).__name__}: {_one_line(str(error))}"
    return [(math.nan, problem)] * number


class _Unusable(Exception):
    """A call whose result is late or has another shape."""


def _in_time(function: Callable[[Any], Any], given: str | list[str], timeout: float) -> Any:
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((function(given), None))
        except BaseException as error:  # raised again where the call was asked for
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = outcome.get(timeout=timeout)
    except queue.Empty:
        warnings.warn(
            f"A call of the scorer took longer than {timeout:g} s. Python cannot stop it, so it "
            "goes on beside the next ones until it ends.",
            RuntimeWarning,
            stacklevel=2,
        )
        raise _Unusable(f"took longer than {timeout:g} s") from None
    if error is not None:
        raise error
    return value


def _one_each(values: Any, smiles: Sequence[str]) -> list[Any]:
    """The result of a call with a list, molecule by molecule."""
    try:
        values = list(values)
    except TypeError:
        what = "None" if values is None else f"a {type(values).__name__}"
        found = "" if values is None else f": {_one_line(shown(values))}"
        raise _Unusable(f"returned {what}, not one number for each molecule{found}") from None
    if len(values) != len(smiles):
        raise _Unusable(f"returned another number of values: {len(values)} for {len(smiles)}")
    return values


def _number(value: Any) -> tuple[float, str]:
    """A result as a float, and what is wrong with it."""
    if value is None:
        return math.nan, "returned None"
    one = value
    try:
        while isinstance(one, list | tuple) and len(one) == 1:
            one = one[0]
        if hasattr(one, "item"):  # arrays, series and tensors of size 1
            one = one.item()
        if isinstance(one, str | bytes):
            raise TypeError  # float() would read a number from it
        number = float(one)
    except Exception:
        kind = type(value).__name__
        return math.nan, f"returned a {kind}, not a number: {_one_line(shown(value))}"
    return (number, "") if math.isfinite(number) else (math.nan, f"returned {number}")


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."


def shown(value: Any) -> str:
    """The beginning of a value as Python writes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
