# SPDX-License-Identifier: Apache-2.0
"""The trained checkpoints that ship inside the package."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

DEFAULT_CHECKPOINT: str = str(_FOLDER / "small")


def list_checkpoints() -> dict[str, str]:
    """The checkpoints that ship: their names, each with the folder `from_pretrained` takes."""
    return {
        config.parent.name: str(config.parent) for config in sorted(_FOLDER.glob("*/config.json"))
    }
