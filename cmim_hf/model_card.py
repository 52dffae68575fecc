# SPDX-License-Identifier: Apache-2.0
"""The model card of a training run, from the packaged template."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import accelerate
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData

from .modeling_cmim import CMIMModel
from .training_args import CMIMTrainingArguments
from .version import __version__

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_SECRET_OPTIONS = ("--hub_token", "--push_to_hub_token")
_SHOWN_ARGUMENTS = (
    "objective",
    "preset",
    "nll_reduction",
    "latent_reduction",
    "latent_warmup_steps",
    "latent_weight",
    "beta",
    "contrastive_weight",
    "contrastive_temperature",
    "contrastive_block_size",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bucket_by_length",
    "bf16",
    "torch_compile",
    "seed",
)


def write_model_card(
    folder: str | Path,
    *,
    model: CMIMModel,
    args: CMIMTrainingArguments,
    steps: int,
    metrics: Mapping[str, float],
    data: str | None = None,
    name: str | None = None,
    license: str | None = None,
    tags: list[str] | None = None,
) -> Path:
    """Write `README.md` with Hub metadata and everything known of the run.

    Args:
        folder: Where the checkpoint is.
        model: The trained model.
        args: Its training arguments.
        steps: Optimiser steps taken.
        metrics: Measured figures by name.
        data: A sentence on the training data and their licence.
        name: The model's name; the folder's if not given.
        license: Licence of the weights, which depends on the data; left open if not given.
        tags: Hub tags beside the card's own.

    Returns:
        The file written.
    """
    settings = {key: _shown(getattr(args, key)) for key in _SHOWN_ARGUMENTS}
    settings["processes"] = str(args.world_size)
    settings["steps"] = str(steps)
    settings["molecules presented"] = str(
        steps * args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    )
    settings["versions"] = (
        f"cmim-hf {__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, accelerate {accelerate.__version__}"
    )
    card = ModelCard.from_template(
        ModelCardData(
            license=license,
            library_name="transformers",
            pipeline_tag="feature-extraction",
            tags=["cmim-hf", "chemistry", "molecules", "smiles", "cmim", *(tags or [])],
        ),
        template_path=str(_TEMPLATE),
        name=name or Path(folder).resolve().name,
        version=__version__,
        config=model.config,
        parameters=f"{model.num_parameters():,}",
        data=data or "not stated.",
        settings=settings,
        command=_command(sys.argv),
        metrics={key: f"{value:.4g}" for key, value in metrics.items()},
    )
    path = Path(folder) / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path)
    return path


def _command(argv: list[str]) -> str:
    """The command line, without what is secret in it."""
    shown = list(argv)
    for place, word in enumerate(argv):
        option, given, _ = word.partition("=")
        if option in _SECRET_OPTIONS and given:
            shown[place] = f"{option}=..."
        elif option in _SECRET_OPTIONS and place + 1 < len(argv):
            shown[place + 1] = "..."
    return shlex.join(["python", *shown])


def _shown(value: object) -> str:
    return str(getattr(value, "value", value))


__all__ = ["write_model_card"]
