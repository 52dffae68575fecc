# SPDX-License-Identifier: Apache-2.0
"""VICReg and Barlow Twins on the codes of two writings of a molecule, with lightly's losses."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from cmim_hf import CMIMTrainer
from cmim_hf.training.objectives import ObjectiveOutput

LOSSES = {
    "vicreg": ("vicreg_loss", "VICRegLoss"),
    "barlow": ("barlow_twins_loss", "BarlowTwinsLoss"),
}


def lightly_is_installed() -> bool:
    """Whether these losses are to be had: `pip install --no-deps lightly`."""
    return importlib.util.find_spec("lightly") is not None


class TwoViewTrainer(CMIMTrainer):
    """Trains the encoder by a loss between the codes of two writings; there is no decoder term.

    As in both papers (arXiv 2105.04906, 2103.03230) the loss sees the codes through a projector of
    two hidden layers, which is thrown away afterwards. Pass the arguments of `infonce`, whose
    batches hold the two views, and `loss_name`, a key of `LOSSES`.
    """

    def __init__(self, *args: Any, loss_name: str, **kwargs: Any) -> None:
        """Give the model a projector, which the optimizer then finds."""
        file, name = LOSSES[loss_name]
        self._loss = getattr(_load(file), name)()
        model = kwargs["model"]
        size = model.config.num_latents * model.config.latent_size
        wide = 4 * size
        model.projector = nn.Sequential(
            nn.Linear(size, wide), nn.BatchNorm1d(wide), nn.ReLU(),
            nn.Linear(wide, wide), nn.BatchNorm1d(wide), nn.ReLU(),
            nn.Linear(wide, wide),
        )  # fmt: skip
        super().__init__(*args, **kwargs)

    def compute_objective(
        self, outputs: Any, targets: Mapping[str, torch.Tensor], latent_scale: float
    ) -> ObjectiveOutput:
        """See `CMIMTrainer`."""
        model = self.accelerator.unwrap_model(self.model)
        first, second = model.projector(outputs.latents.flatten(1)).chunk(2)
        loss = self._loss(first, second)
        return ObjectiveOutput(loss.expand(len(first)), {})


def _load(file: str) -> ModuleType:
    """A file of lightly's losses by itself.

    Their package imports torchvision, which these losses do not need and whose usual build does
    not fit a CPU's torch.
    """
    import lightly

    path = Path(lightly.__file__).parent / "loss" / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"lightly_{file}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
