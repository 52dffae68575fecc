# SPDX-License-Identifier: Apache-2.0
"""Configuration of the cMIM encoder-decoder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# Code of other libraries' ways into a checkpoint, copied beside the weights like the model's own.
_ENTRY_FILES = (
    "sequence_classification_cmim.py",
    "decoding_cmim.py",
    "pipelines_cmim.py",
    "sentence_transformers_cmim.py",
    "smiles_text_cmim.py",
)
_AUTO_MAP = {
    "AutoModel": "modeling_cmim.CMIMModel",
    "AutoModelForSeq2SeqLM": "modeling_cmim.CMIMModel",
    "AutoModelForSequenceClassification": (
        "sequence_classification_cmim.CMIMForSequenceClassification"
    ),
}
_PIPELINES = {
    "molecule-embedding": {
        "impl": "pipelines_cmim.MoleculeEmbeddingPipeline",
        "pt": ["AutoModel"],
        "type": "text",
    },
    "molecule-generation": {
        "impl": "pipelines_cmim.MoleculeGenerationPipeline",
        "pt": ["AutoModel"],
        "type": "text",
    },
    "molecule-prediction": {
        "impl": "pipelines_cmim.MoleculePredictionPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "text",
    },
}
_SENTENCE_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers_cmim.CMIMSentenceEmbedding"}
]

SIZES: dict[str, dict[str, int | float]] = {
    "tiny": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "latent_size": 96,
        "initializer_range": 0.1,
    },
    "small": {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_attention_heads": 6,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "latent_size": 192,
        "initializer_range": 0.07,
    },
    "base": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "encoder_layers": 4,
        "decoder_layers": 4,
        "latent_size": 512,
        "initializer_range": 0.045,
    },
    "large": {
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_attention_heads": 10,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "latent_size": 512,
        "initializer_range": 0.04,
    },
}


LAYOUT = 1  # to be raised when older code would misread a checkpoint

_COUNTS = (
    "layout",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "encoder_layers",
    "decoder_layers",
    "num_latents",
    "latent_size",
    "max_position_embeddings",
)
_NUMBERS = ("rope_theta", "dropout", "layer_norm_eps", "initializer_range")
_SWITCHES = ("use_cache", "is_encoder_decoder", "tie_word_embeddings")
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
# What a damaged file asks for must not fill the memory before the weights disagree.
_MOST_LAYERS = 1000
_MOST = 1 << 24


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
        layout: Version of what the fields mean; a checkpoint of a later one than this code knows
            is refused.

    Raises:
        ValueError: A value outside its range, or a later layout.
    """

    model_type = "cmim"
    keys_to_ignore_at_inference = [
        "past_key_values",
        "last_hidden_state",
        "latent_mean",
        "latent_log_std",
        "property_projections",
        "encoder_last_hidden_state",
    ]
    attribute_map = {"num_hidden_layers": "decoder_layers"}

    vocab_size: int = 256
    hidden_size: int = 192
    intermediate_size: int = 768
    num_attention_heads: int = 6
    encoder_layers: int = 3
    decoder_layers: int = 3
    num_latents: int = 1
    latent_size: int = 192
    posterior: str = "learned"
    min_log_std: float = -3.0
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    hidden_act: str = "gelu_pytorch_tanh"
    dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_properties: int = 0
    property_names: list[str] | None = None
    property_representation: str = "both"
    layout: int = LAYOUT
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values; name the classes a remote user loads."""
        kwargs["auto_map"] = {**_AUTO_MAP, **(kwargs.get("auto_map") or {})}
        # Only who runs the checkpoint's own code needs its pipeline: the package registers it, and
        # transformers would demand trust_remote_code of the package's users as well.
        if not __name__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        self._check_types()
        if self.layout > LAYOUT:
            raise ValueError(
                f"config.json has layout {self.layout}; this code knows up to {LAYOUT}. The "
                "checkpoint is of a newer cmim-hf: pip install --upgrade cmim-hf"
            )
        labels = kwargs.get("num_labels", 1)
        if not _is_whole(labels) or not 0 <= labels <= _MOST:
            raise ValueError(f"num_labels must be a whole number up to {_MOST:,}, got {labels!r}.")
        if hidden := [name for name in kwargs if callable(getattr(type(self), name, None))]:
            raise ValueError(f"{hidden[0]!r} is a method, and can be no setting.")
        super().__post_init__(**kwargs)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of twice num_attention_heads "
                f"({self.num_attention_heads}): rotary embeddings need an even head size."
            )
        if self.posterior not in ("learned", "sampled"):
            raise ValueError(f"posterior must be 'learned' or 'sampled', got {self.posterior!r}.")
        if not isinstance(self.min_log_std, int | float) or not -1e6 < self.min_log_std < 0:
            raise ValueError(
                "min_log_std must be a negative number (the prior's log-std is 0), got "
                f"{self.min_log_std!r}. It is a log-std: halve a log-variance."
            )
        self._check_properties()

    def _check_properties(self) -> None:
        number, names = self.num_properties, self.property_names
        if not _is_whole(number) or not 0 <= number <= _MOST:
            raise ValueError(
                f"num_properties must be a whole number from 0 to {_MOST:,}, got {number!r}."
            )
        if names is not None and (
            not isinstance(names, list)
            or len(names) != number
            or not all(isinstance(name, str) for name in names)
        ):
            raise ValueError(
                f"property_names must be a list of num_properties = {number} names, got {names!r}."
            )
        if self.property_representation not in ("latent", "informative", "both"):
            raise ValueError(
                "property_representation must be 'latent', 'informative' or 'both', got "
                f"{self.property_representation!r}."
            )

    def _check_types(self) -> None:
        """Refuse values of other kinds than the fields have, before anything is made of them."""
        for name in _COUNTS:
            value, most = getattr(self, name), _MOST_LAYERS if "_layers" in name else _MOST
            if not _is_whole(value) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
            if value > most:
                raise ValueError(f"{name} must be at most {most:,}, got {value!r}.")
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        for name in _TOKENS:
            value = getattr(self, name)
            ids = value if name == "eos_token_id" and isinstance(value, list) else [value]
            if not all(one is None or (_is_whole(one) and 0 <= one < _MOST) for one in ids):
                raise ValueError(f"{name} must be a token id or null, got {value!r}.")
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"pad_token_id ({self.pad_token_id}) must be below vocab_size ({self.vocab_size})."
            )
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must name an activation, got {self.hidden_act!r}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> CMIMConfig:
        """The configuration of a dictionary, as [`~transformers.PreTrainedConfig.from_dict`].

        Raises:
            ValueError: Values that no configuration has; also where transformers' own fields hold
                them, or names that are no fields.
        """
        return _or_value_error(partial(super().from_dict, config_dict, **kwargs))

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of `config.json`, as [`~transformers.PreTrainedConfig.get_config_dict`].

        Raises:
            OSError: There is none, or it is no JSON.
            ValueError: It is JSON of another kind.
        """
        read = partial(super().get_config_dict, pretrained_model_name_or_path, **kwargs)
        content, unused = _or_value_error(read)
        if not isinstance(content, dict):
            raise ValueError(f"config.json must hold fields, got {type(content).__name__}.")
        return content, unused

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> CMIMConfig:
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

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Save `config.json`, and the code by which other libraries open the checkpoint.

        That is the classifier, the transformers pipelines, and the sentence-transformers module
        with its `modules.json`. Where this package is not installed, they are copied from the
        folder that the model was loaded from; from a Hub id only the model's own code is.

        Args:
            save_directory: The checkpoint's folder.
            push_to_hub: As in [`~transformers.PreTrainedConfig.save_pretrained`].
            kwargs: As there.
        """
        loaded, named = self.__dict__.pop("custom_pipelines", None), self.auto_map
        loaded_from = [Path(self._name_or_path)] if self._name_or_path else []
        for folder in (Path(__file__).parent, *loaded_from):
            if all((folder / name).is_file() for name in _ENTRY_FILES):
                _copy_entries(folder, Path(save_directory))
                self.custom_pipelines = _PIPELINES
                break
        self.auto_map = {
            name: code
            for name, code in named.items()
            if "--" in code or Path(save_directory, f"{code.split('.')[0]}.py").is_file()
        }
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.auto_map = named
        self.__dict__.pop("custom_pipelines", None)
        if loaded is not None:
            self.custom_pipelines = loaded


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _or_value_error(read: Callable[[], Any]) -> Any:
    """What `read` gives; transformers meets fields of unexpected kinds with all sorts of errors."""
    try:
        return read()
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(
            f"config.json cannot be read ({type(error).__name__}: {error}): it is damaged, or not "
            "of a cMIM. Copy the checkpoint again."
        ) from error


def _copy_entries(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if source.resolve() != target.resolve():
        for name in _ENTRY_FILES:
            shutil.copyfile(source / name, target / name)
    modules = target / "modules.json"
    if not modules.is_file():  # one that is there may name modules of the user's
        modules.write_text(json.dumps(_SENTENCE_MODULES, indent=2) + "\n", encoding="utf-8")


CMIMConfig.register_for_auto_class()

__all__ = ["CMIMConfig"]
