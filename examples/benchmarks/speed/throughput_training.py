# SPDX-License-Identifier: Apache-2.0
"""Rates of training, and of the data that feed it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from cmim_hf import CMIMConfig, CMIMModel, CMIMTrainer, CMIMTrainingArguments
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import Row

from .peers import encoder_decoders
from .roofline import clock, decoder_flops, encoder_flops, gemm_rate
from .turns import take_turns

WARM_UP = 2  # steps
LENGTH = 40  # tokens of the molecules of one length


class Setting(NamedTuple):
    """What is trained, where and how."""

    config: CMIMConfig
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    batch_size: int
    steps: int
    bf16: bool
    compile: bool

    def options(self, folder: str, seed: int) -> dict[str, Any]:
        """Arguments that ours and the stock Trainer share; nothing is logged or saved."""
        return {
            "output_dir": folder,
            "per_device_train_batch_size": self.batch_size,
            "max_steps": self.steps + WARM_UP,
            "save_strategy": "no",
            "logging_steps": 10**6,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": self.device.type == "cpu",
            "bf16": self.bf16,
            "torch_compile": self.compile,
            "dataloader_pin_memory": self.device.type != "cpu",
            "learning_rate": 1e-3,
            "seed": seed,
        }


class _Stopwatch(TrainerCallback):
    """Seconds of the steps after the warm-up, the loading of their data included."""

    def __init__(self) -> None:
        self.begin = self.seconds = 0.0

    def on_step_end(self, args: TrainingArguments, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == WARM_UP or state.global_step == state.max_steps:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if state.global_step == WARM_UP:
                self.begin = time.perf_counter()
            else:
                self.seconds = time.perf_counter() - self.begin


class _Counting:
    """A collator that keeps the lengths of what it collates."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.collate = collate
        self.lengths: list[np.ndarray] = []

    def __call__(self, examples: Sequence[Any]) -> Any:
        self.lengths.append(np.array([len(example["input_ids"]) for example in examples]))
        return self.collate(examples)


def configuration(size: str, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> CMIMConfig:
    """That of a size, for a tokenizer's numbers."""
    return CMIMConfig.from_size(
        size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        **changes,
    )


def training(
    setting: Setting, smiles: Sequence[str], rounds: int, peers: bool
) -> list[dict[str, object]]:
    """Rows of a table: on ragged molecules, then on molecules of one length."""
    config = setting.config
    parameters = CMIMModel(config).num_parameters()
    others = encoder_decoders(config, parameters) if peers else {}
    dtype = torch.bfloat16 if setting.bf16 else torch.float32
    tokens = setting.batch_size * LENGTH
    rows = []
    for data in ("ragged", f"all {LENGTH} tokens"):
        molecules = prepared(setting, smiles) if data == "ragged" else one_length(setting, LENGTH)
        seeds = count()
        trained: list[np.ndarray] = []

        def ours(molecules: Any = molecules, seeds: Any = seeds, trained: Any = trained) -> float:
            rate, lengths = train(setting, molecules, next(seeds))
            trained.append(lengths)
            return rate

        def limit(trained: Any = trained) -> float:
            lengths = trained[-1]
            flops = 3 * (encoder_flops(config, lengths) + decoder_flops(config, lengths))
            return gemm_rate(config, tokens, setting.device, dtype) * len(lengths) / flops

        def stock(build: Any, molecules: Any = molecules, seeds: Any = seeds) -> float:
            return train_stock(setting, build(), molecules, next(seeds))

        ways: dict[str, Callable[[], float]] = {"cMIM": ours}
        ways |= {name: partial(stock, build) for name, build in others.items()}
        turns = take_turns(ways, rounds, limit)
        sizes = {name: build().num_parameters() for name, build in others.items()}
        sizes["cMIM"] = parameters
        for name in ways:
            about = {"molecules": data, "model": name, "parameters": f"{sizes[name]:,}"}
            rows.append({**about, **turns.row(name)})
    return rows


def train(setting: Setting, molecules: PackedMolecules, seed: int) -> tuple[float, np.ndarray]:
    """Molecules a second by CMIMTrainer, and the lengths (rows,) of what they were.

    Both are of the timed steps and of this process. Each call trains a new model.
    """
    collator = _Counting(CMIMCollator(setting.tokenizer))
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = CMIMTrainer(
            model=CMIMModel(setting.config),
            args=CMIMTrainingArguments(**setting.options(folder, seed)),
            train_dataset=molecules,
            processing_class=setting.tokenizer,
            data_collator=collator,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    lengths = np.concatenate(collator.lengths[WARM_UP : WARM_UP + setting.steps])
    return len(lengths) / watch.seconds, lengths


def train_stock(
    setting: Setting, model: PreTrainedModel, molecules: PackedMolecules, seed: int
) -> float:
    """Molecules a second of transformers' Trainer and collator."""
    rows = [molecules[row]["input_ids"].tolist() for row in range(len(molecules))]
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**setting.options(folder, seed)),
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            data_collator=DataCollatorForSeq2Seq(setting.tokenizer, model=model),
            callbacks=[watch],
        )
        trainer.train()
    return setting.batch_size * setting.steps / watch.seconds


def loading(setting: Setting, smiles: Sequence[str], rounds: int) -> list[dict[str, object]]:
    """Rows of a table: molecules a second that reach the device, by loading processes."""
    molecules = prepared(setting, smiles)
    steps = len(molecules) // setting.batch_size

    def rate(workers: int, seed: int = 0) -> float:
        with tempfile.TemporaryDirectory() as folder:
            options = setting.options(folder, seed) | {"dataloader_num_workers": workers}
            trainer = CMIMTrainer(
                model=CMIMModel(setting.config),
                args=CMIMTrainingArguments(**options),
                train_dataset=molecules,
                processing_class=setting.tokenizer,
                data_collator=CMIMCollator(setting.tokenizer),
            )
            batches = iter(trainer.get_train_dataloader())
            next(batches)  # starts the processes
            seconds = clock(lambda: [next(batches) for _ in range(steps - 1)])
        return (steps - 1) * setting.batch_size / seconds

    ways = {f"{workers}": lambda workers=workers: rate(workers) for workers in (0, 2)}
    turns = take_turns(ways, rounds)
    return [{"loading processes": name, **turns.row(name)} for name in ways]


def prepared(setting: Setting, smiles: Sequence[str]) -> PackedMolecules:
    """The molecules as token ids, written as given."""
    rows = [Row("", number, text) for number, text in enumerate(smiles)]
    limit = setting.config.max_position_embeddings
    molecules, _ = prepare(
        rows, setting.tokenizer, max_length=limit, canonicalize=False, progress=False
    )
    return molecules


def one_length(setting: Setting, length: int) -> PackedMolecules:
    """Text for all steps, each row of so many tokens."""
    rows = (setting.steps + WARM_UP) * setting.batch_size
    return prepared(setting, random_text([length] * rows))


def random_text(lengths: Sequence[int]) -> list[str]:
    """Distinct rows of these lengths in tokens, the end token included: what is written is free.

    A row begins with its number, in base 5 with letters for digits; the rest is random.

    Raises:
        ValueError: A row too short for the number of the last.
    """
    random = np.random.default_rng(0)
    letters = np.array(list("CNOcn"))
    places = 1
    while len(letters) ** places < len(lengths):
        places += 1
    if len(lengths) and min(lengths) <= places:
        raise ValueError(f"{len(lengths)} rows of {min(lengths)} tokens would not be distinct.")
    rows = []
    for number, length in enumerate(lengths):
        digits = random.integers(len(letters), size=length - 1)
        digits[:places] = number // len(letters) ** np.arange(places) % len(letters)
        rows.append("".join(letters[digits]))
    return rows
