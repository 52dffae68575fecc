# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a checkpoint to predict labels: one run a seed, and a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, softmax
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..atomic_files import whole_folder, write_whole, writing
from ..checkpoints import checkpoint_name
from ..checkpoints.loading import load_checkpoint, load_tokenizer, weights_fingerprint
from ..cpu_kernels import sped_up
from ..embedding.embedder import MoleculeEmbedder
from ..model.molecule_tokenizer_cmim import CMIMMoleculeTokenizer
from ..model.sequence_classification_cmim import CMIMForSequenceClassification
from ..version import __version__
from .class_weights import balanced_weights, weighted_loss
from .fine_tuning_arguments import FineTuningArguments
from .labelled_parts import LabelledParts, leave_out_copies, read_parts
from .members import Heads, save_heads
from .prediction_tasks import CHOSEN_BY, ERRORS, PROBLEMS, as_logits, check_labels, measure, summary
from .predictor import MoleculePredictor
from .predictor_files import load_networks, save_calibrated
from .report import write_report

ATTENTION = ["qkv_proj", "q_proj", "kv_proj", "v_proj", "out_proj"]
"""What LoRA adapts: query, key, value and output of every attention, the posterior's too."""

_PACKAGES = ("torch", "transformers", "scikit-learn", "rdkit", "numpy")
_FILES = ("data", "train", "validation", "test", "checkpoint", "output")


def fine_tune(args: FineTuningArguments, command: Sequence[str]) -> dict[str, Any]:
    """Train once for each seed, or fit a head; measure, and write a predictor and its report.

    The output folder holds `rejects.tsv` (rows that cannot be used), `metrics.json`, `report.html`,
    and for each seed a folder with `predictions.csv` (test rows), `model` and, of LoRA, `adapter`;
    of a head `predictions.csv` and its files. [`~cmim_hf.MoleculePredictor`] opens it, calibrated
    on the validation rows.

    Returns:
        What `metrics.json` holds, the words of `command` among it: `test` has the mean over the
        seeds of each metric, and its 95 % interval.

    Raises:
        ValueError: Tables or labels that cannot be learned from, before anything is written.
    """
    tokenizer = load_tokenizer(args.checkpoint)
    data = read_parts(args, tokenizer)
    copies = 0 if args.copies else leave_out_copies(data.parts)
    check_labels(data, args.targets, args.head == "network")
    folder = _new_folder(args)
    data.rejects.write(folder / "rejects.tsv")
    counts = {name: len(part.rows) for name, part in data.parts.items()}
    for note in data.notes:
        print(note)
    print(f"{data.task} of {', '.join(args.targets)}; usable rows {counts}")
    if copies:
        print(
            f"{copies} rows of train or valid are left out: a later part has their molecules, "
            "marks of stereo aside."
        )
    rejected = data.rejects.counts
    why = f" {rejected}" if rejected else ""
    print(f"{len(data.rejects)} rows cannot be used{why}: {folder / 'rejects.tsv'}")
    if args.head == "network":
        runs = [
            _run_seed(args, data, tokenizer, seed, folder / f"seed-{seed}")
            for seed in range(args.seeds)
        ]
        names = [f"seed-{seed}/model" for seed in range(args.seeds)]
        members, made = load_networks([folder / name for name in names]), {"networks": names}
    else:
        run, members, made = _run_head(args, data, folder)
        runs = [run]
    report = {
        **_origin(args, command),
        "task": data.task,
        "classes": _classes(data),
        "split": data.split,
        "rows": counts,
        "rejected": rejected,
        "chosen_by": CHOSEN_BY[data.task] if args.head == "network" else ERRORS[data.task],
        "test": summary([run["test"]["mean"] for run in runs]),
        "runs": runs,
    }
    write_whole(folder / "metrics.json", json.dumps(report, indent=2) + "\n")
    about = {name: report[name] for name in ("task", "weights", "rows", "date", "versions")}
    about |= {"targets": args.targets, "classes": _classes(data), "calibrated_on": "valid", **made}
    about["standardize"] = args.standardize
    save_calibrated(folder, about, members, data.parts["train"], data.parts["valid"])
    predictor = MoleculePredictor(folder, progress=False)
    write_report(folder / "report.html", report, predictor, data.parts["test"])
    over = [f"{args.seeds} seeds"] if len(runs) > 1 else []
    if (targets := len(args.targets)) > 1:
        over.append(f"{targets} targets, whatever their units (metrics.json has each)")
    means = f", mean over {' and '.join(over)}" if over else ""
    for name, value in report["test"].items():
        spread = "" if value["low"] is None else f" ({value['low']:.4f} to {value['high']:.4f})"
        print(f"test {name}{means}: {value['mean']:.4f}{spread}")
    return report


def _new_folder(args: FineTuningArguments) -> Path:
    """The output folder; ValueError where another run's models would stay beside the new ones."""
    folder = Path(args.output)
    if folder.is_file():
        raise ValueError(f"`output` {folder} is a file; give the name of a folder.")
    if args.head == "network":
        written = {f"seed-{seed}" for seed in range(args.seeds)}
    else:
        written = {path.name for path in folder.glob("head-*")}
    found = {path.name for kind in ("seed-*", "head-*") for path in folder.glob(kind)}
    if old := sorted(found - written):
        raise ValueError(f"`output` {folder} holds {old[0]} of another run; give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _classes(data: LabelledParts) -> list[str]:
    """Names of the classes, those of no and yes, none of numbers."""
    return data.classes or (list(data.words) if data.task == "binary" else [])


def _run_head(
    args: FineTuningArguments, data: LabelledParts, folder: Path
) -> tuple[dict[str, Any], Heads, dict[str, Any]]:
    """Fit a head of scikit-learn to each target, measure and write; what a predictor is told."""
    embedder = MoleculeEmbedder(args.checkpoint, representation="both", dtype=torch.float32)
    balanced, classes = args.class_weights == "balanced", len(_classes(data))
    heads = Heads.fit(
        embedder, args.head, data.task, classes, data.parts, args.targets, balanced=balanced
    )
    run: dict[str, Any] = {"head": args.head}
    for name in ("valid", "test"):
        part = data.parts[name]
        logits = as_logits(heads(part.encoded()).values, data.task)
        run[name] = measure(logits, part.labels, data.task, args.targets)
    _write_predictions(folder / "predictions.csv", data, logits, args.targets)
    made = {
        "heads": save_heads(folder, heads.estimators),
        "checkpoint": _name(args.checkpoint),
        "representation": embedder.representation,
    }
    return run, heads, made


def _name(checkpoint: str) -> str:
    """By what a checkpoint is found again from elsewhere: the name that ships, or a whole path."""
    name = checkpoint_name(checkpoint)
    return str(Path(name).absolute()) if name == checkpoint and Path(name).is_dir() else name


def _origin(args: FineTuningArguments, command: Sequence[str]) -> dict[str, Any]:
    """What gave the figures; where files lie says nothing elsewhere, so it is left out."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in command]
    return {
        "command": shlex.join(words),
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
    data: LabelledParts,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Train, measure and write one model."""
    set_seed(seed)
    task, parts = data.task, data.parts
    loss = None
    if args.class_weights == "balanced":
        weights = balanced_weights(parts["train"].labels, len(data.classes) or 2)
        loss = partial(weighted_loss, weights=weights)
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            _new_model(args, data),
            _training_arguments(args, task, seed, scratch),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=parts["train"].examples(task),
            eval_dataset=parts["valid"].examples(task),
            compute_metrics=lambda outputs: measure(
                outputs.predictions, parts["valid"].labels, task, args.targets
            )["mean"],
            callbacks=[EarlyStoppingCallback(args.patience)],
            compute_loss_func=loss,
        )
        with writing(scratch), sped_up(trainer.model):
            trainer.train()
    trainer.compute_metrics = None  # what is predicted now is measured by its own labels
    chosen_by = f"eval_{CHOSEN_BY[task]}"
    history = [log[chosen_by] for log in trainer.state.log_history if chosen_by in log]
    best = history.index(trainer.state.best_metric) + 1
    run: dict[str, Any] = {"seed": seed, "best_epoch": best, "history": history}
    for name in ("valid", "test"):
        part = parts[name]
        with sped_up(trainer.model):
            logits = trainer.predict(part.examples(task)).predictions
        run[name] = measure(logits, part.labels, task, args.targets)
    folder.mkdir(exist_ok=True)
    _write_predictions(folder / "predictions.csv", data, logits, args.targets)
    _save(trainer.model, tokenizer, folder)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in run["test"]["mean"].items())
    print(f"seed {seed}: best epoch {best}, test {figures}")
    return run


def _new_model(args: FineTuningArguments, data: LabelledParts) -> PreTrainedModel:
    """The checkpoint with a new head, and LoRA where asked for."""
    names = data.classes or args.targets
    model = CMIMForSequenceClassification.from_pretrained(
        args.checkpoint,
        problem_type=PROBLEMS[data.task],
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
        standardize=args.standardize,
        dtype=torch.float32,
    )
    if data.task == "regression":
        model.fit_label_scale(torch.from_numpy(data.parts["train"].labels))
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
        average_tokens_across_devices=False,  # the loss is a mean over labels
        dataloader_pin_memory=torch.accelerator.is_available(),
    )


def _write_predictions(
    path: Path, data: LabelledParts, logits: np.ndarray, targets: Sequence[str]
) -> None:
    """One line a test row: its place in the table, SMILES, and label and prediction of each target.

    Of one class of several, the prediction is the likeliest, and all have a probability.
    """
    part = data.parts["test"]
    frame = {"row": [row.number for row in part.rows], "smiles": [row.text for row in part.rows]}
    if len({row.source for row in part.rows}) > 1:
        frame = {"source": [row.source for row in part.rows], **frame}
    if data.task == "multiclass":
        (target,) = targets
        names = np.array([*data.classes, ""], object)
        frame[target] = names[np.nan_to_num(part.labels[:, 0], nan=-1).astype(int)]
        frame[f"{target}_predicted"] = names[logits.argmax(axis=1)]
        for name, column in zip(data.classes, softmax(logits, axis=1).T, strict=True):
            frame[f"{target}_probability_{name}"] = column
    else:
        predicted = logits if data.task == "regression" else expit(logits)
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
        CMIMMoleculeTokenizer.save_in_place_of(partial, model.config.standardize)
