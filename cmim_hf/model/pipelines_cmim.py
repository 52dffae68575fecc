# SPDX-License-Identifier: Apache-2.0
"""The transformers pipelines over a checkpoint: SMILES to vectors, to other SMILES, to labels.

`pipeline("molecule-embedding", model=checkpoint)`, `pipeline("molecule-generation", ...)` and, of a
fine-tuned checkpoint, `pipeline("molecule-prediction", ...)` make them; where the package is not
installed, add `trust_remote_code=True`. The arguments of each class can be given to `pipeline` and
to each call, which takes precedence.

`on_invalid` says what becomes of an input that is no string, empty, not printable, or longer than
the model reads: `"raise"` (the default) a ValueError that names it, or `"none"`. A pipeline gives
one output for each input, so there is no `"skip"`. The extension of a CXSMILES is dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline

from .decoding_cmim import decode_latents
from .informative_embeddings_cmim import check_pooling
from .molecule_tokenizer_cmim import canonical_smiles
from .smiles_text_cmim import length_problem, refusal, text_problem, without_extension


class _Stream(IterableDataset):
    """Texts drawn as outputs are asked for; some transformers make a list of a generator."""

    def __init__(self, texts: Iterator[Any]) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[Any]:
        return self._texts


class _MoleculePipeline(Pipeline):
    """Common ground of the pipelines: from a caller's texts to token ids.

    `_task` and `_gap` are the words of the errors: what cannot be done to an invalid text, and what
    stands in its place.
    """

    _task = _gap = ""
    _load_processor = _load_image_processor = _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Work on one text, or many.

        Args:
            inputs: A SMILES; a list or another iterable of them; or, to stream, a generator or a
                torch dataset.
            kwargs: The arguments of the class, and every pipeline's `batch_size` and
                `num_workers`.

        Raises:
            TypeError: A table in place of its column.
            ValueError: An unknown choice, or an invalid text and `on_invalid="raise"`.

        Returns:
            For one text its output, for many a list of outputs in their order; for a generator or a
            dataset, an iterator of them.
        """
        own = kwargs.keys() - {"batch_size", "num_workers"}
        self._sanitize_parameters(**{name: kwargs[name] for name in own})  # before a text is drawn
        if hasattr(inputs, "columns"):
            raise TypeError(
                f"Expected SMILES, got a {type(inputs).__name__}; pass its column of SMILES."
            )
        if hasattr(inputs, "to_pylist"):  # pyarrow, whose items are no strings
            inputs = inputs.to_pylist()
        if getattr(inputs, "shape", None) == ():  # an array of one text is that text
            inputs = inputs.item()
        if isinstance(inputs, Iterator):
            inputs = _Stream(inputs)
        elif isinstance(inputs, Iterable) and not isinstance(
            inputs, str | bytes | Mapping | Dataset
        ):
            inputs = list(inputs)
        return [] if inputs == [] else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, local_files_only: bool | None = None, **given: Any
    ) -> tuple[dict[str, Any], ...]:
        """The arguments of each step; `pipeline` passes on `local_files_only`."""
        given = {name: value for name, value in given.items() if value is not None}
        steps = [
            signature(step).parameters
            for step in (self.preprocess, self._forward, self.postprocess)
        ]
        if unknown := [name for name in given if not any(name in step for step in steps)]:
            known = ", ".join(dict.fromkeys(name for step in steps for name in [*step][1:]))
            raise TypeError(
                f"{type(self).__name__} has no argument {', '.join(unknown)}; it has {known}."
            )
        self._check(**given)
        return tuple({name: given[name] for name in step if name in given} for step in steps)

    def _check(self, on_invalid: str = "raise", **_: Any) -> None:
        """Raise a ValueError for an unknown choice."""
        if on_invalid not in ("raise", "none"):
            raise ValueError(
                f"Unknown on_invalid {on_invalid!r}; choose one of raise, none. A pipeline gives "
                f"one output for each input: 'none' gives {self._gap}."
            )

    def preprocess(
        self, text: Any, on_invalid: str = "raise", canonicalize: bool = False
    ) -> dict[str, torch.Tensor]:
        """Token ids and mask, (1, length) each, and whether they are of the text, (1,).

        An invalid text has one padding token in its place, so that it can stand in a batch.
        """
        given = text = without_extension(text)
        problem = text_problem(text)
        reason = problem and problem[1]
        if canonicalize and not reason:
            text, reason = canonical_smiles(text, self._standard())
        ids = [] if reason else self.tokenizer.encode(text, verbose=False)
        reason = reason or length_problem(ids, self.model.config.max_position_embeddings)
        if reason and on_invalid == "raise":
            instead = f", or pass on_invalid='none' for {self._gap} in its place"
            raise refusal(given, self._task, reason, instead)
        if reason:
            ids = [self.model.config.pad_token_id]
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "valid": torch.tensor([reason is None]),
        }

    def _standard(self) -> str:
        """What molecules are brought to before they are written."""
        return "none"


class MoleculeEmbeddingPipeline(_MoleculePipeline):
    """Embeds molecules given as canonical SMILES: `"molecule-embedding"`, one vector for each.

    A molecule's vector depends on its text alone, in whatever batch. Texts are read as they are:
    other writings of a molecule give other vectors, and that a text is a molecule is not checked.

    A text's output is its vector (size,) in float32.

    Args:
        representation: As in [`~CMIMModel.get_representation`], like `pooling`; `"informative"` by
            default.
        pooling: `"mean"` by default.
        canonicalize: Rewrite molecules as RDKit does first; `False` by default.
        on_invalid: See the module; `"none"` gives a vector of NaN.
        return_tensors: Give torch tensors (on the CPU) in place of numpy arrays.

    Raises:
        ValueError: An unknown choice, or an invalid input and `on_invalid="raise"`.
    """

    _task, _gap = "embedded", "a vector of NaN"

    def _check(
        self, representation: str = "informative", pooling: str = "mean", **others: Any
    ) -> None:
        super()._check(**others)
        self.model.representation_size(representation)
        check_pooling(pooling)

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


class MoleculeGenerationPipeline(_MoleculePipeline):
    """Reconstructs molecules, or writes molecules near them: `"molecule-generation"`.

    Decodes, greedily, codes z + radius · ε with z the mean code of a given SMILES and ε ~ N(0, I).
    Texts are read as they are: the model knows canonical SMILES, which `canonicalize` of
    `cmim_hf.chemistry.smiles` writes. What the decoder wrote is returned as it is too, and may be
    no molecule: check it, or use `cmim_hf.MoleculeGenerator`, which does.

    A text's output is a list of dictionaries `{"generated_smiles": ...}`, one for each code.

    Args:
        radius: 0 or above, in units of the prior's standard deviation; 0 (the default)
            reconstructs.
        num_return_sequences: Codes for each text; 1 by default.
        seed: With one, a text's molecules depend on the seed and the text alone, in whatever batch;
            without, the noise is drawn from torch's global generator.
        on_invalid: See the module; `"none"` gives molecules that are None.

    Raises:
        ValueError: An argument outside its range, or an invalid input and `on_invalid="raise"`.
    """

    _task, _gap = "read", "molecules that are None"

    def _check(self, radius: float = 0.0, num_return_sequences: int = 1, **others: Any) -> None:
        super()._check(**others)
        if not 0 <= radius < math.inf:
            raise ValueError(f"radius is a finite number from 0, not {radius}.")
        number = num_return_sequences
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"num_return_sequences is a whole number from 1, not {number!r}.")

    def preprocess(
        self,
        text: Any,
        on_invalid: str = "raise",
        num_return_sequences: int = 1,
        seed: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Those of an embedding, and noise (1, num_return_sequences * size of a code).

        It is drawn here, where texts are still apart, so that batches do not matter.
        """
        text, generator = without_extension(text), None
        if seed is not None:
            digest = hashlib.sha256(f"{seed} {text}".encode(errors="replace")).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        config = self.model.config
        size = num_return_sequences * config.num_latents * config.latent_size
        noise = torch.randn(1, size, generator=generator)
        return super().preprocess(text, on_invalid) | {"noise": noise}

    def _forward(
        self, inputs: dict[str, torch.Tensor], radius: float = 0.0
    ) -> dict[str, torch.Tensor]:
        """Token ids (batch, num_return_sequences, length); padding alone for invalid texts."""
        valid = inputs["valid"]
        mean = self.model.get_latents(inputs["input_ids"], inputs["attention_mask"])[:, None]
        noise = inputs["noise"].view(len(mean), -1, *mean.shape[2:])
        written = decode_latents(self.model, (mean + radius * noise)[valid].flatten(0, 1))
        complete = written.new_full(
            (*noise.shape[:2], written.shape[1]), self.model.config.pad_token_id
        )
        complete[valid] = written.view(-1, *complete.shape[1:])
        return {"tokens": complete, "valid": valid}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> list[dict[str, str | None]]:
        """One row of a batch: its texts."""
        tokens = outputs["tokens"][0]
        if not outputs["valid"][0]:
            return [{"generated_smiles": None} for _ in tokens]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [{"generated_smiles": text} for text in texts]


class MoleculePredictionPipeline(_MoleculePipeline):
    """Predicts the labels of a fine-tuned checkpoint: `"molecule-prediction"`.

    Molecules are rewritten as RDKit does first, as they were for training, so that every writing of
    one gives the same prediction, and what is no molecule is refused; of a checkpoint that was
    fine-tuned on parents of molecules (`standardize` in its config), their parents are taken first.
    (The pipeline `"text-classification"` of transformers does so too, of a checkpoint that
    fine-tuning saved: its tokenizer is a
    [`~cmim_hf.model.molecule_tokenizer_cmim.CMIMMoleculeTokenizer`].)

    A text's output is a dictionary from the names of the labels to numbers: values in the labels'
    own units of a regression, probabilities otherwise.

    Args:
        canonicalize: Rewrite molecules, which needs RDKit; `False` takes SMILES that are canonical
            already as they are, and is refused where parents are needed.
        on_invalid: See the module, also of what is no molecule; `"none"` gives NaN for each label.

    Raises:
        ImportError: RDKit is not there.
        ValueError: An unknown choice, an invalid input and `on_invalid="raise"`, or a checkpoint
            that does not say what its labels are.
    """

    _task, _gap = "predicted for", "predictions of NaN"

    def _check(self, canonicalize: bool = True, **choices: Any) -> None:
        super()._check(**choices)
        if not canonicalize and self._standard() != "none":
            raise ValueError(
                f"The checkpoint was fine-tuned with standardize={self._standard()!r} (see its "
                "config), for which RDKit reads each molecule: leave out canonicalize=False."
            )
        if self.model.config.problem_type is None and self.model.config.num_labels > 1:
            raise ValueError(
                "The checkpoint does not say what its labels are (problem_type is None): fine-tune "
                "it, or set problem_type in its config, before it predicts."
            )

    def preprocess(
        self, text: Any, on_invalid: str = "raise", canonicalize: bool = True
    ) -> dict[str, torch.Tensor]:
        """As of the other pipelines, of the molecule's canonical writing."""
        return super().preprocess(text, on_invalid, canonicalize)

    def _standard(self) -> str:
        return self.model.config.standardize

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kind = self.model.config.problem_type
        scores = self.model(inputs["input_ids"], inputs["attention_mask"]).logits
        if kind == "multi_label_classification":
            scores = scores.sigmoid()
        elif kind == "single_label_classification":
            scores = scores.softmax(dim=-1)
        return {"scores": scores.masked_fill(~inputs["valid"][:, None], torch.nan)}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> dict[str, float]:
        """One row of a batch: the numbers by the names of the labels."""
        names = self.model.config.id2label
        return {names[place]: value for place, value in enumerate(outputs["scores"][0].tolist())}
