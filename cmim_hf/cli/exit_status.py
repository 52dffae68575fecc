# SPDX-License-Identifier: Apache-2.0
"""How a program ends: what its user can fix is a message, not a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run_script(main: Callable[[], None], interrupted: str = "interrupted.") -> None:
    """Run a script's `main` and exit, as [`exit_status`] says.

    Args:
        main: Returns nothing.
        interrupted: What is said after Ctrl-C.
    """
    if status := exit_status(Path(sys.argv[0]).name, main, interrupted):
        sys.exit(status)


def exit_status(
    name: str,
    run: Callable[[], int | None],
    interrupted: str,
    words: Mapping[str, str] | None = None,
) -> int:
    """Run a program; its errors of input, output or numbers end in one message.

    They are ValueError, OSError, FloatingPointError, ImportError (something is not installed), and
    a killed process of a pool. Other errors are faults of the program and keep their traceback;
    TRANSFORMERS_VERBOSITY=debug shows that of the former, too.

    Args:
        name: What the message begins with.
        run: Returns an exit status; None is 0.
        interrupted: What is said after Ctrl-C.
        words: What the program calls arguments of the package, `{"batch_size": "--batch-size"}`:
            messages, where these stand in backticks, are told in its words.

    Returns:
        The status of `run`, 1 after an error, 130 after Ctrl-C.
    """
    from concurrent.futures.process import BrokenProcessPool

    try:
        return run() or 0
    except BrokenPipeError:  # as of `| head`: what was read is right, the exit need not flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError, ImportError, BrokenProcessPool) as error:
        if os.environ.get("TRANSFORMERS_VERBOSITY") == "debug":
            traceback.print_exc()
        message = str(error)
        for argument, word in (words or {}).items():
            message = message.replace(f"`{argument}`", word)
        print(f"{name}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return INTERRUPTED
