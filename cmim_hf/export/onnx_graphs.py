# SPDX-License-Identifier: Apache-2.0
"""The three graphs of a model: encoding, informative embeddings, and one step of decoding."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ..model.informative_embeddings_cmim import POOLINGS, pool_hidden_states, shift_right
from ..model.modeling_cmim import CMIMModel
from ..model.onnx_cmim import DECODER, ENCODER, INFORMATIVE

OPSET = 23  # the first with Attention, which onnxruntime computes in one piece
_NOISY = ("", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class _Encoder(nn.Module):
    def __init__(self, model: CMIMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model.get_latents(input_ids, attention_mask)


class _Informative(nn.Module):
    def __init__(self, model: CMIMModel) -> None:
        super().__init__()
        self.embed_tokens, self.decoder = model.embed_tokens, model.decoder
        self.start = model.config.decoder_start_token_id

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, latents: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        embedded = self.embed_tokens(shift_right(input_ids, attention_mask, self.start))
        found = self.decoder(embedded, latents, attention_mask, use_cache=False)
        states = found.last_hidden_state
        return tuple(pool_hidden_states(states, attention_mask, name) for name in POOLINGS)


class _Step(nn.Module):
    """One more token: keys and values of all layers in one tensor each, the newest last."""

    def __init__(self, model: CMIMModel) -> None:
        super().__init__()
        self.embed_tokens, self.decoder = model.embed_tokens, model.decoder
        self.lm_head = model.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        latents: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        past = DynamicCache(zip(past_keys.unbind(0), past_values.unbind(0), strict=True))
        cache = EncoderDecoderCache(past, DynamicCache())
        embedded = self.embed_tokens(input_ids)
        states = self.decoder(embedded, latents, cache=cache, use_cache=True)
        # of rows and tokens: as a product of two matrices the quantiser would turn the weight over
        # that the embedding reads, too
        logits = self.lm_head(states.last_hidden_state)[:, 0]
        keys, values = ([getattr(layer, x) for layer in past.layers] for x in ("keys", "values"))
        return logits, torch.stack(keys), torch.stack(values)


def no_past(model: CMIMModel, rows: int, length: int = 0) -> torch.Tensor:
    """Keys, or values, of `length` tokens: (layers, rows, heads, length, head_dim), zeros."""
    config = model.config
    heads, layers = config.num_attention_heads, config.decoder_layers
    return torch.zeros(layers, rows, heads, length, config.hidden_size // heads)


def write_graphs(model: CMIMModel, folder: Path) -> None:
    """Write the graphs of a plain model in `eval()` on the CPU; batch and length may be any.

    - `encoder.onnx`: `input_ids`, `attention_mask` (batch, length) to `latents`
      (batch, num_latents, latent_size).
    - `informative.onnx`: these and `latents` to `mean`, `last` and `max` (batch, hidden_size).
    - `decoder.onnx`: `input_ids` (batch, 1), `latents`, `past_keys` and `past_values`
      (layers, batch, heads, past, head_dim), past from 0 (an empty cache), to `logits`
      (batch, vocab_size) of the next token, `keys` and `values` (…, past + 1, head_dim).
    """
    longest = model.config.max_position_embeddings
    rows = torch.export.Dim("batch")
    length, past = (torch.export.Dim(name, max=longest) for name in ("length", "past"))
    ids = torch.arange(14).view(2, 7) % model.config.vocab_size
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    shape = {0: rows, 1: length}
    latents = torch.randn(2, model.config.num_latents, model.config.latent_size)
    # two tensors: one that is passed twice would be one input
    keys, values, of_cache = no_past(model, 2, 5), no_past(model, 2, 5), {1: rows, 3: past}
    graphs = {
        ENCODER: (_Encoder, tokens, (shape, shape), ["latents"]),
        INFORMATIVE: (
            _Informative,
            {**tokens, "latents": latents},
            (shape, shape, {0: rows}),
            list(POOLINGS),
        ),
        DECODER: (
            _Step,
            {
                "input_ids": ids[:, :1],
                "latents": latents,
                "past_keys": keys,
                "past_values": values,
            },
            ({0: rows}, {0: rows}, of_cache, of_cache),
            ["logits", "keys", "values"],
        ),
    }
    for name, (kind, inputs, shapes, outputs) in graphs.items():
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                kind(model).eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=shapes,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
            for node in program.model.graph.all_nodes():  # paths of this machine, too
                node.metadata_props.clear()
            program.save(folder / name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporter and quantiser say of their own parts, by the root logger too."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
