# SPDX-License-Identifier: Apache-2.0
"""Pretrain a cMIM on SMILES.

    accelerate launch examples/pretrain.py examples/configs/tiny.yaml
    accelerate launch examples/pretrain.py --train_sources moses --output_dir runs/small
    accelerate launch examples/pretrain.py examples/configs/tiny.yaml --resume_from_checkpoint auto
    accelerate launch examples/pretrain.py --train_sources moses --properties rdkit \
        --property_rows 200000 --preparation_workers 8 --optimizer muon --output_dir runs/labelled

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 examples/pretrain.py ... --use_cpu true
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from torch.utils.data import Dataset
from transformers import AutoTokenizer, HfArgumentParser, set_seed

from cmim_hf import (
    CMIMConfig,
    CMIMModel,
    CMIMTokenizer,
    CMIMTrainer,
    CMIMTrainingArguments,
    default_tokenizer,
)
from cmim_hf.allocator import keep_freed_memory
from cmim_hf.atomic_files import check_writable, writing
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.labelling import read_property_scale
from cmim_hf.data.packed_molecules import PackedMolecules, is_packed
from cmim_hf.data.prepare import (
    PropertyOptions,
    SourceOptions,
    prepare,
    prepare_sources,
    retokenize,
)
from cmim_hf.data.property_labels import PropertyScale
from cmim_hf.data.row_encoder import Rejects
from cmim_hf.data.smiles_files import Row, read_smiles
from cmim_hf.data.streamed_molecules import StreamedMolecules
from cmim_hf.training.cross_rank_gather import leave_process_group
from cmim_hf.training.trainer import newest_checkpoint


@dataclass
class ModelArguments:
    """The model to train: a checkpoint, or a size with changes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Go on from this checkpoint, with its tokenizer."}
    )
    size: str = field(default="small", metadata={"help": "tiny, small, base or large."})
    num_latents: int = field(default=1, metadata={"help": "Latent codes of a molecule."})
    latent_size: int | None = field(default=None, metadata={"help": "Size of a code."})
    posterior: str = field(default="learned", metadata={"help": "learned or sampled."})
    min_log_std: float = field(default=-3.0, metadata={"help": "Floor of the log-std."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the residual branches."})
    property_representation: str = field(
        default="both",
        metadata={"help": "What labels are predicted from: latent, informative or both."},
    )
    max_length: int = field(default=512, metadata={"help": "Longest molecule in tokens."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder of a tokenizer; the package's own if not given."}
    )
    merges: int = field(
        default=0,
        metadata={"help": "Train a tokenizer on the data, with this many multi-atom tokens."},
    )


@dataclass
class DataArguments:
    """Where the molecules come from."""

    train_sources: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Any mix of files (.smi, .txt, .csv, .tsv, .parquet, gz too), Hub dataset "
            "names, moses, and folders made by `cmim prepare`."
        },
    )
    validation_sources: list[str] = field(
        default_factory=list,
        metadata={"help": "Likewise; if none, validation_size molecules are held out."},
    )
    validation_size: int = field(
        default=1000,
        metadata={
            "help": "Held out if no sources are named; at most a tenth of what is in memory."
        },
    )
    smiles_column: str | None = field(
        default=None, metadata={"help": "Column with the SMILES; found by name if not given."}
    )
    split: str = field(default="train", metadata={"help": "Split of Hub datasets."})
    streaming: bool = field(
        default=False, metadata={"help": "Read while training, keeping nothing in memory."}
    )
    canonicalize: bool = field(
        default=True, metadata={"help": "Write every molecule canonically (RDKit)."}
    )
    property_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns of the sources with numbers to predict, empty where unknown."},
    )
    properties: list[str] = field(
        default_factory=list,
        metadata={"help": "Or descriptors to compute: rdkit (118 cheap ones), or RDKit's names."},
    )
    property_rows: int | None = field(
        default=None, metadata={"help": "Compute them for so many molecules only, at random."}
    )
    preparation_workers: int = field(default=0, metadata={"help": "Processes that parse."})
    data_description: str | None = field(
        default=None,
        metadata={
            "help": "What the data are, for the card; the names of the sources if not given."
        },
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights, for the card; mind the data's."}
    )


def parse_arguments(
    argv: list[str] | None = None,
) -> tuple[ModelArguments, DataArguments, CMIMTrainingArguments]:
    """Read a YAML or JSON file of settings, if one comes first, then the command line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser((ModelArguments, DataArguments, CMIMTrainingArguments))
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        import yaml

        settings = yaml.safe_load(Path(argv[0]).read_text()) or {}  # JSON is YAML
        known = {action.dest for action in parser._actions}
        for action in parser._actions:
            if action.nargs == "+" and isinstance(settings.get(action.dest), str):
                settings[action.dest] = [settings[action.dest]]
        if unknown := sorted(set(settings) - known):
            raise ValueError(f"{argv[0]}: unknown settings {', '.join(unknown)}; see --help.")
        parser.set_defaults(**settings)
        argv = argv[1:]
    model_args, data_args, args = parser.parse_args_into_dataclasses(argv)
    if not data_args.train_sources:
        raise ValueError("Name at least one of --train_sources: files, Hub datasets or moses.")
    check_checkpoint(model_args)
    if data_args.streaming and model_args.merges:
        raise ValueError(
            "--merges learns from all molecules, which streaming does not hold: train a tokenizer "
            "with `cmim prepare` on a part of them and pass it as --tokenizer."
        )
    if data_args.streaming and (data_args.properties or data_args.property_columns):
        raise ValueError(
            "Labels are standardised over all molecules, which streaming does not hold: leave out "
            "--streaming, or prepare the molecules with `cmim prepare`."
        )
    return model_args, data_args, args


def check_checkpoint(model_args: ModelArguments) -> None:
    """Take the longest molecule from the checkpoint to go on from; refuse what it fixes."""
    if model_args.model_name_or_path is None:
        return
    config = CMIMConfig.from_pretrained(model_args.model_name_or_path)
    free = set() if config.num_properties else {"property_representation"}  # of a new head
    fresh = ModelArguments(model_name_or_path=model_args.model_name_or_path)
    changed = [
        f"--{name}"
        for name, value in vars(model_args).items()
        if value != getattr(fresh, name) and name not in free
    ]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} cannot be changed: {model_args.model_name_or_path} has its own."
        )
    model_args.max_length = config.max_position_embeddings


def load_tokenizer(model_args: ModelArguments, data_args: DataArguments) -> CMIMTokenizer:
    """The tokenizer of the checkpoint, of `--tokenizer`, of a prepared source, or the default."""
    prepared = [source for source in data_args.train_sources if is_packed(source)]
    for folder in (model_args.model_name_or_path, model_args.tokenizer, *prepared[:1]):
        if folder is not None:
            return AutoTokenizer.from_pretrained(folder)
    return default_tokenizer(model_args.max_length)


def load_in_memory(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> tuple[CMIMTokenizer, Dataset, Dataset]:
    """Prepared molecules as they are; others are prepared by the first process, for all.

    What is prepared stays in the output folder, so that a resumed run goes on with exactly it.
    """
    sources = data_args.train_sources + data_args.validation_sources
    if not model_args.merges and all(map(is_packed, sources)):
        return read_sources(model_args, data_args, args)
    folder = Path(args.output_dir, "molecules")
    if any(Path(source).resolve().is_relative_to(folder.resolve()) for source in sources):
        raise ValueError(f"{folder} is rewritten by this run: move the sources out of it first.")
    if args.resume_from_checkpoint and is_packed(folder / "validation"):
        print(f"Going on with the molecules of {folder}.")
    elif args.process_index == 0:
        tokenizer, train, validation = read_sources(model_args, data_args, args)
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            tokenizer.save_pretrained(folder)
        train.save(folder / "train")
        validation.save(folder / "validation")
    args.distributed_state.wait_for_everyone()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, validation = (
        PackedMolecules.load(folder / part, tokenizer) for part in ("train", "validation")
    )
    return tokenizer, train, validation


def read_sources(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> tuple[CMIMTokenizer, PackedMolecules, PackedMolecules]:
    """The tokenizer, the training and the validation molecules."""
    tokenizer = load_tokenizer(model_args, data_args)
    checkpoint = model_args.model_name_or_path
    properties = PropertyOptions(
        columns=tuple(data_args.property_columns),
        descriptors=tuple(data_args.properties),
        rows=data_args.property_rows,
        scale=None if checkpoint is None else read_property_scale(checkpoint),
    )
    options = SourceOptions(
        max_length=model_args.max_length,
        canonicalize=data_args.canonicalize,
        column=data_args.smiles_column,
        split=data_args.split,
        num_workers=data_args.preparation_workers,
        properties=properties,
    )
    molecules, rejects = prepare_sources(data_args.train_sources, tokenizer, options)
    report(rejects, Path(args.output_dir, "rejects.tsv"))
    if model_args.merges:
        molecules, tokenizer, rejects = retokenize(molecules, tokenizer, merges=model_args.merges)
        report(rejects, Path(args.output_dir, "rejects_merges.tsv"))
    if data_args.validation_sources:
        options = replace(options, properties=replace(properties, scale=molecules.property_scale))
        held_out, rejects = prepare_sources(data_args.validation_sources, tokenizer, options)
        report(rejects, Path(args.output_dir, "rejects_validation.tsv"))
    else:
        size = min(data_args.validation_size, max(1, len(molecules) // 10))
        molecules, held_out = molecules.split(size, seed=args.seed)
    return tokenizer, molecules, held_out


def load_streaming(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> tuple[CMIMTokenizer, Dataset, Dataset]:
    """Open streams; validation molecules are the head of the first source if not given."""
    if packed := [source for source in data_args.train_sources if is_packed(source)]:
        raise ValueError(f"{packed[0]} is prepared and mapped into memory: leave out --streaming.")
    if args.dataloader_num_workers > 1:
        raise ValueError(
            "--streaming reads in one process: give --dataloader_num_workers 0 or 1, or prepare "
            "the molecules first."
        )
    tokenizer = load_tokenizer(model_args, data_args)
    read = partial(read_smiles, column=data_args.smiles_column, split=data_args.split)
    opened = [partial(read, source) for source in data_args.train_sources]
    if data_args.validation_sources:
        rows = chain.from_iterable(map(read, data_args.validation_sources))
    else:
        rows = islice(opened[0](), data_args.validation_size)
        opened[0] = partial(skip_rows, opened[0], data_args.validation_size)
    encoding = {"max_length": model_args.max_length, "canonicalize": data_args.canonicalize}
    validation, rejects = prepare(rows, tokenizer, **encoding)
    first = args.process_index == 0
    if first:
        report(rejects, Path(args.output_dir, "rejects_validation.tsv"))
    train = StreamedMolecules(
        opened,
        tokenizer,
        batch_size=args.train_batch_size * args.world_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        rejects_path=Path(args.output_dir, "rejects.tsv") if first else None,
        **encoding,
    )
    return tokenizer, train, validation


def report(rejects: Rejects, path: Path) -> None:
    """Say how many rows cannot be used, and where they are listed."""
    if len(rejects):
        rejects.write(path)
        report_counts(rejects.counts, path)


def report_counts(counts: dict[str, int], path: Path) -> None:
    """One line with the number of rows of each kind."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{sum(counts.values())} rows cannot be used ({kinds}); they are listed in {path}.")


def skip_rows(opened: Callable[[], Iterable[Row]], count: int) -> Iterator[Row]:
    """The rows of a source but for its first `count`."""
    return islice(opened(), count, None)


def build_model(
    model_args: ModelArguments, tokenizer: CMIMTokenizer, scale: PropertyScale | None
) -> CMIMModel:
    """The checkpoint to go on from, or random weights; with a head for properties, if labelled.

    A checkpoint that has none gets one of random weights.
    """
    head = {}
    if scale is not None:
        head = {
            "num_properties": len(scale.names),
            "property_names": list(scale.names),
            "property_representation": model_args.property_representation,
        }
    if model_args.model_name_or_path is not None:
        config = CMIMConfig.from_pretrained(model_args.model_name_or_path)
        if config.num_properties:
            head = {}
        return CMIMModel.from_pretrained(model_args.model_name_or_path, **head)
    overrides = {} if model_args.latent_size is None else {"latent_size": model_args.latent_size}
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
        **overrides,
    )
    return CMIMModel(config)


def main(argv: list[str] | None = None) -> None:
    """Run, then leave the process group."""
    model_args, data_args, args = parse_arguments(argv)
    pretrain(model_args, data_args, args)
    if args.world_size > 1:
        leave_process_group()


def build_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> CMIMTrainer:
    """Prepare the data and the model."""
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    check_writable(output)
    load = load_streaming if data_args.streaming else load_in_memory
    tokenizer, train, validation = load(model_args, data_args, args)
    scale = getattr(train, "property_scale", None) if args.property_weight else None
    return CMIMTrainer(
        model=build_model(model_args, tokenizer, scale),
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=CMIMCollator(
            tokenizer,
            views=2 if args.objective == "infonce" else 1,
            max_length=model_args.max_length,
            seed=args.seed,
        ),
    )


def pretrain(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> None:
    """Prepare the data, train, evaluate, and save a checkpoint with its card."""
    trainer = build_trainer(model_args, data_args, args)
    resume = args.resume_from_checkpoint
    if resume == "auto":
        resume = newest_checkpoint(args.output_dir)
    if args.device.type == "cpu":
        keep_freed_memory()
    trainer.train(resume_from_checkpoint=resume)
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
        report_counts(train.rejected, train.rejects_path)
    if args.push_to_hub:
        trainer.push_to_hub(**card)


if __name__ == "__main__":
    run_script(main, "interrupted; --resume_from_checkpoint auto goes on from what was saved.")
