# SPDX-License-Identifier: Apache-2.0
"""The checkpoints in a run's output folder: which are whole, and which are of this run."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from ..atomic_files import write_whole
from ..model.checksums_cmim import check_weights

logger = logging.get_logger(__name__)

RUN_FILE = "run.txt"
"""Which run a folder, or a checkpoint in it, is of."""


def newest_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that was written to its end, or `None`.

    A run killed while it wrote a checkpoint leaves one without its state file, which is written
    last; resuming from such a folder, or from one with damaged weights, fails, so the one before
    it is taken, and that is said. So it is of those of an earlier run into the same folder.
    """
    steps = [
        int(folder.name.removeprefix("checkpoint-"))
        for folder in Path(output_dir).glob("checkpoint-*")
        if folder.name.removeprefix("checkpoint-").isdecimal()
    ]
    run = _run_of(Path(output_dir))
    for step in sorted(steps, reverse=True):
        folder = Path(output_dir, f"checkpoint-{step}")
        if reason := flaw(folder):
            logger.warning(f"{folder} is passed over: {reason}")
        elif run is not None and _run_of(folder) != run:
            logger.warning(f"{folder} is passed over: it is of an earlier run into {output_dir}.")
        else:
            return str(folder)
    return None


def name_run(output_dir: Path, resumed: str | bool | None) -> None:
    """Put a run's name into its folder: a new one, or that of the checkpoint it goes on from."""
    if resumed is True:
        resumed = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
    folder = Path(resumed) if resumed else None
    name = (_run_of(folder) if folder else None) or uuid4().hex
    if folder is not None and folder.is_dir():  # first, as other processes may look for it now
        write_whole(folder / RUN_FILE, name + "\n")
    write_whole(output_dir / RUN_FILE, name + "\n")


def _run_of(folder: Path) -> str | None:
    file = folder / RUN_FILE
    return file.read_text().strip() if file.is_file() else None


def flaw(checkpoint: Path) -> str:
    """Why a checkpoint cannot be gone on from; "" where it can."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        check_weights(checkpoint)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return ""
