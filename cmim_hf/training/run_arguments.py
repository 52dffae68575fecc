# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run is given: a settings file, then options of the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

from ..checkpoints import checkpoint_path
from ..data.packed_molecules import is_packed
from ..model.configuration_cmim import CMIMConfig
from ..model.parent_molecule_cmim import STANDARDS
from .arguments import CMIMTrainingArguments


@dataclass
class ModelArguments:
    """The model to train: a checkpoint, or a size with changes."""

    model_name_or_path: str | None = HfArg(
        default=None,
        help="Go on from this checkpoint (folder, Hub id or name), with its tokenizer.",
    )
    size: str = HfArg(default="small", help="tiny, small, base or large.")
    num_latents: int = HfArg(default=1, help="Latent codes of a molecule.")
    latent_size: int | None = HfArg(default=None, help="Size of a code.")
    posterior: str = HfArg(default="learned", help="learned or sampled.")
    min_log_std: float = HfArg(default=-3.0, help="Floor of the log-std.")
    dropout: float = HfArg(default=0.0, help="Dropout of the residual branches.")
    property_representation: str = HfArg(
        default="both", help="What labels are predicted from: latent, informative or both."
    )
    max_length: int = HfArg(default=512, help="Longest molecule in tokens.")
    tokenizer: str | None = HfArg(
        default=None, help="Folder of a tokenizer; the package's own if not given."
    )
    merges: int = HfArg(
        default=0, help="Train a tokenizer on the data, with this many multi-atom tokens."
    )

    def __post_init__(self) -> None:
        """Find the checkpoints that ship."""
        for name in ("model_name_or_path", "tokenizer"):
            if getattr(self, name) is not None:
                setattr(self, name, checkpoint_path(getattr(self, name)))


@dataclass
class DataArguments:
    """Where the molecules come from."""

    train_sources: list[str] = HfArg(
        default_factory=list,
        help="Any mix of files (.smi, .txt, .csv, .tsv, .parquet, gz too), Hub dataset "
        "names, moses, and folders made by `cmim prepare`.",
    )
    validation_sources: list[str] = HfArg(
        default_factory=list, help="Likewise; if none, validation_size molecules are held out."
    )
    validation_size: int = HfArg(
        default=1000, help="Held out if no sources are named; at most a tenth of what is in memory."
    )
    smiles_column: str | None = HfArg(
        default=None, help="Column with the SMILES; found by name if not given."
    )
    split: str = HfArg(default="train", help="Split of Hub datasets.")
    streaming: bool = HfArg(default=False, help="Read while training, keeping nothing in memory.")
    canonicalize: bool = HfArg(default=True, help="Write every molecule canonically (RDKit).")
    standardize: str = HfArg(
        default="none",
        help="parent learns from the largest fragment of each molecule, neutral.",
        metadata={"choices": list(STANDARDS)},
    )
    property_columns: list[str] = HfArg(
        default_factory=list,
        help="Columns of the sources with numbers to predict, empty where unknown.",
    )
    properties: list[str] = HfArg(
        default_factory=list,
        help="Or descriptors to compute: rdkit (118 cheap ones), or RDKit's names.",
    )
    property_rows: int | None = HfArg(
        default=None, help="Compute them for so many molecules only, at random."
    )
    preparation_workers: int = HfArg(default=0, help="Processes that parse.")
    data_description: str | None = HfArg(
        default=None, help="What the data are, for the card; the names of the sources if not given."
    )
    license: str | None = HfArg(
        default=None, help="Licence of the weights, for the card; mind the data's."
    )


KINDS = (ModelArguments, DataArguments, CMIMTrainingArguments)


def parse_arguments(
    argv: list[str] | None = None,
) -> tuple[ModelArguments, DataArguments, CMIMTrainingArguments]:
    """Read a YAML or JSON file of settings, if one comes first, then the command line.

    Args:
        argv: The words; those of this process if None.

    Raises:
        ValueError: Unknown settings, or some that contradict each other.

    >>> words = ["--train_sources", "moses", "--size", "tiny", "--use_cpu", "true"]
    >>> model_args, data_args, args = parse_arguments(words)
    >>> model_args.size, data_args.train_sources, args.objective
    ('tiny', ['moses'], 'cmim')
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(KINDS)
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        settings = yaml.safe_load(Path(argv[0]).read_text()) or {}  # JSON is YAML
        known = {each.name for kind in KINDS for each in fields(kind)}
        if unknown := sorted(set(settings) - known):
            raise ValueError(f"{argv[0]}: unknown settings {', '.join(unknown)}; see --help.")
        for name, value in settings.items():
            if isinstance(value, str) and isinstance(parser.get_default(name), list):
                settings[name] = [value]
        parser.set_defaults(**settings)
        argv = argv[1:]
    model_args, data_args, args = parser.parse_args_into_dataclasses(argv)
    _check_data(data_args, args, model_args.merges)
    if model_args.model_name_or_path is not None:
        _check_checkpoint(model_args)
    return model_args, data_args, args


def _check_data(data_args: DataArguments, args: CMIMTrainingArguments, merges: int) -> None:
    if not data_args.train_sources:
        raise ValueError("Name at least one of --train_sources: files, Hub datasets or moses.")
    if not data_args.streaming:
        return
    if merges:
        raise ValueError(
            "--merges learns from all molecules, which --streaming does not hold: train a "
            "tokenizer with `cmim prepare` on a part of them and pass it as --tokenizer."
        )
    if data_args.properties or data_args.property_columns:
        raise ValueError(
            "Labels are standardised over all molecules, which --streaming does not hold: leave it "
            "out, or prepare the molecules with `cmim prepare`."
        )
    if packed := [source for source in data_args.train_sources if is_packed(source)]:
        raise ValueError(f"{packed[0]} is prepared and mapped into memory: leave out --streaming.")
    if args.dataloader_num_workers > 1:
        raise ValueError(
            "--streaming reads in one process: give --dataloader_num_workers 0 or 1, or prepare "
            "the molecules first."
        )


def _check_checkpoint(model_args: ModelArguments) -> None:
    """Take the longest molecule from the checkpoint to go on from; refuse what it fixes."""
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
