# SPDX-License-Identifier: Apache-2.0
"""How probable a model finds a batch of molecules."""

from __future__ import annotations

import math

import torch

from ..model.gaussian_cmim import gaussian_sample, log_posterior, log_prior
from ..model.modeling_cmim import CMIMModel


@torch.inference_mode()
def log_likelihoods(
    model: CMIMModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    samples: int = 0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Log-likelihood of each row, in nats.

    With `samples` = 0, log p(x | z = mean(x)). Else an estimate of log p(x) under the prior N(0, I)
    by importance sampling from the posterior (Burda et al., arXiv 1509.00519, equation 8):
    log (1 / S) sum_s p(x | z_s) P(z_s) / q(z_s | x) with z_s ~ q(z | x), on average a lower bound,
    which more samples raise.

    Args:
        model: In `eval()`.
        input_ids: (batch, length).
        attention_mask: (batch, length), 1 at real tokens; all real if not given.
        samples: S.
        generator: Of the draws, on the CPU; the global one by default.

    Returns:
        (batch,), float64.
    """
    posterior = model(input_ids, attention_mask, sample_latents=False, decode=False)
    mean, log_std = posterior.latent_mean.cpu(), posterior.latent_log_std.cpu()
    labels = (
        input_ids if attention_mask is None else input_ids.masked_fill(attention_mask == 0, -100)
    )

    def decoded(latents: torch.Tensor) -> torch.Tensor:
        return -model(labels=labels, latents=latents.to(model.device)).nll.double().cpu()

    if samples == 0:
        return decoded(mean)
    weights = []
    for _ in range(samples):
        latents = gaussian_sample(mean, log_std, generator)
        density = log_prior(latents) - log_posterior(latents, mean, log_std)
        weights.append(decoded(latents) + density.double())
    return torch.stack(weights).logsumexp(dim=0) - math.log(samples)
