# SPDX-License-Identifier: Apache-2.0
"""The spread of the training molecules' codes: into the checkpoint, and out of it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cmim_hf import MoleculeGenerator
from cmim_hf.checkpoints.loading import load_checkpoint

KEYS = ("posterior.aggregate_mean", "posterior.aggregate_std")


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:30]]


@pytest.fixture
def unfitted(make_model, tokenizer, tmp_path):
    """A checkpoint from before the statistics were stored."""
    make_model(initializer_range=0.1).save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "model.safetensors"
    weights = load_file(file)
    for key in KEYS:
        del weights[key]
    save_file(weights, file, metadata={"format": "pt"})
    file.with_name("SHA256SUMS").unlink(missing_ok=True)
    return tmp_path / "old"


@pytest.mark.parametrize("num_latents", [1, 3])
def test_mean_and_spread_are_those_of_the_codes(make_model, num_latents):
    model = make_model(num_latents=num_latents)
    assert not model.posterior.aggregate_mean.any()
    codes = np.random.default_rng(0).normal(2.0, 3.0, (50, num_latents, 96)).astype(np.float32)
    model.posterior.fit_aggregate(torch.from_numpy(codes))
    mean, std = model.posterior.aggregate()
    assert mean.shape == std.shape == (num_latents, 96)
    for latent in range(num_latents):
        for place in (0, 50, 95):
            column = codes[:, latent, place].tolist()
            average = sum(column) / 50
            variance = sum((x - average) ** 2 for x in column) / 49
            assert mean[latent, place] == pytest.approx(average, rel=1e-5)
            assert std[latent, place] == pytest.approx(variance**0.5, rel=1e-5)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_spread_needs_two_molecules(make_model, rows):
    with pytest.raises(ValueError, match=f"at least two molecules, got {rows}"):
        make_model().posterior.fit_aggregate(torch.zeros(rows, 1, 96))
    with pytest.raises(ValueError, match=f"at least two molecules, got {rows}"):
        MoleculeGenerator(progress=False).fit_prior(["CCO"] * rows)


def test_a_checkpoint_without_statistics_loads_and_says_what_to_do(unfitted, drugs):
    model, _ = load_checkpoint(unfitted, "cpu")
    assert not model.posterior.aggregate_mean.any() and not model.posterior.aggregate_std.any()
    generator = MoleculeGenerator(unfitted, progress=False, seed=0)
    assert len(generator.sample(3)) == 3
    assert len(generator.reconstruct(drugs[:3])) == 3
    assert len(generator.sample_around(drugs[0], 1.0, 3, unit="posterior")) == 3
    for call in (
        lambda: generator.sample(3, prior="fitted"),
        lambda: generator.sample_around(drugs[0], 1.0, 3, unit="aggregate"),
    ):
        with pytest.raises(ValueError, match="does not know .*give the codes .*fit_aggregate"):
            call()


def test_other_missing_weights_are_still_an_error(unfitted):
    file = unfitted / "model.safetensors"
    weights = load_file(file)
    del weights["posterior.mean_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    file.with_name("SHA256SUMS").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="incomplete: posterior.mean_proj.weight"):
        load_checkpoint(unfitted, "cpu")


def test_codes_that_are_given_are_saved(unfitted, drugs, tmp_path):
    generator = MoleculeGenerator(unfitted, progress=False)
    codes = generator.encode(drugs)
    generator.model.posterior.fit_aggregate(torch.from_numpy(codes))
    mean, std = generator.model.posterior.aggregate()
    assert np.allclose(mean, codes.mean(axis=0), rtol=0, atol=1e-5)
    assert np.allclose(std, codes.std(axis=0, ddof=1), rtol=0, atol=1e-5)
    assert std.min() > 0
    generator.model.save_pretrained(tmp_path / "fitted")
    generator.tokenizer.save_pretrained(tmp_path / "fitted")
    again = MoleculeGenerator(tmp_path / "fitted", progress=False, seed=1)
    for kept, stored in zip(again.model.posterior.aggregate(), (mean, std), strict=True):
        assert torch.equal(kept, stored)
    assert np.array_equal(again.encode(drugs), codes)
    assert len(again.sample(2, prior="fitted")) == 2
