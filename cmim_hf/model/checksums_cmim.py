# SPDX-License-Identifier: Apache-2.0
"""Checksums of a checkpoint's weights: `SHA256SUMS` beside them, as `sha256sum` writes and reads.

A safetensors file has no checksum of its own: one flipped bit in it is another weight. Weights that
another program has written since, `Accelerator.save_model` say, are told from damaged ones by their
time: they are younger than the checksums by more than a copy takes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)

CHECKSUMS = "SHA256SUMS"
_COPIED_TOGETHER = 2.0  # seconds between files of one copy


def forget_checksums(folder: str | os.PathLike) -> None:
    """Remove the checksums, if there are any, before the weights change."""
    Path(folder, CHECKSUMS).unlink(missing_ok=True)


def write_checksums(folder: str | os.PathLike) -> None:
    """Write the checksums of a model's weights in a folder, if they are there."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    lines = [f"{_digest(file)}  {file.name}\n" for file in files]
    if lines:
        Path(folder, CHECKSUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def check_weights(folder: str | os.PathLike) -> None:
    """Compare the weights of a folder with its checksums; without those there is nothing to do.

    Weights that were written later than the checksums are taken with a warning.

    Raises:
        ValueError: A file is missing or not what was saved.
    """
    sums = Path(folder, CHECKSUMS)
    if not sums.is_file():
        return
    for number, line in enumerate(sums.read_text(encoding="utf-8").splitlines(), 1):
        expected, _, name = line.partition("  ")
        if len(expected) != 64 or not name or Path(name).name != name:
            raise ValueError(f"{sums} line {number} is no checksum of a file in its folder.")
        file = Path(folder, name)
        if not file.is_file():
            raise ValueError(f"{file} is missing, which {CHECKSUMS} lists: copy it again.")
        if (found := _digest(file)) == expected:
            continue
        if file.stat().st_mtime > sums.stat().st_mtime + _COPIED_TOGETHER:
            logger.warning(
                f"{file} was written after {CHECKSUMS}, which says another content; it is taken as "
                f"it is. If no program of yours wrote it, copy the checkpoint again; if one did, "
                f"delete {sums}."
            )
        else:
            raise ValueError(
                f"{file} is not what was saved: its SHA-256 starts with {found[:12]}, {CHECKSUMS} "
                f"says {expected[:12]}. It is damaged or cut short: copy the checkpoint again. (If "
                f"it was changed on purpose, delete {sums}.)"
            )


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
