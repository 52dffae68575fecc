# SPDX-License-Identifier: Apache-2.0
"""cMIM vectors of molecules inside scikit-learn: [`MoleculeFeaturizer`]."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints import DEFAULT_CHECKPOINT
from ..extras import needed
from .embedder import MoleculeEmbedder

with needed("MoleculeFeaturizer", "sklearn"):
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import Tags


class MoleculeFeaturizer(TransformerMixin, BaseEstimator):
    """A scikit-learn transformer: SMILES in, (molecules, size) float32 out.

    `X` is a list, tuple, 1-D array or series of SMILES, or a table or array of one column. Nothing
    is learned from it: `transform` works without `fit`. But `fit` records which weights it found,
    and `transform` refuses others, since what follows in the pipeline was fitted to the first.

    A process loads a checkpoint once, for all clones, and again when its files have changed. A
    pickle holds the parameters and the fingerprint, no weights: where it is opened, the same
    checkpoint is needed. The one that ships, `checkpoint=None`, is in any installation.

    The parameters are those of [`MoleculeEmbedder`], with `revision`, `token` and `cache_dir` of
    the Hub. There is no `on_invalid="skip"`, as rows must match `y`: `"none"` gives a row of NaN,
    for an imputer to fill.

    Attributes:
        fingerprint_: [`MoleculeEmbedder.fingerprint`] of the checkpoint that `fit` found.

    Example:
        >>> from sklearn.linear_model import Ridge
        >>> from sklearn.pipeline import make_pipeline
        >>> model = make_pipeline(MoleculeFeaturizer(), Ridge()).fit(["C", "CC", "CCC"], [1, 2, 3])
        >>> model.predict(["CCCC"]).shape
        (1,)
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | None = None,
        *,
        representation: str = "informative",
        pooling: str = "mean",
        dim: int | None = None,
        canonicalize: bool = True,
        standardize: str = "none",
        on_invalid: str = "raise",
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        """Store the parameters; `fit` and `transform` check them."""
        self.checkpoint = checkpoint
        self.representation = representation
        self.pooling = pooling
        self.dim = dim
        self.canonicalize = canonicalize
        self.standardize = standardize
        self.on_invalid = on_invalid
        self.device = device
        self.dtype = dtype
        self.revision = revision
        self.token = token
        self.cache_dir = cache_dir

    def fit(self, X: Any, y: Any = None) -> MoleculeFeaturizer:
        """Check the parameters and the form of `X`, and record the checkpoint's fingerprint.

        The molecules are not parsed. Errors are those of `transform`, and a ValueError where there
        is no molecule.
        """
        if len(_molecules(X)) == 0:
            raise ValueError("X holds no molecules; fit expects at least one SMILES.")
        embedder = self._embedder()
        self._embed(embedder, [])  # for its checks of the parameters
        self.fingerprint_ = self._fingerprint(embedder)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed molecules: (molecules, size) in float32, in order; a table after `set_output`.

        Raises:
            FileNotFoundError: No such checkpoint.
            TypeError: `X` is a single text or no collection in a fixed order.
            ValueError: A row that is no molecule and `on_invalid="raise"`, a table of several
                columns, an unknown choice, or other weights than at `fit`.
        """
        molecules = _molecules(X)
        embedder = self._embedder()
        fitted = getattr(self, "fingerprint_", None)
        if fitted and fitted != (found := self._fingerprint(embedder)):
            raise ValueError(
                f"The checkpoint {embedder.checkpoint}, loaded as {embedder.model.dtype}, has the "
                f"fingerprint {found[:12]}...; this featurizer was fitted with "
                f"{fitted[:12]}.... Weights, dtype, tokenizer and axes must be those of fit: put "
                "them back, or fit the whole pipeline again."
            )
        return self._embed(embedder, molecules)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns, (size,): `cmim_informative_0`, ..., then `cmim_latent_0`, ...."""
        both = self.representation == "both"
        parts = ("informative", "latent") if both else (self.representation,)
        size = self._embedder().model.representation_size
        names = [
            f"cmim_{part}_{column}" for part in parts for column in range(self.dim or size(part))
        ]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that texts come in, one a row, and that `fit` is not required."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _embedder(self) -> MoleculeEmbedder:
        if self.on_invalid not in ("raise", "none"):
            raise ValueError(
                f"on_invalid is {self.on_invalid!r}; expected 'raise', or 'none' for rows of NaN. "
                "Each molecule gives one row, so that rows match y: to leave molecules out, take "
                "them out of X and y beforehand."
            )
        checkpoint = os.fspath(DEFAULT_CHECKPOINT if self.checkpoint is None else self.checkpoint)
        names = ("device", "dtype", "revision", "token", "cache_dir")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return _loaded(checkpoint, _written(checkpoint), **given)

    def _fingerprint(self, embedder: MoleculeEmbedder) -> str:
        """That of the vectors: with `dim` of the axes, too, as they are now."""
        _ = embedder.fingerprint  # of the weights: kept in what all share
        own = copy.copy(embedder)
        own.dim = self.dim
        return own.fingerprint

    def _embed(self, embedder: MoleculeEmbedder, molecules: Any) -> np.ndarray:
        return embedder.embed(
            molecules,
            representation=self.representation,
            pooling=self.pooling,
            dim=self.dim,
            canonicalize=self.canonicalize,
            standardize=self.standardize,
            on_invalid=self.on_invalid,
        )


@lru_cache(maxsize=4)
def _loaded(checkpoint: str, written: tuple, **given: Any) -> MoleculeEmbedder:
    return MoleculeEmbedder(checkpoint, progress=False, **given)


def _written(checkpoint: str) -> tuple:
    """When the files of a folder were written: a folder trained anew is another checkpoint."""
    files = [*Path(checkpoint).glob("*.safetensors"), *Path(checkpoint).glob("*.json")]
    return tuple(sorted((file.name, file.stat().st_mtime_ns) for file in files))


def _molecules(X: Any) -> Any:
    """The 1-D collection of molecules that `X` is, or that its only column is."""
    if isinstance(X, str | bytes | Mapping) or not hasattr(X, "__getitem__"):
        raise TypeError(
            f"X is {X!r:.80} of type {type(X).__name__}; expected a list, array or column of "
            "SMILES. Pass a list, for one molecule too: [smiles]."
        )
    shape = getattr(X, "shape", None)
    if shape is None:
        return X
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise ValueError(
            f"X has the shape {tuple(shape)}; expected one column of SMILES. Select it, in a "
            "pipeline by ColumnTransformer([('molecules', MoleculeFeaturizer(), 'smiles')])."
        )
    return np.asarray(X, dtype=object).reshape(-1)
