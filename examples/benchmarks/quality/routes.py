# SPDX-License-Identifier: Apache-2.0
"""The same molecules by every way into a checkpoint: how far the answers lie apart.

    python -m examples.benchmarks.quality.routes --rows 100 --json routes.json

Each route gives logits under teacher forcing, codes and informative embeddings, and writes the
molecules of the plain model's codes. The table has the greatest difference of any number from the
plain model's (`CMIMModel.from_pretrained`, eager, float32), over its greatest value, and how many
molecules come out as other tokens. Needs peft, onnxruntime and onnxscript beside the package.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import EncoderDecoderCache, HfArgumentParser, StaticCache

from cmim_hf import CMIMModel, CMIMTokenizer, __version__
from cmim_hf.atomic_files import write_whole
from cmim_hf.checkpoints import checkpoint_path
from cmim_hf.cpu_kernels import sped_up
from cmim_hf.model.decoding_cmim import decode_latents

from ..evidence import DATA, first

WITHOUT_PACKAGE = """
import sys, torch
sys.modules["cmim_hf"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32).eval()
batch, codes = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    found = model(**batch, sample_latents=False)
    vectors = model.get_informative_embeddings(**batch)
    torch.save((found.logits, found.latents, vectors, model.generate(latents=codes)), sys.argv[3])
"""

Answers = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclass
class Arguments:
    """What to send by all routes."""

    source: str = field(default=str(DATA / "moses_test.smi"), metadata={"help": "Molecules."})
    rows: int = field(default=100, metadata={"help": "How many of them."})
    checkpoint: str = field(default="small", metadata={"help": "Folder or name."})
    json: str | None = field(default=None, metadata={"help": "Write the figures there, too."})


class Whole(nn.Module):
    """Logits, codes and informative embeddings as one graph."""

    def __init__(self, model: CMIMModel) -> None:
        """Keeps the model."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Answers:
        """(batch, length) -> the three, and no tokens."""
        found = self.model(input_ids, attention_mask, sample_latents=False, use_cache=False)
        vectors = self.model.get_informative_embeddings(input_ids, attention_mask)
        return found.logits, found.latents, vectors


def answers(model: CMIMModel, batch: dict[str, torch.Tensor], codes: torch.Tensor) -> Answers:
    """What a model in eager code says."""
    return *Whole(model)(**batch), decode_latents(model, codes)


def routes(
    model: CMIMModel, checkpoint: str, batch: dict[str, torch.Tensor], codes: torch.Tensor
) -> dict[str, Callable[[], Answers]]:
    """Every way to the answers, by name."""
    folder = Path(tempfile.mkdtemp())

    def faster() -> Answers:
        with sped_up(model):
            return answers(model, batch, codes)

    def compiled() -> Answers:
        tokens = torch.compile(model).generate(latents=codes)
        return *torch.compile(Whole(model))(**batch), tokens

    def autocast() -> Answers:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return answers(model, batch, codes)

    def static_cache() -> Answers:
        tokens = model.generate(latents=codes, cache_implementation="static", disable_compile=True)
        cache = EncoderDecoderCache(
            StaticCache(model.config, 512), StaticCache(model.config, codes.shape[1])
        )
        found = model(**batch, sample_latents=False, cache=cache, use_cache=True)
        return found.logits, found.latents, model.get_informative_embeddings(**batch), tokens

    def offloaded() -> Answers:
        other = CMIMModel.from_pretrained(
            checkpoint,
            dtype=torch.float32,
            device_map="auto",
            max_memory={"cpu": "5MB"},
            offload_folder=folder / "offload",
        )
        return answers(other.eval(), batch, codes)

    def quantised() -> Answers:
        other = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
        return answers(other, batch, codes)

    def remote() -> Answers:
        model.save_pretrained(folder / "saved")
        torch.save((batch, codes), folder / "asked.pt")
        files = [folder / "saved", folder / "asked.pt", folder / "found.pt"]
        command = [sys.executable, "-c", WITHOUT_PACKAGE, *map(str, files)]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        return torch.load(folder / "found.pt", weights_only=True)

    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=512)
    shapes = ({0: rows, 1: length}, {0: rows, 1: length})
    part = tuple(values[:3] for values in batch.values())

    def exported() -> Answers:
        program = torch.export.export(Whole(model), part, dynamic_shapes=shapes)
        return *program.module()(*batch.values()), None

    def onnx() -> Answers:
        import onnxruntime

        program = torch.onnx.export(
            Whole(model), part, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
        program.save(folder / "whole.onnx")
        session = onnxruntime.InferenceSession(folder / "whole.onnx")
        names = [entry.name for entry in session.get_inputs()]
        found = session.run(None, dict(zip(names, map(np.asarray, batch.values()), strict=True)))
        return *map(torch.from_numpy, found), None

    return {
        "sped up (`MoleculeEmbedder`, `MoleculeGenerator`)": faster,
        "torch.compile": compiled,
        "autocast to bfloat16": autocast,
        "StaticCache": static_cache,
        "offloaded to disk": offloaded,
        "remote code, without the package": remote,
        "torch.export": exported,
        "ONNX": onnx,
        "quantize_dynamic (int8)": quantised,
    }


def merged_and_not(
    model: CMIMModel, batch: dict[str, torch.Tensor], codes: torch.Tensor
) -> tuple[Answers, Answers]:
    """A LoRA of random weights on all linear maps: unmerged, and merged."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules="all-linear"))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.02)
    unmerged = answers(adapted.base_model.model.eval(), batch, codes)
    return unmerged, answers(adapted.merge_and_unload(), batch, codes)


def compare(found: Answers, expected: Answers, real: torch.Tensor) -> dict[str, float | None]:
    """Greatest differences over the greatest value, and rows with other tokens."""
    result: dict[str, float | None] = {}
    for name, ours, theirs in zip(("logits", "codes", "vectors"), found, expected, strict=False):
        if name == "logits":
            ours, theirs = ours[real], theirs[real]
        gap = (ours.float() - theirs).abs().max() / theirs.abs().max()
        result[name] = float(gap)
    result["other_molecules"] = None
    if found[3] is not None:
        width = max(found[3].shape[1], expected[3].shape[1])
        ours, theirs = (
            nn.functional.pad(x, (0, width - x.shape[1])) for x in (found[3], expected[3])
        )
        result["other_molecules"] = int((ours != theirs).any(dim=1).sum())
    return result


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Take every route and print the table."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    args.checkpoint = checkpoint_path(args.checkpoint)
    model = CMIMModel.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    smiles = first(args.source, args.rows)
    tokenizer = CMIMTokenizer.from_pretrained(args.checkpoint)
    batch = dict(tokenizer(smiles, padding=True, return_tensors="pt"))
    codes, real = model.get_latents(**batch), batch["attention_mask"].bool()
    expected = answers(model, batch, codes)
    measured = {
        "generate, eager": compare((*expected[:3], model.generate(**batch)), expected, real)
    }
    for name, take in routes(model, args.checkpoint, batch, codes).items():
        measured[name] = compare(take(), expected, real)
    unmerged, merged = merged_and_not(model, batch, codes)
    measured["LoRA merged, against unmerged"] = compare(merged, unmerged, real)
    print(f"cmim-hf {__version__}, torch {torch.__version__}, {len(smiles)} molecules\n")
    print("| route | logits | codes | informative | molecules that differ |\n|---|---|---|---|---|")
    for name, row in measured.items():
        numbers = " | ".join(f"{row[key]:.1e}" for key in ("logits", "codes", "vectors"))
        differing = row["other_molecules"]
        print(f"| {name} | {numbers} | {'not written' if differing is None else differing} |")
    if args.json is not None:
        write_whole(args.json, json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
