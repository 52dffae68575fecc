# SPDX-License-Identifier: Apache-2.0
"""Molecules as one flat array of token ids, on disk and in memory; read without chemistry."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ..atomic_files import whole_folder
from .property_labels import PropertyLabels, PropertyScale
from .worker_pool import chunked

FORMAT_VERSION = 2  # 1 had no labels, and is read as well


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a fast tokenizer's `tokenizer.json`, in hexadecimal digits.

    Padding and truncation are left out: they are settings of the last call, not of the ids.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content = {key: content[key] for key in content if key not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_packed(folder: str | os.PathLike) -> bool:
    """Whether `PackedMolecules.save` wrote a folder of this name."""
    return Path(folder, "packed.json").is_file()


def _read_about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "packed.json").read_text(encoding="utf-8"))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class _Pack:
    """One pair of arrays; molecule i is `tokens[offsets[i] : offsets[i + 1]]`. Perhaps labels."""

    tokens: np.ndarray
    offsets: np.ndarray
    labels: PropertyLabels | None = None
    standardize: str = "none"
    folder: Path | None = None  # where the arrays are mapped from

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce_ex__(self, protocol: int) -> tuple:
        return (_Pack.open, (self.folder,)) if self.folder else super().__reduce_ex__(protocol)

    @staticmethod
    def open(folder: Path) -> _Pack:
        about = _read_about(folder)

        def read(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        labels = None
        if names := about.get("properties"):
            scale = PropertyScale(tuple(names), np.load(folder / "property_quantiles.npy"))
            labels = PropertyLabels(read("labels"), read("label_places"), scale)
        standard = about.get("standardize", "none")
        pack = _Pack(read("tokens"), read("offsets"), labels, standard, folder)
        if (len(pack), pack.offsets[-1]) != (about["molecules"], len(pack.tokens)):
            raise ValueError("its arrays are not those that packed.json describes")
        return pack


class PackedMolecules(Dataset):
    """Tokenised molecules of one tokenizer: a torch dataset over flat arrays.

    An item is a dict of `input_ids` (length,), the end token included; `row`, the molecule's number
    in the arrays, which `split` leaves as it is; and `epoch`, as `set_epoch` has set it. The epoch
    lives in shared memory, so data-loader processes that already run see it as well. Where there
    are labels (`property_scale` is not None), an item also has `property_labels` (properties,),
    standardised float32, NaN where not known. `standardize` says what the molecules were brought
    to before they were written, see [`~cmim_hf.data.row_encoder.RowEncoder`].

    Made by `prepare`, `load`, `from_tokens` and `concatenate`; loaded, it is pickled as the path of
    its folder.
    """

    def __init__(
        self, packs: Sequence[_Pack], rows: np.ndarray | None, vocab_size: int, tokenizer_hash: str
    ) -> None:
        """Join the packs; `rows` picks some of their molecules."""
        self._packs = list(packs)
        self._starts = [0, *accumulate(map(len, packs))]
        self._rows = rows
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.vocab_size = vocab_size
        self.tokenizer_hash = tokenizer_hash
        self.standardize = packs[0].standardize
        if any(pack.standardize != self.standardize for pack in packs):
            standards = " and ".join(sorted({pack.standardize for pack in packs}))
            raise ValueError(
                f"Packed molecules were prepared with different `standardize` ({standards}), so "
                "that a salt would be two molecules. Prepare them alike."
            )
        scales = [pack.labels.scale for pack in packs if pack.labels is not None]
        self.property_scale = scales[0] if scales else None
        if any(scale != self.property_scale for scale in scales):
            names = " and ".join(", ".join(scale.names[:3]) for scale in scales[:2])
            raise ValueError(
                "Packed molecules were labelled with different properties, or standardised by "
                f"different molecules ({names} ...). Prepare them in one call, or the later ones "
                "with the tokenizer and the scale of the first (--tokenizer FOLDER)."
            )

    @classmethod
    def from_tokens(
        cls,
        tokens: np.ndarray,
        lengths: np.ndarray,
        tokenizer: PreTrainedTokenizerBase,
        labels: PropertyLabels | None = None,
        standardize: str = "none",
    ) -> PackedMolecules:
        """Build from flat ids and the length of each molecule, `lengths.sum() == len(tokens)`."""
        pack = _Pack(tokens, _offsets(lengths), labels, standardize)
        return cls([pack], None, len(tokenizer), tokenizer_fingerprint(tokenizer))

    @classmethod
    def concatenate(cls, parts: Sequence[PackedMolecules]) -> PackedMolecules:
        """Return one dataset over several, in order, without copying; rows are numbered anew.

        Raises:
            ValueError: No part, or parts of different tokenizers.
        """
        hashes = {part.tokenizer_hash for part in parts}
        if len(hashes) != 1:
            raise ValueError(
                f"{len(parts)} sets of packed molecules come from {len(hashes)} tokenizers; give "
                "one or more sets that were prepared with one tokenizer."
            )
        rows = None
        if any(part._rows is not None for part in parts):
            starts = accumulate((part._starts[-1] for part in parts), initial=0)
            numbered = zip(starts, parts, strict=False)
            rows = np.concatenate([start + part._row_numbers() for start, part in numbered])
        packs = [pack for part in parts for pack in part._packs]
        return cls(packs, rows, parts[0].vocab_size, parts[0].tokenizer_hash)

    def __len__(self) -> int:
        """Return the number of molecules."""
        return self._starts[-1] if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return molecule `index`; IndexError beyond the last."""
        row = range(len(self))[index]
        row = row if self._rows is None else int(self._rows[row])
        which = bisect_right(self._starts, row) - 1
        pack, local = self._packs[which], row - self._starts[which]
        ids = np.asarray(pack.tokens[pack.offsets[local] : pack.offsets[local + 1]])
        item = {"input_ids": ids, "row": row, "epoch": int(self._epoch)}
        if pack.labels is not None:
            item["property_labels"] = pack.labels[local]
        elif self.property_scale is not None:
            item["property_labels"] = np.full(len(self.property_scale.names), np.nan, np.float32)
        return item

    @classmethod
    def load(
        cls, folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> PackedMolecules:
        """Open a folder that `save` wrote; its arrays stay on disk, and what is asked for is read.

        Args:
            folder: Where it is.
            tokenizer: Given, it must be the one the molecules were prepared with.

        Raises:
            FileNotFoundError: The folder lacks one of its files.
            ValueError: Another format version or tokenizer, or a copy that was cut off.
        """
        folder = Path(folder).absolute()
        try:
            about = _read_about(folder)
            if about.get("format_version") not in (1, FORMAT_VERSION):
                raise ValueError(f"its format version, {about.get('format_version')}, is unknown")
            pack = _Pack.open(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{folder} holds no packed molecules, or not all of their files: "
                f"{Path(error.filename).name} is missing. Give a folder that `cmim prepare` wrote."
            ) from error
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{folder} cannot be read: {error}. Prepare or copy it again."
            ) from error
        molecules = cls([pack], None, about["vocab_size"], about["tokenizer_hash"])
        if tokenizer is not None and tokenizer_fingerprint(tokenizer) != molecules.tokenizer_hash:
            raise ValueError(
                f"{folder} was prepared with another tokenizer ({molecules.vocab_size} "
                f"entries) than the one given ({len(tokenizer)} entries). Prepare the molecules "
                "again, or load their tokenizer."
            )
        return molecules

    def save(self, folder: str | os.PathLike) -> None:
        """Write the molecules here and their labels into a new folder, which is whole or absent.

        Raises:
            FileExistsError: There is such a folder already.
            OSError: The disk is full.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} exists; remove it or save under another name.")
        pack = self._gathered()
        arrays = {"tokens": pack.tokens, "offsets": pack.offsets}
        about = {
            "format_version": FORMAT_VERSION,
            "molecules": len(pack),
            "tokens": len(pack.tokens),
            "vocab_size": self.vocab_size,
            "tokenizer_hash": self.tokenizer_hash,
            "standardize": self.standardize,
        }
        if pack.labels is not None:
            arrays["labels"], arrays["label_places"] = pack.labels.codes, pack.labels.places
            arrays["property_quantiles"] = pack.labels.scale.quantiles
            about["properties"] = pack.labels.scale.names
        with whole_folder(folder) as partial:
            partial.mkdir()
            for name, array in arrays.items():
                with open(partial / f"{name}.npy", "wb") as stream:
                    np.save(stream, array)
                    stream.flush()
                    os.fsync(stream.fileno())
            text = json.dumps(about, indent=2) + "\n"
            (partial / "packed.json").write_text(text, encoding="utf-8")

    def _gathered(self) -> _Pack:
        """The molecules here as one pack, copied into memory where they are not one already."""
        if len(self._packs) == 1 and self._rows is None:
            return self._packs[0]
        if self._rows is None:
            blocks = [pack.tokens for pack in self._packs]
        else:
            chunks = chunked(range(len(self)))
            blocks = [np.concatenate([self[i]["input_ids"] for i in chunk]) for chunk in chunks]
        tokens, offsets = np.concatenate(blocks), _offsets(self.lengths)
        return _Pack(tokens, offsets, self.labels(), self.standardize)

    def labelled(
        self, rows: np.ndarray, values: np.ndarray, scale: PropertyScale
    ) -> PackedMolecules:
        """The same molecules, gathered in memory, with labels.

        Args:
            rows: (labelled,), which of the molecules here they belong to.
            values: (labelled, properties), in the properties' own units, NaN where not known.
            scale: By which they are standardised.
        """
        labels = PropertyLabels.of_values(values, rows, len(self), scale)
        pack = replace(self._gathered(), labels=labels, folder=None)
        return PackedMolecules([pack], None, self.vocab_size, self.tokenizer_hash)

    def labels(self) -> PropertyLabels | None:
        """The labels of the molecules here, copied into one; None where there are none."""
        if self.property_scale is None:
            return None
        codes, places, labelled = [], [], 0
        for pack in self._packs:
            own = np.full(len(pack), -1, np.int32) if pack.labels is None else pack.labels.places
            places.append(np.where(own < 0, -1, own + labelled).astype(np.int32))
            if pack.labels is not None:
                codes.append(pack.labels.codes)
                labelled += len(pack.labels.codes)
        codes, places = np.concatenate(codes), np.concatenate(places)
        return PropertyLabels(codes, places, self.property_scale).take(self._row_numbers())

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each molecule (molecules,), the end token included; computed on each use."""
        lengths = np.concatenate([np.diff(pack.offsets) for pack in self._packs])
        return lengths if self._rows is None else lengths[self._rows]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the items carry, in every process."""
        self._epoch.fill_(epoch)

    def split(self, size: int, seed: int) -> tuple[PackedMolecules, PackedMolecules]:
        """Hold `size` molecules out, the same ones for the same (molecules, size, seed).

        Returns:
            (the others, the held-out ones), each in the order here, as views of the same arrays.
            Rows that repeat a molecule are not looked for: they may fall on both sides.

        Raises:
            ValueError: `size` leaves one side empty.
        """
        if not 0 < size < len(self):
            raise ValueError(f"Cannot hold {size} of {len(self)} molecules out; leave both sides.")
        held = np.zeros(len(self), dtype=bool)
        held[np.random.default_rng(seed).choice(len(self), size, replace=False)] = True
        rows = self._row_numbers()
        return self._view(rows[~held]), self._view(rows[held])

    def _view(self, rows: np.ndarray) -> PackedMolecules:
        return PackedMolecules(self._packs, rows, self.vocab_size, self.tokenizer_hash)

    def _row_numbers(self) -> np.ndarray:
        return np.arange(len(self)) if self._rows is None else self._rows
