# SPDX-License-Identifier: Apache-2.0
"""Images in their usual forms to the pixels that a cMIM of images reads."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

_CHANNELS = (1, 3)
_FORMS = (
    "give a PIL image, a numpy array (height, width) or (height, width, channels), a torch tensor "
    "(channels, height, width), a list of these, or a batch in one array"
)
_GREY = np.array([19595, 38470, 7471])  # / 2 ** 16: ITU-R 601-2, rounded as PIL does


class CMIMImageSettings(TypedDict, total=False):
    """What `from_pretrained` may change of a saved [`CMIMImageProcessor`]."""

    image_size: int
    num_channels: int
    do_resize: bool
    do_convert: bool
    binarize: float | None


class CMIMImageProcessor(BaseImageProcessor):
    """Makes images to `pixel_values` (batch, num_channels, image_size, image_size) in [0, 1].

    It takes PIL images, numpy arrays (height, width) or (height, width, channels), torch tensors
    (channels, height, width) or (height, width), a list of any of them, or a batch in one array:
    numpy (batch, height, width[, channels]), torch (batch, channels, height, width). A numpy array
    of three axes is one image if the last has 1 or 3 entries, else a batch of grey ones.

    Integers are levels from 0 to 255 and are divided by 255; floats are in [0, 1] and stay as they
    are. Nothing is resized, converted or clipped unless a setting says so.

    Args:
        image_size: Height and width, from 4.
        num_channels: 1 (grey) or 3 (RGB).
        do_resize: Bring images of other sizes to `image_size`, bilinearly with antialiasing, as PIL
            does; the ratio of height and width is not kept.
        do_convert: Bring images of other channels to `num_channels`: grey is .299 R + .587 G +
            .114 B; RGB of grey repeats it.
        binarize: A threshold in [0, 1): pixels above it become 1, the others 0.
        kwargs: What transformers keeps in `preprocessor_config.json`.

    Raises:
        ValueError: A setting that cannot be.

    >>> process = CMIMImageProcessor(image_size=4)
    >>> levels = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)
    >>> pixels = process([levels, Image.fromarray(levels)]).pixel_values
    >>> pixels.shape, round(pixels.max().item() * 255)
    (torch.Size([2, 1, 4, 4]), 150)
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = CMIMImageSettings

    def __init__(
        self,
        image_size: int = 28,
        num_channels: int = 1,
        do_resize: bool = False,
        do_convert: bool = False,
        binarize: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the settings."""
        super().__init__(**kwargs)
        if not isinstance(image_size, int) or image_size < 4:
            raise ValueError(f"`image_size` is a whole number from 4, not {image_size!r}.")
        if num_channels not in _CHANNELS:
            raise ValueError(f"`num_channels` is 1 (grey) or 3 (RGB), not {num_channels!r}.")
        if binarize is not None and not 0 <= binarize < 1:
            raise ValueError(f"`binarize` is a threshold in [0, 1) or None, not {binarize!r}.")
        self.image_size = image_size
        self.num_channels = num_channels
        self.do_resize = do_resize
        self.do_convert = do_convert
        self.binarize = binarize

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:
        """Return the `pixel_values` of some images; what calling the processor does.

        Args:
            images: One or more, see the class.
            return_tensors: "np" for a numpy array; otherwise they are a torch tensor on the CPU.

        Raises:
            TypeError: Something that is no image, or of a type without known range.
            ValueError: No image, another size or number of channels, values out of range or not
                finite. It names the first such image by its place.
        """
        pixels, first = [], 0
        for batch in _batches(images):
            pixels.append(self._pixels(batch, first))
            first += len(batch)
        if first == 0:
            raise ValueError(f"There are no images; {_FORMS}.")
        joined = np.concatenate(pixels) if len(pixels) > 1 else pixels[0]
        if self.binarize is not None:
            joined = (joined > self.binarize).astype(np.float32)
        return BatchFeature({"pixel_values": torch.from_numpy(joined)}, return_tensors)

    def _pixels(self, batch: np.ndarray, first: int) -> np.ndarray:
        """Pixels of images (batch, channels, height, width), of which `first` come before."""
        if len(batch) == 0:
            return np.empty((0, self.num_channels, self.image_size, self.image_size), np.float32)
        channels, *size = batch.shape[1:]
        wrong_size = size != [self.image_size, self.image_size]
        if channels not in _CHANNELS or (channels != self.num_channels and not self.do_convert):
            mend = "do_convert=True converts" if channels in _CHANNELS else _FORMS
            raise ValueError(
                f"Image {first} has {channels} channels ({size[0]} x {size[1]} pixels), not "
                f"{self.num_channels}; {mend}."
            )
        if 0 in size or (wrong_size and not self.do_resize):
            raise ValueError(
                f"Image {first} has {size[0]} x {size[1]} pixels, not {self.image_size} x "
                f"{self.image_size}; do_resize=True resizes."
            )
        batch = _checked(batch, first)
        if channels != self.num_channels:
            batch = _converted(batch)
        if wrong_size:
            batch = np.stack([_resized(image, self.image_size) for image in batch])
        if batch.dtype == np.uint8:
            return np.divide(batch, np.float32(255), dtype=np.float32, order="C")
        return np.array(batch, np.float32, order="C")


def _batches(images: Any) -> list[np.ndarray]:
    """Images as arrays (batch, channels, height, width), as few as they allow."""
    if isinstance(images, (list, tuple)):
        singles = [_single(image, number) for number, image in enumerate(images)]
        alike = len({(image.shape, image.dtype) for image in singles}) == 1
        return [np.stack(singles)] if alike else [image[None] for image in singles]
    axes = images.ndim if isinstance(images, (np.ndarray, torch.Tensor)) else None
    if isinstance(images, torch.Tensor) and axes == 4:
        return [_numpy(images)]
    if isinstance(images, np.ndarray) and axes == 4:
        return [images.transpose(0, 3, 1, 2)]
    if isinstance(images, np.ndarray) and axes == 3 and images.shape[2] not in _CHANNELS:
        return [images[:, None]]
    return [_single(images, 0)[None]]


def _single(image: Any, number: int) -> np.ndarray:
    """One image as an array (channels, height, width)."""
    if isinstance(image, Image.Image):
        image = image_array(image, f"Image {number}")
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise TypeError(f"Image {number} is of type {type(image).__name__}; {_FORMS}.")
    array = _numpy(image) if isinstance(image, torch.Tensor) else image
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        shape = tuple(array.shape)
        raise ValueError(f"Image {number} is an array of shape {shape}; {_FORMS}.")
    return array if isinstance(image, torch.Tensor) else array.transpose(2, 0, 1)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def image_array(image: Image.Image, name: str) -> np.ndarray:
    """The levels of a PIL image, uint8 (height, width) or (height, width, 3).

    Black and white becomes grey, a palette RGB; transparency without use is left out.

    Raises:
        ValueError: Transparent, of another colour space or with more than 8 bits a channel; it
            begins with `name`.

    >>> image_array(Image.new("RGB", (2, 1), (9, 8, 7)), "a.png").tolist()
    [[[9, 8, 7], [9, 8, 7]]]
    """
    mode = image.mode
    if mode in ("LA", "RGBA") and image.getchannel("A").getextrema()[0] == 255:
        return np.asarray(image)[..., :-1].squeeze(-1 if mode == "LA" else ())
    if mode not in ("1", "L", "P", "RGB"):
        raise ValueError(
            f"{name} is of PIL's mode {mode}: transparent, of another colour space, or of more "
            'than 8 bits a channel. Convert it first, for example by image.convert("RGB").'
        )
    wanted = {"1": "L", "P": "RGB"}.get(mode, mode)
    return np.asarray(image if mode == wanted else image.convert(wanted))


def _checked(batch: np.ndarray, first: int) -> np.ndarray:
    """Levels as uint8 or floats as float32, all within their range."""
    if batch.dtype == np.uint8:
        return batch
    whole = np.issubdtype(batch.dtype, np.integer)
    if not whole and not np.issubdtype(batch.dtype, np.floating):
        raise TypeError(f"Image {first} is of type {batch.dtype}; give uint8, or floats in [0, 1].")
    highest = 255 if whole else 1
    if not (batch.min() >= 0 and batch.max() <= highest):
        inside = ((batch >= 0) & (batch <= highest)).reshape(len(batch), -1).all(axis=1)
        number = int(np.argmin(inside))
        raise ValueError(f"Image {first + number} {_fault(batch[number], whole)}")
    return batch.astype(np.uint8 if whole else np.float32)


def _fault(image: np.ndarray, whole: bool) -> str:
    if not whole and not np.isfinite(image).all():
        return "holds NaN or infinite values; mend it, or leave it out."
    values = f"has values from {image.min():g} to {image.max():g}"
    if whole:
        return f"{values}; integers are levels from 0 to 255."
    return f"{values}; floats are in [0, 1]: give uint8, or divide by 255."


def _converted(batch: np.ndarray) -> np.ndarray:
    """Grey to RGB, or RGB to grey."""
    if batch.shape[1] == 1:
        return np.repeat(batch, 3, axis=1)
    if batch.dtype == np.uint8:
        sums = np.einsum("bchw,c->bhw", batch.astype(np.int64), _GREY)
        return ((sums + (1 << 15)) >> 16).astype(np.uint8)[:, None]
    return np.einsum("bchw,c->bhw", batch, (_GREY / (1 << 16)).astype(np.float32))[:, None]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """One image (channels, height, width) with `size` pixels each way."""
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BILINEAR)
        for plane in image
    ]
    return np.stack([np.asarray(plane) for plane in planes])


CMIMImageProcessor.register_for_auto_class("AutoImageProcessor")
