# SPDX-License-Identifier: Apache-2.0
"""From examples to a batch for training: padding, keys, and a second writing for InfoNCE."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .token_batches import padded

logger = logging.get_logger(__name__)


class CMIMCollator:
    """Pads examples to one batch, with a key for each molecule and, for InfoNCE, a second view.

    A batch of B examples becomes, with R = views · B rows and L the longest of them,
    `input_ids` (R, L), `attention_mask` (R, L; 1 on real tokens), `labels` (R, L; −100 where
    padded) and `keys` (B,), all int64; and, where the examples have them, `property_labels`
    (B, properties), float32. Rows B to 2B are the second view: a random writing of
    each molecule that is a function of (seed, epoch, row) alone. Where there is none (the molecule
    does not parse) or it is longer than `max_length`, the first view stands in for it.

    Args:
        tokenizer: The one the examples were made with.
        views: 1 or 2; 2 needs RDKit and examples with `row` and `epoch`.
        max_length: Most tokens of a second view; None means `tokenizer.model_max_length`.
        seed: Of the random writings.

    Raises:
        ValueError: Another number of views.

    >>> from cmim_hf import default_tokenizer
    >>> collate = CMIMCollator(default_tokenizer())
    >>> batch = collate([{"input_ids": [5, 6, 2]}, {"input_ids": [5, 2]}])
    >>> batch["input_ids"].tolist(), batch["labels"].tolist()
    ([[5, 6, 2], [5, 2, 0]], [[5, 6, 2], [5, 2, -100]])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        views: int = 1,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the arguments."""
        if views not in (1, 2):
            raise ValueError(f"views is 1, or 2 for InfoNCE, not {views!r}.")
        self.tokenizer = tokenizer
        self.views = views
        self.max_length = tokenizer.model_max_length if max_length is None else max_length
        self.seed = seed

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of some examples, in their order."""
        rows = [np.asarray(example["input_ids"], np.int64) for example in examples]
        keys = torch.tensor([molecule_key(ids) for ids in rows])
        if self.views == 2:
            rows += [self._second_view(example) for example in examples]
        lengths = np.array([len(ids) for ids in rows])
        starts = np.cumsum(lengths) - lengths
        input_ids, real = padded(np.concatenate(rows), starts, lengths, self.tokenizer.pad_token_id)
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
            "labels": torch.from_numpy(np.where(real, input_ids, -100)),
            "keys": keys,
        }
        if "property_labels" in examples[0]:
            labels = np.stack([example["property_labels"] for example in examples])
            batch["property_labels"] = torch.from_numpy(labels)
        return batch

    def _second_view(self, example: Mapping[str, Any]) -> np.ndarray:
        from ..chemistry.smiles import randomize

        if "row" not in example or "epoch" not in example:
            raise ValueError(
                f"views=2 needs examples with 'row' and 'epoch', got {sorted(example)}. Use "
                "PackedMolecules or StreamedMolecules."
            )
        ids = np.asarray(example["input_ids"], np.int64)
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        key = f"{self.seed},{example['epoch']},{example['row']}".encode()
        try:
            writing = randomize(text, _hash(key, signed=False))
        except ValueError as error:
            logger.warning_once(
                f"Row {example['row']} has no random writing and is its own second view, as all "
                f"further rows of the kind: {error} Prepare molecules with canonicalize=True."
            )
            return ids
        second = self.tokenizer.encode(writing, verbose=False)  # as it is written
        return np.asarray(second, np.int64) if len(second) <= self.max_length else ids


def molecule_key(input_ids: Sequence[int] | np.ndarray) -> int:
    """Return a signed 64-bit hash (BLAKE2b) of token ids: equal ids, equal key, in any process."""
    return _hash(np.asarray(input_ids).astype("<u4").tobytes(), signed=True)


def _hash(content: bytes, signed: bool) -> int:
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=signed)
