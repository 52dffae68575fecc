# SPDX-License-Identifier: Apache-2.0
"""Full disks, read-only folders, inputs that vanish and killed processes.

One clear error each, and nothing corrupt under a final name.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.cli.main import main
from cmim_hf.data.smiles_files import read_batches, read_smiles
from cmim_hf.embedding.embedding_files import save_embeddings
from cmim_hf.training.run_folder import newest_checkpoint

pytest.importorskip("resource", reason="limits what a process may write")

ROOT = Path(__file__).parents[2]
MOLECULES = ROOT / "examples" / "data" / "moses_test.smi"
TRAINING = ROOT / "examples" / "data" / "moses_train.smi.gz"
TINY = list_checkpoints()["tiny"]
# The largest file this process may write: the same to a program as a disk that is full.
FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
"""
# torch 2.7 writes a file while it is imported.
COMMAND = f"from cmim_hf.cli.main import main\n{FULL}sys.exit(main(sys.argv[2:]))"
SCRIPT = FULL + "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"


# One command after another, without the right to pass over permissions, which a superuser has.
PLAIN = """
import contextlib, ctypes, io, json, os, runpy, sys
if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, rights) == 0
    rights[0] = rights[1] = 0
    assert libc.capset(header, rights) == 0
from cmim_hf.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv, said = words, io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if words[0] == "cmim":
                sys.exit(main(words[1:]))
            sys.path[0] = os.path.dirname(words[0])
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as error:
        assert error.code, words
        print(" ".join((said.getvalue() + str(error)).split()))
"""


def limited(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["embed", str(MOLECULES)], "out.parquet"),
        (["embed", str(MOLECULES)], "out.npy"),
        (["reconstruct", str(TRAINING)], "out.csv"),
    ],
)
def test_a_full_disk_leaves_nothing(tmp_path, words, name, little_room, capsys):
    output = tmp_path / name
    assert main([*words, "--checkpoint", TINY, "-o", str(output)]) == 1
    expected = f"{output} could not be written (File too large). Is the disk full?"
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_search_goes_on_when_there_is_room(tmp_path):
    """Its table takes about 25 of 50 rows, the last of them in part."""
    seeds, output = tmp_path / "seeds.smi", tmp_path / "best.csv"
    seeds.write_text("\n".join(MOLECULES.read_text().splitlines()[:2]))
    words = ["optimize", seeds, "--checkpoint", TINY, "--scorer", "qed", "--budget", "25",
             "-o", output, "--table"]  # fmt: skip
    table = tmp_path / "scored.csv"
    failed = limited(COMMAND, 3000, *words, table)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert f"{table} could not be written" in failed.stderr and not output.exists()
    assert 2900 < table.stat().st_size <= 3000
    assert limited(COMMAND, 1 << 30, *words, table).returncode == 0
    resumed = output.read_bytes()
    assert limited(COMMAND, 1 << 30, *words, tmp_path / "other.csv").returncode == 0
    assert resumed == output.read_bytes()
    assert len(table.read_text().splitlines()) == len(
        (tmp_path / "other.csv").read_text().splitlines()
    ) == 51  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_when_there_is_room(tmp_path):
    """Too little for the tokenizer, the molecules, weights of 1.8 MB, or an optimiser's state."""
    words = [
        ROOT / "examples" / "pretrain.py", "--train_sources", MOLECULES, "--size", "tiny",
        "--max_steps", 4, "--save_steps", 2, "--per_device_train_batch_size", 8,
        "--validation_size", 10, "--output_dir", tmp_path / "run", "--use_cpu", "true",
        "--resume_from_checkpoint", "auto",
    ]  # fmt: skip
    for limit, place in (
        (3_000, "molecules"),
        (50_000, "molecules/train"),
        (1_000_000, "checkpoint-2"),
        (2_500_000, "checkpoint-2"),
    ):
        failed = limited(SCRIPT, limit, *words)
        assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
        assert f"pretrain.py: {tmp_path / 'run' / place} could not be written (" in failed.stderr
        assert not (tmp_path / "run" / "checkpoint-2").exists()
    done = limited(SCRIPT, 1 << 30, *words)
    assert done.returncode == 0, done.stderr
    assert newest_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-4")


@pytest.mark.slow
def test_a_read_only_folder_is_told_of_before_any_work(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir(mode=0o555)
    examples = ROOT / "examples"
    cases = [
        ["cmim", "embed", MOLECULES, "--checkpoint", TINY, "-o", folder / "out.parquet"],
        ["cmim", "sample", "-n", "2", "--checkpoint", TINY, "-o", folder / "out.csv"],
        [examples / "embed_library.py", "--sources", MOLECULES, "--checkpoint", TINY,
         "--output", folder],
        [examples / "embed_library.py", "--sources", MOLECULES, "--checkpoint", TINY,
         "--output", folder / "new"],
        [examples / "pretrain.py", "--train_sources", MOLECULES, "--size", "tiny",
         "--output_dir", folder],
    ]  # fmt: skip
    result = limited(PLAIN, json.dumps(cases, default=str))
    assert result.returncode == 0, result.stderr
    errors = result.stdout.splitlines()
    assert len(errors) == len(cases) and list(folder.iterdir()) == []
    for place, error in enumerate(errors):
        assert str(folder) in error and "Traceback" not in error
        expected = "Permission denied" if place == 3 else "Nothing can be written to the folder"
        assert expected in error, error


def test_what_a_user_can_fix_is_told_without_a_traceback(tmp_path):
    examples, absent, output = ROOT / "examples", tmp_path / "absent.smi", tmp_path / "out"
    few = tmp_path / "few.smi"
    few.write_text("CCO\nCCN\n")
    table = ROOT / "tests" / "golden" / "string_views.parquet"
    cases = {
        "There is no file": [
            [examples / "pretrain.py", "--train_sources", absent, "--output_dir", output],
            [examples / "generate.py", "--checkpoint", TINY, "--molecules", absent],
            [examples / "optimize.py", "--checkpoint", TINY, "--seeds", absent],
            [examples / "demo.py", "--checkpoint", TINY, "--molecules", absent],
            [examples / "finetune.py", "--checkpoint", TINY, "--data", absent, "--targets", "y",
             "--output", output],
            [examples / "embed_library.py", "--checkpoint", TINY, "--sources", absent,
             "--output", output],
        ],
        "ten at least are needed": [
            [examples / "demo.py", "--checkpoint", TINY, "--molecules", few],
        ],
        "has no column": [
            [examples / "finetune.py", "--checkpoint", TINY, "--data", table, "--targets", "no",
             "--output", output],
        ],
        "absent": [
            [examples / "embed_library.py", "--checkpoint", tmp_path / "absent"],
        ],
        "must be finite and above 0, got -1": [
            [examples / "pretrain.py", "--train_sources", MOLECULES, "--size", "tiny",
             "--output_dir", output, "--use_cpu", "true", "--contrastive_temperature", "-1"],
        ],
    }  # fmt: skip
    flat = [(expected, words) for expected, of in cases.items() for words in of]
    result = limited(PLAIN, json.dumps([words for _, words in flat], default=str))
    assert result.returncode == 0, result.stderr
    errors = result.stdout.splitlines()
    for (expected, words), error in zip(flat, errors, strict=True):
        assert f"{Path(words[0]).name}: " in error and expected in error, error
        assert "Traceback" not in error


@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.smi.gz", "a.parquet"])
def test_an_input_that_vanishes_while_it_is_read(tmp_path, name):
    """A text that is cut would otherwise seem to end there, with rows missing."""
    source, output = tmp_path / name, tmp_path / "out.parquet"
    table = pa.table({"smiles": ["CCO", "c1ccccc1"] * 50_000})
    if name.endswith(".parquet"):
        pq.write_table(table, source, row_group_size=1000, use_dictionary=False)
    else:
        lines = "\n".join(["smiles", *table["smiles"].to_pylist()]).encode()
        source.write_bytes(gzip.compress(lines, 0) if name.endswith(".gz") else lines)

    def batches():
        for batch in read_batches(source, batch_rows=64):
            if batch.start == 1:
                os.truncate(source, 10_000)
            yield batch

    embedder = MoleculeEmbedder(TINY, canonicalize=False, progress=False)
    with pytest.raises(ValueError, match=f"{name} (was cut from|cannot be read after)"):
        save_embeddings(batches(), embedder, output)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read")
def test_an_input_that_can_be_opened_but_not_read_is_named():
    with pytest.raises(OSError, match="/proc/self/mem cannot be read after row 0"):
        list(read_smiles("/proc/self/mem", file_type=".smi"))


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
    assert "One of the 2 processes that share the work ended before its time" in errors
    assert "Traceback" not in errors and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_killed_loader_of_batches_is_told_of(tmp_path):
    running = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "pretrain.py"), "--train_sources", str(MOLECULES),
         "--size", "tiny", "--max_steps", "100000", "--per_device_train_batch_size", "8",
         "--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--save_steps", "5",
         "--dataloader_num_workers", "2", "--eval_strategy", "no", "--disable_tqdm", "true"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: newest_checkpoint(tmp_path / "run"))
        os.kill(next(iter(children(running.pid))), signal.SIGKILL)
        _, errors = running.communicate(timeout=60)
        # the other worker's thread that hands batches over may print a traceback of Python's own
        assert running.returncode == 1 and 'pretrain.py", line' not in errors
        assert "pretrain.py: A worker of the data loader ended before its time (" in errors
        assert "resume_from_checkpoint goes on" in errors
        assert newest_checkpoint(tmp_path / "run")
    finally:
        running.kill()


@pytest.mark.slow
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
