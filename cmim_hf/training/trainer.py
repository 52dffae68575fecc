# SPDX-License-Identifier: Apache-2.0
"""`CMIMTrainer`: transformers' Trainer with the cMIM objective and its measurements."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import DataCollator, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, TrainOutput, has_length
from transformers.utils import logging

from ..atomic_files import writing
from ..cpu_kernels import sped_up
from ..data.collator import CMIMCollator, molecule_key
from ..data.length_buckets import LengthBucketSampler
from .arguments import CMIMTrainingArguments
from .callbacks import RankNoise, TimeLimit
from .cross_rank_gather import gather_rows
from .evaluation import (
    RidgeProbe,
    TermAverages,
    exact_reconstructions,
    spread_rows,
)
from .model_card import write_model_card
from .muon import MuonAdamW, parameter_groups
from .nonfinite_guard import FiniteGuard
from .objectives import ObjectiveOutput
from .property_matching import match_properties
from .run_folder import RUN_FILE, flaw, name_run, newest_checkpoint

logger = logging.get_logger(__name__)

_PRIOR_EXAMPLES = 2000  # the spread to about two per cent


class CMIMTrainer(Trainer):
    """Trains a [`CMIMModel`] or [`CMIMImageModel`] by its [`CMIMTrainingArguments`]' objective.

    Negatives of the contrastive term are the examples of all ranks' batches. Every term, the mean
    cosine, the posterior's std and the token accuracy (of images: bits per dimension) are logged;
    evaluation adds the share of molecules reconstructed exactly by greedy decoding, and a ridge
    probe if one is asked for. A step whose terms or gradients are not finite stops the run, or is
    left out ([`FiniteGuard`]).

    Takes the arguments and the data of `Trainer`: a data set whose rows have `input_ids`, or an
    iterable one, or a list. What a batch lacks of `labels` and `keys` (a number for each molecule,
    equal for equal ones) is made of its tokens; InfoNCE needs a [`CMIMCollator`] with two views.

    >>> from tempfile import TemporaryDirectory
    >>> from cmim_hf import CMIMConfig, CMIMModel, default_tokenizer
    >>> tokenizer = default_tokenizer(64)
    >>> rows = [{"input_ids": tokenizer("C" * size)["input_ids"]} for size in range(1, 9)]
    >>> model = CMIMModel(CMIMConfig.from_size("tiny", vocab_size=len(tokenizer)))
    >>> with TemporaryDirectory() as folder:
    ...     args = CMIMTrainingArguments(
    ...         folder, max_steps=1, per_device_train_batch_size=8, use_cpu=True, disable_tqdm=True
    ...     )
    ...     trainer = CMIMTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    ...     trainer.train().global_step  # doctest: +ELLIPSIS
    {'train_runtime': ...}
    1
    """

    args: CMIMTrainingArguments

    def __init__(
        self,
        model: nn.Module | None = None,
        args: CMIMTrainingArguments | None = None,
        data_collator: DataCollator | None = None,
        *others: Any,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        """See `Trainer`; with a tokenizer and no collator it is a [`CMIMCollator`]."""
        if processing_class is not None:
            kwargs["processing_class"] = processing_class
            data_collator = data_collator or CMIMCollator(processing_class)
        super().__init__(model, args, data_collator, *others, **kwargs)
        if not isinstance(self.args, CMIMTrainingArguments):
            raise TypeError(
                f"CMIMTrainer needs CMIMTrainingArguments, got {type(self.args).__name__}."
            )
        self.objective = self.args.build_objective()
        self._terms = {"train": TermAverages(), "eval": TermAverages()}
        self._probe = None
        if self.args.probe_file is not None:
            longest = self.model.config.max_position_embeddings
            self._probe = RidgeProbe(self.args, self.processing_class, longest)
        self._guard = FiniteGuard(self.args.on_nonfinite)
        self.add_callback(RankNoise)
        if self.args.max_minutes is not None:
            self.add_callback(TimeLimit(60 * self.args.max_minutes))
        match_properties(self.model, self.objective, self.train_dataset, self.eval_dataset)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As of `Trainer`, or Muon beside AdamW."""
        if self.optimizer is None and self.args.optimizer == "muon":
            trained = self.model if model is None else model
            groups = parameter_groups(
                trained,
                lr=self.args.learning_rate,
                muon_lr=self.args.muon_learning_rate,
                weight_decay=self.args.weight_decay,
                decayed=set(self.get_decay_parameter_names(trained)),
            )
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = MuonAdamW(groups, betas=betas, eps=self.args.adam_epsilon)
        return super().create_optimizer(model)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As of `Trainer`; on a CPU by faster means ([`sped_up`]).

        Args:
            resume_from_checkpoint: A checkpoint's folder, or `"auto"` for the newest whole one of
                the output folder, if there is one (see [`newest_checkpoint`]).
            args: As of `Trainer`.
            kwargs: As of `Trainer`.

        Raises:
            ChildProcessError: A worker of the data loader ended before its time; so of the next
                two.
        """
        resumed = resume_from_checkpoint
        if resumed == "auto":
            resumed = newest_checkpoint(self.args.output_dir)
        if self.args.should_save:
            name_run(Path(self.args.output_dir), resumed)
        with self._working():
            return super().train(resumed, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As of `Trainer`."""
        with self._working():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As of `Trainer`."""
        with self._working():
            return super().predict(*args, **kwargs)

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            with sped_up(self.model):
                yield
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            if self.args.dataloader_num_workers == 0 or not _is_of_a_worker(error):
                raise
            raise ChildProcessError(
                f"A worker of the data loader ended before its time ({str(error).strip()}). If "
                "that was for want of memory, take fewer (--dataloader_num_workers). "
                "--resume_from_checkpoint goes on from what was saved."
            ) from error

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None or not has_length(dataset):
            return None
        global_batch = self.args.train_batch_size * self.args.world_size
        if len(dataset) < global_batch:
            raise ValueError(
                f"{len(dataset)} training examples do not fill one batch of {global_batch} "
                f"({self.args.train_batch_size} on each of {self.args.world_size} processes). "
                "Use more data or a smaller per_device_train_batch_size."
            )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        lengths = getattr(dataset, "lengths", None)
        if lengths is None:  # not one of ours; images are all of a size
            lengths = [len(row.get("input_ids", ())) for row in dataset]
        return LengthBucketSampler(
            lengths,
            global_batch,
            seed=seed,
            bucket=self.args.bucket_by_length,
            dataset=dataset if hasattr(dataset, "set_epoch") else None,
        )

    def training_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Forward and backward; after the last batch of a step, look whether it is finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._guard.check(
                model,
                step=self.state.global_step + 1,
                output_dir=self.args.output_dir,
                rank=self.args.process_index,
                gradients=self.accelerator.scaler is None,
            )
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The objective's mean over this process's batch.

        Args:
            model: The (wrapped) model; only its `forward` is called.
            inputs: What the collator made: `input_ids`, and perhaps `attention_mask`, `labels`,
                `keys` and `property_labels`.
            return_outputs: Also return the model's outputs.
            num_items_in_batch: Ignored: each example weighs the same.
        """
        batch, inputs = inputs, _completed(inputs)
        targets = {name: inputs.pop(name) for name in ("keys", "property_labels") if name in inputs}
        if not self.objective.uses_decoder:
            inputs.pop("labels", None)
        elif "labels" in inputs:
            targets["labels"] = inputs["labels"]
        outputs = model(
            **inputs,
            sample_latents=None if self.objective.uses_densities else False,
            decode=self.objective.uses_decoder,
            use_cache=False,
        )
        latent_scale = 1.0  # an evaluation means the same at every step
        if model.training:
            latent_scale = self.args.latent_scale(self.state.global_step, self.state.max_steps)
        result = self.compute_objective(outputs, targets, latent_scale)
        self._terms["train" if model.training else "eval"].add_batch(outputs, result.terms, targets)
        if model.training:
            self._guard.watch(batch, result.terms)
        loss = result.loss.mean()
        return (loss, outputs) if return_outputs else loss

    def compute_objective(
        self, outputs: Any, targets: Mapping[str, torch.Tensor], latent_scale: float
    ) -> ObjectiveOutput:
        """The loss and the terms of each example of a batch; what another objective overrides.

        Args:
            outputs: Of the model.
            targets: `keys` (batch,); `labels` (rows, length), if there is a decoder term;
                `property_labels` (batch, num_properties), if the molecules have any.
            latent_scale: Position on the warm-up ramp of the latent terms, in [0, 1].
        """
        latents, labels, keys = outputs.latents.flatten(1), targets.get("labels"), targets["keys"]
        all_latents, offset = None, 0
        if self.objective.uses_contrastive:
            all_latents, offset = gather_rows(latents)
            keys, _ = gather_rows(keys)
        return self.objective(
            nll=outputs.nll,
            num_tokens=None if labels is None else (labels != -100).sum(1),
            latents=latents,
            mean=outputs.latent_mean.flatten(1),
            log_std=outputs.latent_log_std.flatten(1),
            all_latents=all_latents,
            offset=offset,
            keys=keys,
            properties=outputs.get("property_projections"),
            property_labels=targets.get("property_labels"),
            latent_scale=latent_scale,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms' means since the last log to the training log."""
        if "loss" in logs:
            logs.update(self._terms["train"].pop(self.accelerator))
            if self._guard.skipped:
                logs["skipped_steps"] = self._guard.skipped
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The stock loop, then the terms' means, exact reconstruction and the probe."""
        output = super().evaluation_loop(
            dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        measured = self._terms["eval"].pop(self.accelerator)
        measured |= self._measure_reconstruction(dataloader.dataset)
        if self._probe is not None:
            model = self.accelerator.unwrap_model(self.model)
            measured |= self._probe.measure(model, self.args.eval_batch_size)
        for name, value in measured.items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def _measure_reconstruction(self, dataset: Dataset) -> dict[str, float]:
        """Exact reconstruction of a sample, shared out between the ranks."""
        samples = self.args.reconstruction_samples
        if not samples or not self.objective.uses_decoder or not has_length(dataset):
            return {}
        if "input_ids" not in dataset[0]:  # only text is exact or not
            return {}
        rows = spread_rows(len(dataset), samples)[self.args.process_index :: self.args.world_size]
        sequences = [dataset[int(row)]["input_ids"] for row in rows]
        model = self.accelerator.unwrap_model(self.model)
        exact = exact_reconstructions(model, sequences, self.args.eval_batch_size)
        counted = torch.tensor([exact, len(sequences)], device=self.args.device)
        exact, total = self.accelerator.reduce(counted, "sum").tolist()
        return {"exact_reconstruction": exact / total}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As of `Trainer`; a new folder that this process could not fill is removed."""
        folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        existed = folder.exists()
        try:
            with writing(folder):
                if self.args.should_save:
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy(Path(self.args.output_dir, RUN_FILE), folder)
                super()._save_checkpoint(model, trial)
        except OSError:
            if self.args.should_save and not existed and flaw(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As of `Trainer`; a weight that is tied to another is stored once, and not missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, with the mean and spread of its training examples' codes.

        They are taken of at most 2,000 examples (of the evaluation's, where training streams).
        """
        dataset = self.train_dataset
        if dataset is None or not has_length(dataset):
            dataset = self.eval_dataset
        if has_length(dataset) and len(dataset) > 1:
            self._fit_prior(dataset)
        with writing(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)

    def _fit_prior(self, dataset: Dataset) -> None:
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        codes, rows = [], spread_rows(len(dataset), _PRIOR_EXAMPLES)
        for start in range(0, len(rows), self.args.eval_batch_size):
            part = rows[start : start + self.args.eval_batch_size]
            batch = self._prepare_inputs(self.data_collator([dataset[int(row)] for row in part]))
            read = {name: batch[name] for name in (model.main_input_name, "attention_mask")
                    if name in batch}  # fmt: skip
            with torch.no_grad():
                latents = model(**read, sample_latents=False, decode=False).latents
            codes.append(latents[: len(part)])  # without second views
        model.train(training)
        try:
            model.posterior.fit_aggregate(torch.cat(codes))
        except ValueError as error:
            logger.warning(f"The model is saved without a fitted prior. {error}")

    def create_model_card(
        self,
        *,
        dataset: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **_: Any,
    ) -> None:
        """Write the card to the output folder; `dataset` describes the data.

        The stock trainer's other arguments are left aside: no language, task or parent is named.
        """
        if not self.is_world_process_zero():
            return
        write_model_card(
            self.args.output_dir,
            model=self.accelerator.unwrap_model(self.model),
            args=self.args,
            steps=self.state.global_step,
            history=self.state.log_history,
            data=", ".join(dataset) if isinstance(dataset, list) else dataset,
            name=model_name or self.args.hub_model_id,
            license=license,
            tags=[tags] if isinstance(tags, str) else tags,
        )


def _completed(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch with the labels and keys that its collator may not have made."""
    inputs = dict(inputs)
    if "input_ids" not in inputs:
        return inputs
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    real = torch.ones_like(ids) if mask is None else mask
    inputs.setdefault("labels", ids.masked_fill(real == 0, -100))
    if "keys" not in inputs:
        rows = zip(ids.tolist(), real.bool().tolist(), strict=True)
        keys = [molecule_key(list(compress(row, kept))) for row, kept in rows]
        inputs["keys"] = torch.tensor(keys, device=ids.device)
    return inputs


def _is_of_a_worker(error: Exception) -> bool:
    """Whether an error is what a worker's end leaves: torch's, or that of its connection."""
    is_of_torch = str(error).startswith("DataLoader worker")
    is_of_a_socket = getattr(error, "filename", None) is None  # no file is missing
    return is_of_torch if isinstance(error, RuntimeError) else is_of_a_socket
