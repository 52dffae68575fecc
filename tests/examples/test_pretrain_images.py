# SPDX-License-Identifier: Apache-2.0
"""Training on images: what the script prints and leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from cmim_hf import load_images

SCRIPT = Path(__file__).parents[2] / "examples" / "pretrain_images.py"
OPTIONS = ("--use_cpu", "true", "--disable_tqdm", "true", "--save_strategy", "no")


@pytest.fixture
def run_images(tmp_path, run_example):
    def run(*options):
        run_options = ["--output_dir", tmp_path / "run", *OPTIONS, *options]
        printed = run_example("pretrain_images.py", *run_options)
        shares = re.findall(r"^(\w+) +(\d+) numbers +(\d+\.\d)% in", printed, re.MULTILINE)
        bits = re.search(r"^(\d\.\d+) bits per pixel", printed, re.MULTILINE)
        probes = {name: (int(size), float(share)) for name, size, share in shares}
        return bits and float(bits[1]), probes

    return run


def test_digits_are_learned(tmp_path, run_images):
    bits, probes = run_images("--num_train_epochs", 20)
    assert 3.3 < bits < 4.6  # a uniform distribution has 8
    assert [probes[name][0] for name in ("pixels", "latent", "informative")] == [64, 16, 128]
    assert min(share for _, share in probes.values()) > 88
    card = (tmp_path / "run" / "README.md").read_text()
    assert "A cMIM for images" in card and "molecule" not in card
    assert "pipeline_tag: image-feature-extraction" in card and "| eval_bits_per_dim |" in card
    with Image.open(tmp_path / "run" / "images.png") as picture:
        assert picture.size == (12 * 10 * 12, 3 * 10 * 12)  # 12 times as large, with a frame
    model = AutoModel.from_pretrained(tmp_path / "run")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    digits = load_images("digits", "test").images
    pixels = processor(digits).pixel_values
    error = (model.reconstruct(pixels) - pixels).pow(2).mean()
    assert error < 0.6 * (pixels.mean(dim=0) - pixels).pow(2).mean()


def test_black_and_white_by_their_likelihood(tmp_path, run_images):
    bits, probes = run_images("--num_train_epochs", 3, "--likelihood", "bernoulli")
    assert 0.3 < bits < 0.8 and len(probes) == 3
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    assert processor(load_images("digits").images).pixel_values.unique().tolist() == [0, 1]


def test_infonce_reads_two_views_and_draws_nothing(tmp_path, run_images):
    bits, probes = run_images("--num_train_epochs", 3, "--objective", "infonce")
    assert bits is None and not (tmp_path / "run" / "images.png").exists()
    assert probes["latent"][1] > 50


def test_images_without_classes_are_not_probed(tmp_path, run_images):
    images = load_images("digits").images[:64, ..., 0]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    options = ["--source", tmp_path, "--held_out", 16, "--per_device_train_batch_size", 16]
    bits, probes = run_images(*options, "--num_train_epochs", 1)
    assert bits > 0 and not probes


def launched(folder, *options, processes=1):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--dynamo_backend", "no"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--num_processes"]
    launcher += [str(processes), *(["--multi_gpu"] if processes > 1 else [])]
    options = ["--output_dir", folder, *OPTIONS[:4], "--logging_steps", 1, *options]
    return [*launcher, str(SCRIPT), *map(str, options)]


def logs(folder, name="loss"):
    state = json.loads((folder / "trainer_state.json").read_text())
    return {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    """SIGKILL between two checkpoints, in the second epoch, of two altered views."""
    options = ("--max_steps", 24, "--save_steps", 5, "--objective", "infonce_mim")
    subprocess.run(launched(tmp_path / "whole", *options), check=True, capture_output=True)
    printed, command = tmp_path / "printed", launched(tmp_path / "killed", *options)
    with printed.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    deadline = time.monotonic() + 200
    while printed.read_text().count("'loss'") < 13:
        assert process.poll() is None and time.monotonic() < deadline, printed.read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "trainer_state.json").exists()
    command += ["--resume_from_checkpoint", "auto"]
    subprocess.run(command, check=True, capture_output=True)
    assert logs(tmp_path / "killed") == pytest.approx(logs(tmp_path / "whole"), abs=1e-6)
    assert len(logs(tmp_path / "whole")) == 24


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    """Without latent noise, half a batch on each of two ranks equals the batch on one."""
    options = ("--max_steps", 6, "--save_strategy", "no", "--objective", "cae", "--held_out", 256)
    half = ("--per_device_train_batch_size", 64, "--per_device_eval_batch_size", 128)
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(launched(one, *options), check=True, capture_output=True)
    command = launched(two, *options, *half, processes=2)
    subprocess.run(command, check=True, capture_output=True)
    for name in ("loss", "log_contrastive", "bits_per_dim", "eval_loss", "eval_bits_per_dim"):
        assert logs(one, name) == pytest.approx(logs(two, name), abs=2e-5), name
    models = [AutoModel.from_pretrained(folder).state_dict() for folder in (one, two)]
    for name, tensor in models[0].items():
        assert torch.allclose(tensor, models[1][name], atol=2e-5), name
