# SPDX-License-Identifier: Apache-2.0
"""Tensors fitted to what a checkpoint computes, in a file of their own, maybe beside its weights.

Such a file is of one model. It is known again, in any precision, by what it computes of one
molecule, its `anchor`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers.utils import cached_file

from ..atomic_files import check_output, write_whole

SUFFIX = ".safetensors"

ANCHOR = "CC(=O)Nc1ccc(O)cc1"
"""The molecule by which a model is known again: paracetamol."""

_SAME = 0.1  # relative; half precision moves a vector by a hundredth, other weights by its size


def save_tensors(
    path: str | os.PathLike, tensors: dict[str, np.ndarray], form: str, **settings: str
) -> None:
    """Write a `.safetensors` file with a checksum, which appears whole or not at all.

    Raises:
        ValueError: Another suffix.
        FileNotFoundError: Its folder does not exist.
    """
    path = check_output(path, (SUFFIX,))
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    about = {"format": form, **settings}
    write_whole(path, save(tensors, about | {"sha256": _digest(tensors, settings)}))


def load_tensors(
    path: str | os.PathLike, form: str, what: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `save_tensors` wrote: the tensors and the settings.

    Args:
        path: A file that is there.
        form: The `form` it was written with.
        what: What it holds, as "prior", for the errors.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path} with a {what}.")
    try:
        with safe_open(path, "numpy") as file:
            settings = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"The {what} {path} cannot be read ({error}): it is no {SUFFIX} file, damaged or cut "
            "short. Copy it again, or fit it again."
        ) from error
    found, digest = settings.pop("format", None), settings.pop("sha256", None)
    if found != form:
        raise ValueError(f"{path} holds no {what} (its format is {found!r}, not {form!r}).")
    if digest != _digest(tensors, settings):
        raise ValueError(
            f"The {what} {path} is not what was saved: its content does not fit its checksum. Copy "
            "it again, or fit it again."
        )
    return tensors, settings


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


def difference(found: np.ndarray, anchor: np.ndarray) -> float | None:
    """By how much what a model makes of `ANCHOR` differs from `anchor`, relative to this.

    None where it does not differ by more than another precision of the same weights makes.
    """
    relative = float(np.linalg.norm(found - anchor) / np.linalg.norm(anchor))
    return None if relative <= _SAME else relative


def _digest(tensors: dict[str, np.ndarray], settings: dict[str, str]) -> str:
    digest = hashlib.sha256("".join(settings.values()).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
