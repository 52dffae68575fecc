# SPDX-License-Identifier: Apache-2.0
"""Molecules as one flat array of token ids, on disk and in memory; read without chemistry."""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from .atomic import whole_folder

FORMAT_VERSION = 1

_FILES = ("tokens.npy", "offsets.npy", "packed.json")
_GATHER_ROWS = 65536


def token_dtype(tokenizer: PreTrainedTokenizerBase) -> type[np.unsignedinteger]:
    """Return the smallest of uint16 and uint32 that holds every id of the tokenizer."""
    return np.uint16 if len(tokenizer) <= 2**16 else np.uint32


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


def _write_array(path: Path, dtype: np.dtype, blocks: Iterable[np.ndarray], length: int) -> None:
    """Write a `.npy` file of one dimension; a mapped one would die of SIGBUS on a full disk."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype).data)
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True)
class _Pack:
    """One pair of arrays; molecule i is `tokens[offsets[i] : offsets[i + 1]]`."""

    tokens: np.ndarray
    offsets: np.ndarray
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple:
        if self.folder is not None:
            return _Pack.open, (self.folder, True)
        return _Pack, (self.tokens, self.offsets)

    @staticmethod
    def open(folder: Path, mmap: bool) -> "_Pack":
        mode = "r" if mmap else None
        arrays = (np.load(folder / f"{name}.npy", mmap_mode=mode) for name in ("tokens", "offsets"))
        return _Pack(*arrays, folder if mmap else None)


class PackedMolecules(Dataset):
    """Tokenised molecules of one tokenizer: a torch dataset over flat arrays.

    An item is a dict of `input_ids` (length,), the end token included; `row`, the molecule's number
    in the arrays, which `split` leaves as it is; and `epoch`, as `set_epoch` has set it. The epoch
    lives in shared memory, so data-loader processes that already run see it as well.

    Loaded with `mmap`, the dataset is pickled as the path of its folder.
    """

    def __init__(
        self,
        packs: Sequence[_Pack],
        rows: np.ndarray | None,
        vocab_size: int,
        tokenizer_hash: str,
    ) -> None:
        """Join the packs; `rows` picks some of their molecules. Users call the class methods."""
        self._packs = list(packs)
        self._starts = [0, *accumulate(map(len, self._packs))]
        self._rows = rows
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.vocab_size = vocab_size
        self.tokenizer_hash = tokenizer_hash

    @classmethod
    def from_tokens(
        cls, tokens: np.ndarray, lengths: np.ndarray, tokenizer: PreTrainedTokenizerBase
    ) -> "PackedMolecules":
        """Build from flat ids and the length of each molecule, `lengths.sum() == len(tokens)`."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if offsets[-1] != len(tokens):
            raise ValueError(f"The lengths sum to {offsets[-1]}, but there are {len(tokens)} ids.")
        pack = _Pack(tokens.astype(token_dtype(tokenizer), copy=False), offsets)
        return cls([pack], None, len(tokenizer), tokenizer_fingerprint(tokenizer))

    @classmethod
    def concatenate(cls, parts: "Sequence[PackedMolecules]") -> "PackedMolecules":
        """Return one dataset over several, in order, without copying; rows are numbered anew.

        Raises:
            ValueError: no part, or parts of different tokenizers.
        """
        if len({part.tokenizer_hash for part in parts}) != 1:
            raise ValueError(
                f"{len(parts)} sets of packed molecules come from "
                f"{len({part.tokenizer_hash for part in parts})} tokenizers; give one or more sets "
                "that were prepared with one tokenizer."
            )
        starts = accumulate((part._starts[-1] for part in parts), initial=0)
        rows = [start + part._row_numbers() for start, part in zip(starts, parts, strict=False)]
        whole = all(part._rows is None for part in parts)
        packs = [pack for part in parts for pack in part._packs]
        first = parts[0]
        return cls(
            packs, None if whole else np.concatenate(rows), first.vocab_size, first.tokenizer_hash
        )

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
        return {"input_ids": ids, "row": row, "epoch": int(self._epoch)}

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        mmap: bool = True,
    ) -> "PackedMolecules":
        """Open a folder that `save` wrote.

        Args:
            folder: where it is.
            tokenizer: given, it must be the one the molecules were prepared with.
            mmap: leave the arrays on disk and read what is asked for; False reads all now.

        Raises:
            FileNotFoundError: the folder lacks one of its files.
            ValueError: another format version, another tokenizer, or arrays that do not match
                their description (a copy that was cut off).
        """
        folder = Path(folder).absolute()
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} holds no packed molecules: {', '.join(missing)} is missing. "
                "Give a folder written by PackedMolecules.save."
            )
        about = json.loads((folder / "packed.json").read_text(encoding="utf-8"))
        if about.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{folder} has format version {about.get('format_version')}; this version reads "
                f"{FORMAT_VERSION}. Prepare the molecules again."
            )
        try:
            pack = _Pack.open(folder, mmap)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{folder} is damaged: {error}. Prepare or copy it again.") from error
        counts = {"molecules": len(pack), "tokens": len(pack.tokens)}
        if counts != {key: about[key] for key in counts} or pack.offsets[-1] != counts["tokens"]:
            raise ValueError(f"{folder} is damaged: it holds {counts}, packed.json says {about}.")
        molecules = cls([pack], None, about["vocab_size"], about["tokenizer_hash"])
        if tokenizer is not None:
            molecules.check_tokenizer(tokenizer)
        return molecules

    def save(self, folder: str | os.PathLike) -> None:
        """Write `tokens.npy`, `offsets.npy` and `packed.json` into a new folder.

        The folder appears whole or not at all. A view writes its own molecules only.

        Raises:
            FileExistsError: there is such a folder already.
            OSError: the disk is full.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} exists; remove it or save under another name.")
        with whole_folder(folder) as partial:
            partial.mkdir()
            self._write(partial)

    def _write(self, folder: Path) -> None:
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        dtype = max((pack.tokens.dtype for pack in self._packs), key=lambda kind: kind.itemsize)
        _write_array(folder / "offsets.npy", np.dtype(np.int64), [offsets], len(offsets))
        filled = int(offsets[-1])
        _write_array(folder / "tokens.npy", dtype, self._token_blocks(), filled)
        about = {
            "format_version": FORMAT_VERSION,
            "molecules": len(self),
            "tokens": filled,
            "vocab_size": self.vocab_size,
            "tokenizer_hash": self.tokenizer_hash,
        }
        text = json.dumps(about, indent=2) + "\n"
        (folder / "packed.json").write_text(text, encoding="utf-8")

    def _token_blocks(self) -> Iterator[np.ndarray]:
        if self._rows is None:
            yield from (pack.tokens for pack in self._packs)
            return
        for start in range(0, len(self), _GATHER_ROWS):
            stop = min(start + _GATHER_ROWS, len(self))
            yield np.concatenate([self[i]["input_ids"] for i in range(start, stop)])

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a ValueError where the molecules were prepared with another tokenizer."""
        found = tokenizer_fingerprint(tokenizer)
        if found != self.tokenizer_hash:
            raise ValueError(
                f"The packed molecules were prepared with another tokenizer ({self.vocab_size} "
                f"entries, hash {self.tokenizer_hash[:12]}) than the one given ({len(tokenizer)} "
                f"entries, hash {found[:12]}). Prepare them again, or load their tokenizer."
            )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each molecule (molecules,), the end token included; computed on each use."""
        lengths = np.concatenate([np.diff(pack.offsets) for pack in self._packs])
        return lengths if self._rows is None else lengths[self._rows]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the items carry, in every process."""
        self._epoch.fill_(epoch)

    def split(self, size: int, seed: int) -> "tuple[PackedMolecules, PackedMolecules]":
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

    def _view(self, rows: np.ndarray) -> "PackedMolecules":
        return PackedMolecules(self._packs, rows, self.vocab_size, self.tokenizer_hash)

    def _row_numbers(self) -> np.ndarray:
        return np.arange(len(self)) if self._rows is None else self._rows
