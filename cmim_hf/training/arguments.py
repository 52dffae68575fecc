# SPDX-License-Identifier: Apache-2.0
"""Arguments of cMIM training: those of transformers, and the objective's."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..data.argument_checks import check_choice
from .nonfinite_guard import ON_NONFINITE
from .objectives import OBJECTIVES, PRESETS, Objective

OPTIMIZERS = ("adamw", "muon")


@dataclass
class CMIMTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the objective, and defaults that suit pretraining.

    A `preset` sets `nll_reduction`, `latent_reduction`, `latent_warmup_steps` and `max_grad_norm`;
    each of the four given explicitly takes precedence.

    Raises:
        ValueError: An unknown objective, preset or reduction, or a value outside its range.
    """

    objective: str = HfArg(
        default="cmim", help=f"{', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}."
    )
    preset: str = HfArg(
        default="molmim",
        help="theory (sums), molmim (means, latent warm-up) or kermt (mean nll, summed "
        "latent terms): sets the two reductions, latent_warmup_steps and max_grad_norm.",
    )
    nll_reduction: str | None = HfArg(
        default=None, help="sum or mean of the nll over a molecule's tokens."
    )
    latent_reduction: str | None = HfArg(
        default=None, help="sum or mean of log q and log p over latent dimensions."
    )
    latent_warmup_steps: float | None = HfArg(
        default=None,
        help="Steps over which the weight of the latent terms rises from 0 to its value; "
        "below 1, a share of all steps.",
    )
    max_grad_norm: float | None = HfArg(default=None, help="Gradient clipping; 0 turns it off.")
    latent_weight: float = HfArg(
        default=1.0, help="Weight of log q and log p (of the KL term for vae)."
    )
    contrastive_weight: float = HfArg(default=1.0, help="Weight of the contrastive term.")
    contrastive_temperature: float = HfArg(
        default=0.1, help="Temperature of the cosines in the contrastive term."
    )
    beta: float = HfArg(default=1.0, help="Weight of the KL term of vae and cvae.")
    property_weight: float = HfArg(
        default=1.0,
        help="Weight of the property term, a mean over all molecules, 0 for those without "
        "labels: where a fifth is labelled, take five times the weight.",
    )
    optimizer: str = HfArg(
        default="adamw",
        help="adamw (what --optim says), or muon: Muon for the matrices of the layers, "
        "AdamW for the rest.",
        metadata={"choices": list(OPTIMIZERS)},
    )
    muon_learning_rate: float = HfArg(
        default=0.02, help="Learning rate of Muon; --learning_rate is AdamW's."
    )
    max_minutes: float | None = HfArg(
        default=None,
        help="End training at a saved checkpoint when so many minutes have passed since it "
        "began; the learning rate's schedule stays that of max_steps.",
    )
    on_nonfinite: str = HfArg(
        default="raise",
        help="raise: stop where a term or a gradient is not finite, and keep the batch; "
        "skip: leave such steps out and count them.",
        metadata={"choices": list(ON_NONFINITE)},
    )
    bucket_by_length: bool = HfArg(
        default=True, help="Put molecules of similar length into one batch."
    )
    reconstruction_samples: int = HfArg(
        default=256,
        help="Evaluation molecules, evenly spread, decoded greedily to measure exact "
        "reconstruction; 0 turns it off.",
    )
    probe_file: str | None = HfArg(
        default=None,
        help="A labelled table (.csv, .tsv, .parquet): evaluation then reports the error of "
        "a ridge regression on its frozen embeddings.",
    )
    probe_smiles: str | None = HfArg(
        default=None, help="Its SMILES column; found by name if not given."
    )
    probe_target: str | None = HfArg(
        default=None, help="Its target column; needed with probe_file."
    )

    per_device_train_batch_size: int = 128
    per_device_eval_batch_size: int = 256
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    weight_decay: float = 0.01
    logging_steps: float = 50
    report_to: None | str | list[str] = "none"
    # the collator's rows and keys are no arguments of the model's forward
    remove_unused_columns: bool = False
    prediction_loss_only: bool = True
    use_cache: bool = True  # what the saved configuration says; training itself uses none
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])

    def __post_init__(self) -> None:
        """Fill in the preset, then check what can be built by building it."""
        check_choice("preset", self.preset, PRESETS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name in ("latent_warmup_steps", "reconstruction_samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        for name in ("contrastive_temperature", "muon_learning_rate", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be finite and above 0, got {value}.")
        if self.probe_file is not None and self.probe_target is None:
            raise ValueError("probe_file needs probe_target, the column with the labels.")
        self.build_objective()
        super().__post_init__()
        installed = get_available_reporting_integrations()
        for tracker in self.report_to:
            if tracker in INTEGRATION_TO_CALLBACK and tracker not in installed:
                raise ImportError(
                    f"`report_to` names {tracker}, which is not installed here. Run: pip install "
                    f"{tracker}. Or report to one of: {', '.join(installed) or 'none'}."
                )
        # batches of a stream differ in length, so one process cannot cut them up for the others
        self.accelerator_config.dispatch_batches = False

    def build_objective(self) -> Objective:
        """The objective these arguments describe."""
        return Objective(
            name=self.objective,
            temperature=self.contrastive_temperature,
            nll_reduction=self.nll_reduction,
            latent_reduction=self.latent_reduction,
            latent_weight=self.latent_weight,
            contrastive_weight=self.contrastive_weight,
            beta=self.beta,
            property_weight=self.property_weight,
        )

    def latent_scale(self, step: int, max_steps: int) -> float:
        """The warm-up of the latent terms at optimiser step `step`, in [0, 1]."""
        warmup = self.latent_warmup_steps
        warmup = warmup * max_steps if warmup < 1 else warmup
        return min(1.0, step / warmup) if warmup > 0 else 1.0
