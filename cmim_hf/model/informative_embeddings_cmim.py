# SPDX-License-Identifier: Apache-2.0
"""Informative embeddings: the decoder's hidden states under teacher forcing, pooled.

The second contribution of cMIM (Livne, arXiv 2509.21511): with x the tokens of a molecule and z its
code, h_t = decoder(x_<t, z) is the state from which token t is predicted; the embedding pools h
over the real tokens. Nothing is trained for it and nothing is sampled, and nothing in it is special
to cMIM: [`informative_embeddings`] takes any Hugging Face encoder-decoder.
"""

from __future__ import annotations

import torch
from torch import nn

POOLINGS = ("mean", "last", "max")


def check_pooling(pooling: str) -> None:
    """Raise a ValueError for an unknown pooling."""
    if pooling not in POOLINGS:
        raise ValueError(f"Unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}.")


def shift_right(
    tokens: torch.Tensor, attention_mask: torch.Tensor, start: int | torch.Tensor
) -> torch.Tensor:
    """The decoder's input for a target: shifted by one, start token first.

    The start token stands before each row's first real token, so rows may be padded on either side.

    Args:
        tokens: Ids (batch, length), or embeddings (batch, length, hidden_size).
        attention_mask: (batch, length), 1 at real tokens.
        start: The decoder's start token, or its embedding (hidden_size,).

    Returns:
        As `tokens`.
    """
    position = torch.arange(tokens.shape[1], device=tokens.device)
    follows = attention_mask.roll(1, dims=1).bool() & (position > 0)
    if tokens.ndim == 3:
        follows = follows[..., None]
    return torch.where(follows, tokens.roll(1, dims=1), start)


def pool_hidden_states(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor, pooling: str
) -> torch.Tensor:
    """Pool token states over the real tokens of each row.

    Args:
        hidden_states: (batch, length, hidden_size).
        attention_mask: (batch, length), 1 at real tokens.
        pooling: `"mean"`, `"max"` (by coordinate) or `"last"` (the state of the last real token).

    Returns:
        (batch, hidden_size).

    Raises:
        ValueError: An unknown pooling.
    """
    check_pooling(pooling)
    mask = attention_mask.to(hidden_states.device).bool()
    if pooling == "mean":
        total = hidden_states.masked_fill(~mask[..., None], 0.0).sum(dim=1)
        return total / mask.sum(dim=1, keepdim=True).clamp(min=1).to(total.dtype)
    if pooling == "max":
        lowest = torch.finfo(hidden_states.dtype).min
        return hidden_states.masked_fill(~mask[..., None], lowest).amax(dim=1)
    position = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, position, 0).amax(dim=1)
    rows = torch.arange(last.shape[0], device=last.device)  # `len` would fix it where exported
    return hidden_states[rows, last]


def informative_embeddings(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    pooling: str = "mean",
    layer: int = -1,
) -> torch.Tensor:
    """Informative embeddings of any Hugging Face encoder-decoder (T5, BART, cMIM and others).

    The model reads the sequence and, under teacher forcing, writes the same sequence; the chosen
    decoder layer's states are pooled over the real tokens. Put the model in `eval()` first: dropout
    and latent noise would enter otherwise.

    Args:
        model: A model whose forward takes `decoder_input_ids` and returns `decoder_hidden_states`.
        input_ids: (batch, length).
        attention_mask: (batch, length), 1 at real tokens; all real if not given.
        pooling: `"mean"`, `"last"` or `"max"`.
        layer: Index into the decoder's hidden states; 0 is the embedding, -1 the last layer after
            the final norm.

    Returns:
        (batch, hidden_size of the decoder).

    Raises:
        ValueError: The model is no encoder-decoder, has no start token, or has no such layer.

    >>> from transformers import BartConfig, BartModel
    >>> config = BartConfig(vocab_size=9, d_model=16, encoder_layers=1, decoder_layers=1)
    >>> model = BartModel(config).eval()
    >>> informative_embeddings(model, torch.tensor([[0, 4, 5, 2], [0, 6, 7, 2]])).shape
    torch.Size([2, 16])
    """
    config = model.config
    if not config.is_encoder_decoder:
        raise ValueError(
            f"Informative embeddings need an encoder-decoder; {type(model).__name__} is none."
        )
    start = config.decoder_start_token_id
    if start is None:
        raise ValueError(
            f"{type(model).__name__} has no decoder_start_token_id; set it in the model's config."
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    outputs = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=shift_right(input_ids, attention_mask, start),
        decoder_attention_mask=attention_mask,
        output_hidden_states=True,
        use_cache=False,
        return_dict=True,
    )
    states = outputs.decoder_hidden_states
    if not -len(states) <= layer < len(states):
        raise ValueError(
            f"layer {layer} does not exist: the decoder gives {len(states)} hidden states "
            f"(0 is the embedding, {len(states) - 1} or -1 the last layer)."
        )
    return pool_hidden_states(states[layer], attention_mask, pooling)
