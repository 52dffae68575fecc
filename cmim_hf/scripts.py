# SPDX-License-Identifier: Apache-2.0
"""How a script ends: what its user can mend is a message, not a stack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import logging

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

logger = logging.get_logger(__name__)


def run_script(main: Callable[[], Any], interrupted: str = "interrupted.") -> None:
    """Run a script's `main`; its errors of input, output or numbers end in one message.

    They are ValueError, OSError and FloatingPointError, and leave exit status 1; Ctrl-C leaves 130.
    Other errors are faults of the program and keep their stack. TRANSFORMERS_VERBOSITY=debug shows
    it of those, too.

    Args:
        main: Takes nothing; what it returns is dropped.
        interrupted: What is said after Ctrl-C.
    """
    name = Path(sys.argv[0]).name
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        logger.debug("%s failed", name, exc_info=True)
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED)
