# SPDX-License-Identifier: Apache-2.0
"""The two stacks of the cMIM model: the encoder over tokens, and the decoder given the latents."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .checksums_cmim import check_weights, forget_checksums, write_checksums
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

_OF_THE_HUB = ("repo_id", "commit_message", "private", "create_pr", "revision", "tags", "token")
_OF_BOTH = ("max_shard_size",)


class CMIMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by all cMIM models."""

    config: CMIMConfig
    config_class = CMIMConfig
    base_model_prefix = "cmim"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the Trainer, not the model, scales for gradient accumulation
    _no_split_modules = ["CMIMEncoderLayer", "CMIMDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> CMIMPreTrainedModel:
        """Load a checkpoint; arguments as in [`~transformers.PreTrainedModel.from_pretrained`].

        Weights are read from safetensors only, unless `use_safetensors=False` asks for a pickle.

        Raises:
            ValueError: The weights of a local folder are not those that were saved there.
        """
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        name = pretrained_model_name_or_path
        if name is not None and os.path.isdir(name):
            check_weights(os.path.join(name, kwargs.get("subfolder") or ""))
        return super().from_pretrained(name, *args, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the model, its code and the checksums of its weights.

        Args:
            save_directory: The checkpoint's folder.
            is_main_process: Whether this process is the one that writes.
            push_to_hub: Then upload it, to `repo_id` or a repository named like the folder.
            kwargs: As in [`~transformers.PreTrainedModel.save_pretrained`].
        """
        hub = {name: kwargs.pop(name) for name in _OF_THE_HUB if name in kwargs}
        hub |= {name: kwargs[name] for name in _OF_BOTH if name in kwargs}
        if is_main_process:
            forget_checksums(save_directory)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_checksums(save_directory)
        if push_to_hub:
            name = hub.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self.push_to_hub(name, **hub)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of `torch.nn.Module`; a weight that shares another's memory is not missing."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        for name, source in self.all_tied_weights_keys.items():
            if name in result.missing_keys and source in state_dict and not assign:
                result.missing_keys.remove(name)
        return result

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
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """(batch, length, hidden_size) and latents (batch, num_latents, latent_size) -> states."""
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(
                DynamicCache(config=self.config), DynamicCache(config=self.config)
            )
        if past_key_values is not None and not isinstance(past_key_values, EncoderDecoderCache):
            past_key_values = EncoderDecoderCache(past_key_values, DynamicCache())
        past = None if past_key_values is None else past_key_values.self_attention_cache
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past)
        offset = 0 if past is None else past.get_seq_length()
        rotary = rotary_tables(self.config, inputs_embeds.shape[1], offset, like=inputs_embeds)
        memory = None
        if past_key_values is None or not past_key_values.is_updated.get(len(self.layers) - 1):
            memory = self.memory_proj(latents.to(self.norm.weight.dtype))
            if self.config.num_latents > 1:
                memory = memory + self.memory_positions
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, memory, mask, rotary, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )
