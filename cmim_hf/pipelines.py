# SPDX-License-Identifier: Apache-2.0
"""The transformers pipeline `molecule-embedding`: SMILES in, vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Pipeline

from .text_cmim import text_problem

_POOLINGS = ("mean", "last", "max")
_ON_INVALID = ("raise", "none")


class MoleculeEmbeddingPipeline(Pipeline):
    """Embeds molecules given as canonical SMILES, one vector for each.

    `pipeline("molecule-embedding", model=checkpoint)` makes one; where the package is not
    installed, add `trust_remote_code=True`. A molecule's vector depends on its text alone, in
    whatever batch. Texts are read as they are: other writings of a molecule give other vectors, and
    that a text is a molecule is not checked. `cmim_hf.chem.canonicalize` writes canonical SMILES.

    The arguments below can be given to `pipeline` and to each call, which takes precedence.

    Args:
        representation: `"informative"` (informative embeddings: pooled decoder states, hidden_size
            numbers), `"latent"` (the mean codes, num_latents * latent_size numbers) or `"both"`,
            in that order side by side.
        pooling: Of informative embeddings: `"mean"`, `"last"` or `"max"`.
        on_invalid: What becomes of an input that is no string, empty, not printable, or longer than
            the model reads: `"raise"` a ValueError that names it, `"none"` gives a vector of NaN.
            A pipeline gives one output for each input, so there is no `"skip"`.
        return_tensors: Give torch tensors (on the CPU) in place of numpy arrays.

    Raises:
        ValueError: An unknown choice, or an invalid input and `on_invalid="raise"`.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Embed one text, or many.

        Args:
            inputs: A SMILES; a list or another iterable of them; or, to stream, a generator or a
                torch dataset.
            kwargs: `representation`, `pooling`, `on_invalid`, `return_tensors`, and every
                pipeline's `batch_size` and `num_workers`.

        Raises:
            TypeError: A table in place of its column.

        Returns:
            For one text its vector (size,) in float32, for many a list of vectors in their order;
            for a generator or a dataset, an iterator of them.
        """
        transformers_own = ("batch_size", "num_workers")
        own = {name: value for name, value in kwargs.items() if name not in transformers_own}
        self._sanitize_parameters(**own)  # before the base class draws from a generator
        if hasattr(inputs, "columns"):
            raise TypeError(
                f"Expected SMILES, got a {type(inputs).__name__}; pass its column of SMILES."
            )
        if hasattr(inputs, "to_pylist"):  # pyarrow, whose items are no strings
            inputs = inputs.to_pylist()
        if getattr(inputs, "shape", None) == ():  # an array of one text is that text
            inputs = inputs.item()
        if isinstance(inputs, Iterator):
            inputs = (text for text in inputs)
        elif isinstance(inputs, Iterable) and not isinstance(
            inputs, str | bytes | Mapping | Dataset
        ):
            inputs = list(inputs)
            if not inputs:
                return []
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        representation: str | None = None,
        pooling: str | None = None,
        on_invalid: str | None = None,
        return_tensors: bool | None = None,
        local_files_only: bool | None = None,  # `pipeline` passes it on
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if representation is not None:
            self.model.representation_size(representation)
        if on_invalid == "skip":
            raise ValueError(
                "on_invalid='skip' is not possible in a pipeline, which gives one output for each "
                "input: use 'none' (a vector of NaN), or cmim_hf.MoleculeEmbedder, which can leave "
                "rows out."
            )
        for name, value, known in (
            ("pooling", pooling, _POOLINGS),
            ("on_invalid", on_invalid, _ON_INVALID),
        ):
            if value is not None and value not in known:
                raise ValueError(f"Unknown {name} {value!r}; choose one of {', '.join(known)}.")
        return (
            _given(on_invalid=on_invalid),
            _given(representation=representation, pooling=pooling),
            _given(return_tensors=return_tensors),
        )

    def preprocess(self, text: Any, on_invalid: str = "raise") -> dict[str, torch.Tensor]:
        """Token ids and mask, (1, length) each, and whether they are of the text, (1,).

        An invalid text has one padding token in its place, so that it can stand in a batch.
        """
        problem = text_problem(text)
        reason = None if problem is None else problem[1]
        ids = [] if reason else self.tokenizer(text, verbose=False)["input_ids"]
        limit = self.model.config.max_position_embeddings
        if len(ids) > limit:
            reason = f"it has {len(ids)} tokens, the model reads at most {limit}"
        if reason and on_invalid == "raise":
            shown = repr(text) if len(repr(text)) <= 80 else repr(text)[:77] + "..."
            raise ValueError(
                f"The text {shown} cannot be embedded: {reason}. Mend or remove it, or pass "
                "on_invalid='none' for a vector of NaN in its place."
            )
        if reason:
            ids = [self.model.config.pad_token_id]
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "valid": torch.tensor([reason is None]),
        }

    def _forward(
        self,
        inputs: dict[str, torch.Tensor],
        representation: str = "informative",
        pooling: str = "mean",
    ) -> dict[str, torch.Tensor]:
        vectors = self.model.get_representation(
            inputs["input_ids"],
            inputs["attention_mask"],
            representation=representation,
            pooling=pooling,
        )
        return {"vectors": vectors.float().masked_fill(~inputs["valid"][:, None], torch.nan)}

    def postprocess(self, outputs: dict[str, torch.Tensor], return_tensors: bool = False) -> Any:
        """One row of a batch, (size,), as numpy array or tensor of its own memory."""
        vector = outputs["vectors"][0].clone()
        return vector if return_tensors else vector.numpy()


def _given(**parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


__all__ = ["MoleculeEmbeddingPipeline"]
