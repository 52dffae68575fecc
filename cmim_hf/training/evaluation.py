# SPDX-License-Identifier: Apache-2.0
"""What training measures beside its loss: term averages, exact reconstruction, a ridge probe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from ..data.labelling import numbers
from ..data.row_encoder import EncodedRows, RowEncoder
from ..data.smiles_files import read_batches
from ..data.token_batches import padded_batches
from ..extras import needed
from ..model.decoding_cmim import decode_latents
from ..model.modeling_cmim import CMIMModel
from .arguments import CMIMTrainingArguments
from .contrastive import mean_cosine

FOLDS = 5
"""Parts of a probe's molecules, each predicted from the others."""

Tokens = Sequence[int] | np.ndarray


class TermAverages:
    """Weighted means of named quantities over steps and ranks.

    Sums stay on the device until [`~TermAverages.pop`], so that no training step waits for it.
    """

    def __init__(self) -> None:
        """Empty."""
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, values: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Count `values` in: each alike, or a sum given with its total `weight`.

        What is not finite is left out, and counted in `<name>_nonfinite`.
        """
        has_float64 = values.device.type != "mps"
        dtype = torch.float64 if has_float64 else torch.float32
        values = values.detach().to(dtype)
        finite = values.isfinite()
        count = finite.sum() if weight is None else weight * finite.all()
        bad = (~finite).sum()
        sums = torch.stack((values.where(finite, 0.0).sum(), count.to(dtype), bad.to(dtype)))
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    @torch.no_grad()
    def add_batch(
        self, outputs: Any, terms: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> None:
        """Count a batch in: its terms (batch,), how its codes lie, how tokens or pixels are met.

        `targets` are what the outputs were compared with: perhaps `labels`, `property_labels`.
        """
        for name, values in terms.items():
            if name == "property_error":  # its mean is over the labelled molecules
                labelled = (~targets["property_labels"].isnan()).any(dim=1)
                self.add(name, values.sum(), labelled.sum())
            else:
                self.add(name, values)
        if len(outputs.latents) > 1:
            rows = torch.tensor(len(outputs.latents), device=outputs.latents.device)
            self.add("mean_cosine", mean_cosine(outputs.latents) * rows, rows)
        self.add("posterior_std", outputs.latent_log_std.exp())
        if outputs.get("bits_per_dim") is not None:
            self.add("bits_per_dim", outputs.bits_per_dim)
        if "labels" in targets and outputs.get("logits") is not None:
            real = targets["labels"] != -100
            hits = (outputs.logits.argmax(dim=-1) == targets["labels"]) & real
            self.add("token_accuracy", hits.sum(), real.sum())

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all ranks since the last call; every rank must call it."""
        if not self._sums:
            return {}
        names = list(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), "sum")
        self._sums = {}
        means: dict[str, float] = {}
        for name, (total, weight, bad) in zip(names, sums.tolist(), strict=True):
            means[name] = total / weight if weight else math.nan
            if bad:
                means[f"{name}_nonfinite"] = int(bad)
        return means


def _batches(
    model: CMIMModel, sequences: Sequence[Tokens], batch_size: int
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Row numbers, ids and mask (batch, length) of batches of similar length, longest first."""
    encoded = EncodedRows.of(sequences)
    most = batch_size * int(encoded.lengths.max(initial=0))
    where = model.config.pad_token_id, model.device
    for places, ids, mask in padded_batches(encoded, encoded.kept, most, *where):
        yield places, ids, torch.ones_like(ids) if mask is None else mask


@torch.no_grad()
def exact_reconstructions(model: CMIMModel, sequences: Sequence[Tokens], batch_size: int) -> int:
    """How many sequences greedy decoding of their mean code gives back token for token.

    The model is in `eval()`; `sequences` are token ids, end token included.
    """
    exact = 0
    for _, ids, mask in _batches(model, sequences, batch_size):
        length = ids.shape[1]
        latents = model.get_latents(ids, mask)
        written = decode_latents(model, latents, max_length=length + 1)[:, 1:]
        written = functional.pad(
            written, (0, length - written.shape[1]), value=model.config.pad_token_id
        )
        exact += int(((written == ids) | (mask == 0)).all(dim=1).sum())
    return exact


@torch.no_grad()
def frozen_features(
    model: CMIMModel, sequences: Sequence[Tokens], batch_size: int
) -> dict[str, np.ndarray]:
    """Representations (n, size) by name, in the order of the sequences; the model in `eval()`."""
    features = {
        name: np.empty((len(sequences), model.representation_size(name)), np.float32)
        for name in ("latent", "informative")
    }
    for rows, ids, mask in _batches(model, sequences, batch_size):
        for name, values in features.items():
            found = model.get_representation(ids, mask, representation=name)
            values[rows] = found.float().cpu().numpy()
    return features


def ridge_error(features: np.ndarray, target: np.ndarray) -> float:
    """Root mean squared error of ridge regression, predicted out of fold (`FOLDS`, fixed seed).

    `features` (n, d) are standardised here; `target` (n,) has the unit of the result.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13)))
    folds = KFold(n_splits=FOLDS, shuffle=True, random_state=0)
    predicted = cross_val_predict(model, features, target, cv=folds)
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


def spread_rows(rows: int, most: int) -> np.ndarray:
    """At most `most` of so many rows, evenly spread: sources stand in a data set one by one."""
    return np.linspace(0, rows - 1, min(rows, most)).astype(int)


class RidgeProbe:
    """The error of ridge regression on frozen embeddings of labelled molecules.

    They are those of `probe_file`, a table, whose rows without a label are left out.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: An unknown column, a label that is no number, too few labels, or a molecule
            that the model cannot read; now rather than at an evaluation hours from here.
    """

    def __init__(
        self, args: CMIMTrainingArguments, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        """Read and tokenise."""
        with needed("`probe_file`", "sklearn"):
            import sklearn  # noqa: F401
        path, rows, labels = args.probe_file, [], []
        for batch in read_batches(path, column=args.probe_smiles):
            labels += numbers(batch, args.probe_target, "probe_target")
            rows += batch.rows()
        known = [row for row, label in zip(rows, labels, strict=True) if not math.isnan(label)]
        encoded = RowEncoder(tokenizer, max_length, canonicalize=True)(known)
        for row, _, reason in encoded.rejects[:1]:
            raise ValueError(
                f"{path} row {row.number}: {row.text!r} cannot be embedded: {reason}. Take it out "
                "of the file."
            )
        self.sequences = encoded.rows()
        self.target = np.array(labels)[~np.isnan(labels)]
        if len(known) < FOLDS:
            raise ValueError(
                f"{path} has {len(known)} molecules with a label in {args.probe_target!r}; a probe "
                f"needs {FOLDS}, one for each part that is predicted."
            )

    def measure(self, model: CMIMModel, batch_size: int) -> dict[str, float]:
        """`probe_rmse_latent` and `probe_rmse_informative`, in the unit of the labels."""
        features = frozen_features(model, self.sequences, batch_size)
        return {
            f"probe_rmse_{name}": ridge_error(values, self.target)
            for name, values in features.items()
        }
