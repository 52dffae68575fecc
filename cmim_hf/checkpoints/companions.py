# SPDX-License-Identifier: Apache-2.0
"""Tensors fitted to what a checkpoint computes, in a file of their own, maybe beside its weights.

Such a file is of one model. It is known again, in any precision, by what it computes of one
molecule, its `anchor`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers.utils import cached_file

from ..atomic_files import check_output, write_whole

SUFFIX = ".safetensors"

ANCHOR = "CC(=O)Nc1ccc(O)cc1"
"""The molecule by which a model is known again: paracetamol."""

_SAME = 0.1  # relative; half precision moves a vector by a hundredth, other weights by its size


class Companion:
    """What such a file holds. A kind of it says in attributes of its class what is common to all.

    Attributes:
        FILE: Its name beside a checkpoint's weights.
        FORMAT: The mark by which a file is known to be of the kind.
        WHAT: What errors call it.
        FITTED_BY: What makes it.
        KEPT: The attributes that are saved, and arguments by which it is made again; arrays are
            tensors, others settings.
        shape: Of what a model makes of one molecule.
        anchor: What the model that it was fitted to makes of `ANCHOR`; None if it is not known.
    """

    FILE: ClassVar[str]
    FORMAT: ClassVar[str]
    WHAT: ClassVar[str]
    FITTED_BY: ClassVar[str]
    KEPT: ClassVar[tuple[str, ...]]
    shape: tuple[int, ...]
    anchor: np.ndarray | None

    def check_model(self, name: str, anchor: np.ndarray) -> None:
        """Refuse another model than the one it was fitted to.

        Args:
            name: The model's, for the error.
            anchor: What it makes of `ANCHOR`, in any precision.

        Raises:
            ValueError: Its results have another shape, or that of this molecule is another.
        """
        other = 0.0
        if anchor.shape == self.shape and self.anchor is not None:
            other = float(np.linalg.norm(anchor - self.anchor) / np.linalg.norm(self.anchor))
        if anchor.shape != self.shape or not other <= _SAME:
            found = f"numbers differ by {other:.0%}"
            if anchor.shape != self.shape:
                found = f"there are {anchor.shape} numbers, not {self.shape},"
            raise ValueError(
                f"The {self.WHAT} must come from {name} itself, not from another model: {found} "
                f"for the same molecule. Fit with this model, by {self.FITTED_BY}."
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write a `.safetensors` file with a checksum, which appears whole or not at all.

        Raises:
            ValueError: Another suffix.
            FileNotFoundError: Its folder does not exist.
        """
        path = check_output(path, (SUFFIX,))
        kept = {name: value for name in self.KEPT if (value := getattr(self, name)) is not None}
        tensors = {
            name: np.ascontiguousarray(value)
            for name, value in kept.items()
            if isinstance(value, np.ndarray)
        }
        settings = {name: repr(value) for name, value in kept.items() if name not in tensors}
        about = {"format": self.FORMAT, **settings, "sha256": _digest(tensors, settings)}
        write_whole(path, save(tensors, about))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: No such file.
            ValueError: It is damaged, or holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file {path} with a {cls.WHAT}.")
        try:
            with safe_open(path, "numpy") as file:
                settings = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"The {cls.WHAT} {path} cannot be read ({error}): it is no {SUFFIX} file, damaged "
                "or cut short. Copy it again, or fit it again."
            ) from error
        found, digest = settings.pop("format", None), settings.pop("sha256", None)
        if found != cls.FORMAT:
            raise ValueError(
                f"{path} holds no {cls.WHAT} (its format is {found!r}, not {cls.FORMAT!r})."
            )
        if digest != _digest(tensors, settings):
            raise ValueError(
                f"The {cls.WHAT} {path} is not what was saved: its content does not fit its "
                "checksum. Copy it again, or fit it again."
            )
        return cls(**tensors, **settings)

    @classmethod
    def beside(cls, checkpoint: str, **hub: Any) -> Self | None:
        """The one beside a checkpoint's weights, see `find_beside`; None without.

        Raises:
            ValueError: It is damaged.
        """
        file = find_beside(checkpoint, cls.FILE, **hub)
        return None if file is None else cls.load(file)


def find_beside(checkpoint: str, name: str, **hub: Any) -> str | None:
    """The path of a file beside a checkpoint's weights, a folder or a Hub id; None without.

    `hub` are arguments of [`~cmim_hf.checkpoints.loading.load_checkpoint`].
    """
    return cached_file(
        checkpoint,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )


def _digest(tensors: dict[str, np.ndarray], settings: dict[str, str]) -> str:
    digest = hashlib.sha256("".join(settings.values()).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
