# SPDX-License-Identifier: Apache-2.0
"""Paths between two codes."""

from __future__ import annotations

import math

import numpy as np

METHODS = ("linear", "spherical")


def interpolate_codes(
    first: np.ndarray, second: np.ndarray, steps: int, method: str = "linear"
) -> np.ndarray:
    """Codes at equal steps from one code to another, both ends included.

    `"linear"`: (1 - t)·a + t·b. `"spherical"`: (sin((1 - t)·θ)·a + sin(t·θ)·b) / sin θ, with θ the
    angle between a and b (White 2016, arXiv 1609.04468): in many dimensions a Gaussian's codes lie
    near a sphere, which the straight line leaves. Codes that point the same way, or in opposite
    ones, or of which one is zero, have no great circle between them and are joined linearly.

    Args:
        first: (..., size), a.
        second: (..., size), b.
        steps: At least 2.
        method: `"linear"` or `"spherical"`.

    Returns:
        (..., steps, size), in the floating type of the codes, float32 at least.

    Raises:
        ValueError: Codes of different shapes, fewer than two steps, or an unknown method.
    """
    first, second = np.asarray(first), np.asarray(second)
    dtype = np.result_type(first, second, np.float32)
    first, second = first.astype(np.float64), second.astype(np.float64)
    if first.shape != second.shape or first.ndim == 0:
        raise ValueError(
            f"Both codes must have one shape (..., size), got {first.shape} and {second.shape}."
        )
    if steps < 2:
        raise ValueError(f"steps counts both ends, so it is at least 2, not {steps}.")
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    t = np.linspace(0.0, 1.0, steps)[:, None]
    first, second = first[..., None, :], second[..., None, :]
    line = (1 - t) * first + t * second
    if method == "linear":
        return line.astype(dtype)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = (first * second).sum(axis=-1) / np.where(norms > 0, norms, 1.0)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))[..., None]
    sine = np.sin(angle)
    bent = (np.abs(sine) > 1e-4) & (norms > 0)[..., None]
    arc = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return np.where(bent, arc / np.where(bent, sine, 1.0), line).astype(dtype)


def interpolate_rows(
    first: np.ndarray, second: np.ndarray, steps: int, method: str = "linear"
) -> tuple[np.ndarray, np.ndarray]:
    """Paths between rows of codes (rows, num_latents, latent_size) of which both ends are finite.

    Returns:
        Which rows these are, (kept,), and the codes of their paths one after the other, (kept ·
        steps, num_latents, latent_size), see [`interpolate_codes`].
    """
    finite = np.isfinite(first).all(axis=(1, 2)) & np.isfinite(second).all(axis=(1, 2))
    kept, shape = np.flatnonzero(finite), first.shape[1:]
    a, b = (end[kept].reshape(-1, math.prod(shape)) for end in (first, second))
    return kept, interpolate_codes(a, b, steps, method).reshape(-1, *shape)
