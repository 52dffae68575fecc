# SPDX-License-Identifier: Apache-2.0
"""Pretraining killed twenty times, also within checkpoints, ends as a run that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmim_hf.training.run_folder import newest_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 160
KILLS = 20


def command(source, output):
    return [
        sys.executable, str(EXAMPLES / "pretrain.py"), "--train_sources", str(source),
        "--output_dir", str(output), "--size", "tiny", "--max_steps", str(STEPS),
        "--logging_steps", "1", "--save_steps", "1", "--save_total_limit", "3",
        "--per_device_train_batch_size", "8", "--validation_size", "16",
        "--reconstruction_samples", "8", "--use_cpu", "true", "--dataloader_pin_memory", "false",
        "--disable_tqdm", "true", "--resume_from_checkpoint", "auto",
    ]  # fmt: skip


def start(source, output, printed):
    with printed.open("w") as stream:
        return subprocess.Popen(
            command(source, output), stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def unfinished(output, since):
    """Steps of the checkpoints that were touched since then and have no readable state."""
    found = []
    for folder in output.glob("checkpoint-*"):
        try:
            if folder.stat().st_mtime >= since:
                json.loads((folder / "trainer_state.json").read_text())
        except (FileNotFoundError, ValueError):
            found.append(int(folder.name.removeprefix("checkpoint-")))
    return found


def within_a_write(output, since):
    """Whether the newest of its checkpoints, not one that was about to be removed, is begun."""
    whole = newest_checkpoint(output)
    newest = 0 if whole is None else int(Path(whole).name.removeprefix("checkpoint-"))
    return max(unfinished(output, since), default=0) > newest


def wait_for(what, process, printed):
    deadline = time.monotonic() + 200
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, printed.read_text()
        time.sleep(0.001)


def logged(output):
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_any_moment_change_no_loss_and_no_weight(tmp_path):
    """Every second kill waits for a checkpoint that is begun; the others for any moment.

    The 232 molecules make 29 steps an epoch; a checkpoint is written at each step.
    """
    source, printed = tmp_path / "molecules.smi", tmp_path / "printed"
    molecules = (EXAMPLES / "data" / "moses_test.smi").read_text().split()
    source.write_text("\n".join(molecules[:248]))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(source, whole, printed).wait(600) == 0, printed.read_text()
    expected = logged(whole)
    assert [step for step, _ in expected] == list(range(1, STEPS + 1))

    chance = random.Random(0)
    written, reached = 0, []
    for kill in range(KILLS):
        since = time.time()
        process = start(source, killed, printed)
        if kill % 4 == 0:  # while it starts, reads, or goes on
            time.sleep(chance.uniform(0.0, 5.0))
        else:
            steps = chance.randint(1, 5)
            wait_for(lambda n=steps: printed.read_text().count("'loss'") >= n, process, printed)
            if kill % 2:
                wait_for(lambda t=since: unfinished(killed, t), process, printed)
                time.sleep(chance.uniform(0.0, 0.03))
            else:
                time.sleep(chance.uniform(0.0, 0.15))
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        written += within_a_write(killed, since)
        reached.append(newest_checkpoint(killed) and Path(newest_checkpoint(killed)).name)
    print(f"{KILLS} kills, {written} within the writing of a checkpoint; went on from {reached}")
    assert written >= 5

    assert start(source, killed, printed).wait(600) == 0, printed.read_text()
    assert [step for step, _ in logged(killed)] == [step for step, _ in expected]
    pairs = zip(logged(killed), expected, strict=True)
    assert [step for (step, a), (_, b) in pairs if abs(a - b) > 1e-6] == []
    weights, others = (load_file(run / "model.safetensors") for run in (whole, killed))
    assert weights.keys() == others.keys()
    difference = max((weights[name] - others[name]).abs().max() for name in weights)
    print(f"greatest difference of a weight: {difference:.2e}")
    assert difference <= 1e-6
    assert all(torch.isfinite(value).all() for value in others.values())
