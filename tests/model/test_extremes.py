# SPDX-License-Identifier: Apache-2.0
"""Inputs at the edges: loss and gradients stay finite, and precision costs the terms little."""

import math

import pytest
import torch

from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import Row
from cmim_hf.training.contrastive import contrastive_log_prob
from cmim_hf.training.objectives import OBJECTIVES, Objective

BATCHES = {
    "one molecule": ["CCO"],
    "all molecules equal": ["c1ccccc1O"] * 6,
    "one atom each": ["C", "N", "O", "[Na+]", "[Cl-]"],
    "one of 511 tokens": ["C" * 511, "C", "CC"],
    "as long as can be": ["C" * 511] * 2,
}
DECODING = sorted(set(OBJECTIVES) - {"infonce"})


def collated(tokenizer, smiles, views=1):
    rows = [Row("made", number, text) for number, text in enumerate(smiles, 1)]
    packed, rejects = prepare(rows, tokenizer, max_length=512, canonicalize=False, progress=False)
    assert not len(rejects)
    return CMIMCollator(tokenizer, views=views)([packed[row] for row in range(len(packed))])


def loss_of(model, batch, objective, change=None):
    """The mean loss, the outputs and the terms of a batch."""
    batch = dict(batch)
    keys = batch.pop("keys")
    if not objective.uses_decoder:
        batch.pop("labels")
    outputs = model(
        **batch,
        sample_latents=objective.uses_densities,
        decode=objective.uses_decoder,
        use_cache=False,
    )
    latents = {
        "latents": outputs.latents, "mean": outputs.latent_mean, "log_std": outputs.latent_log_std
    }  # fmt: skip
    if change is not None:
        latents = {name: change(name, value) for name, value in latents.items()}
    labels = batch.get("labels")
    result = objective(
        nll=outputs.nll,
        num_tokens=None if labels is None else (labels != -100).sum(dim=1),
        keys=keys,
        **{name: value.flatten(1) for name, value in latents.items()},
    )
    return result.loss.mean(), outputs, result.terms


def check_finite(model, loss):
    assert loss.isfinite()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("objective", ["cmim", "cvae", "infonce", "infonce_mim"])
@pytest.mark.parametrize("batch", BATCHES)
def test_batches_at_the_edges(make_model, tokenizer, batch, objective):
    reduction = "mean" if objective == "cvae" else "sum"
    objective = Objective(
        name=objective, temperature=0.1, nll_reduction=reduction, latent_reduction=reduction
    )
    model = make_model(initializer_range=0.1).train()
    loss, _, _ = loss_of(model, collated(tokenizer, BATCHES[batch], objective.views), objective)
    check_finite(model, loss)


@pytest.mark.parametrize("temperature", [1e-8, 1e3])
@pytest.mark.parametrize("objective", ["cmim", "infonce"])
def test_temperatures_at_the_edges(make_model, tokenizer, molecules, objective, temperature):
    objective = Objective(name=objective, temperature=temperature)
    model = make_model(initializer_range=0.1).train()
    loss, _, _ = loss_of(model, collated(tokenizer, molecules, objective.views), objective)
    check_finite(model, loss)


@pytest.mark.parametrize("objective", DECODING)
def test_codes_of_zero(make_model, tokenizer, molecules, objective):
    model = make_model(initializer_range=0.1).train()
    objective = Objective(name=objective, temperature=0.1)
    loss, _, _ = loss_of(
        model,
        collated(tokenizer, molecules, objective.views),
        objective,
        lambda name, value: value * 0.0 if name == "latents" else value,
    )
    check_finite(model, loss)


@pytest.mark.parametrize("floor", [-3.0, -10.0])
@pytest.mark.parametrize("objective", DECODING)
def test_a_spread_at_its_floor(make_model, tokenizer, molecules, objective, floor):
    model = make_model(initializer_range=0.1, min_log_std=floor).train()
    with torch.no_grad():
        model.posterior.log_std_proj.bias.fill_(-200.0)
    objective = Objective(name=objective, temperature=0.1)
    loss, outputs, _ = loss_of(model, collated(tokenizer, molecules, objective.views), objective)
    assert torch.allclose(outputs.latent_log_std, torch.tensor(floor))
    check_finite(model, loss)


def test_a_code_of_zero_has_a_gradient():
    latents = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latents[1] = latents[3] = 0.0
    latents.requires_grad_()
    value = contrastive_log_prob(latents, temperature=0.1)
    value.sum().backward()
    assert value.isfinite().all() and latents.grad.isfinite().all()


def test_mixed_precision_leaves_the_latent_terms_alone(make_model, tokenizer, molecules):
    """Of the same codes; what bfloat16 does to the encoder is another matter."""
    model = make_model(initializer_range=0.1).eval()
    objective = Objective(name="cmim", temperature=0.1)
    batch = collated(tokenizer, molecules)
    with torch.no_grad():
        _, outputs, expected = loss_of(model, batch, objective)
        codes = {"latents": outputs.latents, "mean": outputs.latent_mean,
                 "log_std": outputs.latent_log_std}  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            _, lowered, found = loss_of(model, batch, objective, lambda name, _: codes[name])
    assert lowered.logits.dtype == torch.bfloat16 and lowered.latents.dtype == torch.float32
    for name in ("log_posterior", "log_prior", "log_contrastive"):
        assert found[name].dtype == torch.float32
        difference = (found[name] - expected[name]).abs().max()
        assert difference <= 1e-3 * max(1.0, expected[name].abs().max()), name
    assert math.isfinite(found["nll"].sum())
