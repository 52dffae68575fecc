# SPDX-License-Identifier: Apache-2.0
"""Embed a library of molecules of any size to Parquet shards.

python examples/embed_library.py --sources library.smi.gz --output runs/library
accelerate launch --num_processes 8 --multi_gpu examples/embed_library.py --sources …
python examples/embed_library.py --sources … --ray_actors 16   # on a Ray cluster

The same command again goes on where a killed one stopped. Every way gives the same rows.
"""

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.allocator import keep_freed_memory
from cmim_hf.cli.exit_status import run_script
from cmim_hf.embedding.sharded_library import Library, embed_shards

INTERRUPTED = "interrupted; the same command goes on from here."
MOLECULES = str(Path(__file__).parent / "data" / "moses_test.smi")


@dataclass
class How:
    """The arguments of `MoleculeEmbedder`."""

    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    representation: str = field(default="informative", metadata={"help": "Or latent, or both."})
    pooling: str = field(default="mean", metadata={"help": "Or last, or max."})
    dim: int | None = field(default=None, metadata={"help": "Numbers, along principal axes."})
    canonicalize: bool = field(default=True, metadata={"help": "False if RDKit wrote the rows."})
    standardize: str = field(default="none", metadata={"help": "parent: without salt and charge."})
    on_invalid: str = field(default="none", metadata={"help": "NaN and the reason; skip; raise."})
    dtype: str | None = field(default=None, metadata={"help": "Such as bfloat16 on a GPU."})
    batch_tokens: int | None = field(default=None, metadata={"help": "Most tokens of a batch."})
    backend: str = field(default="torch", metadata={"help": "onnx: what `cmim export` wrote."})


@dataclass
class What:
    """The arguments of `Library`, and who works on it."""

    sources: list[str] = field(default_factory=lambda: [MOLECULES])
    output: str = field(default="runs/library", metadata={"help": "Folder of the shards."})
    shard_rows: int = field(default=32768, metadata={"help": "Rows of a shard."})
    column: str | None = field(default=None, metadata={"help": "The column with SMILES."})
    split: str = field(default="train", metadata={"help": "Of a dataset."})
    workers: int = field(default=0, metadata={"help": "Processes beside each that share its work."})
    ray_actors: int = field(default=0, metadata={"help": "Embed by so many Ray actors."})
    ray_gpus: float = field(default=0, metadata={"help": "GPUs of each of them."})


def main() -> None:
    """Embed, then say what is in the folder."""
    how, args = HfArgumentParser((How, What)).parse_args_into_dataclasses()
    if cpu := how.backend == "onnx" or not torch.accelerator.is_available():
        keep_freed_memory()
    # processes of unequal speed wait for each other only at the end, but then perhaps for days
    state = PartialState(cpu=cpu, timeout=timedelta(weeks=4))
    where = (Path(args.output), tuple(args.sources), args.shard_rows, args.column, args.split)
    try:
        library = Library(*where)
        embedder = MoleculeEmbedder(**asdict(how), device=state.device, progress=False)
        if state.is_main_process:
            library.open(embedder)
        state.wait_for_everyone()
        library.check(embedder)
        if args.ray_actors:
            from cmim_hf.embedding.sharded_library_ray import embed_library_on_ray

            if how.backend == "torch":
                how.dtype = embedder.model.dtype  # other hardware might choose another
            rows = embed_library_on_ray(
                library, vars(how), num_actors=args.ray_actors, num_gpus=args.ray_gpus
            )
        else:
            shards = library.pending(state.process_index, state.num_processes)
            written = embed_shards(shards, embedder, args.workers)
            rows = (embedded.encoded.number for embedded in written)
        with tqdm(desc="Embedding", unit=" rows", disable=not state.is_main_process) as bar:
            for number in rows:
                bar.update(number)
        state.wait_for_everyone()
        if state.is_main_process:
            print(f"{args.output}: {library.close()}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_script(main, INTERRUPTED)
