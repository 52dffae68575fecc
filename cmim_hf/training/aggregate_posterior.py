# SPDX-License-Identifier: Apache-2.0
"""The fitted prior: a Gaussian with the mean and spread of the training molecules' codes.

It is stored with the weights, in two buffers of the model's posterior, so that it goes wherever
the checkpoint goes.
"""

from __future__ import annotations

import torch

from ..model.modeling_cmim import CMIMModel


def set_prior(model: CMIMModel, latents: torch.Tensor) -> None:
    """Take mean and standard deviation, in each coordinate, of codes.

    Args:
        model: Its buffers are overwritten.
        latents: (molecules, num_latents, latent_size), at least two.

    Raises:
        ValueError: Fewer than two codes, or all of them equal; the buffers then stay as they are.
    """
    if len(latents) < 2:
        raise ValueError(f"A spread needs at least two molecules, got {len(latents)}.")
    spread = latents.std(dim=0)
    if not spread.isfinite().all() or not spread.any():
        raise ValueError(
            f"The codes of these {len(latents)} molecules have no finite spread above 0; give "
            "different molecules."
        )
    model.posterior.aggregate_mean.copy_(latents.mean(dim=0))
    model.posterior.aggregate_std.copy_(spread)


def fitted_prior(model: CMIMModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the training molecules' codes, (num_latents, latent_size).

    Raises:
        ValueError: The model was saved without them.
    """
    posterior = model.posterior
    if not posterior.aggregate_std.any():
        raise ValueError(
            "This checkpoint does not know the mean and spread of its training molecules' codes "
            "(CMIMTrainer stores them): call MoleculeGenerator.fit_prior with some thousands of "
            "molecules first."
        )
    return posterior.aggregate_mean, posterior.aggregate_std


__all__ = ["fitted_prior", "set_prior"]
