# SPDX-License-Identifier: Apache-2.0
"""What all cMIM models say of their codes and vectors: shapes, sizes, names."""

from __future__ import annotations

import torch


class CMIMRepresentations:
    """A model with a `config` of `num_latents`, `latent_size` and `hidden_size`."""

    def check_latents(self, latents: torch.Tensor) -> None:
        """Raise a ValueError for latents of another shape than the decoder reads."""
        expected = (self.config.num_latents, self.config.latent_size)
        if latents.ndim != 3 or tuple(latents.shape[1:]) != expected:
            raise ValueError(
                f"latents must be (batch, num_latents, latent_size) = (batch, {expected[0]}, "
                f"{expected[1]}), got {tuple(latents.shape)}."
            )

    def representation_size(self, representation: str) -> int:
        """Numbers in a vector: hidden_size, num_latents * latent_size, or their sum.

        Raises:
            ValueError: An unknown representation.
        """
        informative = self.config.hidden_size
        latent = self.config.num_latents * self.config.latent_size
        sizes = {"informative": informative, "latent": latent, "both": informative + latent}
        if representation not in sizes:
            raise ValueError(
                f"Unknown representation {representation!r}; choose one of {', '.join(sizes)}."
            )
        return sizes[representation]
