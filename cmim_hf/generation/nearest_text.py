# SPDX-License-Identifier: Apache-2.0
"""Of several texts of a code, the molecule whose own code is nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.invalid_rows import progress_bar

if TYPE_CHECKING:
    from .decoding import Decoder, Decoding

SAME = 1e-3
"""Two codes are one where their distance is below this share of the code's length."""

LONGEST = 257
"""Tokens of a candidate, the first included: far from all molecules some would never end."""


def nearest_molecules(
    decoder: Decoder,
    codes: np.ndarray,
    molecules: Sequence[str | None],
    sizes: np.ndarray,
    how: Decoding,
    progress: bool,
) -> Iterator[tuple[int, str]]:
    """Rows for which another molecule lies nearer to the code than the first, and that molecule.

    Only codes whose first molecule has another code, or which have none, are looked at again.

    Args:
        decoder: It canonicalizes, and encodes.
        codes: (rows, num_latents, latent_size).
        molecules: (rows,), what they were decoded to first.
        sizes: (rows,), tokens of the first texts, so that rows of similar ones go together.
        how: With `candidates` above 1.
        progress: Show a bar.
    """
    distances = _distances(decoder, codes, molecules)
    left = np.flatnonzero(~(distances <= SAME * np.linalg.norm(_flat(codes), axis=1)))
    left = left[np.argsort(-sizes[left], kind="stable")]
    together = max(1, decoder.batch_size // how.candidates)
    with progress_bar(len(left), "Weighing candidates", progress) as bar:
        for start in range(0, len(left), together):
            rows = left[start : start + together]
            found = decoder.molecules(_beams(decoder, codes[rows], how))
            away = _distances(decoder, codes[np.repeat(rows, how.candidates)], found)
            best = away.reshape(len(rows), -1).argmin(1) + np.arange(len(rows)) * how.candidates
            for row, place in zip(rows.tolist(), best.tolist(), strict=True):
                if away[place] < distances[row]:
                    yield row, found[place]
            bar.update(len(rows))


@torch.inference_mode()
def _beams(decoder: Decoder, codes: np.ndarray, how: Decoding) -> torch.Tensor:
    """The tokens of the most probable texts of each code: (rows · candidates, length)."""
    model = decoder.model
    longest = min(how.max_length or LONGEST, LONGEST, model.config.max_position_embeddings + 1)
    return model.generate(
        latents=torch.from_numpy(codes).to(model.dtype),
        num_beams=how.candidates,
        num_return_sequences=how.candidates,
        max_length=longest,
        length_penalty=0.0,  # else their probabilities would be divided by their lengths
        do_sample=False,
    )


def _distances(decoder: Decoder, codes: np.ndarray, molecules: Sequence[str | None]) -> np.ndarray:
    """From each code to that of its molecule: (rows,), infinite without one that can be encoded."""
    places: dict[str, int] = {}
    rows = [row for row, smiles in enumerate(molecules) if smiles is not None]
    which = [places.setdefault(molecules[row], len(places)) for row in rows]
    distances = np.full(len(molecules), np.inf)
    if rows:
        own = decoder.encode(list(places))[which]
        found = np.linalg.norm(_flat(codes[rows]) - _flat(own), axis=1)
        distances[rows] = np.nan_to_num(found, nan=np.inf)
    return distances


def _flat(codes: np.ndarray) -> np.ndarray:
    """(rows, numbers), in float64: the square of a large number may be none of float32."""
    return codes.reshape(len(codes), codes.shape[1] * codes.shape[2]).astype(float)
