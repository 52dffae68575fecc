# SPDX-License-Identifier: Apache-2.0
"""Objectives against stored references and their formulas; densities against distributions."""

import json
import math
from pathlib import Path

import pytest
import torch

from cmim_hf.model.gaussian_cmim import gaussian_sample, log_posterior, log_prior
from cmim_hf.training import contrastive
from cmim_hf.training.contrastive import contrastive_log_prob, info_nce_loss
from cmim_hf.training.objectives import OBJECTIVES, PRESETS, Objective

CASES = json.loads((Path(__file__).parents[1] / "golden" / "objective_cases.json").read_text())


def codes(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def close(actual, expected, atol=1e-12):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("tile", [1, 3, 1024])
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['batch_size']}-{case['temperature']}"
)
def test_reference_values_and_gradient(case, tile, monkeypatch):
    monkeypatch.setattr(contrastive, "_TILE", tile)
    mean, log_std, latents = (
        torch.tensor(case[name], dtype=torch.float64) for name in ("mean", "log_std", "latents")
    )
    latents.requires_grad_()
    log_k = contrastive_log_prob(latents, temperature=case["temperature"])
    log_q, log_p = log_posterior(latents, mean, log_std), log_prior(latents)
    close(log_k, case["log_p_k1"], 1e-9)
    close(log_q, case["log_q_z_given_x"], 1e-9)
    close(log_p, case["log_p_z"], 1e-9)

    objective = Objective("cmim", temperature=case["temperature"])
    loss = objective(latents=latents, mean=mean, log_std=log_std, nll=torch.zeros_like(log_q)).loss
    close(loss, case["latent_loss"], 1e-9)
    (gradient,) = torch.autograd.grad(loss.sum(), latents)
    close(gradient, case["grad_latents_of_sum"], 1e-9)


def test_autocast_does_not_lower_the_terms():
    latents = codes(6, 4, dtype=torch.float32)
    other, log_std = codes(6, 4, seed=1, dtype=torch.float32), codes(6, 4, seed=2).float()

    def terms():
        return [
            contrastive_log_prob(latents, temperature=0.1),
            info_nce_loss(latents, other, temperature=0.1),
            log_posterior(latents, other, log_std),
            log_prior(latents),
        ]

    plain = terms()
    with torch.autocast("cpu", torch.bfloat16):
        lowered = terms()
    for actual, expected in zip(lowered, plain, strict=True):
        assert actual.dtype == torch.float32
        close(actual, expected, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    latents = codes(6, 4).to(dtype)
    raised = latents.float()
    close(
        contrastive_log_prob(latents, temperature=0.1),
        contrastive_log_prob(raised, temperature=0.1),
        0.0,
    )
    close(log_prior(latents), log_prior(raised), 0.0)
    assert log_posterior(latents, latents, latents).dtype == torch.float32
    assert gaussian_sample(latents, latents).dtype == torch.float32


def test_densities_against_torch_distributions():
    latents, mean, log_std = codes(5, 2, 3), codes(5, 2, 3, seed=1), codes(5, 2, 3, seed=2)
    normal = torch.distributions.Normal(mean, log_std.exp())
    close(log_posterior(latents, mean, log_std), normal.log_prob(latents).sum((1, 2)))
    standard = torch.distributions.Normal(0.0, 1.0)
    close(log_prior(latents), standard.log_prob(latents).sum((1, 2)))


def test_gaussian_sample_has_its_mean_and_std():
    mean, log_std = torch.tensor([[3.0, -1.0]]), torch.tensor([[math.log(2.0), math.log(0.5)]])
    draws = gaussian_sample(
        mean.expand(20000, 2), log_std.expand(20000, 2), torch.Generator().manual_seed(0)
    )
    close(draws.mean(0), [3.0, -1.0], 0.05)
    close(draws.std(0), [2.0, 0.5], 0.05)
    mean.requires_grad_(), log_std.requires_grad_()
    sample = gaussian_sample(mean, log_std, torch.Generator().manual_seed(1))
    close(gaussian_sample(mean, log_std, torch.Generator().manual_seed(1)), sample.detach(), 0.0)
    sample.sum().backward()
    close(mean.grad, [[1.0, 1.0]], 0.0)
    close(log_std.grad, (sample - mean).detach(), 1e-6)


TOKENS = torch.tensor([4, 5, 8])
BATCH = {
    "latents": codes(3, 2, 2),
    "mean": codes(3, 2, 2, seed=1),
    "log_std": codes(3, 2, 2, seed=2),
    "nll": torch.tensor([8.0, 20.0, 4.0]).double(),
    "num_tokens": TOKENS,
}
LOG_Q = log_posterior(BATCH["latents"], BATCH["mean"], BATCH["log_std"])
LOG_P = log_prior(BATCH["latents"])
LOG_K = contrastive_log_prob(BATCH["latents"], temperature=0.3)
LOSSES = {
    "ae": lambda nll, q, p, w: nll,
    "vae": lambda nll, q, p, w: nll + w * (q - p),
    "mim": lambda nll, q, p, w: nll - w / 2 * (q + p),
    "cmim": lambda nll, q, p, w: nll - w / 2 * (q + p) - LOG_K,
    "cae": lambda nll, q, p, w: nll - LOG_K,
    "cvae": lambda nll, q, p, w: nll + w * (q - p) - LOG_K,
}


@pytest.mark.parametrize("latent_reduction", ["sum", "mean"])
@pytest.mark.parametrize("nll_reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_each_objective(name, nll_reduction, latent_reduction):
    objective = Objective(
        name, temperature=0.3, nll_reduction=nll_reduction, latent_reduction=latent_reduction
    )
    nll = torch.tensor([8.0, 20.0, 4.0] if nll_reduction == "sum" else [2.0, 4.0, 0.5]).double()
    size = {"sum": 1, "mean": 4}[latent_reduction]
    output = objective(**BATCH)
    close(output.loss, LOSSES[name](nll, LOG_Q / size, LOG_P / size, 1.0))

    expected = {"nll": nll}
    if name in ("vae", "mim", "cmim", "cvae"):
        expected |= {"log_posterior": LOG_Q / size, "log_prior": LOG_P / size}
    if name.startswith("c"):
        expected["log_contrastive"] = LOG_K
    assert list(output.terms) == list(expected)
    for term, value in expected.items():
        close(output.terms[term], value)


@pytest.mark.parametrize("name", LOSSES)
def test_warm_up_scales_the_densities_only(name):
    objective = Objective(name, temperature=0.3, latent_weight=0.5)
    output = objective(**BATCH, latent_scale=0.25)
    close(output.loss, LOSSES[name](BATCH["nll"], LOG_Q, LOG_P, 0.125))
    full = Objective(name, temperature=0.3)(**BATCH)
    for term, value in full.terms.items():
        close(output.terms[term], value)


def test_weights():
    close(
        Objective("cvae", temperature=0.3, beta=3.0, contrastive_weight=0.1)(**BATCH).loss,
        BATCH["nll"] + 3 * (LOG_Q - LOG_P) - 0.1 * LOG_K,
    )


def test_gathered_codes_and_keys_reach_the_contrastive_term():
    gathered, keys = (
        torch.cat((codes(2, 2, 2, seed=5), BATCH["latents"])),
        torch.tensor([0, 1, 0, 2, 3]),
    )
    expected = contrastive_log_prob(
        BATCH["latents"], gathered, temperature=0.3, offset=2, keys=keys
    )
    output = Objective("cmim", temperature=0.3)(**BATCH, all_latents=gathered, offset=2, keys=keys)
    close(output.terms["log_contrastive"], expected)
    assert (expected - LOG_K).abs().min() > 1e-6


def test_densities_of_integers_raise():
    with pytest.raises(TypeError, match="`latents`.*int64"):
        log_prior(torch.zeros(2, 3, dtype=torch.int64))


def test_infonce_takes_two_views_of_each_rank():
    first, second = codes(4, 3), codes(4, 3, seed=1)
    keys = torch.tensor([0, 1, 0, 2])
    whole = info_nce_loss(first, second, temperature=0.2, keys=keys)
    objective = Objective("infonce", temperature=0.2, contrastive_weight=0.5)
    output = objective(latents=torch.cat((first, second)), keys=keys)
    close(output.loss, 0.5 * whole)
    close(output.terms["log_contrastive"], -whole)

    ranks = [torch.cat((first[rows], second[rows])) for rows in (slice(0, 2), slice(2, 4))]
    output = objective(latents=ranks[1], all_latents=torch.cat(ranks), offset=4, keys=keys)
    close(output.loss, 0.5 * whole[2:])


def test_the_controls_add_what_the_two_views_have_in_the_mean():
    latents, nll = codes(6, 3), torch.arange(6.0)
    mean, log_std = latents + 0.1, torch.full_like(latents, -1.0)
    contrast = Objective("infonce", temperature=0.2)(latents=latents).loss
    given = {"latents": latents, "nll": nll, "mean": mean, "log_std": log_std}
    output = Objective("infonce_ae", temperature=0.2)(**given)
    close(output.loss, torch.tensor([1.5, 2.5, 3.5]) + contrast)
    mim = Objective("mim")(**given).loss
    output = Objective("infonce_mim", temperature=0.2)(**given)
    close(output.loss, (mim[:3] + mim[3:]) / 2 + contrast)
    assert list(output.terms) == ["nll", "log_posterior", "log_prior", "log_contrastive"]


def test_what_each_objective_uses():
    used = {
        name: (
            Objective(name).uses_densities,
            Objective(name).uses_decoder,
            Objective(name).uses_contrastive,
            Objective(name).views,
        )
        for name in OBJECTIVES
    }
    assert used == {
        "ae": (False, True, False, 1),
        "vae": (True, True, False, 1),
        "mim": (True, True, False, 1),
        "cmim": (True, True, True, 1),
        "cae": (False, True, True, 1),
        "cvae": (True, True, True, 1),
        "infonce": (False, False, True, 2),
        "infonce_ae": (False, True, True, 2),
        "infonce_mim": (True, True, True, 2),
    }


def test_presets():
    assert {name: tuple(preset.values()) for name, preset in PRESETS.items()} == {
        "theory": ("sum", "sum", 0, 100.0),
        "molmim": ("mean", "mean", 1000, 1.0),
        "kermt": ("mean", "sum", 0, 1.0),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gan"}, "'gan'.*ae, vae, mim, cmim, cae, cvae, infonce"),
        ({"name": "cmim", "temperature": 0.0}, "temperature.*0.0"),
        ({"name": "cmim", "temperature": math.nan}, "temperature.*nan"),
        ({"name": "mim", "nll_reduction": "max"}, "nll_reduction` 'max'.*sum, mean"),
        ({"name": "mim", "latent_reduction": "none"}, "latent_reduction` 'none'"),
        ({"name": "mim", "latent_weight": -1.0}, "latent_weight.*-1.0"),
        ({"name": "mim", "beta": 2.0}, "beta.*vae and cvae.*'mim'"),
    ],
)
def test_settings_out_of_range_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Objective(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"nll": None}, ValueError, "'cmim' needs `nll`"),
        ({"num_tokens": None}, ValueError, "needs `num_tokens`"),
        ({"log_std": None}, ValueError, "needs `log_std`"),
        ({"nll": torch.zeros(2)}, RuntimeError, "size"),
        ({"mean": torch.zeros(3, 4)}, ValueError, r"mean \(3, 4\)"),
        ({"latent_scale": 1.5}, ValueError, "latent_scale.*1.5"),
        ({"offset": 1}, ValueError, "offset 1"),
        ({"all_latents": torch.zeros(6, 5)}, ValueError, r"\(6, 5\)"),
        ({"keys": torch.arange(4)}, ValueError, r"3 rows.*\(4,\)"),
        ({"keys": torch.zeros(3)}, TypeError, "int64"),
        ({"latents": torch.zeros(3, 2, 2, dtype=torch.int64)}, TypeError, "floating"),
    ],
)
def test_inputs_that_do_not_fit_raise(change, error, message):
    with pytest.raises(error, match=message):
        Objective("cmim", nll_reduction="mean")(**BATCH | change)


def test_views_that_do_not_fit_raise():
    objective = Objective("infonce")
    with pytest.raises(ValueError, match="two views.*3 rows"):
        objective(latents=torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"2 rows.*\(4,\)"):
        objective(latents=torch.zeros(4, 2), keys=torch.arange(4))
    with pytest.raises(ValueError, match="4 rows.*among 6"):
        objective(latents=torch.zeros(4, 2), all_latents=torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"\(4, 2\) at offset 0 among .*\(3, 2\)"):
        info_nce_loss(torch.zeros(3, 2), torch.zeros(4, 2), temperature=0.1)
