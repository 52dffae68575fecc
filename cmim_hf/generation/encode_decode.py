# SPDX-License-Identifier: Apache-2.0
"""Molecules to codes, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from ..data.invalid_rows import invalid_row, progress_bar, read_molecules, values_in_place
from ..data.row_encoder import EncodedRows, RowEncoder
from ..data.token_batches import batch_tokens, padded_batches
from ..model.modeling_cmim import CMIMModel
from ..model.tokenization_cmim import CMIMTokenizer
from .decoding import Decoder


class Codec:
    """Reads molecules and encodes them; `decoder` goes the way back.

    Args:
        model: In `eval()`, on its device.
        tokenizer: The model's.
        canonicalize: Rewrite molecules as RDKit does, those read and those decoded.
        standardize: Of those read, as in [`~cmim_hf.data.row_encoder.RowEncoder`].
        batch_size: Codes decoded at once; `None` for what suits the device.
        seed: Of what is drawn; at random if `None`.
        progress: Show bars.
    """

    def __init__(
        self,
        model: CMIMModel,
        tokenizer: CMIMTokenizer,
        canonicalize: bool,
        standardize: str,
        batch_size: int | None,
        seed: int | None,
        progress: bool,
    ) -> None:
        """Keep the arguments."""
        self.model, self.tokenizer, self.canonicalize = model, tokenizer, canonicalize
        self.progress = progress
        longest = model.config.max_position_embeddings
        self.encoder = RowEncoder(tokenizer, longest, canonicalize, standardize)
        self.random = torch.Generator()
        self.random.manual_seed(self.random.seed() if seed is None else seed)
        # not a method: a cycle would keep the weights after the last reference to them
        encode = partial(_codes_of, model, RowEncoder(tokenizer, longest, canonicalize=False))
        self.decoder = Decoder(
            model, tokenizer, canonicalize, batch_size, self.random, progress, encode
        )

    def read(self, smiles: Iterable[str] | EncodedRows, on_invalid: str) -> EncodedRows:
        """Molecules to tokens; see [`~cmim_hf.data.invalid_rows.read_molecules`]."""
        if not isinstance(smiles, EncodedRows):
            return read_molecules(self.encoder, smiles, on_invalid, self.progress)
        if smiles.rejects and on_invalid == "raise":
            raise invalid_row(smiles.rejects[0])
        return smiles

    def texts(self, encoded: EncodedRows) -> list[str]:
        """The usable molecules as they were read: canonical SMILES with `canonicalize`."""
        return encoded.texts(self.tokenizer)

    def batches(
        self, encoded: EncodedRows, what: str
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
        """Places of rows (batch,), ids and mask (batch, length) on the model's device; a bar."""
        return _batches(self.model, encoded, what, self.progress)

    def posterior(self, encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log-std of the codes: two (usable rows, num_latents, latent_size) float32."""
        return _posterior(self.model, encoded, self.progress)

    @torch.inference_mode()
    def properties(self, encoded: EncodedRows) -> np.ndarray:
        """Predicted properties in their own units: (usable rows, num_properties) float32.

        Raises:
            ValueError: The model has no property head.
        """
        values = np.empty((len(encoded.lengths), self.model.config.num_properties), np.float32)
        for rows, ids, mask in self.batches(encoded, "Predicting properties"):
            values[rows] = self.model.get_properties(ids, mask).cpu().numpy()
        return values

    def codes(self, latents: np.ndarray | torch.Tensor) -> np.ndarray:
        """Codes (rows, num_latents, latent_size) in float32, of a caller's array."""
        shape = (self.model.config.num_latents, self.model.config.latent_size)
        codes = latents.detach().float().cpu() if torch.is_tensor(latents) else latents
        if np.iscomplexobj(codes):
            raise ValueError("latents are real numbers, got complex ones.")
        if np.shape(codes) == (0,):  # an empty list
            codes = np.empty((0, *shape))
        with np.errstate(over="ignore"):  # what is too large is reported below
            codes = np.asarray(codes, np.float32)
        if codes.ndim != 3 or codes.shape[1:] != shape:
            hint = ""
            if codes.ndim == 2:  # of one width with codes, informative vectors would pass as such
                hint = (
                    " Vectors of an embedder are codes only with representation='latent': then "
                    f"reshape them, z.reshape(-1, {shape[0]}, {shape[1]}). Informative vectors "
                    "cannot be decoded: take codes from MoleculeGenerator.encode."
                )
            raise ValueError(
                f"latents must be (rows, num_latents, latent_size) = (rows, {shape[0]}, "
                f"{shape[1]}), got {codes.shape}.{hint}"
            )
        if len(damaged := np.flatnonzero(~np.isfinite(codes).all(axis=(1, 2)))):
            raise ValueError(
                f"latents row {damaged[0]} holds numbers that are not finite in float32, as do "
                f"{len(damaged) - 1} more rows: leave them out."
            )
        return codes

    def noise(self, *rows: int) -> np.ndarray:
        """Draws of N(0, 1): (*rows, num_latents, latent_size) in float32."""
        shape = (*rows, self.model.config.num_latents, self.model.config.latent_size)
        return torch.randn(shape, generator=self.random).numpy()


def _batches(
    model: CMIMModel, encoded: EncodedRows, what: str, progress: bool
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    rows = np.arange(len(encoded.lengths))
    device, pad = model.device, model.config.pad_token_id
    with progress_bar(len(rows), what, progress) as bar:
        for batch in padded_batches(encoded, rows, batch_tokens(device), pad, device):
            yield batch
            bar.update(len(batch[0]))


@torch.inference_mode()
def _posterior(
    model: CMIMModel, encoded: EncodedRows, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    config = model.config
    shape = (len(encoded.lengths), config.num_latents, config.latent_size)
    mean, log_std = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for rows, ids, mask in _batches(model, encoded, "Encoding molecules", progress):
        found = model(ids, mask, sample_latents=False, decode=False)
        mean[rows] = found.latent_mean.float().cpu().numpy()
        log_std[rows] = found.latent_log_std.float().cpu().numpy()
    if not np.isfinite(mean).all():
        raise ValueError(
            f"The codes of {model.name_or_path} in {model.dtype} are not finite: its weights are "
            "damaged, or too large for that type (try bfloat16 or float32)."
        )
    return mean, log_std


def _codes_of(model: CMIMModel, encoder: RowEncoder, molecules: Sequence[str]) -> np.ndarray:
    """Mean codes of SMILES as they are written, NaN of what the model cannot read."""
    encoded = read_molecules(encoder, molecules, "none", progress=False)
    return values_in_place(_posterior(model, encoded, progress=False)[0], encoded, "none")
