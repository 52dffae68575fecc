# SPDX-License-Identifier: Apache-2.0
"""The posterior q(z | x): encoder states to mean and log-std, and the codes' spread in training.

The spread is stored with the weights, in two buffers, so that it goes wherever a checkpoint goes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig

from .layers_cmim import Attention, eager_attention


class CMIMPosterior(Attention):
    """Attention pooling by K learned queries, then mean and log-std of q(z | x)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        """A sampled posterior has no log-std projection."""
        super().__init__(config, layer_idx=0)
        hidden_size = config.hidden_size
        self.queries = nn.Parameter(torch.empty(config.num_latents, hidden_size))
        self.kv_proj = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mean_proj = nn.Linear(hidden_size, config.latent_size)
        if config.posterior == "learned":
            self.log_std_proj = nn.Linear(hidden_size, config.latent_size)
        # mean and spread of the training molecules' codes, zero until they are measured
        shape = (config.num_latents, config.latent_size)
        self.register_buffer("aggregate_mean", torch.zeros(shape))
        self.register_buffer("aggregate_std", torch.zeros(shape))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states (batch, length, hidden_size) -> two (batch, num_latents, latent_size).

        Both are float32 at least, also under autocast: cosines and densities are taken of them.
        """
        size = hidden_states.shape[0]
        queries = functional.layer_norm(self.queries, self.queries.shape[-1:])
        queries = queries.to(hidden_states.dtype).unflatten(1, (-1, self.head_dim)).transpose(0, 1)
        key, value = self.split_heads(self.kv_proj(hidden_states), 2).transpose(1, 3).unbind(2)
        bias = None
        if attention_mask is not None:
            lowest = torch.finfo(key.dtype).min / 2  # finite: no NaN in a row without a token
            real = attention_mask.to(key.device).bool()[:, None, None]
            bias = torch.zeros_like(real, dtype=key.dtype).masked_fill(~real, lowest)
        # not by the interface: its flash attention takes the keys' padding for the queries' own
        queries = queries.expand(size, -1, -1, -1)
        pooled, _ = eager_attention(self, queries, key, value, bias, self.scaling)
        pooled = self.norm(self.out_proj(pooled.flatten(2)))
        with _without_autocast(pooled.device.type):
            pooled = pooled.to(self.norm.weight.dtype)
            mean = self.mean_proj(pooled)
            mean = mean if mean.dtype == torch.float64 else mean.float()
            return mean, self.log_std(pooled, mean)

    def log_std(self, pooled: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """The log-std: a smooth floor keeps a gradient where a clamp would have none."""
        floor = self.config.min_log_std
        if self.config.posterior == "learned":
            return floor + functional.softplus(self.log_std_proj(pooled).to(mean.dtype))
        if self.training:
            draw = torch.rand(mean.shape[0], 1, 1, device=mean.device, dtype=mean.dtype)
            return (floor * draw).expand_as(mean)
        return torch.full_like(mean, 0.5 * floor)

    @torch.no_grad()
    def fit_aggregate(self, codes: torch.Tensor) -> None:
        """Keep mean and standard deviation of codes, in each coordinate.

        Args:
            codes: (molecules, num_latents, latent_size), at least two.

        Raises:
            ValueError: Fewer than two codes, or all of them equal; what is kept stays as it is.
        """
        if len(codes) < 2:
            raise ValueError(f"A spread needs at least two molecules, got {len(codes)}.")
        spread = codes.std(dim=0)
        if not spread.isfinite().all() or not spread.any():
            raise ValueError(
                f"The codes of these {len(codes)} molecules have no finite spread above 0; give "
                "different molecules."
            )
        self.aggregate_mean.copy_(codes.mean(dim=0))
        self.aggregate_std.copy_(spread)

    def aggregate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the training molecules' codes.

        Returns:
            Two (num_latents, latent_size): of a Gaussian that fits the aggregate posterior, the
            mean of q(z | x) over the molecules, better than N(0, I) does.

        Raises:
            ValueError: The model was saved without them.
        """
        if not self.aggregate_std.any():
            raise ValueError(
                "This checkpoint does not know the mean and spread of its training molecules' "
                "codes (CMIMTrainer stores them): give the codes of some thousands of molecules "
                "to model.posterior.fit_aggregate first."
            )
        return self.aggregate_mean, self.aggregate_std


def _without_autocast(device_type: str) -> AbstractContextManager:
    if device_type == "meta":  # has no autocast to turn off
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
