# SPDX-License-Identifier: Apache-2.0
"""SMILES in, vectors out: [`MoleculeEmbedder`]."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from ..checkpoints import DEFAULT_CHECKPOINT, checkpoint_path
from ..checkpoints.companions import ANCHOR
from ..checkpoints.loading import load_checkpoint, load_exported, weights_fingerprint
from ..data.argument_checks import check_choice, whole_number
from ..data.invalid_rows import ON_INVALID, progress_bar, read_molecules, values_in_place
from ..data.row_encoder import EncodedRows, RowEncoder, check_standardize
from ..data.token_batches import batch_tokens as default_batch_tokens
from ..data.token_batches import distinct_rows, padded_batches
from ..model.informative_embeddings_cmim import POOLINGS
from .principal_axes import PrincipalAxes

_OF_A_CALL = (
    "representation",
    "pooling",
    "dim",
    "canonicalize",
    "standardize",
    "on_invalid",
    "progress",
)
_LOADERS = {"torch": load_checkpoint, "onnx": load_exported}
_ONNX_TOKENS = 2048  # fastest with several threads


class MoleculeEmbedder:
    """Embeds molecules given as SMILES; a row depends on its molecule alone.

    Batches are cut by tokens from molecules sorted by length, so padding is little, and a molecule
    that occurs twice in a call is computed once. The same molecule in other company gives the same
    vector up to rounding: about 1e-6 of its norm in float32, 3e-3 in float16, 2e-2 in bfloat16.

    Args:
        checkpoint: A folder, a Hub id, or the name of a checkpoint that ships.
        device: Where to work; the accelerator if there is one, else the CPU.
        dtype: Of the weights; the checkpoint's, but float32 on a CPU.
        representation: `"informative"` (informative embeddings: pooled decoder states, hidden_size
            numbers), `"latent"` (the mean codes, num_latents * latent_size numbers) or `"both"`,
            in that order side by side.
        pooling: Of informative embeddings: `"mean"`, `"last"` or `"max"`.
        dim: Give so many numbers: coordinates along the principal axes that stand beside the
            checkpoint's weights (see
            [`~cmim_hf.embedding.principal_axes.PrincipalAxes`]), of the axes' representation and
            pooling. By default the vector itself.
        canonicalize: Rewrite each molecule as RDKit does, so that every writing of it gives the
            same vector. The model knows canonical SMILES: turn it off only for rows that are
            canonical already. Then rows are checked to be printable, and RDKit is not imported.
        standardize: `"parent"` embeds the parent of each molecule, so that a salt gives the vector
            of its acid or base (its largest fragment, neutral, see
            [`~cmim_hf.model.parent_molecule_cmim.parent`]); `"none"` the molecule as it is.
        on_invalid: What becomes of a row that is no text, empty, not printable, not a molecule
            (with `canonicalize`), or longer than the model reads: `"raise"` a ValueError that
            names it, `"none"` gives a row of NaN, `"skip"` leaves it out.
        batch_tokens: Most tokens of a batch, padding included; by default 8,192 on a CPU, 2,048
            there with `backend="onnx"`, and 65,536 elsewhere.
        progress: Show a bar when a call takes more than two seconds.
        backend: `"torch"`, or `"onnx"`, by which onnxruntime computes on the CPU what `cmim export`
            wrote: `checkpoint` is its folder, and torch's threads at the time are its number.
        hub: `revision`, `token`, `cache_dir` and the like of `from_pretrained`, see
            [`~cmim_hf.checkpoints.loading.load_checkpoint`].

    Raises:
        FileNotFoundError: No such checkpoint, or no graphs in it for `backend="onnx"`.
        ImportError: That, and onnxruntime is not installed.
        TypeError: An unknown argument.
        ValueError: A checkpoint that is damaged or of another kind, or an unknown choice.

    Example:
        >>> embedder = MoleculeEmbedder(progress=False)
        >>> vectors = embedder.embed(["CCO", "OCC", "c1ccccc1O"])
        >>> vectors.shape, bool((vectors[0] == vectors[1]).all())
        ((3, 192), True)
        >>> rows = ["CCO", "C(C", None, "c1ccccc1O"]
        >>> vectors, kept = embedder.embed(rows, on_invalid="skip", return_indices=True)
        >>> kept
        array([0, 3])
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        representation: str = "informative",
        pooling: str = "mean",
        dim: int | None = None,
        canonicalize: bool = True,
        standardize: str = "none",
        on_invalid: Literal["raise", "none", "skip"] = "raise",
        batch_tokens: int | None = None,
        progress: bool = True,
        backend: str = "torch",
        **hub: Any,
    ) -> None:
        """Load the checkpoint."""
        self.checkpoint = os.fspath(checkpoint)
        check_choice("backend", backend, tuple(_LOADERS))
        self.backend = backend
        self.model, self.tokenizer = _LOADERS[backend](checkpoint, device, dtype, **hub)
        self.representation = representation
        self.pooling = pooling
        self.dim = dim
        self._hub = hub
        self.canonicalize = canonicalize
        self.standardize = standardize
        self.on_invalid = on_invalid
        if batch_tokens is None:
            onnx = backend == "onnx"
            batch_tokens = _ONNX_TOKENS if onnx else default_batch_tokens(self.model.device)
        self.batch_tokens = whole_number("batch_tokens", batch_tokens, 1)
        self.progress = progress
        self._check()

    def embed(
        self,
        smiles: Iterable[str],
        *,
        return_indices: bool = False,
        **settings: Any,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embed a list, array, series or generator of SMILES, in the order given.

        `settings` are those of the constructor, for this call: `representation`, `pooling`,
        `dim`, `canonicalize`, `standardize`, `on_invalid` and `progress`.

        Returns:
            (rows, size) in float32; with `return_indices` also (rows,), the index in `smiles` of
            each row, which tells where `on_invalid="skip"` left rows out.

        Raises:
            TypeError: One string, or a table, in place of a list; an unknown setting.
            ValueError: An invalid molecule and `on_invalid="raise"`, an unknown choice, or numbers
                that are not finite.
        """
        if unknown := settings.keys() - set(_OF_A_CALL):
            raise TypeError(
                f"embed takes {', '.join(_OF_A_CALL)}, not {', '.join(unknown)}: make another "
                "MoleculeEmbedder."
            )
        if settings.get("dim") is not None:
            _ = self.axes  # kept here, not in the copy alone
        call = copy.copy(self)
        vars(call).update(settings)
        call._check()
        encoded = read_molecules(call.encoder(), smiles, call.on_invalid, call.progress)
        vectors = call.embed_encoded(encoded, call.progress)
        vectors = values_in_place(vectors, encoded, call.on_invalid)
        if not return_indices:
            return vectors
        return vectors, np.arange(len(vectors)) if call.on_invalid == "none" else encoded.kept

    def encoder(self) -> RowEncoder:
        """What turns rows into this model's tokens; it can be sent to other processes."""
        longest = self.model.config.max_position_embeddings
        return RowEncoder(self.tokenizer, longest, self.canonicalize, self.standardize)

    @torch.inference_mode()
    def embed_encoded(self, encoded: EncodedRows, progress: bool = False) -> np.ndarray:
        """Embed rows that `encoder` encoded: (usable rows, size) in float32, in order."""
        first, place = distinct_rows(encoded)
        vectors = np.empty((len(first), self.size), np.float32)
        pad, device = self.model.config.pad_token_id, self.model.device
        with progress_bar(len(place), "Embedding molecules", progress) as bar:
            for rows, *inputs in padded_batches(encoded, first, self.batch_tokens, pad, device):
                how = {"representation": self.representation, "pooling": self.pooling}
                found = self.model.get_representation(*inputs, **how).float().cpu().numpy()
                vectors[rows] = found if self.dim is None else self.axes.project(found, self.dim)
                bar.update(len(rows))
            bar.update(len(place) - len(first))
        if not np.isfinite(vectors).all():
            raise ValueError(
                f"The model {self.checkpoint} gives numbers in {self.model.dtype} that are not "
                "finite: its weights are damaged, or too large for that type (try bfloat16 or "
                "float32)."
            )
        return vectors if len(first) == len(place) else vectors[place]

    @property
    def size(self) -> int:
        """Numbers in a vector of the embedder's own representation."""
        return self.dim or self.model.representation_size(self.representation)

    def fit_axes(self, smiles: Iterable[str]) -> PrincipalAxes:
        """The principal axes of the informative embeddings, pooled by the mean, of molecules.

        Saved beside the checkpoint's weights as `axes.safetensors` they serve its `dim`. Some ten
        thousand molecules will do; invalid ones are left out.

        Raises:
            ValueError: No more molecules than numbers in a vector.
        """
        how = {"representation": "informative", "pooling": "mean", "dim": None}
        return PrincipalAxes.fit(self.embed(smiles, on_invalid="skip", **how), self._anchor())

    @cached_property
    def axes(self) -> PrincipalAxes:
        """The principal axes that stand beside the checkpoint's weights.

        Raises:
            ValueError: There are none, or they are damaged or of another model.
        """
        axes = PrincipalAxes.beside(checkpoint_path(self.checkpoint), **self._hub)
        if axes is None:
            raise ValueError(
                f"`dim` needs principal axes, and there is no {PrincipalAxes.FILE} beside the "
                f"weights of {self.checkpoint}: fit them by MoleculeEmbedder.fit_axes, and save "
                "them there."
            )
        axes.check_model(self.checkpoint, self._anchor())
        return axes

    def _anchor(self) -> np.ndarray:
        how = {"representation": "informative", "pooling": "mean", "dim": None}
        return self.embed([ANCHOR], canonicalize=False, standardize="none", **how)[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of weights as loaded, their names and the tokenizer.

        With `dim` of the principal axes, too: by others a molecule has another vector.
        """
        if self.dim is None:
            return self._weights
        return hashlib.sha256(self._weights.encode() + self.axes.axes.tobytes()).hexdigest()

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self.model, self.tokenizer)

    def _check(self) -> None:
        self.model.representation_size(self.representation)
        check_choice("pooling", self.pooling, POOLINGS)
        if self.dim is not None:
            if (self.representation, self.pooling) != ("informative", "mean"):
                raise ValueError(
                    "`dim` shortens informative embeddings pooled by the mean, whose axes are "
                    f"known; not {self.representation}, {self.pooling}."
                )
            self.axes.checked(self.dim)
        check_choice("on_invalid", self.on_invalid, ON_INVALID)
        check_standardize(self.standardize, self.canonicalize)
