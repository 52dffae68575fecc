# SPDX-License-Identifier: Apache-2.0
"""Works on a cMIM at some size, the operations that they need, and the seconds that they take."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cmim_hf import CMIMConfig, CMIMModel, MoleculeEmbedder
from cmim_hf.cpu_kernels import speed_up
from cmim_hf.model.decoding_cmim import decode_latents
from cmim_hf.training.contrastive import contrastive_log_prob

from .roofline import clock, decoder_flops, encoder_flops, gemm_rate
from .throughput_inference import embedding_flops
from .throughput_loss import TEMPERATURE
from .throughput_training import LENGTH, Setting, one_length, random_text, train

LEAST_SECONDS = 0.2  # of a visit, for works that are short


class Point(NamedTuple):
    """A work at one size.

    Attributes:
        work: what is done.
        at: the size: molecules, tokens, parameters or rows.
        flops: operations of the matrix products that it needs.
        visit: does it and gives its seconds.
        limit: gives operations a second that matrix products of this model reach here; one
            function for all points of a model and dtype.
    """

    work: str
    at: int
    flops: float
    visit: Callable[[], float]
    limit: Callable[[], float]


class Bench:
    """One model with random weights, and the works on it.

    Args:
        size: tiny, small, base or large.
        tokenizer: of the molecules.
        device: where.
        bf16: train in mixed precision.
    """

    def __init__(
        self, size: str, tokenizer: PreTrainedTokenizerBase, device: torch.device, bf16: bool
    ) -> None:
        """Draw the weights."""
        self.config = CMIMConfig.from_size(size, vocab_size=len(tokenizer))
        self.tokenizer, self.device, self.bf16 = tokenizer, device, bf16
        with tempfile.TemporaryDirectory() as folder:
            save_random(self.config, tokenizer, folder)
            self.embedder = MoleculeEmbedder(
                folder, device=device, canonicalize=False, progress=False
            )
        self.parameters = self.embedder.model.num_parameters()
        never_ends = {**self.config.to_dict(), "eos_token_id": self.config.vocab_size}
        self.decoder = CMIMModel(CMIMConfig.from_dict(never_ends)).to(device).eval()
        speed_up(self.decoder)
        self.batch_tokens = tokens = self.embedder.batch_tokens
        self.limit = partial(gemm_rate, self.config, tokens, device, torch.float32)
        self.training_limit = self.limit
        if bf16:
            self.training_limit = partial(gemm_rate, self.config, tokens, device, torch.bfloat16)

    def training(self, at: int, batch: int, length: int, tokens: int) -> Point:
        """A training step of `batch` molecules; a visit times `timed_steps`."""
        steps = timed_steps(batch, length, tokens)
        setting = Setting(
            self.config, self.tokenizer, self.device, batch, steps, self.bf16, compile=False
        )
        molecules = one_length(setting, length)
        seeds = count()

        def visit() -> float:
            rate, _ = train(setting, molecules, next(seeds))
            return batch / rate

        flops = training_flops(self.config, batch, length)
        return Point("training", at, flops, visit, self.training_limit)

    def embedding(self, at: int, smiles: Sequence[str], batch_tokens: int | None = None) -> Point:
        """Text to informative embeddings, in batches of so many tokens, else of the usual ones."""
        flops = embedding_flops(self.embedder, smiles, "informative")

        def work() -> None:
            self.embedder.batch_tokens = batch_tokens or self.batch_tokens
            self.embedder.embed(smiles)

        return Point("embedding", at, flops, partial(clock, work), self.limit)

    def decoding(self, at: int, codes: int, length: int) -> Point:
        """So many codes at once to so many tokens each."""
        shape = (codes, self.config.num_latents, self.config.latent_size)
        latents = torch.randn(shape, device=self.device)
        work = partial(decode_latents, self.decoder, latents, max_length=length + 1)
        flops = decoder_flops(self.config, np.full(codes, length))
        return steady(Point("decoding", at, flops, partial(clock, work), self.limit))

    def contrast(self, at: int, rows: int) -> Point:
        """The contrastive term of so many codes, all pairs held, with its gradient."""
        size = self.config.num_latents * self.config.latent_size
        codes = torch.randn(rows, size, device=self.device, requires_grad=True)

        def work() -> None:
            contrastive_log_prob(codes, temperature=TEMPERATURE).mean().backward()

        flops = contrastive_flops(rows, size)
        return steady(Point("contrastive term", at, flops, partial(clock, work), self.limit))


def timed_steps(batch: int, length: int, tokens: int) -> int:
    """Training steps of a visit: as many as train on twice `tokens`, at least 2."""
    return max(2, math.ceil(2 * tokens / (batch * length)))


def save_random(config: CMIMConfig, tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    CMIMModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def contrastive_flops(rows: int, size: int) -> float:
    """Operations that the term of codes (rows, size) needs: all pairs, two products for gradients.

    That pairs are formed again for the gradients, which saves memory, is not counted.
    """
    return 6.0 * rows**2 * size


def training_flops(config: CMIMConfig, batch: int, length: int) -> float:
    """Operations of a training step of `batch` rows of `length` tokens, contrastive term included.

    Three times the forward pass.
    """
    lengths = np.full(batch, length)
    model = 3 * (encoder_flops(config, lengths) + decoder_flops(config, lengths))
    return model + contrastive_flops(batch, config.num_latents * config.latent_size)


def steady(point: Point) -> Point:
    """The point, each visit of it the median of as many as take `LEAST_SECONDS`; warms up."""
    point.visit()
    visits = math.ceil(LEAST_SECONDS / point.visit())
    return point._replace(visit=lambda: statistics.median(point.visit() for _ in range(visits)))


def batch_points(bench: Bench, sizes: Sequence[int], tokens: int) -> list[Point]:
    """All works on `sizes` molecules at once, each of `LENGTH` tokens."""
    points = [bench.training(size, size, LENGTH, tokens) for size in sizes]
    for size in sizes:
        smiles = random_text([LENGTH] * size)
        points.append(steady(bench.embedding(size, smiles, batch_tokens=size * LENGTH)))
    points += [bench.decoding(size, size, LENGTH) for size in sizes]
    return points + [bench.contrast(size, size) for size in sizes]


def length_points(bench: Bench, lengths: Sequence[int], tokens: int) -> list[Point]:
    """Works on molecules of `lengths` tokens.

    Training and embedding of as many molecules as have `tokens` together, decoding of as many
    codes as molecules of `LENGTH` have them.
    """
    points = [bench.training(length, tokens // length, length, tokens) for length in lengths]
    for length in lengths:
        smiles = random_text([length] * (tokens // length))
        points.append(steady(bench.embedding(length, smiles)))
    return points + [bench.decoding(length, tokens // LENGTH, length) for length in lengths]


def size_points(benches: Sequence[Bench], tokens: int, contrasted: int) -> list[Point]:
    """All works with models of several sizes, on `tokens` in molecules of `LENGTH`.

    The contrastive term is that of `contrasted` codes.
    """
    molecules = tokens // LENGTH
    smiles = random_text([LENGTH] * molecules)
    return [
        point
        for bench in benches
        for point in (
            bench.training(bench.parameters, molecules, LENGTH, tokens),
            steady(bench.embedding(bench.parameters, smiles)),
            bench.decoding(bench.parameters, molecules, LENGTH),
            bench.contrast(bench.parameters, contrasted),
        )
    ]


def row_points(bench: Bench, numbers: Sequence[int], smiles: Sequence[str]) -> list[Point]:
    """The first rows of `smiles` embedded in one call; those of the fewest once to warm up."""
    bench.embedder.embed(smiles[: min(numbers)])
    return [bench.embedding(number, smiles[:number]) for number in numbers]
