# SPDX-License-Identifier: Apache-2.0
"""Memory that a program keeps is not new the next time."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from cmim_hf.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    return torch.ones(16 << 20).sum().item()  # 64 MiB, 16,384 pages
for _ in range(3):
    use()
counts = []  # the least of them, because a system may take pages back by itself
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_large_tensors_take_pages_once():
    faults = {}
    for way in ("keep", "give back"):
        result = subprocess.run(
            [sys.executable, "-c", FAULTS, way], capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        faults[way] = int(result.stdout)
    assert faults["keep"] < 100 and faults["give back"] > 10 * (faults["keep"] + 1)
