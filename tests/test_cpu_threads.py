# SPDX-License-Identifier: Apache-2.0
import os
import sys

import psutil
import pytest

from cmim_hf.cpu_threads import is_contended, wait_politely


@pytest.mark.parametrize(
    ("percent", "cores", "expected"),
    [
        ([3.0, 4.0], None, False),
        ([100.0, 2.0], None, True),
        ([30.0, 25.0], None, True),
        ([100.0, 0.0, 5.0, 3.0], [1, 2, 3], False),
        ([0.0, 100.0, 0.0, 0.0], [1, 2], True),
        ([2.0] * 16, None, False),
    ],
)
def test_half_a_core_of_ours_in_others_use_is_contention(percent, cores, expected):
    assert is_contended(percent, cores) is expected


@pytest.fixture
def begun(monkeypatch):
    """As at the beginning of a program, on a machine that others use."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    busy = [100.0] * psutil.cpu_count()
    monkeypatch.setattr(psutil, "cpu_percent", lambda *_, **__: busy)
    return monkeypatch


def test_threads_sleep_beside_another_program(begun):
    assert wait_politely()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not wait_politely()  # a policy is set now


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_set_is_left_alone(begun, name):
    begun.setenv(name, "0")
    assert not wait_politely()


def test_after_torch_it_is_too_late(begun):
    begun.setitem(sys.modules, "torch", sys)
    assert not wait_politely()
