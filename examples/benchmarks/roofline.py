# SPDX-License-Identifier: Apache-2.0
"""What a cMIM has to compute, counted from its configuration, and how fast this machine multiplies.

A multiplication and the addition that follows it are two floating point operations. Counted are
matrix products alone: projections, feed forward, attention (causal in the decoder) and logits, of
real tokens; norms, activations and padding are not. Training is three times the forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from cmim_hf import CMIMConfig


def clock(work: Callable[[], object]) -> float:
    """Seconds of one run, the accelerator's included."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def encoder_flops(config: CMIMConfig, lengths: Sequence[int] | np.ndarray) -> float:
    """Operations that turn rows of these lengths (rows,) into codes."""
    hidden, latents = config.hidden_size, config.num_latents
    lengths = np.asarray(lengths, dtype=np.float64)
    layer = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    each_token = config.encoder_layers * layer + 2 * hidden**2  # the posterior's keys and values
    attention = 2 * hidden * (config.encoder_layers * lengths + latents)  # of one token
    heads = 2 if config.posterior == "learned" else 1
    each_row = latents * (hidden**2 + heads * hidden * config.latent_size)
    return 2 * float((lengths * (each_token + attention) + each_row).sum())


def decoder_flops(
    config: CMIMConfig, lengths: Sequence[int] | np.ndarray, *, logits: bool = True
) -> float:
    """Operations that turn codes and tokens of these lengths (rows,) into states, and logits."""
    hidden, latents, layers = config.hidden_size, config.num_latents, config.decoder_layers
    lengths = np.asarray(lengths, dtype=np.float64)
    each_token = layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    each_row = latents * hidden * (config.latent_size + 2 * layers * hidden)
    attention = layers * hidden * (lengths + 1)
    if latents > 1:  # a single code is the same to every token
        each_token += layers * (2 * hidden**2 + 2 * hidden * latents)
    if logits:
        each_token += hidden * config.vocab_size
    return 2 * float((lengths * (each_token + attention) + each_row).sum())


def gemm_rate(config: CMIMConfig, rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """The best operations per second measured among this model's matrix products.

    Args:
        config: Gives the sizes.
        rows: Tokens of a batch.
        device: Where.
        dtype: Of the factors.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    sizes = [
        (rows, hidden, 3 * hidden),
        (rows, hidden, hidden),
        (rows, hidden, wide),
        (rows, wide, hidden),
        (rows, hidden, config.vocab_size),
        (hidden, rows, wide),  # the gradient of a weight
    ]
    best = 0.0
    for first, inner, second in sizes:
        left = torch.randn(first, inner, device=device, dtype=dtype)
        right = torch.randn(inner, second, device=device, dtype=dtype)
        flops = 2 * first * inner * second
        repeats = max(1, int(2e9 / flops))
        seconds = min(clock(lambda: _products(left, right, repeats)) for _ in range(5))  # noqa: B023
        best = max(best, flops * repeats / seconds)
    return best


def _products(left: torch.Tensor, right: torch.Tensor, repeats: int) -> None:
    for _ in range(repeats):
        torch.mm(left, right)


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
