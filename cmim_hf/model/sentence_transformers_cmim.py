# SPDX-License-Identifier: Apache-2.0
"""The sentence-transformers module of a cMIM checkpoint.

`SentenceTransformer(checkpoint, trust_remote_code=True)` finds it by the checkpoint's
`modules.json`, with or without this package installed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .informative_embeddings_cmim import check_pooling
from .onnx_cmim import CMIMOnnxModel
from .smiles_text_cmim import length_problem, refusal, text_problem, without_extension

try:  # else transformers would ask for it wherever it copies this file
    from sentence_transformers.base.model import BaseModel
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError(
        "This module needs sentence-transformers: pip install sentence-transformers"
    ) from error


class CMIMSentenceEmbedding(InputModule):
    """Canonical SMILES to one vector each, for encoding and for training.

    Texts are read as they are: other writings of a molecule give other vectors, and that a text is
    a molecule is not checked. `canonicalize` of `cmim_hf.chemistry.smiles` writes canonical SMILES.
    Nothing is drawn, in training neither: the codes are the posterior's means.

    Args:
        model: A `CMIMModel`, or a `CMIMOnnxModel`.
        tokenizer: Its tokenizer.
        representation: As in [`~CMIMModel.get_representation`], like the next.
        pooling: As there.

    Raises:
        ValueError: An unknown representation or pooling.
    """

    config_file_name = "sentence_cmim.json"
    config_keys = ["representation", "pooling"]

    def __init__(
        self,
        model: PreTrainedModel | CMIMOnnxModel,
        tokenizer: PreTrainedTokenizerBase,
        representation: str = "informative",
        pooling: str = "mean",
    ) -> None:
        """Take model and tokenizer as they are."""
        super().__init__()
        model.representation_size(representation)
        check_pooling(pooling)
        self.model = model
        self.tokenizer = tokenizer
        self.representation = representation
        self.pooling = pooling

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        *,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **others: Any,
    ) -> CMIMSentenceEmbedding:
        """Load a checkpoint; `sentence_cmim.json` in it, if there, chooses the representation.

        Arguments as in `InputModule.load`: where the checkpoint is, and in `model_kwargs` (such as
        `dtype`), `processor_kwargs` and `config_kwargs` more for each `from_pretrained`. The
        backend `"onnx"` opens what `cmim export` wrote, and takes no `model_kwargs`.

        Raises:
            FileNotFoundError: The backend is `"onnx"`, and there are no graphs.
            ValueError: Another backend, or an unknown choice in `sentence_cmim.json`.
        """
        if backend not in ("torch", "onnx"):
            raise ValueError(f"cMIM runs on the backends 'torch' and 'onnx', not on {backend!r}.")
        if backend == "onnx" and model_kwargs:
            raise ValueError(f"The backend 'onnx' takes no model_kwargs, got {model_kwargs}.")
        name, known = model_name_or_path, ("subfolder", "token", "revision", "local_files_only")
        place = {each: others[each] for each in known if each in others}
        settings = cls.load_config(name, cache_folder=cache_folder, **place)
        source = {**place, "cache_dir": cache_folder, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(name, **source | (config_kwargs or {}))
        if backend == "onnx":
            place["cache_dir"] = cache_folder
            model = CMIMOnnxModel.from_pretrained(name, config, **place)
        else:
            model = AutoModel.from_pretrained(name, config=config, **source | (model_kwargs or {}))
        tokenizer = AutoTokenizer.from_pretrained(name, **source | (processor_kwargs or {}))
        return cls(model, tokenizer, **settings)

    def on_model_ready(self, model: BaseModel) -> None:
        """Let the model card that `model` writes show molecules: its English cannot be encoded."""
        model.model_card_data.usage_examples = ["CCO", "CCCO", "c1ccccc1"]

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Save model, tokenizer and `sentence_cmim.json`; adapters beside the model they adapt.

        Weights are always written as safetensors.
        """
        if getattr(self.model, "peft_config", None):  # then it saves its adapters alone
            _without_adapters(self.model).save_pretrained(output_path)
        self.model.save_pretrained(output_path)
        self.save_tokenizer(output_path)
        self.save_config(output_path)

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a molecule, end token included; longer ones are refused, never cut."""
        return self.model.config.max_position_embeddings

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        raise ValueError(
            f"max_seq_length is the model's {self.max_seq_length} and cannot be {value}: molecules "
            "are never cut. Leave long ones out yourself."
        )

    def get_embedding_dimension(self) -> int:
        """Numbers in a vector."""
        return self.model.representation_size(self.representation)

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Tokenise a batch of SMILES.

        They are taken as they are, but for the extension of a CXSMILES, which is dropped. `prompt`
        must be empty, other arguments have no part. Gives `input_ids` and `attention_mask`,
        (batch, length) each.

        Raises:
            ValueError: A prompt, or a text that is no string, empty, not printable, or longer than
                the model reads.
        """
        if prompt:
            raise ValueError(
                f"cMIM takes no prompt, got {prompt!r}: text before a SMILES changes the molecule. "
                "Encode without prompt and prompt_name."
            )
        texts = [without_extension(text) for text in inputs]
        for text in texts:
            if problem := text_problem(text):
                raise refusal(text, "embedded", problem[1])
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        for text, row in zip(texts, ids, strict=True):
            if reason := length_problem(row, self.max_seq_length):
                raise refusal(text, "embedded", reason)
        batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Add `sentence_embedding`, (batch, size) in float32, with gradient."""
        vectors = self.model.get_representation(
            features["input_ids"],
            features["attention_mask"],
            representation=self.representation,
            pooling=self.pooling,
        )
        features["sentence_embedding"] = vectors.float()
        return features

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by a function of this file, whatever the class says it is of."""
        return _restored, (dict(self.__dict__),)


def _without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model that adapters stand on, by the names that peft gives to what it wraps."""
    plain = type(model)(model.config)
    wanted = plain.state_dict().keys()
    names = ((re.sub(r"\.(base_layer|original_module)\.", ".", n), n) for n in model.state_dict())
    state = model.state_dict()
    state = {name: state[given] for name, given in names if name in wanted}
    plain.load_state_dict(state, assign=True)  # each keeps its own precision
    return plain


def _restored(state: dict[str, Any]) -> CMIMSentenceEmbedding:
    module = CMIMSentenceEmbedding.__new__(CMIMSentenceEmbedding)
    module.__dict__.update(state)
    return module


if __name__ == "cmim_hf.model.sentence_transformers_cmim":
    # what sentence-transformers writes into modules.json: the file copied beside the weights
    CMIMSentenceEmbedding.__module__ = "sentence_transformers_cmim"
