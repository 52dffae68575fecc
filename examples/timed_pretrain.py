# SPDX-License-Identifier: Apache-2.0
"""Pretrain within so many minutes: for a machine that is lent, or a slot of a queue.

    python examples/timed_pretrain.py examples/configs/base_timed.yaml --minutes 9 --export out

Measures the steps a second, eager and (on a GPU) compiled, takes the faster, and sets the number of
steps, and with it the learning rate's schedule, so that training ends in time. Every minute, and at
the end, the weights stand in `--export` as float16, in files of at most 15 MB, with their
`config.json`; nothing else is needed to take them home:

    CMIMModel.from_pretrained("out", dtype="float32").save_pretrained("runs/base")

and the tokenizer of the prepared molecules beside them. Needs torch, transformers and accelerate,
and molecules that `cmim prepare` has prepared; `make gpu-kit` packs these, and prints the
command.
"""

from __future__ import annotations

import json
import shutil
import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import HfArgumentParser, TrainerCallback, TrainerControl, TrainerState

from cmim_hf import CMIMModel, CMIMTrainingArguments
from cmim_hf.cli.exit_status import run_script
from cmim_hf.model.property_head_cmim import CMIMPropertyHead
from cmim_hf.training.pretraining import build_trainer
from cmim_hf.training.run_arguments import parse_arguments

STARTED = time.monotonic()
SHARD = "15MB"
MEASURED = 40.0  # seconds of eager steps; of compiled ones, half as many after their compilation
WARM = 5  # steps that are not counted
PATIENCE = 100.0  # seconds that these may take, compilation included
LAST = 20.0  # seconds kept for the evaluation and the last export
SLOWER = 0.96  # share of the measured rate that is counted on


@dataclass
class Arguments:
    """How long, and where to."""

    minutes: float = field(metadata={"help": "Of everything, from the start of this program."})
    export: str = field(metadata={"help": "Folder for the float16 weights."})
    export_every: float = field(default=60.0, metadata={"help": "Seconds from one to the next."})
    try_compiled: bool = field(
        default=True, metadata={"help": "On a GPU, measure torch.compile as well."}
    )
    measured_seconds: float = field(
        default=MEASURED, metadata={"help": "For which each of the two is measured."}
    )


class Speedometer(TrainerCallback):
    """Ends training `seconds` after the steps that warm up; gives the steps a second from there."""

    def __init__(self, seconds: float) -> None:
        """Begin to wait for the first steps."""
        self._seconds = seconds
        self._begun = time.monotonic()
        self._times: list[float] = []

    def on_step_end(
        self,
        args: CMIMTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Note the time."""
        now = time.monotonic()
        self._times.append(now)
        late = len(self._times) <= WARM and now - self._begun > PATIENCE
        if late or (len(self._times) > WARM and now - self._times[WARM - 1] > self._seconds):
            control.should_training_stop = True

    @property
    def rate(self) -> float:
        """Steps a second; 0 if it never came to the steps that count."""
        if len(self._times) <= WARM:
            return 0.0
        return (len(self._times) - WARM) / (self._times[-1] - self._times[WARM - 1])


class Exporter(TrainerCallback):
    """Exports the weights every so many seconds."""

    def __init__(self, folder: Path, seconds: float) -> None:
        """Begin to count now."""
        self._folder, self._seconds = folder, seconds
        self._last = time.monotonic()

    def on_step_end(
        self,
        args: CMIMTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: CMIMModel,
        **_: Any,
    ) -> None:
        """Export, if it is time."""
        if time.monotonic() - self._last >= self._seconds:
            export(model, self._folder, state.log_history)
            self._last = time.monotonic()


def export(model: CMIMModel, folder: Path, history: list[dict[str, Any]]) -> None:
    """Write float16 shards, `config.json` and the training log; at most eight files of `base`.

    Quantiles of properties, which may be beyond float16, stay as they are. `config.json` is taken
    away first and comes back last, so that shards of two exports never load.
    """
    model = getattr(model, "_orig_mod", model)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        rounded = deepcopy(model).half()
        if isinstance(model.property_head, CMIMPropertyHead):
            rounded.property_head.quantiles = model.property_head.quantiles
        rounded.save_pretrained(temporary, max_shard_size=SHARD)
        (folder / "config.json").unlink(missing_ok=True)
        for path in sorted(Path(temporary).glob("model*.safetensors*")):
            shutil.move(path, folder / path.name)
        shutil.move(Path(temporary, "config.json"), folder / "config.json")
    (folder / "log.json").write_text(json.dumps(history) + "\n")


def measure(argv: list[str], seconds: float) -> float:
    """Steps a second of a trainer with these arguments."""
    trainer = build_trainer(
        *parse_arguments([*argv, "--max_steps", "1000000", "--save_strategy", "no"])
    )
    speedometer = Speedometer(seconds)
    trainer.add_callback(speedometer)
    trainer.train()
    return speedometer.rate


def main() -> None:
    """Measure, choose, train, export."""
    parser = HfArgumentParser(Arguments)
    arguments, argv = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    end = STARTED + 60 * arguments.minutes - LAST
    seconds = arguments.measured_seconds
    rate = measure(argv, seconds)
    if not rate:
        raise ValueError(
            f"The first {WARM} steps took over {PATIENCE:.0f} s: take a smaller model or batch."
        )
    print(f"eager: {rate:.2f} steps a second", flush=True)
    if arguments.try_compiled and torch.cuda.is_available():
        compiled_argv = [*argv, "--torch_compile", "true"]
        try:
            compiled = measure(compiled_argv, seconds / 2)
        except Exception as error:  # of a compiler: the time is worth more than the reason
            print(f"torch.compile failed, so that it is not used: {error}", flush=True)
            compiled = 0.0
        print(f"compiled: {compiled:.2f} steps a second", flush=True)
        if compiled > 1.03 * rate:
            argv, rate = compiled_argv, compiled
    left = end - time.monotonic()
    steps = int(SLOWER * rate * left)
    if steps < 1:
        raise ValueError(
            f"{arguments.minutes} minutes leave no time to train after measuring for "
            f"{time.monotonic() - STARTED:.0f} s: give more, or a smaller --measured_seconds."
        )
    print(f"{steps} steps in the {left:.0f} s left", flush=True)
    limits = ["--max_steps", str(steps), "--max_minutes", str(left / 60), "--save_strategy", "no"]
    trainer = build_trainer(*parse_arguments([*argv, *limits]))
    exporter = Exporter(Path(arguments.export), arguments.export_every)
    trainer.add_callback(exporter)
    trainer.train()
    export(trainer.model, Path(arguments.export), trainer.state.log_history)
    trainer.evaluate()
    export(trainer.model, Path(arguments.export), trainer.state.log_history)
    print(f"{trainer.state.global_step} steps; ended after {time.monotonic() - STARTED:.0f} s")


if __name__ == "__main__":
    run_script(main)
