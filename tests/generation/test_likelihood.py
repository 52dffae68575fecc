# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods against the model's own nll and against a sum in NumPy."""

import math

import numpy as np
import pytest
import torch

from cmim_hf import MoleculeGenerator
from cmim_hf.generation.likelihood import log_likelihoods


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator(progress=False, seed=0)


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:20]]


def nll(model, ids, latents):
    with torch.no_grad():
        return float(model(labels=ids, latents=latents).nll)


def importance_weighted(model, ids, noise):
    """log (1 / S) sum_s p(x | z_s) P(z_s) / q(z_s | x), number by number, for one molecule."""
    with torch.no_grad():
        posterior = model(ids, sample_latents=False, decode=False)
    mean, std = posterior.latent_mean.double(), posterior.latent_log_std.double().exp()
    terms = []
    for draw in noise:
        code = mean + std * draw
        term = -nll(model, ids, code.to(model.dtype))
        for z, m, s in zip(*(x.flatten().tolist() for x in (code, mean, std)), strict=True):
            term += -0.5 * z**2 + 0.5 * ((z - m) / s) ** 2 + math.log(s)
        terms.append(term)
    largest = max(terms)
    return largest + math.log(sum(math.exp(t - largest) for t in terms) / len(terms))


def test_without_samples_it_is_minus_the_nll_of_the_mean_code(generator, drugs):
    expected = []
    for text in drugs:
        ids = generator.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected.append(-float(generator.model(ids, labels=ids, sample_latents=False).nll))
    found = generator.log_likelihood(drugs)
    assert found.dtype == np.float64 and found.shape == (20,)
    assert np.allclose(found, expected, rtol=0, atol=1e-3)
    assert (found < 0).all() and np.ptp(found) > 1
    assert np.allclose(generator.log_likelihood(["OCC"]), generator.log_likelihood(["CCO"]))


@pytest.mark.parametrize(
    ("num_latents", "posterior", "samples"), [(1, "learned", 1), (3, "sampled", 4)]
)
def test_samples_give_the_importance_weighted_sum(
    make_model, batch, num_latents, posterior, samples
):
    model = make_model(num_latents=num_latents, posterior=posterior).double()
    seed = torch.Generator().manual_seed(2)
    found = log_likelihoods(model, batch["input_ids"], batch["attention_mask"], samples, seed)
    seed = torch.Generator().manual_seed(2)
    shape = (len(found), num_latents, 96)
    draws = [torch.randn(shape, generator=seed, dtype=torch.float64) for _ in range(samples)]
    for row, real in enumerate(batch["attention_mask"].sum(dim=1)):
        ids = batch["input_ids"][row : row + 1, :real]
        expected = importance_weighted(model, ids, [draw[row] for draw in draws])
        assert float(found[row]) == pytest.approx(expected, abs=2e-4)  # the nll is float32


def test_padding_and_company_do_not_matter(make_model, batch):
    model = make_model().double()
    found = log_likelihoods(model, batch["input_ids"], batch["attention_mask"])
    for row, real in enumerate(batch["attention_mask"].sum(dim=1)):
        alone = log_likelihoods(model, batch["input_ids"][row : row + 1, :real])
        assert float(found[row]) == pytest.approx(float(alone), abs=1e-4)
    assert found.dtype == torch.float64


def test_where_the_decoder_ignores_the_code_the_posterior_alone_weighs(make_model, batch):
    """Then p(x | z) is a constant, and log p(x) is that constant exactly."""
    model = make_model().double()
    torch.nn.init.zeros_(model.decoder.memory_proj.weight)
    torch.nn.init.zeros_(model.posterior.mean_proj.weight)
    if model.posterior.mean_proj.bias is not None:
        torch.nn.init.zeros_(model.posterior.mean_proj.bias)
    torch.nn.init.zeros_(model.posterior.log_std_proj.weight)
    # softplus(b) - 3 = 0: the posterior is the prior
    torch.nn.init.constant_(model.posterior.log_std_proj.bias, math.log(math.expm1(3.0)))
    constant = log_likelihoods(model, batch["input_ids"], batch["attention_mask"])
    estimate = log_likelihoods(model, batch["input_ids"], batch["attention_mask"], samples=3)
    assert torch.allclose(estimate, constant, rtol=0, atol=1e-9)


def test_more_samples_raise_the_bound(generator, drugs):
    drugs = drugs[:8]
    bounds = [generator.log_likelihood(drugs, samples=n).mean() for n in (1, 8, 32)]
    assert bounds[0] + 1 < bounds[1] and bounds[1] + 1 < bounds[2]
    assert bounds[2] < generator.log_likelihood(drugs).mean()


def test_draws_come_from_the_seed(drugs):
    def scores(seed):
        generator = MoleculeGenerator(progress=False, seed=seed)
        return [generator.log_likelihood(drugs[:3], samples=2) for _ in range(2)]

    first, again = scores(1), scores(1)
    assert np.array_equal(first, again)
    assert not np.allclose(first[0], first[1]) and not np.allclose(first, scores(2))


def test_rows_come_in_order_with_nan_for_invalid_ones(generator, drugs):
    expected = generator.log_likelihood(drugs)
    order = np.random.default_rng(0).permutation(20)
    shuffled = generator.log_likelihood([drugs[i] for i in order])
    assert np.allclose(shuffled, expected[order], rtol=0, atol=1e-3)
    rows = [drugs[0], "C(C", None, drugs[1]]
    found = generator.log_likelihood(rows, on_invalid="none", samples=0)
    assert np.isnan(found).tolist() == [False, True, True, False]
    assert np.allclose(found[[0, 3]], expected[:2], atol=1e-3)
    assert np.isnan(generator.log_likelihood(rows, on_invalid="none", samples=2)[1:3]).all()
    assert generator.log_likelihood([]).shape == (0,)
