# SPDX-License-Identifier: Apache-2.0
"""The model of images: its likelihoods, shapes and errors, and what is saved."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, pipeline

from cmim_hf import CMIMImageCollator, CMIMImageConfig, CMIMImageModel, CMIMImageProcessor
from cmim_hf.model.pixel_likelihood_cmim import pixel_log_prob, pixel_mean

CODE = {
    "checked_fields_cmim.py",
    "checksums_cmim.py",
    "configuration_cmim_image.py",
    "gaussian_cmim.py",
    "image_processing_cmim.py",
    "layers_cmim.py",
    "modeling_cmim_image.py",
    "pixel_likelihood_cmim.py",
    "posterior_cmim.py",
    "representations_cmim.py",
    "saving_cmim.py",
}


def small(**settings):
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": [4, 6], "hidden_size": 24, "latent_size": 5} | settings
    return CMIMImageModel(CMIMImageConfig(**settings)).eval()


def images(number=3, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, channels, 8, 8, generator=generator)


@pytest.mark.parametrize("a", [-30.0, 0.0, 2.0, 30.0])
@pytest.mark.parametrize("b", [-50.0, -6.0, -2.0, 3.0])
def test_the_levels_of_the_logistic_sum_to_one(a, b):
    parameters = torch.tensor([[[a], [b]]], dtype=torch.float64).expand(1, 2, 256)
    log_prob = pixel_log_prob(parameters, torch.arange(256)[None], "logistic")
    assert log_prob.max() <= 0 and log_prob.isfinite().all()
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_the_logistic_is_a_difference_of_its_distribution_function():
    mean, scale, level = 0.4, math.exp(-1.5), 77
    a = math.log(mean / (1 - mean))
    parameters = torch.tensor([[[a], [-1.5]]], dtype=torch.float64)

    def below(x):
        return 1 / (1 + math.exp(-(x - mean) / scale))

    expected = below(77.5 / 255) - below(76.5 / 255)
    found = pixel_log_prob(parameters, torch.tensor([[level]]), "logistic")
    assert found.exp().item() == pytest.approx(expected, rel=1e-9)
    found = pixel_log_prob(parameters, torch.tensor([[0]]), "logistic")
    assert found.exp().item() == pytest.approx(below(0.5 / 255), rel=1e-9)
    assert pixel_mean(parameters).item() == pytest.approx(mean)


def test_bernoulli_pixels_are_black_or_white():
    parameters = torch.tensor([[[math.log(3)]]]).expand(1, 1, 2)
    found = pixel_log_prob(parameters, torch.tensor([[0, 255]]), "bernoulli")
    assert found.exp().tolist() == [pytest.approx([0.25, 0.75])]


@pytest.mark.parametrize("likelihood", ["logistic", "bernoulli"])
@pytest.mark.parametrize("channels", [1, 3])
def test_nll_sums_what_the_decoder_says_of_each_pixel(likelihood, channels):
    model = small(likelihood=likelihood, num_channels=channels)
    pixels = images(channels=channels)
    if likelihood == "bernoulli":
        pixels = pixels.round()
    labels = model.levels(pixels)
    assert labels.shape == (3, 64 * channels)
    assert torch.equal(labels.view_as(pixels), (pixels * 255).round().long())
    output = model(pixels, labels=labels)
    numbers = 2 if likelihood == "logistic" else 1
    raw = model.decoder(model.decoder.hidden_states(output.latents))
    raw = raw.reshape(3, numbers, channels * 64)
    expected = -pixel_log_prob(raw, labels, likelihood).sum(1)
    torch.testing.assert_close(output.nll, expected)
    torch.testing.assert_close(output.bits_per_dim, expected / labels.shape[1] / math.log(2))
    torch.testing.assert_close(output.loss, expected.sum() / labels.numel())
    torch.testing.assert_close(output.pixel_mean.flatten(1), raw[:, 0].sigmoid())
    half = labels.clone()
    half[:, ::2] = -100
    parts = model(pixels, labels=half).nll, model(pixels, labels=labels).nll
    unscored = -pixel_log_prob(raw[..., ::2], labels[:, ::2], likelihood).sum(1)
    torch.testing.assert_close(parts[0] + unscored, parts[1])


def test_a_processor_that_binarises_and_a_likelihood_of_levels_agree():
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    batch = CMIMImageCollator(CMIMImageProcessor(8, binarize=0.5))([{"image": x} for x in levels])
    for likelihood in ("logistic", "bernoulli"):
        model = small(likelihood=likelihood)
        assert torch.equal(batch["labels"], model.levels(batch["pixel_values"]))
        assert model(batch["pixel_values"], labels=batch["labels"]).nll.isfinite().all()
    grey = CMIMImageCollator(CMIMImageProcessor(8))([{"image": x} for x in levels])
    with pytest.raises(ValueError, match="levels 0 or 255"):
        small(likelihood="bernoulli")(grey["pixel_values"], labels=grey["labels"])


def test_codes_are_drawn_in_training_and_means_otherwise():
    model, pixels = small(), images()
    mean = model.get_latents(pixels)
    assert mean.shape == (3, 1, 5) and torch.equal(mean, model(pixels).latent_mean)
    torch.manual_seed(1)
    drawn = torch.cat([model.get_latents(pixels, sample=True) for _ in range(400)], dim=1)
    std = model(pixels).latent_log_std.exp()[:, 0]
    torch.testing.assert_close(drawn.mean(dim=1), mean[:, 0], atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(dim=1), std, atol=0, rtol=0.2)
    output = model.train()(pixels)
    assert not torch.equal(output.latents, output.latent_mean)


def test_representations_and_decoding_agree():
    model, pixels = small(), images()
    both = model.get_representation(pixels, representation="both")
    informative, latent = both.split([24, 5], dim=1)
    assert torch.equal(informative, model.get_informative_embeddings(pixels))
    assert torch.equal(latent, model.get_latents(pixels).flatten(1))
    assert torch.equal(informative, model(pixels).pooler_output)
    torch.testing.assert_close(model.decode(latent[:, None]), model.reconstruct(pixels))
    with pytest.raises(ValueError, match="'hidden'; choose one of informative, latent, both"):
        model.get_representation(pixels, representation="hidden")


def test_it_compiles_to_one_graph():
    model, pixels = small(), images()
    labels = model.levels(pixels)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(pixels, labels=labels, sample_latents=False)
    torch.testing.assert_close(found.nll, model(pixels, labels=labels).nll)


def test_a_model_learns_images():
    model, pixels = small().train(), images(8)
    labels = model.levels(pixels)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        output = model(pixels, labels=labels, sample_latents=False)
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(output.bits_per_dim.mean().item())
    assert losses[0] > 7.5 and losses[-1] < losses[0] - 0.8


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (torch.rand(2, 1, 9, 8), ValueError, r"must be \(batch, 1, 8, 8\), got \(2, 1, 9, 8\)"),
        (torch.rand(2, 3, 8, 8), ValueError, r"got \(2, 3, 8, 8\)"),
        (torch.rand(8, 8), ValueError, r"got \(8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), TypeError, "floating.*uint8: divide by 255"),
        (torch.full((2, 1, 8, 8), 200.0), ValueError, r"in \[0, 1\], got 200 to 200"),
        (torch.full((2, 1, 8, 8), -0.1), ValueError, r"got -0.1"),
        (torch.full((2, 1, 8, 8), math.nan), ValueError, "got nan to nan"),
    ],
)
def test_what_is_no_image_is_refused(pixels, error, message):
    with pytest.raises(error, match=message):
        small()(pixels)


def test_other_wrong_arguments_are_refused():
    model, pixels = small(), images()
    labels = model.levels(pixels)
    with pytest.raises(ValueError, match=r"labels must be \(3, 64\).*got \(3, 63\)"):
        model(pixels, labels=labels[:, 1:])
    with pytest.raises(ValueError, match="levels from 0 to 255 .logistic.*got -3"):
        model(pixels, labels=labels.index_fill(1, torch.tensor([0]), -3))
    with pytest.raises(
        ValueError, match="levels 0 or 255, as CMIMImageProcessor.binarize=0.5. gives"
    ):
        small(likelihood="bernoulli")(pixels, labels=labels)
    with pytest.raises(ValueError, match=r"latents must be .* = \(batch, 1, 5\), got \(3, 5\)"):
        model.decode(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="Pass pixel_values to encode, or latents to decode"):
        model()
    for settings, message in (
        ({"image_size": 30}, r"image_size \(30\) must be a multiple of 4"),
        ({"channels": []}, "channels must be numbers of at least 1"),
        ({"min_log_std": 1.0}, "min_log_std must be a negative number"),
        ({"likelihood": "gauss"}, "likelihood"),
        ({"latent_size": 0}, "latent_size"),
    ):
        with pytest.raises(ValueError, match=message):
            CMIMImageConfig(**settings)


def test_a_saved_model_opens_anywhere(tmp_path):
    model, pixels = small(), images()
    model.posterior.fit_aggregate(model.get_latents(images(20, seed=1)))
    model.save_pretrained(tmp_path)
    CMIMImageProcessor(image_size=8).save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    others = {"config.json", "model.safetensors", "SHA256SUMS", "preprocessor_config.json"}
    assert files == CODE | others
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is CMIMImageModel
    assert torch.equal(again.get_latents(pixels), model.get_latents(pixels))
    assert torch.equal(again.posterior.aggregate()[1], model.posterior.aggregate()[1])
    array = (pixels[:, 0].numpy() * 255).round().astype(np.uint8)
    np.save(tmp_path / "images.npy", array)
    script = """
import sys
sys.modules["cmim_hf"] = None
import numpy as np, torch
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor
images = np.load("images.npy")
processor = AutoImageProcessor.from_pretrained(".", trust_remote_code=True)
model = AutoModel.from_pretrained(".", trust_remote_code=True)
pixels = processor(images, return_tensors="pt").pixel_values
np.save("found.npy", model.get_informative_embeddings(pixels).detach().numpy())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    with torch.no_grad():
        expected = model.get_informative_embeddings(torch.from_numpy(array)[:, None] / 255)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-6)
    weights = tmp_path / "model.safetensors"
    content, time = weights.read_bytes(), weights.stat().st_mtime_ns
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(time, time))
    with pytest.raises(ValueError, match="SHA256SUMS|checksum"):
        CMIMImageModel.from_pretrained(tmp_path)


def test_the_pipeline_of_transformers_gives_informative_embeddings(tmp_path):
    from PIL import Image

    model = small(num_channels=3)
    processor = CMIMImageProcessor(image_size=8, num_channels=3)
    levels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    extract = pipeline("image-feature-extraction", model=model, image_processor=processor)
    found = extract(Image.fromarray(levels), pool=True)
    pixels = processor(levels).pixel_values
    with torch.no_grad():
        expected = model.get_informative_embeddings(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_initial_weights_keep_the_scale():
    model = small(channels=[32, 64], hidden_size=256, latent_size=64)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            assert module.weight.std() > 0.02
    assert 0.5 < model.get_latents(images(50)).std() < 2
    assert not model.posterior.aggregate_std.any()
