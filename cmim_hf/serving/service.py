# SPDX-License-Identifier: Apache-2.0
"""What a server holds: the models, the library, the limits, and the batchers that ask them."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..checkpoints import DEFAULT_CHECKPOINT
from ..checkpoints.companions import ANCHOR
from ..chemistry.drawing import draw_molecule
from ..data.invalid_rows import invalid_row
from ..data.row_encoder import EncodedRows, RowEncoder
from ..data.smiles_files import Row, bare_smiles
from ..embedding.embedder import MoleculeEmbedder
from ..embedding.nearest import EmbeddedLibrary
from ..generation.decoding import Decoding
from ..generation.encode_decode import Codec
from ..generation.generator import MoleculeGenerator
from ..optimization.scorers import BUILT_IN
from ..prediction.members import Outputs
from ..prediction.predictor import MoleculePredictor
from .batching import Batcher, Call
from .shared_codec import SharedCodec

BATCH_ROWS = 256
"""Molecules or codes of a batch on a CPU, at most; where they take long, it has fewer."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        rows: Molecules, given or asked for.
        characters: Of a SMILES.
        scored: Molecules that an optimisation scores.
        seconds: Until a request is given up.
        requests: At once; a quarter of them optimisations. Others are told to come again.
    """

    rows: int = 1024
    characters: int = 1000
    scored: int = 10_000
    seconds: float = 120.0
    requests: int = 64

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: One that would let nothing through.
        """
        for name, value in vars(self).items():
            if not value >= 1:
                raise ValueError(f"`{name}`, a limit of the server, is at least 1, not {value}.")

    def check(self, field: str, number: int, scored: bool = False) -> None:
        """ValueError for more molecules, asked for or scored, than a request may have."""
        if number > (most := self.scored if scored else self.rows):
            raise ValueError(
                f"`{field}` stands for {number:,} molecules{' to be scored' if scored else ''}; "
                f"this server takes {most:,} in a request: ask for less."
            )


class Service:
    """A model and what goes with it, asked by many calls at once.

    Args:
        checkpoint: As of [`~cmim_hf.MoleculeGenerator`], like the next three.
        device: Where to work.
        dtype: Of the weights.
        batch_size: Codes decoded at once.
        library: A library of embedded molecules, see [`~cmim_hf.embedding.nearest`].
        predictor: A folder that fine-tuning wrote, see [`~cmim_hf.MoleculePredictor`].
        limits: Of requests.
        watch: Told the name and the rows of each batch.

    Raises:
        FileNotFoundError: Nothing where something was said to be.
        ValueError: A checkpoint, library or predictor that is damaged or does not fit.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        library: str | os.PathLike | None = None,
        predictor: str | os.PathLike | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        watch: Callable[[str, int], None] = lambda name, rows: None,
    ) -> None:
        """Load everything and start the batchers."""
        self.limits, self.name = limits, Path(checkpoint).name
        self._generator = MoleculeGenerator(
            checkpoint, device=device, dtype=dtype, batch_size=batch_size, progress=False
        )
        self.fingerprint = self._generator.fingerprint  # computed once: each call has a copy
        self.model, self._tokenizer = self._generator.model, self._generator.tokenizer
        self._codec = Codec(self.model, self._tokenizer, True, "none", batch_size, None, False)
        embedder = MoleculeEmbedder(checkpoint, device=device, dtype=dtype, progress=False)
        embedder.model = self.model  # one copy in memory
        with suppress(ValueError):  # there are none; who asks for them is told
            _ = embedder.axes
        self._embedders = {"own": embedder}
        self.library = self.predictor = None
        if library is not None:
            self.library = EmbeddedLibrary(library)
            self._embedders["library"] = self.library.embedder(checkpoint)
            self.library_rows = self.library.rows - self.library.invalid_rows
        if predictor is not None:
            self.predictor = MoleculePredictor(predictor, device=device, progress=False)
        most = BATCH_ROWS if self.model.device.type == "cpu" else 16 * BATCH_ROWS
        self.batcher = Batcher(
            {
                "encode": (self._encode, most),
                "decode": (self._decode, most),
                "weigh": (self._decode, most // 8),
                "embed": (self._embed, most),
                "predict": (self._predict, most),
                "alone": (lambda functions, call: [function() for function in functions], 1),
            },
            watch,
        )
        # a large library is read from the disk: the model need not wait for that
        self._searcher = Batcher({"nearest": (self._nearest, BATCH_ROWS)}, watch)

    def warm_up(self) -> None:
        """Do once what takes longer the first time, so that no client waits for it."""
        generator, _ = self.generator(Call(), 0)
        generator.optimize([ANCHOR], dict.fromkeys(BUILT_IN, 1.0), budget=20)
        draw_molecule(ANCHOR, (100, 100))

    def close(self) -> None:
        """Compute what waits, and stop."""
        self.batcher.close()
        self._searcher.close()

    def read(
        self,
        field: str,
        smiles: Sequence[Any],
        on_invalid: str | None = "raise",
        encoder: RowEncoder | None = None,
    ) -> EncodedRows:
        """Molecules of a request as the model reads them.

        Args:
            field: Where they stand, for errors.
            smiles: The molecules.
            on_invalid: `"raise"`, `"none"` (they are left to the rejects), or None where the
                request has no such choice.
            encoder: Of another model.

        Raises:
            ValueError: Too many, or an invalid one.
        """
        self.limits.check(field, len(smiles))
        most, rows = self.limits.characters, []
        for number, text in enumerate(smiles):
            long = None
            if len(text) > most:
                long = f"it has {len(text):,} characters; this server takes {most:,} at most"
            rows.append(Row(f"{field} (counted from 0)", number, bare_smiles(text), reason=long))
        encoded = (encoder or self._codec.encoder)(rows)
        if encoded.rejects and on_invalid != "none":
            raise invalid_row(encoded.rejects[0], may_choose=on_invalid is not None)
        return encoded

    def generator(self, call: Call, seed: int | None = None) -> tuple[MoleculeGenerator, int]:
        """A generator for one call, and the seed of what it draws: that given, or a new one."""
        seed = secrets.randbelow(2**32) if seed is None else seed
        codec = SharedCodec(self._codec, self.batcher, call, seed)
        return self._generator.with_codec(codec), seed

    def latents(self, call: Call, encoded: EncodedRows) -> np.ndarray:
        """Mean codes (usable rows, num_latents, latent_size)."""
        return SharedCodec(self._codec, self.batcher, call, 0).posterior(encoded)[0]

    def embed(
        self, call: Call, encoded: EncodedRows, representation: str, pooling: str, dim: int | None
    ) -> np.ndarray:
        """Vectors (usable rows, size)."""
        settings = ("own", representation, pooling, dim)
        found = self.batcher.map("embed", settings, encoded.rows(), call)
        return np.array(found, np.float32)

    def nearest(self, call: Call, smiles: Sequence[str], count: int) -> list[pd.DataFrame]:
        """The library's molecules nearest to each, see `EmbeddedLibrary.nearest`."""
        embedder = self._embedders["library"]
        encoded = self.read("smiles", smiles, None, embedder.encoder())
        settings = ("library", embedder.representation, embedder.pooling, embedder.dim)
        vectors = self.batcher.map("embed", settings, encoded.rows(), call)
        return self._searcher.map("nearest", (count,), vectors, call)

    def outputs(self, call: Call, encoded: EncodedRows) -> Outputs:
        """What the predictor says of usable rows."""
        found = self.batcher.map("predict", (), encoded.rows(), call)
        if not found:
            return self.predictor.outputs(encoded)
        values, spread, vectors = zip(*found, strict=True)
        return Outputs(
            np.array(values), None if spread[0] is None else np.array(spread), np.array(vectors)
        )

    def _encode(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        return list(np.stack(self._codec.posterior(EncodedRows.of(tokens)), axis=1))

    def _decode(self, codes: list[np.ndarray], how: Decoding) -> list[tuple[str | None, int]]:
        molecules, info = self._codec.decoder.decode(np.stack(codes), how)
        return list(zip(molecules, info.attempts.tolist(), strict=True))

    def _embed(
        self,
        tokens: list[np.ndarray],
        whose: str,
        representation: str,
        pooling: str,
        dim: int | None,
    ) -> list[np.ndarray]:
        embedder = copy.copy(self._embedders[whose])
        embedder.representation, embedder.pooling = representation, pooling
        embedder.dim = dim
        return list(embedder.embed_encoded(EncodedRows.of(tokens)))

    def _predict(self, tokens: list[np.ndarray]) -> list[tuple[Any, ...]]:
        values, spread, vectors = self.predictor.outputs(EncodedRows.of(tokens))
        spread = [None] * len(values) if spread is None else spread
        return list(zip(values, spread, vectors, strict=True))

    def _nearest(self, vectors: list[np.ndarray], count: int) -> list[pd.DataFrame]:
        return self.library.nearest(np.stack(vectors), count)
