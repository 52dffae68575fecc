# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a checkpoint to predict labels: one run a seed, and a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..atomic_files import whole_folder, write_whole, writing
from ..checkpoints.loading import load_checkpoint, weights_fingerprint
from ..cpu_kernels import sped_up
from ..model.sequence_classification_cmim import CMIMForSequenceClassification
from ..version import __version__
from .fine_tuning_arguments import FineTuningArguments
from .labelled_parts import Part, leave_out_copies, read_parts
from .prediction_tasks import CHOSEN_BY, PROBLEMS, check_task, guess_task, measure, summary

ATTENTION = ["qkv_proj", "q_proj", "kv_proj", "v_proj", "out_proj"]
"""What LoRA adapts: query, key, value and output of every attention, the posterior's too."""

_PACKAGES = ("torch", "transformers", "scikit-learn", "rdkit", "numpy")
_FILES = ("data", "train", "validation", "test", "checkpoint", "output")


def fine_tune(args: FineTuningArguments, command: Sequence[str]) -> dict[str, Any]:
    """Train once for each seed, measure, and write the models and what they reached.

    The output folder holds `rejects.tsv` (rows that cannot be used), `metrics.json`, and for each
    seed a folder with `predictions.csv` (test rows), `model` and, of LoRA, `adapter`.

    Returns:
        What `metrics.json` holds, the words of `command` among it: `test` has the mean over the
        seeds of each metric, and its 95 % interval.

    Raises:
        ValueError: Tables or labels that cannot be learned from, before anything is written.
    """
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    parts, rejects = read_parts(args, tokenizer)
    copies = 0 if args.copies else leave_out_copies(parts)
    task = args.task or guess_task(parts)
    check_task(parts, task, args.targets)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    rejects.write(folder / "rejects.tsv")
    counts = {name: len(part.rows) for name, part in parts.items()}
    print(f"{task} of {', '.join(args.targets)}; usable rows {counts}")
    if copies:
        print(f"{copies} rows of train or valid are left out: a later part has their molecules.")
    print(f"{len(rejects)} rows cannot be used {rejects.counts or ''}: {folder / 'rejects.tsv'}")
    runs = [
        _run_seed(args, task, parts, tokenizer, seed, folder / f"seed-{seed}")
        for seed in range(args.seeds)
    ]
    report = {
        **_origin(args, command),
        "task": task,
        "rows": counts,
        "rejected": rejects.counts,
        "chosen_by": CHOSEN_BY[task],
        "test": summary([run["test"]["mean"] for run in runs]),
        "runs": runs,
    }
    write_whole(folder / "metrics.json", json.dumps(report, indent=2) + "\n")
    for name, value in report["test"].items():
        spread = "" if value["low"] is None else f" ({value['low']:.4f} to {value['high']:.4f})"
        print(f"test {name}, mean of {args.seeds} seeds: {value['mean']:.4f}{spread}")
    return report


def _origin(args: FineTuningArguments, command: Sequence[str]) -> dict[str, Any]:
    """What gave the figures; where files lie says nothing elsewhere, so it is left out."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in command]
    return {
        "command": shlex.join(["python", *words]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"cmim-hf": __version__, **{name: version(name) for name in _PACKAGES}},
        "weights": weights_fingerprint(*load_checkpoint(args.checkpoint, "cpu")),
        "arguments": {
            name: Path(value).name if name in _FILES and value else value
            for name, value in asdict(args).items()
        },
    }


def _run_seed(
    args: FineTuningArguments,
    task: str,
    parts: dict[str, Part],
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Train, measure and write one model."""
    set_seed(seed)
    model = _new_model(args, task, parts["train"].labels)
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            _training_arguments(args, task, seed, scratch),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=parts["train"].examples(),
            eval_dataset=parts["valid"].examples(),
            compute_metrics=lambda outputs: measure(
                outputs.predictions, outputs.label_ids, task, args.targets
            )["mean"],
            callbacks=[EarlyStoppingCallback(args.patience)],
        )
        with writing(scratch), sped_up(model):
            trainer.train()
    chosen_by = f"eval_{CHOSEN_BY[task]}"
    history = [log[chosen_by] for log in trainer.state.log_history if chosen_by in log]
    best = history.index(trainer.state.best_metric) + 1
    run: dict[str, Any] = {"seed": seed, "best_epoch": best, "history": history}
    for name in ("valid", "test"):
        part = parts[name]
        with sped_up(model):
            logits = trainer.predict(part.examples()).predictions
        run[name] = measure(logits, part.labels, task, args.targets)
    folder.mkdir(exist_ok=True)
    _write_predictions(folder / "predictions.csv", parts["test"], logits, task, args.targets)
    _save(trainer.model, tokenizer, folder)
    print(f"seed {seed}: best epoch {best}, test {run['test']}")
    return run


def _new_model(args: FineTuningArguments, task: str, labels: np.ndarray) -> PreTrainedModel:
    """The checkpoint with a new head, and LoRA where asked for."""
    model = CMIMForSequenceClassification.from_pretrained(
        args.checkpoint,
        problem_type=PROBLEMS[task],
        id2label=dict(enumerate(args.targets)),
        label2id={target: place for place, target in enumerate(args.targets)},
        dtype=torch.float32,
    )
    if task == "regression":
        model.fit_label_scale(torch.from_numpy(labels))
    if args.lora == 0:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            task_type="SEQ_CLS",
            r=args.lora,
            lora_alpha=2 * args.lora,
            target_modules=ATTENTION,
            modules_to_save=["classifier"],
        ),
    )


def _training_arguments(
    args: FineTuningArguments, task: str, seed: int, scratch: str
) -> TrainingArguments:
    """Settings that were chosen on validation rows."""
    rate = args.learning_rate or (3e-3 if args.lora else 1e-3)
    return TrainingArguments(
        scratch,
        seed=seed,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=4 * args.batch_size,
        learning_rate=rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model=CHOSEN_BY[task],
        greater_is_better=True,
        label_names=["labels"],
        dataloader_pin_memory=torch.accelerator.is_available(),
    )


def _write_predictions(
    path: Path, part: Part, logits: np.ndarray, task: str, targets: Sequence[str]
) -> None:
    """One line a row: its place in the table, SMILES, and label and prediction of each target."""
    frame = {"row": [row.number for row in part.rows], "smiles": [row.text for row in part.rows]}
    predicted = logits if task == "regression" else torch.from_numpy(logits).sigmoid().numpy()
    for place, target in enumerate(targets):
        frame[target] = part.labels[:, place]
        frame[f"{target}_predicted"] = predicted[:, place]
    write_whole(path, pd.DataFrame(frame).to_csv(index=False))


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The adapter, if there is one, and the model with it merged; each whole or not at all."""
    if hasattr(model, "merge_and_unload"):
        with whole_folder(folder / "adapter") as partial:
            model.save_pretrained(partial)
        model = model.merge_and_unload()
    with whole_folder(folder / "model") as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
