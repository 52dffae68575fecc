# SPDX-License-Identifier: Apache-2.0
"""The cMIM of images: convolutions around a latent code.

pixels -> convolutions -> (mean, log_std) -> z -> dense layers -> transposed convolutions -> a
likelihood for each pixel. The posterior, the names and the shapes are those of the molecules' model
(`modeling_cmim`), so that the objectives and the trainer are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .configuration_cmim_image import CMIMImageConfig
from .gaussian_cmim import gaussian_sample
from .layers_cmim import CMIMFeedForward
from .pixel_likelihood_cmim import HIGHEST, PARAMETERS, pixel_log_prob, pixel_mean
from .posterior_cmim import CMIMPosterior
from .representations_cmim import CMIMRepresentations
from .saving_cmim import CMIMSavedModel

_KERNEL = 4  # of convolutions that halve or double height and width


@dataclass
class CMIMImageOutput(ModelOutput):
    """What [`CMIMImageModel`] returns.

    Attributes:
        loss: Mean nll per pixel and channel, if `labels` were given.
        last_hidden_state: (batch, 1, hidden_size), the decoder's state before its convolutions.
        pooler_output: (batch, hidden_size), the same: the informative embedding, if z is the mean.
        pixel_mean: (batch, num_channels, image_size, image_size), what z decodes to, in [0, 1].
        nll: (batch,), summed over each image's pixels, in nats, if `labels` were given.
        bits_per_dim: (batch,), the nll per pixel and channel, in bits.
        latents: (batch, 1, latent_size), what was decoded.
        latent_mean: (batch, 1, latent_size), mean of the posterior.
        latent_log_std: (batch, 1, latent_size), its log standard deviation.
    """

    loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    pixel_mean: torch.Tensor | None = None
    nll: torch.Tensor | None = None
    bits_per_dim: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    latent_mean: torch.Tensor | None = None
    latent_log_std: torch.Tensor | None = None


class CMIMImageEncoder(nn.Module):
    """Convolutions that each halve height and width, then a dense layer over the whole image."""

    def __init__(self, config: CMIMImageConfig) -> None:
        """A norm behind each convolution."""
        super().__init__()
        sizes = [config.num_channels, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, _KERNEL, stride=2, padding=1)
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(1, size, eps=config.layer_norm_eps) for size in config.channels
        )
        self.dense = nn.Linear(_map_size(config), config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, num_channels, image_size, image_size) -> (batch, 1, hidden_size)."""
        maps = pixel_values
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps = self.activation(norm(convolution(maps)))
        return self.dense(maps.flatten(1))[:, None]


class CMIMImageDecoder(nn.Module):
    """Dense layers over the code, then convolutions that each double height and width."""

    def __init__(self, config: CMIMImageConfig) -> None:
        """A norm before each convolution."""
        super().__init__()
        self.memory_proj = nn.Linear(config.latent_size, config.hidden_size)
        self.layers = nn.ModuleList(CMIMFeedForward(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, _map_size(config))
        side = config.image_size // 2 ** len(config.channels)
        self.map_shape = (config.channels[-1], side, side)
        sizes = [*config.channels[::-1], config.num_channels * PARAMETERS[config.likelihood]]
        self.norms = nn.ModuleList(
            nn.GroupNorm(1, size, eps=config.layer_norm_eps) for size in sizes[:-1]
        )
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, _KERNEL, stride=2, padding=1)
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.activation = ACT2FN[config.hidden_act]

    def hidden_states(self, latents: torch.Tensor) -> torch.Tensor:
        """(batch, 1, latent_size) -> states (batch, 1, hidden_size)."""
        states = self.memory_proj(latents.to(self.memory_proj.weight.dtype))
        for layer in self.layers:
            states = states + layer(states)
        return self.norm(states)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """States -> (batch, numbers * num_channels, image_size, image_size)."""
        maps = self.dense(hidden_states[:, 0]).unflatten(1, self.map_shape)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps = convolution(self.activation(norm(maps)))
        return maps


class CMIMImageModel(CMIMRepresentations, CMIMSavedModel):
    """cMIM of images: pixels to latents, latents to pixels.

    Images are (batch, num_channels, image_size, image_size), floating, in [0, 1], as
    [`CMIMImageProcessor`] makes them.

    >>> model = CMIMImageModel(CMIMImageConfig(image_size=8, channels=[8], latent_size=16))
    >>> images = torch.rand(2, 1, 8, 8)
    >>> model.get_latents(images).shape, model.get_informative_embeddings(images).shape
    (torch.Size([2, 1, 16]), torch.Size([2, 256]))
    >>> model.reconstruct(images).shape
    torch.Size([2, 1, 8, 8])
    """

    config: CMIMImageConfig
    config_class = CMIMImageConfig
    base_model_prefix = "cmim"
    main_input_name = "pixel_values"
    _no_split_modules = ["CMIMImageEncoder", "CMIMImageDecoder"]
    _can_compile_fullgraph = True
    _keys_to_ignore_on_load_missing = [r"posterior\.aggregate_(mean|std)"]

    def __init__(self, config: CMIMImageConfig) -> None:
        """Random weights; `from_pretrained` loads trained ones."""
        super().__init__(config)
        self.encoder = CMIMImageEncoder(config)
        self.posterior = CMIMPosterior(config)
        self.decoder = CMIMImageDecoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            weight = module.weight
            fan_in = weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # a pixel is reached by a quarter of it
                fan_in = weight[:, 0].numel() // 4
            init.normal_(weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, CMIMPosterior):
            init.normal_(module.queries)
            init.zeros_(module.aggregate_mean)
            init.zeros_(module.aggregate_std)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        latents: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        decode: bool = True,
        **kwargs: Any,
    ) -> CMIMImageOutput:
        """Encode, draw a code, decode.

        Args:
            pixel_values: (batch, num_channels, image_size, image_size), in [0, 1].
            labels: (batch, num_channels * image_size ** 2), what is to be decoded, as levels from 0
                to 255 (bernoulli: 0 or 255; see [`~CMIMImageModel.levels`]), -100 where nothing is.
            latents: (batch, 1, latent_size), decoded instead of encoding `pixel_values`.
            sample_latents: Draw z from the posterior, or take its mean; `None`: draw in training.
            decode: `False` stops at the latents.
            kwargs: `return_dict`; what only models of text know is left aside.

        Returns:
            CMIMImageOutput: See there.

        Raises:
            TypeError: Pixels that are whole numbers.
            ValueError: Another shape, a pixel outside [0, 1] or that is no number, labels outside
                the levels, or neither pixels nor latents.
        """
        if latents is not None:
            self.check_latents(latents)
            output = {"latents": latents}
        elif pixel_values is not None:
            output = self._encode(pixel_values, sample_latents)
        else:
            raise ValueError("Pass pixel_values to encode, or latents to decode.")
        if not decode:
            return CMIMImageOutput(**output)
        states = self.decoder.hidden_states(output["latents"])
        parameters = self.decoder(states)
        # (batch, numbers, pixels), channels in the order of the labels
        by_pixel = parameters.flatten(2).unflatten(1, (PARAMETERS[self.config.likelihood], -1))
        by_pixel = by_pixel.flatten(2)
        shape = (self.config.num_channels, *parameters.shape[2:])
        output |= {
            "last_hidden_state": states,
            "pooler_output": states[:, 0],
            "pixel_mean": pixel_mean(by_pixel).unflatten(1, shape),
        }
        if labels is not None:
            output |= self._reconstruction(by_pixel, labels)
        return CMIMImageOutput(**output)

    def _encode(
        self, pixel_values: torch.Tensor, sample_latents: bool | None
    ) -> dict[str, torch.Tensor]:
        self.check_pixels(pixel_values)
        states = self.encoder(pixel_values.to(self.device, self.dtype))
        mean, log_std = self.posterior(states, None)
        draw = self.training if sample_latents is None else sample_latents
        return {
            "latents": gaussian_sample(mean, log_std) if draw else mean,
            "latent_mean": mean,
            "latent_log_std": log_std,
        }

    def _reconstruction(
        self, parameters: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        levels, scored = labels.clamp(min=0), labels != -100
        if labels.shape != parameters[:, 0].shape:
            raise ValueError(
                f"labels must be {tuple(parameters[:, 0].shape)}, a level for each pixel and "
                f"channel, got {tuple(labels.shape)}."
            )
        if not torch.compiler.is_compiling():
            self._check_levels(labels[scored])
        log_prob = pixel_log_prob(parameters, levels, self.config.likelihood) * scored
        nll, count = -log_prob.sum(dim=1), scored.sum(dim=1).clamp(min=1)
        bits = nll / count / math.log(2)
        return {"nll": nll, "bits_per_dim": bits, "loss": nll.sum() / count.sum()}

    def _check_levels(self, levels: torch.Tensor) -> None:
        binary = self.config.likelihood == "bernoulli"
        wrong = (levels < 0) | (levels > HIGHEST)
        wrong |= binary & (levels > 0) & (levels < HIGHEST)
        if wrong.any():
            allowed = (
                f"0 or {HIGHEST}, as CMIMImageProcessor(binarize=0.5) gives"
                if binary
                else (f"from 0 to {HIGHEST}")
            )
            raise ValueError(
                f"labels are levels {allowed} ({self.config.likelihood} likelihood), or -100; got "
                f"{int(levels[wrong][0])}."
            )

    def check_pixels(self, pixel_values: torch.Tensor) -> None:
        """Raise an error if the images are not what [`~CMIMImageModel.forward`] takes."""
        size, channels = self.config.image_size, self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (channels, size, size):
            raise ValueError(
                f"pixel_values must be (batch, {channels}, {size}, {size}), got "
                f"{tuple(pixel_values.shape)}. CMIMImageProcessor resizes and converts on request."
            )
        if not pixel_values.is_floating_point():
            raise TypeError(
                f"pixel_values must be floating and in [0, 1], got {pixel_values.dtype}: divide "
                "by 255, or let CMIMImageProcessor do it."
            )
        if torch.compiler.is_compiling() or not pixel_values.numel():
            return
        low, high = (float(one) for one in pixel_values.aminmax())
        if not (low >= 0 and high <= 1):  # nor if one is NaN
            raise ValueError(
                f"pixel_values must lie in [0, 1], got {low:g} to {high:g}. "
                "CMIMImageProcessor scales them."
            )

    def levels(self, pixel_values: torch.Tensor) -> torch.LongTensor:
        """Labels (batch, num_channels * image_size ** 2) of images: the nearest level of each."""
        return (pixel_values * HIGHEST).round().long().flatten(1)

    def get_latents(self, pixel_values: torch.Tensor, *, sample: bool = False) -> torch.Tensor:
        """The codes of a batch: the posterior's mean, or a draw from it.

        Args:
            pixel_values: As of [`~CMIMImageModel.forward`].
            sample: Draw z ~ q(z | x) instead of taking the mean.

        Returns:
            (batch, 1, latent_size), float32 or wider.
        """
        return self(pixel_values, sample_latents=sample, decode=False).latents

    def get_informative_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Informative embeddings (arXiv 2509.21511): decoder states, z = mean(x).

        As [`~CMIMImageModel.get_representation`] gives them: (batch, hidden_size).
        """
        return self.get_representation(pixel_values)

    def get_representation(
        self, pixel_values: torch.Tensor, *, representation: str = "informative"
    ) -> torch.Tensor:
        """One vector for each image.

        Args:
            pixel_values: As of [`~CMIMImageModel.forward`].
            representation: `"informative"` (the decoder's states behind its dense layers),
                `"latent"` (the mean code) or `"both"`, in that order side by side.

        Returns:
            (batch, [`~CMIMImageModel.representation_size`]).

        Raises:
            ValueError: An unknown representation.
        """
        self.representation_size(representation)
        latents = self.get_latents(pixel_values)
        if representation == "latent":
            return latents.flatten(1)
        informative = self.decoder.hidden_states(latents).flatten(1)
        if representation == "informative":
            return informative
        return torch.cat((informative, latents.flatten(1).to(informative.dtype)), dim=1)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images of codes (batch, 1, latent_size): the pixels expected, in [0, 1]."""
        return self(latents=latents.to(self.device)).pixel_mean

    @torch.no_grad()
    def reconstruct(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images decoded from their own mean codes, of the same shape."""
        return self(pixel_values, sample_latents=False).pixel_mean


def _map_size(config: CMIMImageConfig) -> int:
    return config.channels[-1] * (config.image_size // 2 ** len(config.channels)) ** 2


CMIMImageModel.register_for_auto_class("AutoModel")
