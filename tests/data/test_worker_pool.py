# SPDX-License-Identifier: Apache-2.0
"""Processes that parse: the same result, little to import, an early end that is told of."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from cmim_hf.data.worker_pool import encode_in_order


def squares(numbers):
    return [number * number for number in numbers]


def ends_at_3(numbers):
    if 3 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers


def test_chunks_come_back_in_order_however_many_wait():
    chunks = [[number, number + 1] for number in range(40)]
    expected = list(map(squares, chunks))
    assert list(encode_in_order(squares, chunks, 0)) == expected
    assert list(encode_in_order(squares, chunks, 2)) == expected
    assert list(encode_in_order(squares, [], 2)) == []
    with pytest.raises(ValueError, match="`num_workers` is a whole number from 0, not -1"):
        list(encode_in_order(squares, chunks, -1))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_a_worker_that_is_killed_is_told_of():
    with pytest.raises(ChildProcessError, match="One of the 2 processes .* before its time"):
        list(encode_in_order(ends_at_3, [[number] for number in range(9)], 2))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import time\nfrom cmim_hf.data.worker_pool import encode_in_order\n"
        "lengths = encode_in_order(len, ([0] for _ in range(99)), 2)\n"
        "print(next(lengths), flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "1\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    left = psutil.wait_procs(workers, timeout=20)[1]
    for worker in left:
        worker.kill()
    parent.stdout.close()
    assert left == []


def test_workers_import_neither_torch_nor_transformers():
    code = (
        "import sys, cmim_hf.data.row_encoder, cmim_hf.data.split, cmim_hf.chemistry.descriptors\n"
        "print(*{'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
