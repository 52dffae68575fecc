# SPDX-License-Identifier: Apache-2.0
"""Sharing the cores of a machine with other programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import psutil

_WATCHED = 0.1  # seconds
_BUSY = 0.5  # cores
_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_politely() -> bool:
    """Let OpenMP's threads sleep where they wait for each other, if others use the cores, too.

    By default a thread that has done its part of a product keeps its core busy for milliseconds,
    so that the next product begins at once. Where another program has one of the cores, that is
    time in which the late thread could have been run: with one of two cores taken a training step
    takes 20 times as long with threads that wait so, and about twice as long with threads that
    sleep. On a machine of one's own sleeping costs a tenth to a half, so the machine is looked at
    first (a tenth of a second).

    OpenMP reads its settings when torch is imported: afterwards, or where OMP_WAIT_POLICY,
    GOMP_SPINCOUNT or KMP_BLOCKTIME is set, nothing is done. It concerns the whole process, so it
    is for programs, at their beginning.

    Returns:
        Whether the threads will sleep.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _POLICIES):
        return False
    if not is_contended(psutil.cpu_percent(_WATCHED, percpu=True), _own_cores()):
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def is_contended(percent: Sequence[float], cores: Sequence[int] | None = None) -> bool:
    """Whether other programs use half a core or more.

    Args:
        percent: Use of each core of the machine, while this program waits.
        cores: Those that this program may run on; all if None.
    """
    of_cores = percent if cores is None else [percent[core] for core in cores]
    return sum(of_cores) / 100 >= _BUSY


def _own_cores() -> list[int] | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    return [core for core in os.sched_getaffinity(0) if core < psutil.cpu_count()]
