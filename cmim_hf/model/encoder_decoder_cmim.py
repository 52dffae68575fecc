# SPDX-License-Identifier: Apache-2.0
"""The two stacks of the cMIM model: the encoder over tokens, and the decoder given the latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_cmim import CMIMConfig
from .layers_cmim import (
    CMIMCrossAttention,
    CMIMDecoderLayer,
    CMIMEncoderLayer,
    CMIMSelfAttention,
    rotary_tables,
)
from .posterior_cmim import CMIMPosterior
from .property_head_cmim import CMIMPropertyHead
from .saving_cmim import CMIMSavedModel

_FIELDS = BaseModelOutputWithPastAndCrossAttentions.__dataclass_fields__

CACHE = "cache" if "cache" in _FIELDS else "past_key_values"
"""What transformers calls the decoder's cache: `past_key_values` before 5.24."""


class CMIMPreTrainedModel(CMIMSavedModel):
    """What cMIM models of text share: configuration, initial weights, what they support."""

    config: CMIMConfig
    config_class = CMIMConfig
    base_model_prefix = "cmim"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CMIMEncoderLayer", "CMIMDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, CMIMPosterior):
            init.normal_(module.queries, std=std)
            # codes start with the prior's spread, well above the initial noise of twice the floor,
            # so that the decoder finds a signal in them from the first step
            init.normal_(module.mean_proj.weight, std=self.config.hidden_size**-0.5)
            init.zeros_(module.aggregate_mean)
            init.zeros_(module.aggregate_std)
        if isinstance(module, CMIMPropertyHead):
            init.zeros_(module.quantiles)
        if isinstance(module, CMIMDecoder) and self.config.num_latents > 1:
            init.normal_(module.memory_positions, std=std)


class CMIMEncoder(CMIMPreTrainedModel):
    """Bidirectional Transformer over embedded tokens."""

    _can_record_outputs = {"hidden_states": CMIMEncoderLayer, "attentions": CMIMSelfAttention}

    def __init__(self, config: CMIMConfig) -> None:
        """Layers and the final norm."""
        super().__init__(config)
        self.layers = nn.ModuleList(
            [CMIMEncoderLayer(config, index) for index in range(config.encoder_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """(batch, length, hidden_size) -> states of the same shape."""
        mask = create_bidirectional_mask(self.config, inputs_embeds, attention_mask)
        rotary = rotary_tables(self.config, inputs_embeds.shape[1], 0, like=inputs_embeds)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, rotary, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class CMIMDecoder(CMIMPreTrainedModel):
    """Causal Transformer over embedded tokens, given the latents."""

    _can_record_outputs = {
        "hidden_states": CMIMDecoderLayer,
        "attentions": CMIMSelfAttention,
        "cross_attentions": OutputRecorder(CMIMCrossAttention, index=1),
    }

    def __init__(self, config: CMIMConfig) -> None:
        """Latents become memory tokens; with K > 1 each has a learned identity."""
        super().__init__(config)
        self.memory_proj = nn.Linear(config.latent_size, config.hidden_size, bias=False)
        if config.num_latents > 1:
            shape = (config.num_latents, config.hidden_size)
            self.memory_positions = nn.Parameter(torch.empty(shape))
        self.layers = nn.ModuleList(
            [CMIMDecoderLayer(config, index) for index in range(config.decoder_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        latents: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """(batch, length, hidden_size) and latents (batch, num_latents, latent_size) -> states."""
        if use_cache and cache is None:
            cache = EncoderDecoderCache(
                DynamicCache(config=self.config), DynamicCache(config=self.config)
            )
        if cache is not None and not isinstance(cache, EncoderDecoderCache):
            cache = EncoderDecoderCache(cache, DynamicCache())
        past = None if cache is None else cache.self_attention_cache
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past)
        offset = 0 if past is None else past.get_seq_length()
        rotary = rotary_tables(self.config, inputs_embeds.shape[1], offset, like=inputs_embeds)
        memory = None
        if cache is None or not cache.is_updated.get(len(self.layers) - 1):
            memory = self.memory_proj(latents.to(self.norm.weight.dtype))
            if self.config.num_latents > 1:
                memory = memory + self.memory_positions
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(hidden_states, memory, mask, rotary, cache=cache, **kwargs)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), **{CACHE: cache}
        )
