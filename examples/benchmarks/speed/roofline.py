# SPDX-License-Identifier: Apache-2.0
"""What a cMIM has to compute, counted from its configuration, and how fast this machine multiplies.

A multiplication and the addition that follows it are two floating point operations. Counted are
matrix products alone: projections, feed forward, attention (causal in the decoder) and logits, of
real tokens; norms, activations and padding are not. Training is three times the forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from cmim_hf import CMIMConfig
from cmim_hf.cpu_kernels import linear


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
    """The best operations per second measured among this model's matrix products, by any library.

    Args:
        config: Gives the sizes.
        rows: Tokens of a batch.
        device: Where.
        dtype: Of the factors.
    """
    return max(gemm_rates(config, rows, device, dtype).values())


def gemm_rates(
    config: CMIMConfig, rows: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """The same by each way to multiply: `torch.mm`, and the model's own linear maps."""
    hidden, wide = config.hidden_size, config.intermediate_size
    sizes = [
        (rows, hidden, 3 * hidden),
        (rows, hidden, hidden),
        (rows, hidden, wide),
        (rows, wide, hidden),
        (rows, hidden, config.vocab_size),
        (hidden, rows, wide),  # the gradient of a weight
    ]
    best = {"torch.mm": 0.0, "linear": 0.0}
    for first, inner, second in sizes:
        left = torch.randn(first, inner, device=device, dtype=dtype)
        right = torch.randn(inner, second, device=device, dtype=dtype)
        transposed = right.t().contiguous()  # as weights lie
        ways = {"torch.mm": partial(torch.mm, left, right)}
        ways["linear"] = partial(linear, left, transposed)
        flops = 2 * first * inner * second
        repeats = max(1, int(2e9 / flops))
        for name, multiply in ways.items():
            seconds = min(clock(partial(_repeat, multiply, repeats)) for _ in range(5))
            best[name] = max(best[name], flops * repeats / seconds)
    return best


def _repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
