# SPDX-License-Identifier: Apache-2.0
"""The most memory that a process has held."""

from __future__ import annotations

from pathlib import Path


def held(process: int | None = None) -> float:
    """The most that a process has held so far, this one by default, in mebibytes.

    As the system tells it (Linux): `getrusage` of a child begins with what its parent held.
    """
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text()
    except ProcessLookupError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0
