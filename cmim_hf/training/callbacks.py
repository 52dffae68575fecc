# SPDX-License-Identifier: Apache-2.0
"""What happens between a run's steps: its time is looked at, its noise differs by rank."""

from __future__ import annotations

import time
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)


class TimeLimit(TrainerCallback):
    """Ends training at a saved checkpoint when its time is up, on all ranks at one step.

    Args:
        seconds: From the beginning of training.
    """

    def __init__(self, seconds: float) -> None:
        """Keep the limit."""
        self._seconds = seconds

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self._seconds

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look at the clock; the first process's counts."""
        over = time.monotonic() >= self._end
        if args.world_size > 1:
            over = broadcast_object_list([over])[0]
        if over and not control.should_training_stop:
            logger.info(f"Time is up at step {state.global_step} of {state.max_steps}.")
            control.should_training_stop = control.should_save = True


class RankNoise(TrainerCallback):
    """Gives each rank its own latent noise: Trainer seeds all ranks alike."""

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Seed anew, but for the first rank."""
        if args.process_index:
            set_seed(args.seed + args.process_index)
