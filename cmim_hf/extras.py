# SPDX-License-Identifier: Apache-2.0
"""Packages that only some uses need."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Have imports that fail say what they are for, and how what they lack is installed.

    Args:
        what: Needs it.
        extra: Of this package, that installs it.

    Raises:
        ImportError: An import in the block failed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} needs {error.name}, which cannot be imported here: {error}. Run: "
            f"pip install 'cmim-hf[{extra}]'"
        ) from error
