# SPDX-License-Identifier: Apache-2.0
"""Configuration of the cMIM encoder-decoder, and what is saved beside the weights.

transformers copies this file into a checkpoint, those that a line of the following form names, in
a string as well, and those that they need in turn:

    from .modeling_cmim import CMIMModel
    from .pipelines_cmim import MoleculeEmbeddingPipeline
    from .sentence_transformers_cmim import CMIMSentenceEmbedding
    from .sequence_classification_cmim import CMIMForSequenceClassification

That is all by which a checkpoint opens where this package is not installed.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checked_fields_cmim import activation, count, not_negative, with_value_errors

_AUTO_MAP = {
    "AutoConfig": "configuration_cmim.CMIMConfig",
    "AutoModel": "modeling_cmim.CMIMModel",
    "AutoModelForSeq2SeqLM": "modeling_cmim.CMIMModel",
    "AutoModelForSequenceClassification": (
        "sequence_classification_cmim.CMIMForSequenceClassification"
    ),
}
_PIPELINES = {
    f"molecule-{name.lower()}": {
        "impl": f"pipelines_cmim.Molecule{name}Pipeline",
        "pt": [model],
        "type": "text",
    }
    for name, model in (
        ("Embedding", "AutoModel"),
        ("Generation", "AutoModel"),
        ("Prediction", "AutoModelForSequenceClassification"),
    )
}
_SENTENCE_TYPE = "sentence_transformers_cmim.CMIMSentenceEmbedding"
# what names our class there: the package's own checkpoints, and those of its first version
_OUR_TYPES = re.compile(r"[\w.]*\bsentence(_transformers)?_cmim\.CMIMSentenceEmbedding")

_SIZED = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "encoder_layers",
    "decoder_layers",
    "latent_size",
    "initializer_range",
)
SIZES: dict[str, dict[str, int | float]] = {
    "tiny": dict(zip(_SIZED, (96, 256, 4, 2, 2, 96, 0.1), strict=True)),
    "small": dict(zip(_SIZED, (192, 768, 6, 3, 3, 192, 0.07), strict=True)),
    "base": dict(zip(_SIZED, (512, 2048, 8, 4, 4, 512, 0.045), strict=True)),
    "large": dict(zip(_SIZED, (640, 2560, 10, 6, 6, 512, 0.04), strict=True)),
}

LAYOUT = 1  # to be raised when older code would misread a checkpoint


@with_value_errors
@strict
class CMIMConfig(PreTrainedConfig):
    """What determines a [`CMIMModel`]: the shapes, the posterior and the special tokens.

    Everything that concerns training alone (objective, temperature, weights) is in
    `CMIMTrainingArguments`.

    Args:
        vocab_size: Number of token ids.
        hidden_size: Width of encoder and decoder.
        intermediate_size: Width of the feed-forward layers.
        num_attention_heads: Heads of every attention; `hidden_size / num_attention_heads` is even.
        encoder_layers: Transformer layers of the encoder.
        decoder_layers: Transformer layers of the decoder.
        num_latents: K, the number of latent codes of a molecule.
        latent_size: D, the size of each of them.
        posterior: `"learned"`: the encoder gives mean and log-std. `"sampled"`: it gives the mean,
            and in training one log-std ~ U(min_log_std, 0) is drawn for each molecule (MolMIM,
            arXiv 2208.09016); outside training the log-std is the middle of that range.
        min_log_std: Floor of the log-*standard deviation* (natural logarithm; half of a floor given
            for the log-variance). MolMIM's floor of -6 on the log-variance is -3 here.
        max_position_embeddings: Longest sequence in tokens, end token included.
        rope_theta: Base of the rotary position embedding.
        hidden_act: Activation of the feed-forward layers.
        dropout: Dropout of the residual branches.
        layer_norm_eps: Epsilon of the layer norms.
        initializer_range: Standard deviation of the initial weights; the named sizes take about
            hidden_size ** -0.5, because narrow models learn slowly from 0.02.
        num_properties: P, the numbers predicted of each molecule beside its tokens; 0: no head.
        property_names: Their names, P of them, or none.
        property_representation: What they are read off: `"latent"`, `"informative"` or `"both"`.
        problem_type: Of a classifier; see `CMIMForSequenceClassification`.
        layout: Version of what the fields mean; a checkpoint of a later one than this code knows
            is refused.

    Raises:
        ValueError: A value of another type or outside its range, or a later layout.

    >>> config = CMIMConfig.from_size("tiny", vocab_size=98, num_latents=2)
    >>> config.latent_size, config.num_latents
    (96, 2)
    >>> CMIMConfig(latent_size="many")
    Traceback (most recent call last):
    ...
    ValueError: Validation error for field 'latent_size':
        TypeError: Field 'latent_size' expected int, got str (value: 'many')
    """

    model_type = "cmim"
    keys_to_ignore_at_inference = [
        "cache",
        "past_key_values",
        "last_hidden_state",
        "latent_mean",
        "latent_log_std",
        "property_projections",
        "encoder_last_hidden_state",
    ]
    attribute_map = {"num_hidden_layers": "decoder_layers"}

    vocab_size: int = count(default=256)
    hidden_size: int = count(default=192)
    intermediate_size: int = count(default=768)
    num_attention_heads: int = count(default=6)
    encoder_layers: int = count(default=3)
    decoder_layers: int = count(default=3)
    num_latents: int = count(default=1)
    latent_size: int = count(default=192)
    posterior: Literal["learned", "sampled"] = "learned"
    min_log_std: float | int = -3.0
    max_position_embeddings: int = count(default=512)
    rope_theta: float | int = not_negative(default=10000.0)
    hidden_act: str = activation(default="gelu_pytorch_tanh")
    dropout: float | int = not_negative(default=0.0)
    layer_norm_eps: float | int = not_negative(default=1e-5)
    initializer_range: float | int = not_negative(default=0.02)
    num_properties: int = not_negative(default=0)
    property_names: list[str] | None = None
    property_representation: Literal["latent", "informative", "both"] = "both"
    layout: int = count(default=LAYOUT)
    problem_type: (
        Literal["regression", "single_label_classification", "multi_label_classification"] | None
    ) = None
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs: Any) -> None:
        """Check what concerns several values."""
        # The package registers its pipelines, and transformers would demand trust_remote_code of
        # its users as well: only who runs the checkpoint's own code needs them here.
        if not __name__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        if self.layout > LAYOUT:
            raise ValueError(
                f"config.json has layout {self.layout}; this code knows up to {LAYOUT}. The "
                "checkpoint is of a newer cmim-hf: pip install --upgrade cmim-hf"
            )
        super().__post_init__(**kwargs)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of twice num_attention_heads "
                f"({self.num_attention_heads}): rotary embeddings need an even head size."
            )
        if not -1e6 < self.min_log_std < 0:
            raise ValueError(
                "min_log_std must be a negative number (the prior's log-std is 0), got "
                f"{self.min_log_std}. It is a log-std: halve a log-variance."
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id ({self.pad_token_id}) must be below vocab_size ({self.vocab_size})."
            )
        if self.property_names and len(self.property_names) != self.num_properties:
            raise ValueError(
                f"property_names must be num_properties = {self.num_properties} names, got "
                f"{self.property_names!r}."
            )

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> Self:
        """The configuration of a named size: `tiny`, `small` (3 M), `base` (30 M), `large` (65 M).

        Args:
            size: One of the names.
            overrides: Any argument of the configuration, taking precedence.

        Raises:
            ValueError: An unknown name.
        """
        if size not in SIZES:
            raise ValueError(f"Unknown size {size!r}; choose one of {', '.join(SIZES)}.")
        return cls(**{**SIZES[size], **overrides})

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` holds, with the names of all that opens the checkpoint."""
        return super().to_dict() | {"auto_map": _AUTO_MAP, "custom_pipelines": _PIPELINES}

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Save `config.json`, the code that opens the checkpoint, and `modules.json`.

        The last names the module for sentence-transformers. One that is there may name modules of
        the user's beside it, which stay.

        Args:
            save_directory: The checkpoint's folder.
            push_to_hub: Then upload it, to `repo_id` or a repository named like the folder.
            kwargs: As in [`~transformers.PreTrainedConfig.push_to_hub`].
        """
        super().save_pretrained(save_directory)
        file = Path(save_directory, "modules.json")
        entry = {"idx": 0, "name": "0", "path": "", "type": _SENTENCE_TYPE}
        modules = json.dumps([entry], indent=2) + "\n"
        if file.is_file():
            modules = _OUR_TYPES.sub(_SENTENCE_TYPE, file.read_text(encoding="utf-8"))
        file.write_text(modules, encoding="utf-8")
        if push_to_hub:
            name = kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self.push_to_hub(name, **kwargs)


CMIMConfig.register_for_auto_class()
