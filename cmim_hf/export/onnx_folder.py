# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a folder of ONNX graphs that were compared with it: [`export_onnx`]."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from ..atomic_files import check_writable, whole_folder
from ..checkpoints import checkpoint_path
from ..checkpoints.companions import find_beside
from ..checkpoints.loading import load_checkpoint
from ..cpu_kernels import slow_down
from ..embedding.principal_axes import PrincipalAxes
from ..extras import needed
from ..model.informative_embeddings_cmim import POOLINGS
from ..model.modeling_cmim import CMIMModel
from ..model.onnx_cmim import DECODER, GRAPHS, WEIGHTS, CMIMOnnxModel, open_graph
from ..model.tokenization_cmim import CMIMTokenizer
from .onnx_graphs import no_past, quiet, write_graphs

TOLERANCE = 1e-4
"""Largest difference from torch, over the greatest value but at least 1."""

_EXAMPLES = (
    "C",
    "c1ccccc1O",
    "CC(=O)Nc1ccc(O)cc1",
    "C[C@H]([NH3+])C(=O)[O-]",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "Clc1ccc(Br)cc1S(=O)(=O)N1CCN(CC1)C(=O)/C=C/c1ccc(F)cc1",
    "CC(C)CC(NC(=O)C(Cc1ccccc1)NC(=O)CNC(=O)CNC(=O)C(N)Cc1ccc(O)cc1)C(=O)O",
)
_STEPS = 8


@dataclass(frozen=True)
class Exported:
    """What [`export_onnx`] wrote.

    Attributes:
        difference: The largest of any number of the float32 graphs from torch's, over the greatest
            value but at least 1.
        cosine: With int8 weights, the least cosine of a molecule's vector to that of float32.
        sizes: Bytes of each graph.
    """

    difference: float
    cosine: float | None
    sizes: dict[str, int]


def export_onnx(
    checkpoint: str | os.PathLike, folder: str | os.PathLike, *, int8: bool = False, **hub: Any
) -> Exported:
    """Write a checkpoint as ONNX graphs, with its configuration, tokenizer and principal axes.

    The folder is what `MoleculeEmbedder(folder, backend="onnx")` opens; the graphs are those of
    [`~cmim_hf.export.onnx_graphs.write_graphs`]. Before the folder appears, onnxruntime computes
    codes, vectors and logits of a few molecules from it, in batches of several shapes, and they are
    compared with torch's.

    Args:
        checkpoint: As of [`~cmim_hf.checkpoints.loading.load_checkpoint`].
        folder: A new folder.
        int8: Keep the matrices of weights as int8, with a scale for each column, by onnxruntime's
            `quantize_dynamic`: a quarter of the size, faster where the CPU has int8 products, less
            exact.
        hub: As of `load_checkpoint`.

    Raises:
        FileExistsError: There is such a folder.
        FileNotFoundError: No such checkpoint.
        FloatingPointError: The graphs do not compute what the checkpoint does.
        ImportError: onnxruntime or onnxscript is not installed.
        ValueError: The checkpoint cannot be opened.
    """
    with needed("Exporting to ONNX", "onnx"):
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it, or give another name.")
    check_writable(next(above for above in folder.absolute().parents if above.exists()))
    model, tokenizer = load_checkpoint(checkpoint, "cpu", torch.float32, **hub)
    slow_down(model)
    with whole_folder(folder) as partial:
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        axes = find_beside(checkpoint_path(checkpoint), PrincipalAxes.FILE, **hub)
        if axes is not None:
            shutil.copyfile(axes, partial / PrincipalAxes.FILE)
        write_graphs(model, partial)
        rows = _example_rows(model, tokenizer)
        difference = compare(model, partial, rows)
        if not difference <= TOLERANCE:
            raise FloatingPointError(
                f"The graphs of {checkpoint} differ from it by {difference:.1e} of the greatest "
                f"value, more than {TOLERANCE}: they are not written. Is it a checkpoint in half "
                "precision, or of another version of torch?"
            )
        cosine = None
        if int8:
            exact = CMIMOnnxModel(model.config, partial).get_representation(*rows[0])
            quantize_graphs(partial)
            found = CMIMOnnxModel(model.config, partial).get_representation(*rows[0])
            cosine = float(cosine_similarity(found, exact).min())
        sizes = {name: (partial / name).stat().st_size for name in GRAPHS}
    return Exported(difference, cosine, sizes)


def quantize_graphs(folder: Path) -> None:
    """Make the matrices of weights of a folder's graphs int8, a scale for each column, in place."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in (folder / name for name in GRAPHS):
        with quiet():
            # products alone: the quantiser takes Attention for another operator, and breaks it
            quantize_dynamic(
                path,
                path,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        graph = onnx.load(path)
        onnx.helper.set_model_props(graph, {WEIGHTS: "int8"})
        onnx.save(graph, path)


def compare(
    model: CMIMModel, folder: Path, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """The largest difference of a folder's graphs from the model, over the greatest value or 1.

    Codes, vectors by each pooling, and logits of some tokens of each row, one after the other.
    Batches are ids and masks (batch, length).
    """
    exported, step = CMIMOnnxModel(model.config, folder), open_graph(folder / DECODER)
    pairs = []
    for ids, mask in batches:
        with torch.no_grad():
            latents = model.get_latents(ids, mask)
            vectors = [model.get_representation(ids, mask, pooling=name) for name in POOLINGS]
            read = ids[:, :_STEPS]
            logits = model(latents=latents, decoder_input_ids=read, use_cache=False).logits
        pairs.append((exported.get_latents(ids, mask), latents))
        for name, expected in zip(POOLINGS, vectors, strict=True):
            pairs.append((exported.get_representation(ids, mask, pooling=name), expected))
        keys = values = no_past(model, len(ids)).numpy()
        for token, expected in zip(read.split(1, dim=1), logits.unbind(1), strict=True):
            feed = {"input_ids": token.numpy(), "latents": latents.numpy()}
            feed |= {"past_keys": keys, "past_values": values}
            found, keys, values = step.run(["logits", "keys", "values"], feed)
            pairs.append((torch.from_numpy(found), expected))
    gaps = [(a - b).abs().max() / b.abs().max().clamp(min=1) for a, b in pairs]
    return float(torch.stack(gaps).max())  # NaN, too


def _example_rows(
    model: CMIMModel, tokenizer: CMIMTokenizer
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A padded batch, a row alone without padding, and rows as long as the model reads."""
    batch = tokenizer(list(_EXAMPLES), padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    longest = ids[-1:].repeat(2, model.config.max_position_embeddings // ids.shape[1] + 1)
    longest = longest[:, : model.config.max_position_embeddings]
    alone = ids[:1, : int(mask[0].sum())]
    return [(ids, mask), *((rows, torch.ones_like(rows)) for rows in (alone, longest))]
