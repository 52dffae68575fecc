# SPDX-License-Identifier: Apache-2.0
"""Training on images: what the script prints and leaves."""

import re

import pytest
from PIL import Image
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from cmim_hf.data.image_files import load_images

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
