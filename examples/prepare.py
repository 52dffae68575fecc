# SPDX-License-Identifier: Apache-2.0
"""Parse and tokenise molecules once, for training runs that then need neither RDKit nor `datasets`.

    python examples/prepare.py --sources moses --output data/moses --workers 8
    accelerate launch examples/pretrain.py --train_sources data/moses --output_dir runs/moses

With labels, so that training also learns to predict them: numbers from columns of the tables, or
RDKit's descriptors, of a sample if there are many molecules.

    python examples/prepare.py --sources assays.csv --property_columns pIC50 logD \
        --output data/assays
    python examples/prepare.py --sources moses --properties rdkit --property_rows 200000 \
        --output data/moses --workers 8

The folder holds flat token arrays, which training maps into memory, and their tokenizer.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser

from cmim_hf import default_tokenizer
from cmim_hf.atomic_files import writing
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.labelling import read_property_scale
from cmim_hf.data.prepare import PropertyOptions, SourceOptions, prepare_sources, retokenize


@dataclass
class Arguments:
    """What to prepare."""

    sources: list[str] = field(
        metadata={"help": "Files (.smi, .txt, .csv, .tsv, .parquet, gz too), Hub datasets, moses."}
    )
    output: str = field(metadata={"help": "The folder to write."})
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a tokenizer, a checkpoint or prepared molecules, whose scale of "
            "properties is taken, too; the package's own tokenizer if not given."
        },
    )
    merges: int = field(
        default=0, metadata={"help": "Train a tokenizer with this many multi-atom tokens."}
    )
    smiles_column: str | None = field(default=None, metadata={"help": "Column with the SMILES."})
    split: str = field(default="train", metadata={"help": "Split of Hub datasets."})
    canonicalize: bool = field(default=True, metadata={"help": "Write molecules canonically."})
    max_length: int = field(default=512, metadata={"help": "Longest molecule in tokens."})
    property_columns: list[str] = field(
        default_factory=list, metadata={"help": "Columns with numbers to label molecules with."}
    )
    properties: list[str] = field(
        default_factory=list,
        metadata={"help": "Or descriptors to compute: rdkit (118 cheap ones), or RDKit's names."},
    )
    property_rows: int | None = field(
        default=None, metadata={"help": "Compute them for so many molecules only, at random."}
    )
    workers: int = field(default=0, metadata={"help": "Processes that parse."})


def main() -> None:
    """Prepare, and list what cannot be used beside the result."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.tokenizer is None:
        tokenizer = default_tokenizer(args.max_length)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    options = SourceOptions(
        max_length=args.max_length,
        canonicalize=args.canonicalize,
        column=args.smiles_column,
        split=args.split,
        num_workers=args.workers,
        properties=PropertyOptions(
            columns=tuple(args.property_columns),
            descriptors=tuple(args.properties),
            rows=args.property_rows,
            scale=None if args.tokenizer is None else read_property_scale(args.tokenizer),
        ),
    )
    molecules, rejects = prepare_sources(args.sources, tokenizer, options)
    if args.merges:
        molecules, tokenizer, too_long = retokenize(molecules, tokenizer, merges=args.merges)
        rejects.items += too_long.items
    molecules.save(args.output)
    try:
        with writing(args.output):
            tokenizer.save_pretrained(args.output)
    except OSError:
        shutil.rmtree(args.output)
        raise
    rejects.write(Path(args.output, "rejects.tsv"))
    labels = molecules.labels()
    labelled = (
        ""
        if labels is None
        else (f"{len(labels.codes):,} of them labelled with {len(labels.scale.names)} properties; ")
    )
    print(
        f"{len(molecules):,} molecules of {molecules.lengths.mean():.1f} tokens in {args.output}; "
        f"{labelled}{len(rejects):,} rows could not be used {rejects.counts or ''}"
    )


if __name__ == "__main__":
    run_script(main)
