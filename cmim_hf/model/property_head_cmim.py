# SPDX-License-Identifier: Apache-2.0
"""The property head: numbers known of a molecule, read off its code and its decoder states.

Targets are standardised to normal quantiles: with F the distribution function of a property over
the training molecules and Φ that of N(0, 1), a value y becomes Φ⁻¹(F(y)), clipped to ±`LIMIT`. F is
kept as the values at `QUANTILES` levels, beside the weights, so that predictions come back in the
property's own unit.
"""

from __future__ import annotations

import torch
from torch import nn

from .configuration_cmim import CMIMConfig

LIMIT = 4.0
"""Largest standardised value: what is beyond one molecule in 30,000 on either side is clipped."""

QUANTILES = 65
"""Levels at which a property's distribution is kept: Φ(z) for z from -LIMIT to LIMIT."""


def quantile_levels() -> torch.Tensor:
    """The levels Φ(z), rising, (QUANTILES,), float64."""
    return torch.special.ndtr(torch.linspace(-LIMIT, LIMIT, QUANTILES, dtype=torch.float64))


class CMIMPropertyHead(nn.Module):
    """Linear predictions of standardised properties, one for each representation named.

    `property_representation` "latent" reads the mean code, "informative" the mean of the decoder's
    states under teacher forcing, "both" each by a projection of its own, so that neither leaves the
    work to the other.
    """

    def __init__(self, config: CMIMConfig) -> None:
        """One projection or two; the properties' quantiles are zero until they are set."""
        super().__init__()
        kind, number = config.property_representation, config.num_properties
        self.latent_proj = self.informative_proj = None
        if kind in ("latent", "both"):
            self.latent_proj = nn.Linear(config.num_latents * config.latent_size, number)
        if kind in ("informative", "both"):
            self.informative_proj = nn.Linear(config.hidden_size, number)
        self.register_buffer("quantiles", torch.zeros(number, QUANTILES))

    def forward(self, latent_mean: torch.Tensor, informative: torch.Tensor | None) -> torch.Tensor:
        """Mean codes (batch, num_latents, latent_size), pooled states (batch, hidden_size).

        Returns:
            (batch, projections, num_properties), standardised.
        """
        found, dtype = [], self.quantiles.dtype  # a quantised layer's weight has none
        if self.latent_proj is not None:
            found.append(self.latent_proj(latent_mean.flatten(1).to(dtype)))
        if self.informative_proj is not None:
            found.append(self.informative_proj(informative.to(dtype)))
        return torch.stack([each.float() for each in found], dim=1)

    def in_own_units(self, standardized: torch.Tensor) -> torch.Tensor:
        """Standardised values (batch, num_properties) in the properties' own units, same shape.

        Raises:
            ValueError: The quantiles were never set: the model was not trained on properties.
        """
        if not self.quantiles.any():
            raise ValueError(
                "This model's properties have no units yet: CMIMTrainer sets them from the labels "
                "it trains on."
            )
        levels, device = quantile_levels(), standardized.device
        # a few numbers, in float64, which not every accelerator has
        share = torch.special.ndtr(standardized.cpu().double()).clamp(levels[0], levels[-1])
        right = torch.searchsorted(levels, share).clamp(1, QUANTILES - 1)
        low, high = levels[right - 1], levels[right]
        values = self.quantiles.cpu().double().expand(len(share), -1, -1)
        left, right = (values.gather(2, i[..., None])[..., 0] for i in (right - 1, right))
        return torch.lerp(left, right, (share - low) / (high - low)).float().to(device)
