# SPDX-License-Identifier: Apache-2.0
"""How a program ends: what its user can mend is a message, not a stack."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from transformers.utils import logging

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run_script(main: Callable[[], None], interrupted: str = "interrupted.") -> None:
    """Run a script's `main` and exit, as [`exit_status`] says.

    Args:
        main: Returns nothing.
        interrupted: What is said after Ctrl-C.
    """
    name = Path(sys.argv[0]).name
    if status := exit_status(name, main, interrupted):
        sys.exit(status)


def exit_status(name: str, run: Callable[[], int | None], interrupted: str) -> int:
    """Run a program; its errors of input, output or numbers end in one message.

    They are ValueError, OSError, FloatingPointError, and a killed process of a pool. Other errors
    are faults of the program and keep their stack; TRANSFORMERS_VERBOSITY=debug shows that of the
    former, too.

    Args:
        name: What the message begins with.
        run: Returns an exit status; None is 0.
        interrupted: What is said after Ctrl-C.

    Returns:
        The status of `run`, 1 after an error, 130 after Ctrl-C.
    """
    try:
        return run() or 0
    except BrokenPipeError:  # as of `| head`: what was read is right, the exit need not flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError, BrokenProcessPool) as error:
        if logging.get_verbosity() <= logging.DEBUG:
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return INTERRUPTED
