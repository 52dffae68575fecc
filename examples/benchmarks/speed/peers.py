# SPDX-License-Identifier: Apache-2.0
"""Models and losses that others use for the same job, with random weights, to be timed beside ours.

The encoder-decoders get as many parameters as ours by the width of their feed-forward blocks. The
encoders have the shapes that were published: ChemBERTa-77M (Ahmad et al., arXiv 2209.01712; 3.4 M
parameters) and MoLFormer-XL (Ross et al., arXiv 2106.09553; 12 layers of 768; its linear attention
is replaced by the usual one, 1 % of the operations at 40 tokens).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch.nn import functional
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from cmim_hf import CMIMConfig

ENCODERS = {
    "ChemBERTa-77M shape": {
        "hidden_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "intermediate_size": 464,
    },
    "MoLFormer-XL shape": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 768,
    },
}


def encoder(name: str, ours: CMIMConfig) -> RobertaModel:
    """One of `ENCODERS` with our vocabulary."""
    config = RobertaConfig(
        vocab_size=ours.vocab_size,
        max_position_embeddings=ours.max_position_embeddings + 2,
        pad_token_id=ours.pad_token_id,
        **ENCODERS[name],
    )
    return RobertaModel(config, add_pooling_layer=False).eval()


def encoder_decoders(ours: CMIMConfig, parameters: int) -> dict[str, Callable[[], PreTrainedModel]]:
    """T5 and BART of our hidden size, heads and layers, with nearly so many parameters."""
    return {
        name: _matched(build, ours, parameters) for name, build in (("T5", _t5), ("BART", _bart))
    }


def _matched(
    build: Callable[[CMIMConfig, int], PreTrainedModel], ours: CMIMConfig, parameters: int
) -> Callable[[], PreTrainedModel]:
    """The count is linear in the width: two models tell where it is met."""
    with torch.device("meta"):
        low, high = (build(ours, width).num_parameters() for width in (64, 128))
    slope = (high - low) / 64
    width = max(8, round(64 + (parameters - low) / slope))
    return lambda: build(ours, width)


def _t5(ours: CMIMConfig, width: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=ours.vocab_size,
        d_model=ours.hidden_size,
        d_kv=ours.hidden_size // ours.num_attention_heads,
        d_ff=width,
        num_layers=ours.encoder_layers,
        num_decoder_layers=ours.decoder_layers,
        num_heads=ours.num_attention_heads,
        dropout_rate=0.0,
        pad_token_id=ours.pad_token_id,
        eos_token_id=ours.eos_token_id,
        decoder_start_token_id=ours.decoder_start_token_id,
    )
    return T5ForConditionalGeneration(config)


def _bart(ours: CMIMConfig, width: int) -> PreTrainedModel:
    config = BartConfig(
        vocab_size=ours.vocab_size,
        d_model=ours.hidden_size,
        encoder_layers=ours.encoder_layers,
        decoder_layers=ours.decoder_layers,
        encoder_attention_heads=ours.num_attention_heads,
        decoder_attention_heads=ours.num_attention_heads,
        encoder_ffn_dim=width,
        decoder_ffn_dim=width,
        max_position_embeddings=ours.max_position_embeddings,
        dropout=0.0,
        pad_token_id=ours.pad_token_id,
        bos_token_id=ours.bos_token_id,
        eos_token_id=ours.eos_token_id,
        forced_eos_token_id=None,
        decoder_start_token_id=ours.decoder_start_token_id,
    )
    return BartForConditionalGeneration(config)


def clip_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """The symmetric softmax loss of CLIP (arXiv 2103.00020) with all logits held at once."""
    first, second = functional.normalize(first), functional.normalize(second)
    logits = first @ second.T / temperature
    rows = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, rows) + functional.cross_entropy(logits.T, rows)) / 2


def ntxent_loss() -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] | None:
    """NT-Xent of pytorch-metric-learning between two views; `None` where it is not installed."""
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        return None
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    def loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
        return SelfSupervisedLoss(NTXentLoss(temperature))(first, second)

    return loss
