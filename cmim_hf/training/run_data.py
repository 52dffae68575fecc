# SPDX-License-Identifier: Apache-2.0
"""The tokenizer, the training and the validation molecules of a pretraining run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from torch.utils.data import Dataset

from ..atomic_files import writing
from ..data.labelling import read_property_scale
from ..data.packed_molecules import PackedMolecules, is_packed
from ..data.prepare import SourceOptions, prepare, prepare_sources, retokenize
from ..data.row_encoder import Rejects
from ..data.smiles_files import Row, read_smiles
from ..data.streamed_molecules import StreamedMolecules
from ..model.tokenization_cmim import CMIMTokenizer, default_tokenizer
from .arguments import CMIMTrainingArguments
from .run_arguments import DataArguments, ModelArguments

Data = tuple[CMIMTokenizer, Dataset, Dataset]


def load_data(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> Data:
    """The tokenizer, the training and the validation molecules of a run.

    Rows that cannot be used are counted on the terminal and listed in `rejects*.tsv` of the output
    folder.

    Raises:
        ValueError: No usable row, or sources that lie where this run writes.
    """
    if data_args.streaming:
        return _stream(model_args, data_args, args)
    sources = data_args.train_sources + data_args.validation_sources
    if not model_args.merges and all(map(is_packed, sources)):
        return _read(model_args, data_args, args)
    folder = Path(args.output_dir, "molecules")
    if any(Path(source).resolve().is_relative_to(folder.resolve()) for source in sources):
        raise ValueError(f"{folder} is rewritten by this run: move the sources out of it first.")
    return _prepare_for_all(folder, model_args, data_args, args)


def _prepare_for_all(
    folder: Path, model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> Data:
    """The first process prepares; all map what it wrote, and a resumed run goes on with it."""
    if args.resume_from_checkpoint and is_packed(folder / "validation"):
        print(f"Going on with the molecules of {folder}.")
    elif args.process_index == 0:
        tokenizer, train, validation = _read(model_args, data_args, args)
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            tokenizer.save_pretrained(folder)
        train.save(folder / "train")
        validation.save(folder / "validation")
    args.distributed_state.wait_for_everyone()
    tokenizer = CMIMTokenizer.from_pretrained(folder)
    return tokenizer, *(
        PackedMolecules.load(folder / part, tokenizer) for part in ("train", "validation")
    )


def _read(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> tuple[CMIMTokenizer, PackedMolecules, PackedMolecules]:
    tokenizer = _load_tokenizer(model_args, data_args)
    checkpoint = model_args.model_name_or_path
    options = SourceOptions(
        max_length=model_args.max_length,
        canonicalize=data_args.canonicalize,
        standardize=data_args.standardize,
        column=data_args.smiles_column,
        split=data_args.split,
        num_workers=data_args.preparation_workers,
        property_columns=data_args.property_columns,
        properties=data_args.properties,
        property_rows=data_args.property_rows,
        property_scale=None if checkpoint is None else read_property_scale(checkpoint),
    )
    output = Path(args.output_dir)
    molecules, rejects = prepare_sources(data_args.train_sources, tokenizer, options)
    _report(rejects, output / "rejects.tsv")
    if model_args.merges:
        molecules, tokenizer, rejects = retokenize(molecules, tokenizer, merges=model_args.merges)
        _report(rejects, output / "rejects_merges.tsv")
    if data_args.validation_sources:
        options = replace(options, property_scale=molecules.property_scale)
        held_out, rejects = prepare_sources(data_args.validation_sources, tokenizer, options)
        _report(rejects, output / "rejects_validation.tsv")
    else:
        size = min(data_args.validation_size, max(1, len(molecules) // 10))
        molecules, held_out = molecules.split(size, seed=args.seed)
    return tokenizer, molecules, held_out


def _stream(
    model_args: ModelArguments, data_args: DataArguments, args: CMIMTrainingArguments
) -> Data:
    """Open streams; validation molecules are the head of the first source if not given."""
    tokenizer = _load_tokenizer(model_args, data_args)
    read = partial(read_smiles, column=data_args.smiles_column, split=data_args.split)
    opened = [partial(read, source) for source in data_args.train_sources]
    if data_args.validation_sources:
        rows = chain.from_iterable(map(read, data_args.validation_sources))
    else:
        rows = islice(opened[0](), data_args.validation_size)
        opened[0] = partial(_skip_rows, opened[0], data_args.validation_size)
    encoding = {
        "max_length": model_args.max_length,
        "canonicalize": data_args.canonicalize,
        "standardize": data_args.standardize,
    }
    validation, rejects = prepare(rows, tokenizer, **encoding)
    first = args.process_index == 0
    if first:
        _report(rejects, Path(args.output_dir, "rejects_validation.tsv"))
    train = StreamedMolecules(
        opened,
        tokenizer,
        batch_size=args.train_batch_size * args.world_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        rejects_path=Path(args.output_dir, "rejects.tsv") if first else None,
        **encoding,
    )
    return tokenizer, train, validation


def _skip_rows(opened: Callable[[], Iterable[Row]], count: int) -> Iterator[Row]:
    return islice(opened(), count, None)


def _load_tokenizer(model_args: ModelArguments, data_args: DataArguments) -> CMIMTokenizer:
    """That of the checkpoint, of `--tokenizer`, of the first prepared source, or the default."""
    prepared = [source for source in data_args.train_sources if is_packed(source)]
    for folder in (model_args.model_name_or_path, model_args.tokenizer, *prepared[:1]):
        if folder is not None:
            return CMIMTokenizer.from_pretrained(folder)
    return default_tokenizer(model_args.max_length)


def _report(rejects: Rejects, path: Path) -> None:
    if rejects:
        rejects.write(path)
        report_rejects(rejects.counts, path)


def report_rejects(counts: dict[str, int], path: str | Path) -> None:
    """Say how many rows of each kind cannot be used, and where they are listed."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{sum(counts.values())} rows cannot be used ({kinds}); they are listed in {path}.")
