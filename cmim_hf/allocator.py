# SPDX-License-Identifier: Apache-2.0
"""The memory of a process that does one thing: keep it for the next batch."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of <malloc.h>
_KEPT = 2**31 - 1  # bytes at the end of the heap
_STEP = 2**28


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to 2 GiB, instead of handing it back to the system.

    Every large tensor is otherwise new memory, whose pages the system fills with zeros on first
    touch: a tenth of the time of a training step on two cores. It concerns the whole process and
    cannot be undone, so it is for what has a process to itself: training, `cmim`.

    Returns:
        Whether it was done: on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _STEP))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in settings)
