# SPDX-License-Identifier: Apache-2.0
"""Trainings that a comparison is made of: any objective by one set of arguments, each run once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from cmim_hf import CMIMTrainer, CMIMTrainingArguments
from cmim_hf.training.objectives import OBJECTIVES, Objective

from ..evidence import Cells
from .two_views import LOSSES, TwoViewTrainer, lightly_is_installed

NO_DECODER = ("infonce", *LOSSES)


class Named(Protocol):
    """A run, whose name is that of its file."""

    @property
    def name(self) -> str:
        """What tells it from other runs."""


Run = TypeVar("Run", bound=Named)


def names_of_objectives() -> list[str]:
    """Ours, and those of lightly where it is installed."""
    return [*OBJECTIVES, *(LOSSES if lightly_is_installed() else ())]


def views_of(objective: str) -> int:
    """Rows of a batch for each example: 2 where two views of it are compared."""
    if objective == "untrained":
        return 1
    return 2 if objective in LOSSES else Objective(objective).views


def trainer_for(
    objective: str, model: PreTrainedModel, folder: str, settings: Mapping[str, Any], **data: Any
) -> CMIMTrainer:
    """A trainer by any objective.

    Args:
        objective: a name of `names_of_objectives`; "untrained" can be evaluated only.
        model: what it trains; `LOSSES` give it a projector.
        folder: for its files.
        settings: of `CMIMTrainingArguments`, beside those that all runs share.
        data: of `CMIMTrainer`: the data sets, the collator with `views_of` views, a tokenizer.
    """
    names = {"untrained": "cmim", **dict.fromkeys(LOSSES, "infonce")}
    kind = {"loss_name": objective} if objective in LOSSES else {}
    return (TwoViewTrainer if kind else CMIMTrainer)(
        model=model,
        args=CMIMTrainingArguments(
            folder,
            objective=names.get(objective, objective),
            latent_warmup_steps=0.3,
            logging_strategy="steps",
            logging_steps=0.05,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            **settings,
        ),
        **data,
        **kind,
    )


def compute_all(
    work: Callable[[Run], dict[str, Any]], cells: Cells, workers: int, runs: Sequence[Run]
) -> list[dict[str, Any]]:
    """Results of runs, in order; each command computes in an order of its own, so as to share."""
    order = np.random.default_rng(os.getpid()).permutation(len(runs))
    results = Parallel(n_jobs=workers, return_as="generator")(
        delayed(_cell)(work, cells, runs[place]) for place in order
    )
    computed = list(tqdm(results, total=len(runs), desc="runs"))
    return [computed[place] for place in np.argsort(order)]


def _cell(work: Callable[[Run], dict[str, Any]], cells: Cells, run: Run) -> dict[str, Any]:
    torch.set_num_threads(1)
    return cells.compute(run.name, partial(work, run))


def grouped(results: Iterable[dict[str, Any]], varied: list[str]) -> list[list[dict[str, Any]]]:
    """Results with equal values of `varied` together, in the order in which they come first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(tuple(result[name] for name in varied), []).append(result)
    return list(groups.values())
