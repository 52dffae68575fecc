# SPDX-License-Identifier: Apache-2.0
"""Encoding and decoding for one call, by a model that many calls share."""

from __future__ import annotations

import numpy as np
import torch

from ..data.row_encoder import EncodedRows
from ..generation.decoding import Decoder, Decoding, DecodingInfo
from ..generation.encode_decode import Codec
from .batching import Batcher, Call

DRAWN_TOGETHER = 256
"""Codes of a call that are decoded at once where tokens are drawn, which is with no other call's:
what is drawn shall depend on the call's seed alone."""


class SharedCodec(Codec):
    """A codec that asks its model through a batcher; its random numbers are its own.

    Args:
        codec: Of the model; it is not changed.
        batcher: It computes `"encode"` (tokens to mean and log-std), `"decode"` (codes to molecule
            and attempt; `"weigh"`, if there are candidates) and `"alone"` (calls a function).
        call: Whose work it is.
        seed: Of what is drawn.
    """

    def __init__(self, codec: Codec, batcher: Batcher, call: Call, seed: int) -> None:
        """Share all but random numbers and decoder."""
        self.model, self.tokenizer, self.encoder = codec.model, codec.tokenizer, codec.encoder
        self.canonicalize, self.progress = codec.canonicalize, False
        self.random = torch.Generator()
        self.random.manual_seed(seed)
        self._batcher, self._call = batcher, call
        self.decoder = SharedDecoder(codec.decoder, self.random, batcher, call)

    def posterior(self, encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
        """As [`Codec`] does."""
        config = self.model.config
        found = self._batcher.map("encode", (), encoded.rows(), self._call)
        shape = (len(found), 2, config.num_latents, config.latent_size)
        mean_and_log_std = np.array(found, np.float32).reshape(shape)
        return mean_and_log_std[:, 0], mean_and_log_std[:, 1]


class SharedDecoder(Decoder):
    """A decoder that asks its model through a batcher; arguments as [`SharedCodec`]."""

    def __init__(
        self, decoder: Decoder, random: torch.Generator, batcher: Batcher, call: Call
    ) -> None:
        """Share all but the random numbers."""
        super().__init__(
            decoder.model,
            decoder.tokenizer,
            decoder.canonicalize,
            decoder.batch_size,
            random,
            progress=False,
            encode=decoder.encode,
        )
        self._batcher, self._call = batcher, call

    def decode(
        self,
        codes: np.ndarray,
        how: Decoding = Decoding(),  # noqa: B008 - frozen
        *,
        lengths: np.ndarray | None = None,
        progress: bool | None = None,
    ) -> tuple[list[str | None], DecodingInfo]:
        """As [`Decoder`] does, greedy decoding together with other calls'."""
        self._call.check()
        if how.temperature > 0:
            found = self._drawn(codes, how)
        else:
            what = "weigh" if how.candidates > 1 else "decode"
            found = self._batcher.map(what, (how,), codes, self._call)
        molecules = [smiles for smiles, _ in found]
        return molecules, DecodingInfo(np.array([attempt for _, attempt in found], int))

    def _drawn(self, codes: np.ndarray, how: Decoding) -> list[tuple[str | None, int]]:
        found: list[tuple[str | None, int]] = []
        for start in range(0, len(codes), DRAWN_TOGETHER):
            part = codes[start : start + DRAWN_TOGETHER]

            def draw(part: np.ndarray = part) -> list[tuple[str | None, int]]:
                molecules, info = Decoder.decode(self, part, how)
                return list(zip(molecules, info.attempts.tolist(), strict=True))

            (drawn,) = self._batcher.map("alone", (self._call,), [draw], self._call)
            found += drawn
        return found
