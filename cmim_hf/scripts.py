# SPDX-License-Identifier: Apache-2.0
"""How a script ends: what its user can mend is a message, not a stack."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import logging

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run_script(main: Callable[[], Any], interrupted: str = "interrupted.") -> None:
    """Run a script's `main`; its errors of input, output or numbers end in one message.

    They are ValueError, OSError and FloatingPointError, and leave exit status 1; Ctrl-C leaves 130.
    Other errors are faults of the program and keep their stack; TRANSFORMERS_VERBOSITY=debug shows
    that of the former, too.

    Args:
        main: Takes nothing; what it returns is dropped.
        interrupted: What is said after Ctrl-C.
    """
    name = Path(sys.argv[0]).name
    try:
        main()
    except BrokenPipeError:  # as of `| head`: what was read is right, the exit need not flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        if logging.get_verbosity() <= logging.DEBUG:
            traceback.print_exc()
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED)
