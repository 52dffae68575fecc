# SPDX-License-Identifier: Apache-2.0
"""SMILES in, vectors out: [`MoleculeEmbedder`]."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from .checkpoints import DEFAULT_CHECKPOINT
from .informative_cmim import POOLINGS
from .loading import floating_dtype, load_checkpoint, torch_device
from .modeling_cmim import CMIMModel
from .packing import tokenizer_fingerprint
from .preparation import EncodedRows, Reject, RowEncoder, chunked, encode_in_order
from .reading import Row

ON_INVALID = ("raise", "none", "skip")

_SECONDS_BEFORE_BAR = 2.0
_BATCH_TOKENS = {"cpu": 4096}  # what fits a core's cache; an accelerator wants more at once
_BATCH_TOKENS_ACCELERATOR = 65536


class MoleculeEmbedder:
    """Embeds molecules given as SMILES; a row depends on its molecule alone.

    Batches are cut by tokens from molecules sorted by length, so padding is little, and a molecule
    that occurs twice in a call is computed once. The same molecule in other company gives the same
    vector up to rounding: about 1e-6 of its norm in float32, 3e-3 in float16, 2e-2 in bfloat16.

    Args:
        checkpoint: A folder or a Hub id.
        device: Where to work; the accelerator if there is one, else the CPU.
        dtype: Of the weights; the checkpoint's, but float32 on a CPU.
        representation: `"informative"` (informative embeddings: pooled decoder states, hidden_size
            numbers), `"latent"` (the mean codes, num_latents * latent_size numbers) or `"both"`,
            in that order side by side.
        pooling: Of informative embeddings: `"mean"`, `"last"` or `"max"`.
        canonicalize: Rewrite each molecule as RDKit does, so that every writing of it gives the
            same vector. The model knows canonical SMILES: turn it off only for rows that are
            canonical already. Then rows are checked to be printable, and RDKit is not imported.
        on_invalid: What becomes of a row that is no text, empty, not printable, not a molecule
            (with `canonicalize`), or longer than the model reads: `"raise"` a ValueError that
            names it, `"none"` gives a row of NaN, `"skip"` leaves it out.
        batch_tokens: Most tokens of a batch, padding included; by default 4,096 on a CPU and
            65,536 elsewhere.
        progress: Show a bar when a call takes more than two seconds.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: A checkpoint that is damaged or of another kind, or an unknown choice.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        representation: str = "informative",
        pooling: str = "mean",
        canonicalize: bool = True,
        on_invalid: Literal["raise", "none", "skip"] = "raise",
        batch_tokens: int | None = None,
        progress: bool = True,
    ) -> None:
        """Load the checkpoint."""
        self.checkpoint = os.fspath(checkpoint)
        self.model, self.tokenizer = load_checkpoint(checkpoint, device, dtype)
        self.representation = representation
        self.pooling = pooling
        self.canonicalize = canonicalize
        self.on_invalid = on_invalid
        self.batch_tokens = batch_tokens
        self.progress = progress
        self._check(representation, pooling, on_invalid)
        if batch_tokens is not None and (not isinstance(batch_tokens, int) or batch_tokens < 1):
            raise ValueError(f"batch_tokens is a whole number from 1, not {batch_tokens!r}.")

    def embed(
        self,
        smiles: Iterable[str],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        representation: str | None = None,
        pooling: str | None = None,
        canonicalize: bool | None = None,
        on_invalid: Literal["raise", "none", "skip"] | None = None,
        return_indices: bool = False,
        progress: bool | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embed molecules, in the order given.

        Every argument that is not given is that of the constructor. Another device or dtype works
        on a copy of the model, made for this call.

        Args:
            smiles: A list, array, series or generator of SMILES.
            device: See the class, like the next six.
            dtype: See there.
            representation: See there.
            pooling: See there.
            canonicalize: See there.
            on_invalid: See there.
            return_indices: Return the indices as well.
            progress: See there.

        Returns:
            (rows, size) in float32; with `return_indices` also (rows,), the index in `smiles` of
            each row, which tells where `on_invalid="skip"` left rows out.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: An invalid molecule and `on_invalid="raise"`, an unknown choice, or numbers
                that are not finite.
        """
        representation = self.representation if representation is None else representation
        pooling = self.pooling if pooling is None else pooling
        on_invalid = self.on_invalid if on_invalid is None else on_invalid
        progress = self.progress if progress is None else progress
        self._check(representation, pooling, on_invalid)
        rows = [
            Row("the molecules (counted from 0)", i, text) for i, text in enumerate(_texts(smiles))
        ]
        encoder = self.encoder(canonicalize)
        parts = [encoder([])]
        with _bar(len(rows), "Reading molecules", progress) as bar:
            for part in encode_in_order(encoder, chunked(rows), num_workers=0):
                if part.rejects and on_invalid == "raise":
                    raise invalid_row(part.rejects[0])
                parts.append(part)
                bar.update(part.number)
        encoded = EncodedRows.concatenate(parts)
        model = self._model_on(device, dtype)
        with _bar(len(encoded.lengths), "Embedding molecules", progress) as bar:
            vectors = self._vectors(model, encoded, representation, pooling, bar)
        indices = encoded.kept
        if on_invalid == "none":
            vectors = with_empty_rows(vectors, encoded)
            indices = np.arange(len(rows))
        return (vectors, indices) if return_indices else vectors

    def encoder(self, canonicalize: bool | None = None) -> RowEncoder:
        """What turns rows into this model's tokens; it can be sent to other processes."""
        canonicalize = self.canonicalize if canonicalize is None else canonicalize
        return RowEncoder(self.tokenizer, self.model.config.max_position_embeddings, canonicalize)

    def embed_encoded(self, encoded: EncodedRows) -> np.ndarray:
        """Embed rows that `encoder` encoded: (usable rows, size) in float32, in order."""
        with _bar(len(encoded.lengths), "", False) as bar:
            return self._vectors(self.model, encoded, self.representation, self.pooling, bar)

    @property
    def size(self) -> int:
        """Numbers in a vector of the embedder's own representation."""
        return self.model.representation_size(self.representation)

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of a batch, padding included."""
        usual = _BATCH_TOKENS.get(self.model.device.type, _BATCH_TOKENS_ACCELERATOR)
        return self.batch_tokens or usual

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of weights as loaded, their names and the tokenizer."""
        digest = hashlib.sha256(tokenizer_fingerprint(self.tokenizer).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(memoryview(content.numpy()))
        return digest.hexdigest()

    def _check(self, representation: str, pooling: str, on_invalid: str) -> None:
        self.model.representation_size(representation)
        for name, value, known in (
            ("pooling", pooling, POOLINGS),
            ("on_invalid", on_invalid, ON_INVALID),
        ):
            if value not in known:
                raise ValueError(f"Unknown {name} {value!r}; choose one of {', '.join(known)}.")

    def _model_on(self, device: str | torch.device | None, dtype: torch.dtype | None) -> CMIMModel:
        device = self.model.device if device is None else torch_device(device)
        dtype = self.model.dtype if dtype is None else floating_dtype(dtype)
        if device == self.model.device and dtype == self.model.dtype:
            return self.model
        return copy.deepcopy(self.model).to(device, dtype)

    @torch.inference_mode()
    def _vectors(
        self, model: CMIMModel, encoded: EncodedRows, representation: str, pooling: str, bar: tqdm
    ) -> np.ndarray:
        """(usable rows, size) float32."""
        first, place = _distinct(encoded)
        size = model.representation_size(representation)
        vectors = np.empty((len(first), size), np.float32)
        pad = model.config.pad_token_id
        for rows, ids, mask in padded_batches(encoded, first, self.max_batch_tokens, pad):
            found = model.get_representation(
                ids.to(model.device),
                None if mask is None else mask.to(model.device),
                representation=representation,
                pooling=pooling,
            )
            vectors[rows] = found.float().cpu().numpy()
            bar.update(len(rows))
        if not np.isfinite(vectors).all():
            raise ValueError(
                f"The model {self.checkpoint} gives numbers in {model.dtype} that are not finite: "
                "its weights are damaged, or too large for that type (try bfloat16 or float32)."
            )
        bar.update(len(place) - len(first))
        return vectors if len(first) == len(place) else vectors[place]


def invalid_row(reject: Reject) -> ValueError:
    """The error of a row that cannot be embedded."""
    row = reject.row
    text = repr(row.text)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return ValueError(
        f"Row {row.number} of {row.source}, {shown}, cannot be embedded: "
        f"{reject.reason.rstrip('.')}. Mend or remove it, or choose what becomes of such rows by "
        "on_invalid: none (a row of NaN in its place) or skip (left out)."
    )


def with_empty_rows(vectors: np.ndarray, encoded: EncodedRows) -> np.ndarray:
    """(all rows, size): the vectors in their rows' places, NaN where a row is not usable."""
    if not encoded.rejects:
        return vectors
    complete = np.full((encoded.number, vectors.shape[1]), np.nan, np.float32)
    complete[encoded.kept] = vectors
    return complete


def _texts(smiles: Iterable[str]) -> list[Any]:
    if isinstance(smiles, str | bytes):
        raise TypeError(f"Expected a list of SMILES, got the single text {smiles!r}; pass [it].")
    if isinstance(smiles, Mapping) or hasattr(smiles, "columns"):
        raise TypeError(
            f"Expected a list of SMILES, got a {type(smiles).__name__}; pass its column of SMILES."
        )
    if hasattr(smiles, "to_pylist"):  # pyarrow, whose items are no strings
        return smiles.to_pylist()
    try:
        return list(smiles)
    except TypeError as error:
        raise TypeError(f"Expected a list of SMILES, got {smiles!r:.80}; pass [smiles].") from error


def _bar(total: int, what: str, progress: bool) -> tqdm:
    return tqdm(
        total=total,
        desc=what,
        unit=" molecules",
        delay=_SECONDS_BEFORE_BAR,
        disable=not progress,
        leave=False,
    )


def padded_batches(
    encoded: EncodedRows, rows: np.ndarray, max_tokens: int, pad_token_id: int
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    """Batches of similar lengths, the longest first, each of at most `max_tokens` with padding.

    Args:
        encoded: The molecules.
        rows: (n,), which of its usable rows to batch.
        max_tokens: A longer molecule is a batch by itself.
        pad_token_id: At the end of shorter rows.

    Yields:
        Places in `rows` (batch,), ids (batch, length) and mask, None where nothing is padded.
    """
    starts = (np.cumsum(encoded.lengths) - encoded.lengths)[rows]
    lengths = encoded.lengths[rows]
    last = len(encoded.tokens) - 1
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        chosen = order[begin : begin + max(1, max_tokens // longest)]
        begin += len(chosen)
        column = np.arange(longest)
        real = column < lengths[chosen, None]
        ids = encoded.tokens[np.minimum(starts[chosen, None] + column, last)].astype(np.int64)
        if real.all():
            yield chosen, torch.from_numpy(ids), None
        else:
            ids[~real] = pad_token_id
            yield chosen, torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


def _distinct(encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    """First rows of distinct molecules; for each row, the place of its molecule among them."""
    content = encoded.tokens.tobytes()
    width = encoded.tokens.itemsize
    places: dict[bytes, int] = {}
    first, place = [], np.empty(len(encoded.lengths), np.int64)
    ends = (np.cumsum(encoded.lengths) * width).tolist()
    start = 0
    for row, end in enumerate(ends):
        known = places.setdefault(content[start:end], len(first))
        if known == len(first):
            first.append(row)
        place[row] = known
        start = end
    return np.array(first, np.int64), place


__all__ = ["ON_INVALID", "MoleculeEmbedder", "invalid_row", "padded_batches", "with_empty_rows"]
