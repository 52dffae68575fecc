# SPDX-License-Identifier: Apache-2.0
"""Images to vectors, and what three kinds of probes tell of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmim_hf.data.image_files import load_images
from cmim_hf.data.labelled_images import LabelledImages
from cmim_hf.model.image_processing_cmim import CMIMImageProcessor
from cmim_hf.model.modeling_cmim_image import CMIMImageModel

from .probing import chosen_by_validation

PARTS = ("train", "valid", "test")
PROBES = ("kNN", "linear", "MLP")
BATCH = 256
Features = dict[str, list[np.ndarray]]  # by representation, of each of PARTS


@cache
def read_images(source: str, part: str) -> LabelledImages:
    """The images of a part, with labels; a SystemExit says what is wrong.

    It stands here, as a function with a cache in `__main__` does not reach other processes.
    """
    try:
        images = load_images(source, part)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    if images.labels is None:
        raise SystemExit(f"{source}: the images of the part {part} have no labels to probe for.")
    return images


def candidates(seed: int) -> dict[str, list[Callable[[], Any]]]:
    """What validation chooses from for each probe: k and the distance; C; width and weight decay.

    Args:
        seed: of the networks, and of the tenth of the training rows that ends their training.
    """
    return {
        "kNN": [
            lambda k=k, metric=metric: KNeighborsClassifier(k, metric=metric)
            for k in (1, 3, 5, 10, 20)
            for metric in ("euclidean", "cosine")
        ],
        "linear": [
            lambda c=c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200))
            for c in (0.01, 0.1, 1.0)
        ],
        "MLP": [
            lambda width=width, alpha=alpha: make_pipeline(
                StandardScaler(),
                MLPClassifier(
                    (width,), alpha=alpha, early_stopping=True, max_iter=100, random_state=seed
                ),
            )
            for width, alpha in ((64, 1e-3), (256, 1e-3), (256, 1.0))
        ],
    }


def probe(features: Features, labels: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """Fit every probe to every representation.

    Args:
        features: of each representation, (rows, size) of each of `PARTS`.
        labels: (rows,) of each of `PARTS`.
        seed: of `candidates`.

    Returns:
        `probes` and `valid`, by probe and representation the share of test and of validation images
        that are classified wrongly; `choices`, the place of the candidate.
    """
    found: dict[str, Any] = {"probes": {}, "valid": {}, "choices": {}}
    for name, makers in candidates(seed).items():
        scores = {
            representation: chosen_by_validation(
                makers, *zip(parts, labels, strict=True), _accuracy
            )
            for representation, parts in features.items()
        }
        found["probes"][name] = {one: 1 - score["test"] for one, score in scores.items()}
        found["valid"][name] = {one: 1 - score["valid"] for one, score in scores.items()}
        found["choices"][name] = {one: score["choice"] for one, score in scores.items()}
    return found


def pixels(data: Mapping[str, LabelledImages], components: int | None = None) -> Features:
    """Levels from 0 to 1, or their principal components, found on the unlabelled images.

    Args:
        data: images by part.
        components: how many; None leaves the pixels.
    """
    unlabelled, *parts = (
        data[part].images.reshape(len(data[part]), -1) / np.float32(255)
        for part in ("unlabelled", *PARTS)
    )
    if components is None:
        return {"pixels": parts}
    found = PCA(min(components, *unlabelled.shape), random_state=0).fit(unlabelled)
    return {"components": [found.transform(part) for part in parts]}


@torch.no_grad()
def embeddings(
    model: CMIMImageModel, processor: CMIMImageProcessor, data: Mapping[str, LabelledImages]
) -> Features:
    """Latent and informative vectors and both side by side, of a model in `eval()`."""
    size = model.config.hidden_size
    both = [
        np.concatenate(
            [
                model.get_representation(pixels, representation="both").float().cpu().numpy()
                for pixels in batches(processor, data[part])
            ]
        )
        for part in PARTS
    ]
    return {
        "latent": [part[:, size:] for part in both],
        "informative": [part[:, :size] for part in both],
        "both": both,
    }


@torch.no_grad()
def reconstruction(
    model: CMIMImageModel, processor: CMIMImageProcessor, images: LabelledImages
) -> dict[str, float]:
    """Of images decoded from their mean codes, by a model in `eval()`.

    Returns:
        `squared_error`, the mean over pixels in [0, 1]; `bits_per_dim`, -log2 p(x | z = mean(x)) a
        pixel and channel; `posterior_std`, the mean over images and dimensions.
    """
    sums = np.zeros(3)
    for pixels in batches(processor, images):
        pixels = pixels.to(model.device)
        output = model(pixels, labels=model.levels(pixels), sample_latents=False)
        error = (output.pixel_mean - pixels).square().flatten(1).mean(1)
        std = output.latent_log_std.exp().flatten(1).mean(1)
        sums += [float(one.double().sum()) for one in (error, output.bits_per_dim, std)]
    error, bits, std = (sums / len(images)).tolist()
    return {"squared_error": error, "bits_per_dim": bits, "posterior_std": std}


def batches(processor: CMIMImageProcessor, images: LabelledImages) -> list[torch.Tensor]:
    """Pixels (at most `BATCH`, channels, height, width) of all images, in order."""
    return [
        processor(images.images[start : start + BATCH])["pixel_values"]
        for start in range(0, len(images), BATCH)
    ]


def _accuracy(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    return float(model.score(features, labels))
