# SPDX-License-Identifier: Apache-2.0
"""The cMIM model: a Transformer encoder-decoder around a latent code of fixed size.

tokens -> encoder -> attention pooling by K learned queries -> (mean, log_std) -> z -> K memory
tokens -> causal decoder -> logits. The model gives the reconstruction nll and the latents; it
knows no objective (`objectives.py` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, ModelOutput
from transformers.utils import can_return_tuple

from .configuration_cmim import CMIMConfig
from .encoder_decoder_cmim import CACHE, CMIMDecoder, CMIMEncoder, CMIMPreTrainedModel
from .gaussian_cmim import gaussian_sample
from .generation_cmim import CMIMGenerationMixin
from .informative_embeddings_cmim import pool_hidden_states, shift_right
from .posterior_cmim import CMIMPosterior
from .property_head_cmim import CMIMPropertyHead
from .representations_cmim import CMIMRepresentations


@dataclass
class CMIMOutput(ModelOutput):
    """What [`CMIMModel`] returns.

    Attributes:
        loss: Mean nll per target token, if `labels` were given.
        last_hidden_state: (batch, target length, hidden_size), the decoder's last states.
        logits: (batch, target length, vocab_size).
        nll: (batch,), summed over each row's target tokens, in nats, if `labels` were given.
        latents: (batch, num_latents, latent_size), what the decoder read.
        latent_mean: (batch, num_latents, latent_size), mean of the posterior.
        latent_log_std: (batch, num_latents, latent_size), its log standard deviation.
        properties: (batch, num_properties), standardised predictions, where the model has a
            property head and read `input_ids`: the mean of its projections.
        property_projections: (batch, projections, num_properties), each of them.
        cache: The decoder's; before transformers 5.24 its name is `past_key_values`.
        decoder_hidden_states: On request, embedding and layers, each (batch, length, hidden_size).
        decoder_attentions: On request, each (batch, heads, length, length).
        cross_attentions: On request and for num_latents > 1, (batch, heads, length, num_latents).
        encoder_last_hidden_state: (batch, length, hidden_size).
        encoder_hidden_states: On request.
        encoder_attentions: On request.
    """

    loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    nll: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    latent_mean: torch.Tensor | None = None
    latent_log_std: torch.Tensor | None = None
    properties: torch.Tensor | None = None
    property_projections: torch.Tensor | None = None
    if CACHE == "cache":
        cache: Cache | None = None
    else:
        past_key_values: Cache | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None


class CMIMModel(CMIMRepresentations, CMIMGenerationMixin, CMIMPreTrainedModel):
    """cMIM: tokens to latents, latents to tokens.

    Read a batch with `forward` (nll, logits, latents), [`~CMIMModel.get_latents`] or
    [`~CMIMModel.get_informative_embeddings`]; write tokens with [`~CMIMModel.generate`], from
    `input_ids` (reconstruction) or from `latents`.

    >>> from cmim_hf import DEFAULT_CHECKPOINT, CMIMTokenizer
    >>> tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    >>> model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT)
    >>> batch = tokenizer(["CC(=O)Nc1ccc(O)cc1", "c1ccccc1"], padding=True, return_tensors="pt")
    >>> latents = model.get_latents(**batch)
    >>> latents.shape
    torch.Size([2, 1, 192])
    >>> tokenizer.batch_decode(model.generate(latents=latents), skip_special_tokens=True)
    ['CC(=O)Nc1ccc(O)cc1', 'c1ccccc1']
    """

    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}
    _keep_in_fp32_modules_strict = {"property_head"}  # quantiles may be beyond half precision
    _keys_to_ignore_on_load_missing = [r"posterior\.aggregate_(mean|std)"]

    def __init__(self, config: CMIMConfig) -> None:
        """Random weights; `from_pretrained` loads trained ones."""
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = CMIMEncoder(config)
        self.posterior = CMIMPosterior(config)
        self.decoder = CMIMDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.property_head = CMIMPropertyHead(config) if config.num_properties else None
        if self.property_head is None:
            self._keep_in_fp32_modules_strict = set()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        latents: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        decode: bool = True,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CMIMOutput:
        """Encode, draw a code, decode under teacher forcing.

        Args:
            input_ids: (batch, length), what is encoded.
            attention_mask: (batch, length), 1 at real tokens; all real if not given.
            decoder_input_ids: (batch, target length); if not given, the target (`labels`, else
                `input_ids`, else `inputs_embeds`) shifted right behind the start token.
            decoder_attention_mask: (batch, target length); derived from the target if not given.
            labels: (batch, target length), -100 where nothing is to be predicted.
            latents: (batch, num_latents, latent_size), decoded instead of encoding `input_ids`.
            sample_latents: Draw z from the posterior, or take its mean; `None`: draw in training.
            decode: `False` stops at the latents.
            encoder_outputs: What [`~CMIMModel.get_encoder`] gives, in place of encoding: latents
                as the first element.
            cache: Of the decoder.
            use_cache: Return the cache; by default so, but not where `labels` are given or the
                model is exported.
            inputs_embeds: (batch, length, hidden_size), embedded tokens in place of `input_ids`.
            decoder_inputs_embeds: (batch, target length, hidden_size), in place of
                `decoder_input_ids`.
            past_key_values: What `cache` is called before transformers 5.24.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            CMIMOutput: See there.

        Raises:
            ValueError: A row longer than `max_position_embeddings`, latents of the wrong shape, an
                input both as ids and as embeddings, or neither tokens nor latents.
        """
        cache = past_key_values if cache is None else cache
        given = inputs_embeds if input_ids is None else input_ids
        if cache is not None and attention_mask is not None and given is not None:
            # an adapter's prefix stands before the tokens, and is cached already
            attention_mask = attention_mask[:, -given.shape[1] :]
        if latents is not None:
            self.check_latents(latents)
            output = {"latents": latents}
        elif encoder_outputs is not None:
            self.check_latents(encoder_outputs[0])
            output = {"latents": encoder_outputs[0]}
            if isinstance(encoder_outputs, ModelOutput):
                output["encoder_hidden_states"] = encoder_outputs.get("hidden_states")
                output["encoder_attentions"] = encoder_outputs.get("attentions")
        else:
            tokens = (input_ids, attention_mask, inputs_embeds)
            output = self._encode(*tokens, sample_latents, **kwargs)
        if not decode:
            if self.config.property_representation == "latent":
                output |= self._properties(output, None)
            return CMIMOutput(**output)
        if labels is not None or torch.compiler.is_exporting():
            use_cache = bool(use_cache) and labels is None  # an exported graph returns tensors
        writes_own_input = decoder_input_ids is None and decoder_inputs_embeds is None
        if writes_own_input:
            decoder_inputs_embeds, written = self._teacher_forcing(
                input_ids, attention_mask, inputs_embeds, labels
            )
            decoder_attention_mask = _behind(cache, written)
        else:
            decoder_inputs_embeds = self._embedded(
                decoder_input_ids, decoder_inputs_embeds, decoder_attention_mask, "decoder_"
            )
        decoded = self.decoder(
            decoder_inputs_embeds,
            output["latents"],
            attention_mask=decoder_attention_mask,
            cache=cache,
            use_cache=use_cache,
            **kwargs,
        )
        output = {
            **output,
            "last_hidden_state": decoded.last_hidden_state,
            "logits": self.lm_head(decoded.last_hidden_state),
            CACHE: getattr(decoded, CACHE),
            "decoder_hidden_states": decoded.hidden_states,
            "decoder_attentions": decoded.attentions,
            "cross_attentions": decoded.cross_attentions or None,
        }
        if writes_own_input:
            states = decoded.last_hidden_state
            written = states.new_ones(states.shape[:2]) if written is None else written
            output |= self._properties(output, pool_hidden_states(states, written, "mean"))
        if labels is not None:
            output["nll"], output["loss"] = self._reconstruction(output["logits"], labels)
        return CMIMOutput(**output)

    def _properties(
        self, output: dict[str, Any], informative: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """What the property head makes of an encoded batch; empty where there is no head."""
        if self.property_head is None or "latent_mean" not in output:
            return {}
        found = self.property_head(output["latent_mean"], informative)
        return {"properties": found.mean(dim=1), "property_projections": found}

    def _encode(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        sample_latents: bool | None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if input_ids is None and inputs_embeds is None:
            raise ValueError(
                "Pass input_ids (batch, length) or inputs_embeds to encode, or latents to decode."
            )
        embedded = self._embedded(input_ids, inputs_embeds, attention_mask, "")
        encoded = self.encoder(embedded, attention_mask, **kwargs)
        mean, log_std = self.posterior(encoded.last_hidden_state, attention_mask)
        draw = self.training if sample_latents is None else sample_latents
        return {
            "latents": gaussian_sample(mean, log_std) if draw else mean,
            "latent_mean": mean,
            "latent_log_std": log_std,
            "encoder_last_hidden_state": encoded.last_hidden_state,
            "encoder_hidden_states": encoded.hidden_states,
            "encoder_attentions": encoded.attentions,
        }

    def _embedded(
        self,
        ids: torch.LongTensor | None,
        embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        side: str,
    ) -> torch.Tensor:
        """Embeddings (batch, length, hidden_size) of tokens, given as ids or embedded already."""
        if ids is not None and embeds is not None:
            raise ValueError(f"Pass {side}input_ids or {side}inputs_embeds, not both.")
        given = embeds if ids is None else ids
        self._check_length(
            given, attention_mask, f"{side}input{'s_embeds' if ids is None else '_ids'}"
        )
        return self.embed_tokens(ids) if embeds is None else embeds

    def _teacher_forcing(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        labels: torch.LongTensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The decoder's embedded input (batch, length, hidden_size) and its mask."""
        start, mask = self.config.decoder_start_token_id, attention_mask
        if labels is not None:
            mask = (labels != -100).long()
            ids = self.prepare_decoder_input_ids_from_labels(labels)
        elif input_ids is not None:
            real = torch.ones_like(input_ids) if mask is None else mask
            ids = shift_right(input_ids, real, start)
        elif inputs_embeds is not None:
            real = torch.ones_like(inputs_embeds[..., 0]) if mask is None else mask
            first = self.embed_tokens(torch.tensor(start, device=inputs_embeds.device))
            return shift_right(inputs_embeds, real, first), mask
        else:
            raise ValueError(
                "With latents alone there is nothing to score: pass labels or decoder_input_ids, "
                "or call generate(latents=...) to decode them."
            )
        return self._embedded(ids, None, mask, "decoder_"), mask

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """What the decoder reads to write `labels` (batch, length): they, behind the start token.

        The name is transformers': its collator for sequence-to-sequence models looks for it.
        """
        mask = labels != -100
        target = labels.masked_fill(~mask, self.config.pad_token_id)
        return shift_right(target, mask, self.config.decoder_start_token_id)

    def _reconstruction(
        self, logits: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nll (batch,) summed over target tokens, and its mean per target token."""
        if logits.shape[:2] != labels.shape:
            raise ValueError(
                f"labels {tuple(labels.shape)} must have the decoder's batch and length, "
                f"{tuple(logits.shape[:2])}."
            )
        token_nll = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.to(logits.device).flatten(), reduction="none"
        ).view(labels.shape)
        count = (labels != -100).sum().clamp(min=1)
        return token_nll.sum(dim=1), token_nll.sum() / count

    def _check_length(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None, name: str
    ) -> None:
        limit = self.config.max_position_embeddings
        if tokens.shape[1] <= limit:
            return
        real = torch.ones(tokens.shape[:2]) if attention_mask is None else attention_mask
        longest, row = real.sum(dim=1).max(dim=0)
        if longest > limit:
            raise ValueError(
                f"{name} row {int(row)} has {int(longest)} tokens, more than the model's "
                f"max_position_embeddings = {limit}. Remove the row, or truncate it yourself: "
                "nothing is cut silently."
            )

    def get_latents(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        *,
        sample: bool = False,
    ) -> torch.Tensor:
        """The codes of a batch: the posterior's mean, or a draw from it.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 at real tokens; all real if not given.
            sample: Draw z ~ q(z | x) instead of taking the mean.

        Returns:
            (batch, num_latents, latent_size), float32 or wider.
        """
        return self(input_ids, attention_mask, sample_latents=sample, decode=False).latents

    def get_informative_embeddings(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        *,
        pooling: str = "mean",
    ) -> torch.Tensor:
        """Informative embeddings (arXiv 2509.21511): pooled decoder states, z = mean(x).

        As [`~CMIMModel.get_representation`] gives them: (batch, hidden_size).
        """
        return self.get_representation(input_ids, attention_mask, pooling=pooling)

    def get_properties(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The properties the model was trained on, predicted in their own units.

        Values beyond those of nearly all training molecules come out as the last of these (see
        `property_head_cmim`). Names: `config.property_names`.

        Args:
            input_ids: (batch, length).
            attention_mask: As of [`~CMIMModel.get_latents`].

        Returns:
            (batch, num_properties), float32.

        Raises:
            ValueError: The model has no property head, or was never trained on properties.
        """
        if self.property_head is None:
            raise ValueError(
                "This model predicts no properties (num_properties is 0): train one on labelled "
                "molecules, or fine-tune it on your own."
            )
        output = self(input_ids, attention_mask, sample_latents=False, use_cache=False)
        return self.property_head.in_own_units(output.properties)

    def get_representation(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        *,
        representation: str = "informative",
        pooling: str = "mean",
    ) -> torch.Tensor:
        """One vector for each row of a batch.

        Args:
            input_ids: (batch, length).
            attention_mask: As of [`~CMIMModel.get_latents`].
            representation: `"informative"` (informative embeddings), `"latent"` (the mean codes,
                flattened) or `"both"`, in that order side by side.
            pooling: Of the informative embeddings: `"mean"`, `"last"` or `"max"`.

        Returns:
            (batch, [`~CMIMModel.representation_size`]).

        Raises:
            ValueError: An unknown representation or pooling.
        """
        self.representation_size(representation)
        latents = self.get_latents(input_ids, attention_mask)
        if representation == "latent":
            return latents.flatten(1)
        embedded, mask = self._teacher_forcing(input_ids, attention_mask, None, None)
        states = self.decoder(embedded, latents, mask, use_cache=False).last_hidden_state
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        informative = pool_hidden_states(states, real, pooling)
        if representation == "informative":
            return informative
        return torch.cat((informative, latents.flatten(1).to(informative.dtype)), dim=1)

    def get_submodule(self, target: str) -> nn.Module:
        """As of `torch.nn.Module`; peft asks for the input's embeddings by the name BERT has."""
        if target == "embeddings.word_embeddings":
            return self.embed_tokens
        return super().get_submodule(target)


def _behind(cache: Cache | None, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask (batch, length) of new tokens, with what is cached before it."""
    if mask is None or cache is None:
        return mask
    return torch.cat((mask.new_ones(len(mask), cache.get_seq_length()), mask), dim=1)
