# SPDX-License-Identifier: Apache-2.0
"""A checkpoint exported to ONNX, on a CPU: codes and vectors by onnxruntime instead of torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import cached_file

from .informative_embeddings_cmim import check_pooling
from .representations_cmim import CMIMRepresentations

ENCODER, INFORMATIVE, DECODER = "encoder.onnx", "informative.onnx", "decoder.onnx"
GRAPHS = (ENCODER, INFORMATIVE, DECODER)
"""Tokens to codes; tokens and codes to informative embeddings; one step of writing a code."""

WEIGHTS = "cmim_weights"
"""Under which the metadata of a graph say of what type its weights are, if not float32."""


class CMIMOnnxModel(CMIMRepresentations):
    """What [`CMIMModel`] gives of codes and vectors, computed from two exported graphs.

    It works on the CPU, with as many threads as torch has where it is made, and gives no gradient.
    With int8 weights a molecule's vector depends a little on its company in a batch, since one
    scale is taken of all of a batch's activations.

    Args:
        config: The checkpoint's.
        folder: Where the graphs are.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: A graph that is damaged.
    """

    device = torch.device("cpu")

    def __init__(self, config: PreTrainedConfig, folder: str | os.PathLike) -> None:
        """Open the graphs."""
        self.config = config
        self.folder = Path(folder)
        self.files = [self.folder / name for name in (ENCODER, INFORMATIVE)]
        self._encoder, self._informative = map(open_graph, self.files)
        weights = self._encoder.get_modelmeta().custom_metadata_map.get(WEIGHTS)
        self.dtype = torch.int8 if weights == "int8" else torch.float32

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, config: PreTrainedConfig | None = None, **source: Any
    ) -> CMIMOnnxModel:
        """Open the folder, or the repository of the Hub, that `cmim export` wrote.

        Args:
            name: Folder or Hub id.
            config: The checkpoint's, if it is known.
            source: Of the Hub, as in [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            FileNotFoundError: There are no graphs.
        """
        try:
            files = [Path(cached_file(name, graph, **source)) for graph in (ENCODER, INFORMATIVE)]
        except OSError as error:
            raise FileNotFoundError(
                f"{name} holds no {ENCODER} and {INFORMATIVE}, which the backend 'onnx' runs. "
                "Write them from a checkpoint: cmim export --checkpoint NAME -o FOLDER."
            ) from error
        if config is None:
            config = AutoConfig.from_pretrained(name, **source)
        return cls(config, files[0].parent)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Copy configuration and graphs."""
        self.config.save_pretrained(folder)
        for graph in GRAPHS:
            if (self.folder / graph).is_file():
                shutil.copyfile(self.folder / graph, Path(folder, graph))

    def get_latents(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mean codes of a batch, as of [`CMIMModel`]: (batch, num_latents, latent_size)."""
        feed = self._tokens(input_ids, attention_mask)
        return torch.from_numpy(self._encoder.run(["latents"], feed)[0])

    def get_representation(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        representation: str = "informative",
        pooling: str = "mean",
    ) -> torch.Tensor:
        """One vector for each row of a batch; arguments and errors as of [`CMIMModel`]."""
        self.representation_size(representation)
        check_pooling(pooling)
        latents = self.get_latents(input_ids, attention_mask)
        if representation == "latent":
            return latents.flatten(1)
        feed = {**self._tokens(input_ids, attention_mask), "latents": latents.numpy()}
        informative = torch.from_numpy(self._informative.run([pooling], feed)[0])
        if representation == "informative":
            return informative
        return torch.cat((informative, latents.flatten(1)), dim=1)

    @staticmethod
    def _tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> dict[str, Any]:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return {"input_ids": input_ids.cpu().numpy(), "attention_mask": mask.cpu().numpy()}


def open_graph(path: str | os.PathLike) -> Any:
    """A session of onnxruntime on the CPU, with as many threads as torch has.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: The graph cannot be opened.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "The backend 'onnx' needs onnxruntime, which is not installed here. Run: "
            "pip install 'cmim-hf[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # the threads of one graph would keep the cores busy while they wait, and another graph runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # those of onnxruntime are plain ones
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot open {path} "
            f"({str(error).splitlines()[0]}): it is damaged, or newer than this version. Export "
            "the checkpoint again, or install a newer onnxruntime."
        ) from error
