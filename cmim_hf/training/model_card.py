# SPDX-License-Identifier: Apache-2.0
"""The model card of a training run, from the packaged template."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..atomic_files import write_whole
from ..version import __version__
from .arguments import CMIMTrainingArguments

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_SECRETS = re.compile(r"(--(?:push[_-]to[_-])?hub[_-]t\w*[= ])\S+|hf_\w+")
_CURVES = {
    "molecules": ("nll", "token_accuracy", "exact_reconstruction", "mean_cosine"),
    "images": ("nll", "bits_per_dim", "mean_cosine"),
}
_TAGS = {"molecules": ("chemistry", "molecules", "smiles"), "images": ("images",)}
_SHOWN_ARGUMENTS = (
    "objective", "preset", "nll_reduction", "latent_reduction", "latent_warmup_steps",
    "latent_weight", "beta", "contrastive_weight", "contrastive_temperature",
    "property_weight", "optimizer", "optim", "learning_rate",
    "muon_learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm",
    "per_device_train_batch_size", "gradient_accumulation_steps", "bucket_by_length", "bf16",
    "torch_compile", "seed",
)  # fmt: skip


def write_model_card(
    folder: str | Path,
    *,
    model: PreTrainedModel,
    args: CMIMTrainingArguments,
    steps: int,
    history: Sequence[Mapping[str, Any]],
    data: str | None = None,
    name: str | None = None,
    license: str | None = None,
    tags: list[str] | None = None,
    command: str | None = None,
    settings: Mapping[str, str] | None = None,
    figures: str | None = None,
) -> Path:
    """Write `README.md` with Hub metadata and everything known of the run.

    Args:
        folder: Where the checkpoint is.
        model: The trained model, of molecules or images.
        args: Its training arguments.
        steps: Optimiser steps taken.
        history: What the Trainer logged (`state.log_history`): the evaluations in it are the curve,
            the last of them the figures of the card, and its training time is named.
        data: A sentence on the training data and their licence.
        name: The model's name; the folder's if not given.
        license: Licence of the weights, which depends on the data; left open if not given.
        tags: Hub tags beside the card's own.
        command: What trained it; the command line of this process if not given.
        settings: Rows of the table of settings that are known better than from this process, for
            a card that is written after the run.
        figures: Markdown with what was measured besides.

    Returns:
        The file written.
    """
    of_images = model.main_input_name == "pixel_values"
    examples = "images" if of_images else "molecules"
    evaluations = [entry for entry in history if "eval_loss" in entry]
    last = evaluations[-1] if evaluations else {}
    card = ModelCard.from_template(
        ModelCardData(
            license=license,
            library_name="transformers",
            pipeline_tag="image-feature-extraction" if of_images else "feature-extraction",
            tags=["cmim-hf", *_TAGS[examples], "cmim", *(tags or [])],
        ),
        template_path=str(_TEMPLATE),
        name=name or Path(folder).resolve().name,
        version=__version__,
        config=model.config,
        examples=examples,
        parameters=f"{model.num_parameters():,}",
        data=data or "not stated.",
        settings={**_settings(model, args, steps, history, examples), **(settings or {})},
        command=command or _command(sys.argv),
        metrics={
            key: f"{value:.4g}"
            for key, value in last.items()
            if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second"))
        },
        curve=[
            [entry["step"], *(_shown(entry.get(f"eval_{key}")) for key in _CURVES[examples])]
            for entry in {entry["step"]: entry for entry in evaluations}.values()
        ],
        curve_names=_CURVES[examples],
        figures=figures,
    )
    path = Path(folder) / "README.md"
    write_whole(path, str(card))
    return path


def _settings(
    model: PreTrainedModel,
    args: CMIMTrainingArguments,
    steps: int,
    history: Sequence[Mapping[str, Any]],
    examples: str,
) -> dict[str, str]:
    unused = {"optim"} if args.optimizer == "muon" else {"muon_learning_rate"}
    if not getattr(model.config, "num_properties", 0):
        unused.add("property_weight")
    shown = {key: getattr(args, key) for key in _SHOWN_ARGUMENTS if key not in unused}
    settings = {key: str(getattr(value, "value", value)) for key, value in shown.items()}
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    settings |= {
        "processes": str(args.world_size),
        "steps": str(steps),
        f"{examples} presented": str(steps * batch),
    }
    if seconds := [entry["train_runtime"] for entry in history if "train_runtime" in entry]:
        settings["training time"] = f"{seconds[-1] / 60:.0f} minutes since its last start"
    is_cuda = args.device.type == "cuda"
    settings["hardware"] = (
        f"{args.world_size} x {torch.cuda.get_device_name(args.device)}"
        if is_cuda
        else f"{os.cpu_count()} cores, {platform.machine()}, {args.device.type}"
    )
    settings["versions"] = (
        f"cmim-hf {__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, accelerate {accelerate.__version__}"
    )
    return settings


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _command(argv: list[str]) -> str:
    """The command line, without what is secret in it: options may be cut short or have dashes."""
    return _SECRETS.sub(lambda found: f"{found[1] or ''}...", shlex.join(["python", *argv]))


def read_settings(card: str | Path) -> dict[str, str]:
    """The table of settings of a card that `write_model_card` wrote; empty if there is none."""
    path = Path(card)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if "| setting | value |" not in lines:
        return {}
    rows = lines[lines.index("| setting | value |") + 2 :]
    table = list(takewhile(lambda line: line.startswith("| "), rows))
    return dict(tuple(line.strip("| ").split(" | ", 1)) for line in table)
