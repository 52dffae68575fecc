# SPDX-License-Identifier: Apache-2.0
"""Pretraining from sources of molecules to a checkpoint with its card."""

from __future__ import annotations

from pathlib import Path

from transformers import set_seed

from ..allocator import keep_freed_memory
from ..atomic_files import check_writable
from ..data.collator import CMIMCollator
from ..data.property_labels import PropertyScale
from ..model.configuration_cmim import CMIMConfig
from ..model.modeling_cmim import CMIMModel
from ..model.tokenization_cmim import CMIMTokenizer
from .arguments import CMIMTrainingArguments
from .cross_rank_gather import leave_process_group
from .run_arguments import DataArguments, ModelArguments
from .run_data import load_data, report_rejects
from .trainer import CMIMTrainer


def pretrain(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> None:
    """Prepare the data, train, evaluate, and save a checkpoint with its card.

    The output folder then holds the model, its tokenizer, `README.md`, `trainer_state.json`, the
    prepared molecules and the tables of rows that cannot be used.

    `resume_from_checkpoint="auto"` goes on from the newest whole checkpoint of the output folder,
    if there is one.
    """
    trainer = build_trainer(model_args, data_args, args)
    if args.device.type == "cpu":
        keep_freed_memory()
    trainer.train(args.resume_from_checkpoint)
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    card = {
        "dataset": data_args.data_description or data_args.train_sources,
        "license": data_args.license,
    }
    trainer.create_model_card(**card)
    train = trainer.train_dataset
    if data_args.streaming and train.rejected and args.process_index == 0:
        report_rejects(train.rejected, train.rejects_path)
    if args.push_to_hub:
        trainer.push_to_hub(**card)
    if args.world_size > 1:
        del trainer, train  # what wraps the model must be gone before the group is
        leave_process_group()


def build_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> CMIMTrainer:
    """Prepare the data and the model; the arguments are those of [`pretrain`]."""
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    check_writable(output)
    tokenizer, train, validation = load_data(model_args, data_args, args)
    scale = getattr(train, "property_scale", None) if args.property_weight else None
    return CMIMTrainer(
        model=build_model(model_args, tokenizer, scale),
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=CMIMCollator(
            tokenizer,
            views=args.build_objective().views,
            max_length=model_args.max_length,
            seed=args.seed,
        ),
    )


def build_model(
    model_args: ModelArguments, tokenizer: CMIMTokenizer, scale: PropertyScale | None = None
) -> CMIMModel:
    """The checkpoint to go on from, or random weights; with a head for the properties of `scale`.

    A checkpoint that has no such head gets one of random weights.
    """
    head = {}
    if scale is not None:
        head = {
            "num_properties": len(scale.names),
            "property_names": list(scale.names),
            "property_representation": model_args.property_representation,
        }
    checkpoint = model_args.model_name_or_path
    if checkpoint is not None:
        has_head = CMIMConfig.from_pretrained(checkpoint).num_properties > 0
        return CMIMModel.from_pretrained(checkpoint, **({} if has_head else head))
    if model_args.latent_size is not None:
        head["latent_size"] = model_args.latent_size
    config = CMIMConfig.from_size(
        model_args.size,
        vocab_size=len(tokenizer),
        num_latents=model_args.num_latents,
        posterior=model_args.posterior,
        min_log_std=model_args.min_log_std,
        dropout=model_args.dropout,
        max_position_embeddings=model_args.max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        **head,
    )
    return CMIMModel(config)
