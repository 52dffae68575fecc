# SPDX-License-Identifier: Apache-2.0
"""The trained checkpoints that ship inside the package."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent

DEFAULT_CHECKPOINT: str = str(_FOLDER / "small")


def list_checkpoints() -> dict[str, str]:
    """The checkpoints that ship: their names, each with the folder `from_pretrained` takes.

    A clone of the repository has two that pip does not install: `small-text` and `tiny`.
    """
    return {
        config.parent.name: str(config.parent) for config in sorted(_FOLDER.glob("*/config.json"))
    }


def checkpoint_path(name: str | os.PathLike) -> str:
    """The folder of a checkpoint that ships, by its name; what is there, or a Hub id, as it is.

    >>> checkpoint_path("small") == DEFAULT_CHECKPOINT, checkpoint_path("me/mine")
    (True, 'me/mine')
    """
    name = os.fspath(name)
    return name if os.path.exists(name) else list_checkpoints().get(name, name)


def checkpoint_name(checkpoint: str) -> str:
    """The name of a checkpoint that ships, by its folder; another one as it is.

    >>> checkpoint_name(DEFAULT_CHECKPOINT), checkpoint_name("me/mine")
    ('small', 'me/mine')
    """
    return {path: name for name, path in list_checkpoints().items()}.get(checkpoint, checkpoint)
