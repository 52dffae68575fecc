# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of pixels, given what the decoder says of each.

A pixel is one of 256 levels k, as x = k / 255.

- `"bernoulli"`: k is 0 or 255 only, P(255) = sigmoid(a), with one number a.
- `"logistic"`: k is any level. With F the distribution function of
  a logistic distribution of mean sigmoid(a) and scale s = exp(b), b ≥ `MIN_LOG_SCALE`,
  P(k) = F(x + 1/510) - F(x - 1/510), and the lowest and highest level have the tails beyond them,
  so that all 256 sum to 1 (Salimans et al. 2017, arXiv 1701.05517, with one component).
"""

from __future__ import annotations

import torch
from torch.nn import functional

HIGHEST = 255
"""Level of a pixel that is 1."""

PARAMETERS = {"logistic": 2, "bernoulli": 1}
"""Numbers that the decoder gives for each pixel."""

MIN_LOG_SCALE = -6.0
"""Of the logistic, e⁻⁶ ≈ 1/400 of the range: below, a level has probability 1 as it is."""


def pixel_log_prob(parameters: torch.Tensor, levels: torch.Tensor, likelihood: str) -> torch.Tensor:
    """Log-probability of each pixel, in nats.

    Args:
        parameters: (batch, numbers, pixels), see above: a, or a and b.
        levels: (batch, pixels), int64, see above.
        likelihood: `"logistic"` or `"bernoulli"`.

    Returns:
        (batch, pixels), float32 at least.

    >>> parameters = torch.tensor([[[0.3], [-1.0]]]).expand(1, 2, 256)
    >>> levels = torch.arange(256)[None]
    >>> f"{pixel_log_prob(parameters, levels, 'logistic').exp().sum():.4f}"
    '1.0000'
    """
    parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
    if likelihood == "bernoulli":
        return -functional.binary_cross_entropy_with_logits(
            parameters[:, 0], levels.to(parameters.dtype) / HIGHEST, reduction="none"
        )
    mean, log_scale = parameters[:, 0].sigmoid(), parameters[:, 1].clamp(min=MIN_LOG_SCALE)
    half = 0.5 / HIGHEST
    precision = torch.exp(-log_scale)
    centred = levels.to(mean.dtype) / HIGHEST - mean
    above, below = precision * (centred + half), precision * (centred - half)
    # F(u) - F(v) = sigmoid(u) · sigmoid(-v) · (1 - exp(v - u)), and v - u is the width of a level
    log_prob = functional.logsigmoid(above) * (levels < HIGHEST)
    log_prob = log_prob + functional.logsigmoid(-below) * (levels > 0)
    inside = (levels > 0) & (levels < HIGHEST)
    return log_prob + torch.log(-torch.expm1(-2 * half * precision)) * inside


def pixel_mean(parameters: torch.Tensor) -> torch.Tensor:
    """The pixels expected, in [0, 1]: (batch, numbers, pixels) to (batch, pixels).

    Of the logistic it is the mean without its tails, sigmoid(a).
    """
    return parameters[:, 0].sigmoid()
