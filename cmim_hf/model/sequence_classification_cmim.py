# SPDX-License-Identifier: Apache-2.0
"""cMIM with a head that predicts labels of molecules: numbers, yes or no, one class of several.

tokens -> [`CMIMModel`] -> vector of the molecule -> head -> logits. The vector is what
[`~CMIMModel.get_representation`] gives, at the posterior's mean in training too, and gradients run
through all of encoder and decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_cmim import CMIMConfig
from .encoder_decoder_cmim import CMIMPreTrainedModel
from .informative_embeddings_cmim import pool_hidden_states
from .modeling_cmim import CMIMModel
from .parent_molecule_cmim import STANDARDS


class CMIMClassificationHead(nn.Module):
    """Dropout, a hidden layer, dropout, one score per label; beside them the scale of the labels.

    `label_mean` and `label_std` (num_labels,) stand here so that they go wherever the head goes,
    into an adapter as well; 0 and 1 until [`~CMIMForSequenceClassification.fit_label_scale`].
    """

    def __init__(self, config: CMIMConfig, feature_size: int) -> None:
        """`feature_size` is the length of a molecule's vector."""
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.dense = nn.Linear(feature_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.num_labels)
        self.register_buffer("label_mean", torch.zeros(config.num_labels))
        self.register_buffer("label_std", torch.ones(config.num_labels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, feature_size) -> (batch, num_labels)."""
        features = self.dropout(features.to(self.dense.weight.dtype))
        return self.output(self.dropout(functional.gelu(self.dense(features))))


class CMIMForSequenceClassification(CMIMPreTrainedModel):
    """Predicts `num_labels` labels of each molecule.

    From a pretrained checkpoint, `from_pretrained(checkpoint, num_labels=..., problem_type=...)`
    makes a new head and loads everything else; a fine-tuned one also opens as a [`CMIMModel`].
    Missing labels take no part in the loss. What `config.problem_type` means:

    - `"regression"`: any number of targets; labels (batch, num_labels), NaN where missing. The loss
      is the mean squared error of standardised labels, the logits are in the labels' own units.
    - `"multi_label_classification"`: yes or no, one label or several; labels (batch, num_labels) of
      1, 0, and NaN where missing. The loss is the binary cross-entropy.
    - `"single_label_classification"`: one class of `num_labels`; labels (batch,) from 0, -100 where
      missing. The loss is the cross-entropy.
    - `None`: settled by the first labels, as in other models of transformers: one label is a
      regression; several are single-label if the labels are integers, else multi-label.

    The loss is a mean over the labels that are there, and 0 where there are none.
    """

    def __init__(
        self,
        config: CMIMConfig,
        classifier_features: str | None = None,
        classifier_dropout: float | None = None,
        standardize: str | None = None,
    ) -> None:
        """Random weights; `from_pretrained` takes the same arguments by name.

        Args:
            config: Of the model; keeps the others, under their names.
            classifier_features: The vector that the head reads: `"both"` (default), `"latent"` or
                `"informative"`, as in [`~CMIMModel.get_representation`].
            classifier_dropout: Before each layer of the head, 0.1 by default.
            standardize: What molecules are brought to before they are tokenised, in training and
                for predictions: `"parent"` (see [`~cmim_hf.model.parent_molecule_cmim.parent`]), or
                `"none"` by default. The model itself reads tokens; this tells those who make them.

        Raises:
            ValueError: Other features, a dropout outside [0, 1], or another standard.
        """
        _settle(config, "standardize", standardize, "none")
        if config.standardize not in STANDARDS:
            raise ValueError(
                f"Unknown standardize {config.standardize!r}; choose one of {', '.join(STANDARDS)}."
                " (If a newer cmim-hf saved it: pip install --upgrade cmim-hf)"
            )
        _settle(config, "classifier_features", classifier_features, "both")
        _settle(config, "classifier_dropout", classifier_dropout, 0.1)
        super().__init__(config)
        self.cmim = CMIMModel(config)
        feature_size = self.cmim.representation_size(config.classifier_features)
        self.classifier = CMIMClassificationHead(config, feature_size)
        self._freeze_unused()
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, *args: Any, **kwargs: Any
    ) -> CMIMForSequenceClassification | tuple[CMIMForSequenceClassification, dict[str, Any]]:
        """As of [`CMIMPreTrainedModel`], which makes new parameters."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_unused()
        return loaded

    def _freeze_unused(self) -> None:
        """Ask no gradient of what the labels do not depend on: processes would wait for it."""
        unused = [getattr(self.cmim.posterior, "log_std_proj", None), self.cmim.property_head]
        if self.config.classifier_features == "latent":
            unused.append(self.cmim.decoder)
        for module in filter(None, unused):
            module.requires_grad_(False)

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's, tied to the input's: what adapters of all linear maps leave out."""
        return self.cmim.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """As of `CMIMModel`, whose they are."""
        self.cmim.set_output_embeddings(new_embeddings)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CMIMClassificationHead):
            init.zeros_(module.label_mean)
            init.ones_(module.label_std)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqSequenceClassifierOutput:
        """Predict, and compare with `labels`.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 at real tokens; all real if not given.
            labels: As the class describes; a single label may leave out its axis.
            inputs_embeds: (batch, length, hidden_size), embedded tokens in place of `input_ids`.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            Seq2SeqSequenceClassifierOutput: `logits` (batch, num_labels), float32 or wider; `loss`
            if there are labels; on request the hidden states and attentions of encoder and decoder.

        Raises:
            ValueError: No tokens, a row longer than `max_position_embeddings`, or labels of a shape
                or with values that the problem type does not have.
        """
        chosen = self.config.classifier_features
        states = self.cmim(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            sample_latents=False,
            decode=chosen != "latent",
            use_cache=False,
            return_dict=True,
            **kwargs,
        )
        parts = []
        if chosen != "latent":
            written = states.last_hidden_state
            real = written.new_ones(written.shape[:2]) if attention_mask is None else attention_mask
            parts.append(pool_hidden_states(written, real, "mean"))
        if chosen != "informative":
            parts.append(states.latents.flatten(1))
        head = self.classifier
        scores = head(torch.cat([part.to(parts[0].dtype) for part in parts], dim=1))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        both = states.keys() & Seq2SeqSequenceClassifierOutput.__annotations__.keys()
        return Seq2SeqSequenceClassifierOutput(
            loss=None if labels is None else self._loss(scores, labels.to(scores.device)),
            logits=scores * head.label_std + head.label_mean,
            **{name: states[name] for name in both - {"logits"}},
        )

    @torch.no_grad()
    def fit_label_scale(self, labels: torch.Tensor) -> None:
        """Set mean and standard deviation of the labels of a regression.

        Both are over the labels that are there, by target; the deviation divides by their number.
        A target that is constant, or never there, gets the deviation 1.

        Args:
            labels: (rows, num_labels) of the training molecules, NaN where missing; (rows,) for one
                target.

        Raises:
            ValueError: Another problem type, another shape, or infinite labels.
        """
        if self.config.problem_type is None and self.config.num_labels == 1:
            self.config.problem_type = "regression"
        if self.config.problem_type != "regression":
            raise ValueError(
                "Only the labels of a regression have a scale; problem_type is "
                f"{self.config.problem_type!r}. Set it to 'regression' in from_pretrained."
            )
        values = self._checked(torch.as_tensor(labels, dtype=torch.float64).cpu())
        for target, column in enumerate(values.T):
            there = column[~column.isnan()]
            varies = len(there) > 0 and there.min() < there.max()
            self.classifier.label_mean[target] = there.mean() if len(there) else 0.0
            self.classifier.label_std[target] = there.std(correction=0) if varies else 1.0

    def _loss(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean over the labels that are there; `scores` are standardised in a regression."""
        if self.config.problem_type is None:
            several = (
                "multi_label_classification"
                if labels.is_floating_point()
                else "single_label_classification"
            )
            self.config.problem_type = "regression" if self.config.num_labels == 1 else several
        if len(labels) != len(scores):
            raise ValueError(f"Got {len(labels)} rows of labels for {len(scores)} molecules.")
        labels = self._checked(labels)
        if self.config.problem_type == "single_label_classification":
            total = functional.cross_entropy(scores, labels, reduction="sum")
            return total / (labels != -100).sum().clamp(min=1)
        there = ~labels.isnan()
        labels = labels.to(scores.dtype)
        if self.config.problem_type == "regression":
            expected = (labels - self.classifier.label_mean) / self.classifier.label_std
            each = (scores - expected.masked_fill(~there, 0.0)).square()
        else:
            expected = labels.masked_fill(~there, 0.0)
            each = functional.binary_cross_entropy_with_logits(scores, expected, reduction="none")
        return each.masked_fill(~there, 0.0).sum() / there.sum().clamp(min=1)

    def _checked(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (rows, num_labels), or (rows,) of classes; a ValueError for others."""
        kind, count = self.config.problem_type, self.config.num_labels
        if kind == "single_label_classification":
            form, expected = "integers (batch,)", f"classes from 0 to {count - 1}, -100 if missing"
            fits = not labels.is_floating_point() and labels.numel() == len(labels)
        else:
            form = f"(batch, num_labels) = (batch, {count})"
            expected = "finite, NaN if missing" if kind == "regression" else "1, 0, NaN if missing"
            fits = labels.shape[1:] == (count,) or (labels.ndim == count == 1)
        if not fits:
            raise ValueError(
                f"labels of a {kind} must be {form}, got {labels.dtype} {tuple(labels.shape)}."
            )
        if kind == "single_label_classification":
            labels = labels.reshape(-1).long()
            wrong = (labels != -100) & ((labels < 0) | (labels >= count))
        else:
            labels = labels.reshape(-1, count)
            is_binary = (labels == 0) | (labels == 1) | labels.isnan()
            wrong = labels.isinf() if kind == "regression" else ~is_binary
        if wrong.any():
            raise ValueError(
                f"labels of a {kind} must be {expected}, got {labels[wrong][0].item()}."
            )
        return labels


def _settle(config: CMIMConfig, name: str, value: Any, default: Any) -> None:
    """Keep in the config what was given, else what it has, else the default."""
    setattr(config, name, getattr(config, name, default) if value is None else value)
