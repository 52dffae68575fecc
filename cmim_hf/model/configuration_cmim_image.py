# SPDX-License-Identifier: Apache-2.0
"""Configuration of the cMIM of images.

transformers copies this file into a checkpoint, those that a line of the following form names, and
those that they need in turn:

    from .image_processing_cmim import CMIMImageProcessor
    from .modeling_cmim_image import CMIMImageModel
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checked_fields_cmim import activation, count, not_negative, with_value_errors

_AUTO_MAP = {
    "AutoConfig": "configuration_cmim_image.CMIMImageConfig",
    "AutoModel": "modeling_cmim_image.CMIMImageModel",
}


@with_value_errors
@strict
class CMIMImageConfig(PreTrainedConfig):
    """What determines a [`CMIMImageModel`].

    Args:
        image_size: Height and width of an image in pixels; a multiple of 2 ** len(channels).
        num_channels: 1 for grey levels, 3 for colours.
        channels: Feature maps of the encoder's convolutions, each of which halves height and width;
            the decoder has them in reverse.
        hidden_size: Width of the dense layers on both sides.
        intermediate_size: Width within the feed-forward blocks.
        decoder_layers: Feed-forward blocks between the code and the decoder's convolutions.
        latent_size: D, numbers in a code; there is one code, `num_latents` = 1.
        likelihood: Of a pixel, given the code: `"logistic"`, a logistic distribution over the 256
            levels, whose location and scale the decoder gives for each pixel, or `"bernoulli"`, for
            pixels that are 0 or 1.
        posterior: `"learned"` or `"sampled"` standard deviation, see `CMIMPosterior`.
        min_log_std: Floor of the posterior's log standard deviation.
        hidden_act: Activation, by its name in transformers.
        layer_norm_eps: Of every norm.

    Raises:
        ValueError: A value of another type or outside its range.

    >>> CMIMImageConfig(image_size=30)
    Traceback (most recent call last):
    ...
    ValueError: image_size (30) must be a multiple of 4: each of the 2 convolutions halves it.
    """

    model_type = "cmim_image"
    num_latents = 1
    num_attention_heads = 1  # of the posterior's pooling

    image_size: int = count(default=28)
    num_channels: int = count(default=1)
    channels: list[int] | tuple[int, ...] = (32, 64)
    hidden_size: int = count(default=256)
    intermediate_size: int = count(default=512)
    decoder_layers: int = count(default=2)
    latent_size: int = count(default=64)
    likelihood: Literal["logistic", "bernoulli"] = "logistic"
    posterior: Literal["learned", "sampled"] = "learned"
    min_log_std: float | int = -3.0
    hidden_act: str = activation(default="gelu_pytorch_tanh")
    layer_norm_eps: float | int = not_negative(default=1e-5)

    def __post_init__(self, **kwargs: Any) -> None:
        """Check what concerns several values."""
        super().__post_init__(**kwargs)
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be numbers of at least 1, got {self.channels!r}.")
        if self.image_size % 2 ** len(self.channels):
            raise ValueError(
                f"image_size ({self.image_size}) must be a multiple of {2 ** len(self.channels)}: "
                f"each of the {len(self.channels)} convolutions halves it."
            )
        if not -1e6 < self.min_log_std < 0:
            raise ValueError(
                "min_log_std must be a negative number (the prior's log-std is 0), got "
                f"{self.min_log_std}. It is a log-std: halve a log-variance."
            )

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` holds, with the names of all that opens the checkpoint."""
        return super().to_dict() | {"auto_map": _AUTO_MAP}


CMIMImageConfig.register_for_auto_class()
