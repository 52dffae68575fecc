# SPDX-License-Identifier: Apache-2.0
"""The latent code as a diagonal Gaussian: a draw from the posterior, and both log-densities.

Posterior q(z|x) = N(mean(x), diag(exp(log_std(x))²)), log_std the natural logarithm of the standard
deviation; prior P(z) = N(0, I). Every function takes tensors of one shape (batch, ...), such as
(batch, num_latents, latent_size), and works in float32 at least: half precision is raised to
float32, float64 stays. Only elementwise operations and sums are used, which autocast leaves in that
precision. A TypeError says that an argument is not floating, a ValueError that the shapes differ.

Source: MIM (arXiv:1910.03175); cMIM (arXiv:2502.19642).
"""

import math

import torch

_LOG_TWO_PI = math.log(2.0 * math.pi)


def gaussian_sample(
    mean: torch.Tensor, log_std: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw z = mean + exp(log_std)·ε with ε ~ N(0, I), differentiably in both arguments.

    `generator` is the source of ε, on the device of `mean`; the global one by default.
    """
    mean, log_std = _same_shape(mean=mean, log_std=log_std)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + log_std.exp() * noise


def log_posterior(latents: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log-density of the latents under their posterior, (batch,) in nats.

    log q_i = Σ_d [ −½·((z_id − mean_id)/exp(log_std_id))² − log_std_id − ½·log 2π ], the sum over
    all axes but the first.
    """
    latents, mean, log_std = _same_shape(latents=latents, mean=mean, log_std=log_std)
    deviation = (latents - mean) * torch.exp(-log_std)
    return (-0.5 * (deviation.square() + _LOG_TWO_PI) - log_std).flatten(1).sum(1)


def log_prior(latents: torch.Tensor) -> torch.Tensor:
    """Log-density of the latents under the prior N(0, I), (batch,) in nats.

    log p_i = Σ_d −½·(z_id² + log 2π), the sum over all axes but the first.
    """
    (latents,) = _same_shape(latents=latents)
    return (-0.5 * (latents.square() + _LOG_TWO_PI)).flatten(1).sum(1)


def _same_shape(**tensors: torch.Tensor) -> list[torch.Tensor]:
    """Check that the named tensors are floating, batched and of one shape; raise the precision."""
    names, shapes = list(tensors), [tuple(tensor.shape) for tensor in tensors.values()]
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise TypeError(f"`{name}` must be a floating tensor, got {tensor.dtype}.")
    if len(set(shapes)) > 1 or len(shapes[0]) < 2:
        received = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
        expected = "one shape (batch, num_latents, latent_size) or (batch, size)"
        raise ValueError(f"Expected {expected}, got {received}.")
    return [
        tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors.values()
    ]
