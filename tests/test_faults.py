# SPDX-License-Identifier: Apache-2.0
"""Full disks and killed processes: one clear error, and nothing corrupt under a final name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmim_hf import list_checkpoints
from cmim_hf.trainer import newest_checkpoint

pytest.importorskip("resource", reason="limits what a process may write")

ROOT = Path(__file__).parent.parent
MOLECULES = ROOT / "examples" / "data" / "moses_test.smi"
TRAINING = ROOT / "examples" / "data" / "moses_train.smi.gz"
TINY = list_checkpoints()["tiny"]
# The largest file this process may write: the same to a program as a disk that is full.
FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
"""
COMMAND = FULL + "from cmim_hf.cli import main; sys.exit(main(sys.argv[2:]))"
SCRIPT = FULL + "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def limited(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "words", "name"),
    [
        (50_000, ["embed", MOLECULES], "out.parquet"),
        (50_000, ["embed", MOLECULES, "--workers", "2"], "out.npy"),
        (500, ["sample", "-n", "200", "--prior", "fitted"], "out.csv"),
        (5_000, ["reconstruct", MOLECULES], "out.parquet"),
    ],
)
def test_a_full_disk_leaves_nothing(tmp_path, limit, words, name):
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / name
    result = limited(COMMAND, limit, *words, "--checkpoint", TINY, "-o", output)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"{output} could not be written, and nothing of it is left" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_library_goes_on_when_there_is_room(tmp_path):
    words = ["--sources", MOLECULES, "--output", tmp_path / "out", "--checkpoint", TINY,
             "--shard_rows", 400]  # fmt: skip
    script = ROOT / "examples" / "embed_library.py"
    failed = limited(SCRIPT, 60_000, script, *words)
    assert failed.returncode == 1 and "could not be written" in failed.stderr
    assert not list((tmp_path / "out").rglob("*.parquet"))
    done = limited(SCRIPT, 1 << 30, script, *words)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 3


def test_a_checkpoint_that_did_not_fit_is_passed_over(tmp_path):
    """Weights of 1.8 MB fit, the optimiser's state of twice that does not."""
    words = [
        ROOT / "examples" / "pretrain.py", "--train_sources", MOLECULES, "--size", "tiny",
        "--max_steps", 4, "--save_steps", 2, "--per_device_train_batch_size", 8,
        "--validation_size", 10, "--output_dir", tmp_path / "run", "--use_cpu", "true",
    ]  # fmt: skip
    failed = limited(SCRIPT, 2_500_000, *words)
    assert failed.returncode == 1
    assert "checkpoint-2" in {path.name for path in (tmp_path / "run").iterdir()}
    assert newest_checkpoint(tmp_path / "run") is None
    done = limited(SCRIPT, 1 << 30, *words, "--resume_from_checkpoint", "auto")
    assert done.returncode == 0, done.stderr
    assert newest_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-4")


def children(process):
    """Processes that a process started, by their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process:
            found[int(folder.name)] = words
    return found


def wait_for(what, seconds=90):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_killed_worker_is_told_of(tmp_path):
    output = tmp_path / "out.parquet"
    running = subprocess.Popen(
        [sys.executable, "-m", "cmim_hf.cli", "embed", str(TRAINING), "--checkpoint", TINY,
         "--workers", "2", "-o", str(output)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    workers = wait_for(
        lambda: [one for one, words in children(running.pid).items() if "spawn_main" in words]
    )
    os.kill(workers[0], signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "One of the 2 processes that parse molecules ended before its time" in errors
    assert "Traceback" not in errors and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_killed_rank_ends_the_others_within_a_minute(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--main_process_port", "0", str(ROOT / "examples" / "pretrain.py"), "--train_sources",
         str(MOLECULES), "--size", "tiny", "--max_steps", "100000", "--logging_steps", "1",
         "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "run"),
         "--use_cpu", "true", "--save_steps", "5", "--eval_strategy", "no"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: newest_checkpoint(tmp_path / "run"), 150)
        ranks = [one for one, words in children(running.pid).items() if "pretrain.py" in words]
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        start = time.monotonic()
        _, errors = running.communicate(timeout=60)
        assert time.monotonic() - start < 60 and running.returncode != 0
        assert "SIGKILL" in errors or "exitcode: -9" in errors or "Signal 9" in errors
        assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
        assert newest_checkpoint(tmp_path / "run")
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
