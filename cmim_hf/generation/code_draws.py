# SPDX-License-Identifier: Apache-2.0
"""Where codes are drawn: from a prior, or around the codes of molecules."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from ..checkpoints.companions import ANCHOR
from ..data.argument_checks import check_choice
from ..data.row_encoder import EncodedRows
from ..data.smiles_files import Row
from .encode_decode import Codec
from .prior import PRIORS, CodePrior

LARGEST_RADIUS = 1e6  # beyond, float32 codes overflow sooner or later
UNITS = ("prior", "posterior", "aggregate")

Draw = Callable[[np.ndarray], np.ndarray]
"""Codes (rows, num_latents, latent_size) for indices (rows,) of what they are drawn around."""


class CodeDraws:
    """Draws of a model's codes.

    Args:
        codec: The model and its random numbers.
        checkpoint: Its name in messages.
        hub: How it was fetched, arguments of [`~cmim_hf.checkpoints.loading.load_checkpoint`].
    """

    def __init__(self, codec: Codec, checkpoint: str, hub: dict[str, Any]) -> None:
        """Keep the arguments."""
        self._codec, self._checkpoint, self._hub = codec, checkpoint, hub

    def from_prior(self, prior: CodePrior | str | os.PathLike) -> Draw:
        """Draws from a prior, as `MoleculeGenerator.sample` takes it; raises what that does."""
        name = prior if isinstance(prior, str) else None
        if name == "fitted" and self._fitted_prior is not None:
            prior = self._fitted_prior
        elif name in PRIORS:
            fitted = name == "fitted"
            mean, std = self.aggregate() if fitted else (np.float32(0), np.float32(1))
            return lambda rows: mean + std * self._codec.noise(len(rows))
        elif not isinstance(prior, CodePrior):
            prior = CodePrior.load(prior)
        prior.check_model(self._checkpoint, self.anchor)
        return lambda rows: prior.sample(len(rows), self._codec.random)

    def around(self, encoded: EncodedRows, radius: float, unit: str) -> tuple[Draw, np.ndarray]:
        """Draws around molecules, see `MoleculeGenerator.sample_around`, and the codes of these.

        Raises:
            ValueError: A radius out of its range, or an unknown unit.
        """
        if not isinstance(radius, Real) or not 0 <= radius <= LARGEST_RADIUS:
            raise ValueError(f"`radius` is a number from 0 to {LARGEST_RADIUS:g}, not {radius!r}.")
        check_choice("unit", unit, UNITS)
        mean, log_std = self._codec.posterior(encoded)
        scale = np.ones_like(mean)
        if unit == "posterior":
            scale = np.exp(log_std)
        elif unit == "aggregate":
            scale = scale * self.aggregate()[1]
        scale *= np.float32(radius)
        return lambda rows: mean[rows] + scale[rows] * self._codec.noise(len(rows)), mean

    def aggregate(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of the training molecules' codes, (num_latents, latent_size) each."""
        mean, std = self._codec.model.posterior.aggregate()
        return mean.float().cpu().numpy(), std.float().cpu().numpy()

    @cached_property
    def anchor(self) -> np.ndarray:
        """The code, (num_latents, latent_size), by which a prior knows its model again."""
        encoded = self._codec.encoder([Row("the molecule that tells models apart", 1, ANCHOR)])
        return self._codec.posterior(encoded)[0][0]

    @cached_property
    def _fitted_prior(self) -> CodePrior | None:
        return CodePrior.beside(self._codec.model.name_or_path, **self._hub)
