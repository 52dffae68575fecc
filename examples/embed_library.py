# SPDX-License-Identifier: Apache-2.0
"""Embed a library of molecules of any size to Parquet shards.

python examples/embed_library.py --sources library.smi.gz --output runs/library
accelerate launch --num_processes 8 --multi_gpu examples/embed_library.py --sources …
python examples/embed_library.py --sources … --ray_actors 16   # on a Ray cluster

The same command again goes on where a killed one stopped. Every way gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import HfArgumentParser

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeEmbedder
from cmim_hf.allocator import keep_freed_memory
from cmim_hf.cli.exit_status import run_script
from cmim_hf.embedding.sharded_library import Library, embed_shards


@dataclass
class Arguments:
    """What to embed, how, and where to."""

    sources: list[str] = field(
        default_factory=lambda: [str(Path(__file__).parent / "data" / "moses_test.smi")],
        metadata={"help": "Files (.smi, .csv, .parquet, ...), datasets of the Hub, or moses."},
    )
    output: str = field(default="runs/library", metadata={"help": "Folder of the shards."})
    checkpoint: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Folder or Hub id."})
    representation: str = field(
        default="informative", metadata={"help": "informative, latent or both."}
    )
    pooling: str = field(default="mean", metadata={"help": "mean, last or max."})
    canonicalize: bool = field(
        default=True, metadata={"help": "Rewrite molecules as RDKit does; false if it wrote them."}
    )
    on_invalid: str = field(
        default="none",
        metadata={"help": "none (a row of NaN and the reason), skip (left out) or raise."},
    )
    column: str | None = field(default=None, metadata={"help": "The column with SMILES."})
    split: str = field(default="train", metadata={"help": "Of a dataset."})
    shard_rows: int = field(default=32768, metadata={"help": "Rows of a shard."})
    dtype: str | None = field(default=None, metadata={"help": "Such as bfloat16 on a GPU."})
    batch_tokens: int | None = field(default=None, metadata={"help": "Most tokens of a batch."})
    workers: int = field(
        default=0, metadata={"help": "Processes that canonicalise beside each process."}
    )
    ray_actors: int = field(
        default=0, metadata={"help": "Embed by so many Ray actors (pip install 'cmim-hf[ray]')."}
    )
    ray_gpus: float = field(default=0, metadata={"help": "GPUs of each Ray actor."})


def written_rows(args: Arguments, library: Library, state: PartialState) -> Iterator[int]:
    """Write what is missing; yield the rows read of each shard that is done."""
    settings: dict[str, Any] = {
        name: getattr(args, name)
        for name in (
            "checkpoint",
            "dtype",
            "representation",
            "pooling",
            "canonicalize",
            "on_invalid",
            "batch_tokens",
        )
    }
    embedder = MoleculeEmbedder(**settings, device=state.device, progress=False)
    if state.is_main_process:
        library.open(embedder)
    state.wait_for_everyone()
    library.check(embedder)
    if args.ray_actors:
        if args.workers:
            raise ValueError("Ray actors canonicalise themselves: give --ray_actors or --workers.")
        try:
            from cmim_hf.embedding.sharded_library_ray import embed_library_on_ray
        except ImportError as error:
            raise ValueError(f"{error}. Run: pip install 'cmim-hf[ray]'") from error
        settings["dtype"] = embedder.model.dtype  # actors on other hardware might choose another
        yield from embed_library_on_ray(
            library, settings, num_actors=args.ray_actors, num_gpus=args.ray_gpus
        )
        return
    shards = library.pending(state.process_index, state.num_processes)
    for embedded in embed_shards(shards, embedder, args.workers):
        yield len(embedded.batch.smiles)


def main() -> None:
    """Embed, then say what is in the folder."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    # processes of unequal speed wait for each other only at the end, but then perhaps for days
    cpu = not torch.accelerator.is_available()
    if cpu:
        keep_freed_memory()
    state = PartialState(cpu=cpu, timeout=timedelta(weeks=4))
    try:
        library = Library(
            Path(args.output), tuple(args.sources), args.shard_rows, args.column, args.split
        )
        with tqdm(desc="Embedding", unit=" rows", disable=not state.is_main_process) as bar:
            for rows in written_rows(args, library, state):
                bar.update(rows)
        state.wait_for_everyone()
        if state.is_main_process:
            done = library.close()
            invalid = ", ".join(f"{number:,} {kind}" for kind, number in done["invalid"].items())
            print(
                f"{args.output}: {done['rows']:,} rows in {done['shards']:,} shards, from "
                f"{done['read']:,} read; invalid: {invalid or 'none'}."
            )
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_script(main, "interrupted; the same command goes on from here.")
