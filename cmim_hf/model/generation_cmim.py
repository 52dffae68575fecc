# SPDX-License-Identifier: Apache-2.0
"""Codes to tokens by transformers' `generate`: what it encodes by, and how long it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, ModelOutput


class CMIMLatentEncoder(nn.Module):
    """Tokens to mean codes, by embeddings, encoder and posterior of a model."""

    def __init__(self, model: nn.Module) -> None:
        """Keeps the [`CMIMModel`] itself, no copy."""
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """(batch, length) -> `last_hidden_state` (batch, num_latents, latent_size): mean codes.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 at real tokens; all real if not given.
            inputs_embeds: (batch, length, hidden_size), in place of `input_ids`.
            kwargs: `output_hidden_states` and `output_attentions`: the encoder's.
        """
        kwargs.pop("return_dict", None)
        found = self.model(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            sample_latents=False,
            decode=False,
            **kwargs,
        )
        return BaseModelOutput(
            last_hidden_state=found.latents,
            hidden_states=found.encoder_hidden_states,
            attentions=found.encoder_attentions,
        )


class CMIMGenerationMixin(GenerationMixin):
    """`generate` of a [`CMIMModel`], from tokens or from codes."""

    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        *,
        latents: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.LongTensor | ModelOutput:
        """Decode codes to tokens: `generate(latents=z)`, or `generate(**batch)` to reconstruct.

        Args:
            inputs: (batch, length), the tokens whose mean code is decoded; also as `input_ids=`.
            latents: (batch, num_latents, latent_size), the codes to decode instead.
            kwargs: `attention_mask` (if not given, what is no padding token is real),
                `inputs_embeds`, and everything `GenerationMixin.generate` takes. Greedy by
                default, and where no length is set, up to the longest sequence the model knows.

        Returns:
            Token ids (batch, length), start token first, or a `ModelOutput` on request.

        Raises:
            ValueError: Both or neither of tokens and latents, or latents of the wrong shape.
        """
        tokens = ("input_ids", "inputs_embeds", "encoder_outputs")
        has_tokens = inputs is not None or any(kwargs.get(name) is not None for name in tokens)
        if has_tokens == (latents is not None):
            raise ValueError("Pass either input_ids (to reconstruct) or latents (to decode).")
        if latents is not None:
            self.check_latents(latents)
            latents = latents.to(self.device)
            kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=latents)
        ids, pad = kwargs.get("input_ids", inputs), self.config.pad_token_id
        if ids is not None and kwargs.get("attention_mask") is None and pad is not None:
            if pad not in torch.as_tensor(self.config.eos_token_id).reshape(-1).tolist():
                kwargs["attention_mask"] = (ids != pad).long()
        given = kwargs.get("generation_config"), self.generation_config
        if not any(_limits_length(source) for source in (kwargs, *map(vars, filter(None, given)))):
            kwargs["max_length"] = self.config.max_position_embeddings + 1  # the start token
        return super().generate(inputs, **kwargs)

    def get_encoder(self) -> CMIMLatentEncoder:
        """What `generate` encodes by: tokens to the codes that the decoder reads.

        The Transformer over tokens alone is `model.encoder`, which takes embedded ones.
        """
        return CMIMLatentEncoder(self)


def _limits_length(settings: Mapping[str, Any]) -> bool:
    return any(settings.get(name) is not None for name in ("max_length", "max_new_tokens"))
