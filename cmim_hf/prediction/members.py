# SPDX-License-Identifier: Apache-2.0
"""What a predictor asks: fine-tuned networks, or heads of scikit-learn on frozen vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from transformers import PreTrainedTokenizerBase

from ..cpu_kernels import speed_up
from ..data.row_encoder import EncodedRows
from ..data.token_batches import batch_tokens, distinct_rows, padded_batches
from ..embedding.embedder import MoleculeEmbedder
from ..extras import needed
from ..model.modeling_cmim import CMIMModel
from ..model.sequence_classification_cmim import CMIMForSequenceClassification
from .frozen_heads import fit_head, predict_head
from .labelled_parts import Part

_TRUSTED = [
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    *(
        f"sklearn.gaussian_process.kernels.{name}"
        for name in ("ConstantKernel", "Product", "RBF", "Sum", "WhiteKernel")
    ),
    "sklearn.tree._tree.Tree",
]


class Outputs(NamedTuple):
    """What models say of molecules.

    Attributes:
        values: (rows, outputs): numbers, or probabilities, of yes for each target or of each class.
        spread: Likewise, how far the models disagree; None where there is one.
        vectors: (rows, size), by which molecules are near or far.
    """

    values: np.ndarray
    spread: np.ndarray | None
    vectors: np.ndarray


class Networks:
    """Fine-tuned networks of one form, whose mean is the prediction.

    Args:
        models: On one device, in `eval()`.
        tokenizer: Theirs.
    """

    def __init__(
        self,
        models: Sequence[CMIMForSequenceClassification],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """Make them fast."""
        self.models, self.tokenizer = models, tokenizer
        self.max_length = models[0].config.max_position_embeddings
        for model in models:
            speed_up(model)

    @torch.inference_mode()
    def __call__(self, encoded: EncodedRows) -> Outputs:
        """Of the usable rows; the spread is the standard deviation over the networks."""
        config, device = self.models[0].config, self.models[0].device
        first, place = distinct_rows(encoded)
        each = np.empty((len(self.models), len(first), config.num_labels), np.float32)
        vectors = np.empty((len(first), config.hidden_size), np.float32)
        most = batch_tokens(device)
        for rows, *inputs in padded_batches(encoded, first, most, config.pad_token_id, device):
            for number, model in enumerate(self.models):
                each[number, rows] = _values(model, model(*inputs).logits)
            cmim = self.models[0].cmim
            found = cmim.get_representation(*inputs, representation="informative", pooling="mean")
            vectors[rows] = found.float().cpu().numpy()
        spread = each.std(axis=0, ddof=1)[place] if len(self.models) > 1 else None
        return Outputs(each.mean(axis=0)[place], spread, vectors[place])

    @torch.inference_mode()
    def without(self, ids: torch.Tensor, hidden: torch.Tensor) -> np.ndarray:
        """Values (rows, outputs) of one molecule of which tokens are hidden.

        Args:
            ids: (1, length).
            hidden: (rows, length), true where a token's embedding is 0.
        """
        each = [
            _values(model, model(inputs_embeds=_embedded(model.cmim, ids, hidden)).logits)
            for model in self.models
        ]
        return np.mean(each, axis=0)


class Heads:
    """Heads on a checkpoint's vectors, one a target.

    Args:
        embedder: Of the vectors.
        estimators: What `fit_head` returned.
        task: Of theirs: `"regression"`, `"binary"` or `"multiclass"`.
        classes: As `fit_head` was told.
    """

    def __init__(
        self,
        embedder: MoleculeEmbedder,
        estimators: Sequence[BaseEstimator],
        task: str,
        classes: int,
    ) -> None:
        """Keep them."""
        self.embedder, self.estimators = embedder, estimators
        self._task, self._classes = task, classes
        self.tokenizer = embedder.tokenizer
        self.max_length = embedder.model.config.max_position_embeddings

    @classmethod
    def fit(
        cls,
        embedder: MoleculeEmbedder,
        head: str,
        task: str,
        classes: int,
        parts: Mapping[str, Part],
        targets: Sequence[str],
        *,
        balanced: bool = False,
    ) -> Self:
        """A head for each target, from the rows that have its label.

        Args:
            embedder: Of the vectors.
            head: One of [`~cmim_hf.prediction.frozen_heads.HEADS`].
            task: `"regression"`, `"binary"` or `"multiclass"`.
            classes: How many there are, 2 of each binary target, 0 of numbers.
            parts: `train`, to fit to, and `valid`, to choose by.
            targets: Names of the labels, for errors.
            balanced: See `fit_head`.

        Raises:
            ValueError: A target that cannot be learned from these rows.
        """
        vectors = {
            name: embedder.embed_encoded(parts[name].encoded()) for name in ("train", "valid")
        }
        estimators = []
        for place, target in enumerate(targets):
            rows = {}
            for name, found in vectors.items():
                labels = parts[name].labels[:, place]
                known = ~np.isnan(labels)
                rows[name] = found[known], labels[known]
                if not known.any():
                    raise ValueError(f"{target}: no row of {name} has a label.")
            try:
                estimators.append(
                    fit_head(head, rows["train"], rows["valid"], classes=classes, balanced=balanced)
                )
            except ValueError as error:
                raise ValueError(f"{target}: {error}") from error
        return cls(embedder, estimators, task, classes)

    def __call__(self, encoded: EncodedRows) -> Outputs:
        """Of the usable rows; the spread is that of a Gaussian process or of a forest's trees."""
        vectors = self.embedder.embed_encoded(encoded)
        if not len(vectors):  # which scikit-learn does not take
            one = np.zeros((1, self.embedder.size), np.float32)
            values, spread = self._predicted(one)
            return Outputs(values[:0], spread if spread is None else spread[:0], vectors)
        return Outputs(*self._predicted(vectors), vectors)

    def _predicted(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        found = [predict_head(one, vectors, self._classes) for one in self.estimators]
        values, spreads = zip(*found, strict=True)
        spread = None if spreads[0] is None else self._columns(spreads)
        return self._columns(values), spread

    @torch.inference_mode()
    def without(self, ids: torch.Tensor, hidden: torch.Tensor) -> np.ndarray:
        """As [`Networks.without`]."""
        model, which = self.embedder.model, self.embedder.representation
        output = model(inputs_embeds=_embedded(model, ids, hidden))
        vectors = {
            "informative": output.last_hidden_state.mean(dim=1),
            "latent": output.latent_mean.flatten(1),
        }
        chosen = vectors.values() if which == "both" else [vectors[which]]
        both = torch.cat(list(chosen), dim=1).float().cpu().numpy()
        return self._columns([predict_head(m, both, self._classes)[0] for m in self.estimators])

    def _columns(self, found: Sequence[np.ndarray]) -> np.ndarray:
        """(rows, outputs), of each target's numbers or classes."""
        if self._task == "multiclass":
            return found[0]
        return np.stack([one[:, 1] if self._task == "binary" else one for one in found], axis=1)


Members = Networks | Heads
"""What predicts, and the vectors by which molecules are near or far."""


def _values(model: CMIMForSequenceClassification, logits: torch.Tensor) -> np.ndarray:
    """Numbers as they are, probabilities of what is none."""
    kind = model.config.problem_type
    if kind == "multi_label_classification":
        logits = logits.sigmoid()
    elif kind == "single_label_classification":
        logits = logits.softmax(dim=-1)
    return logits.float().cpu().numpy()


def _embedded(model: CMIMModel, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """(rows, length, hidden_size)."""
    states = model.embed_tokens(ids.to(model.device))
    return states.masked_fill(hidden.to(model.device)[..., None], 0.0)


def save_heads(folder: Path, estimators: Sequence[BaseEstimator]) -> list[str]:
    """Write each to a file by skops, which holds no code; the files' names."""
    import skops.io

    names = [f"head-{number}.skops" for number in range(len(estimators))]
    for name, estimator in zip(names, estimators, strict=True):
        skops.io.dump(estimator, folder / name)
    return names


def load_heads(folder: Path, names: Sequence[str]) -> list[BaseEstimator]:
    """Read what `save_heads` wrote.

    Raises:
        ImportError: skops is not installed.
        ValueError: A file holds something else than scikit-learn's own models.
    """
    with needed(f"What predicts in {folder}", "predict"):
        import skops.io
    found = []
    for name in names:
        try:
            found.append(skops.io.load(folder / name, trusted=_TRUSTED))
        except skops.io.exceptions.UntrustedTypesFoundException as error:
            raise ValueError(f"{folder / name} holds what no head of ours does: {error}") from error
    return found
