# SPDX-License-Identifier: Apache-2.0
"""Shorter vectors that keep what tells molecules apart: [`PrincipalAxes`]."""

from __future__ import annotations

import numpy as np

from ..checkpoints.companions import Companion
from ..data.argument_checks import whole_number


class PrincipalAxes(Companion):
    """Directions of a space of vectors, those first in which many molecules differ most.

    A vector v becomes its first coordinates v·a₁, v·a₂, …, with a the unit eigenvectors of the
    vectors' covariance by falling eigenvalue (principal components, not centred). All coordinates
    together are v turned: lengths, and angles between vectors, stay as they are; the fewer, the
    more is lost.

        >>> import numpy as np
        >>> vectors = np.random.default_rng(0).normal(size=(100, 3)) * [1.0, 9.0, 3.0]
        >>> axes = PrincipalAxes.fit(vectors)
        >>> abs(axes.axes[:2]).argmax(axis=1).tolist(), axes.project(vectors, 2).shape
        ([1, 2], (100, 2))

    Attributes:
        axes: (size, size) float32, an axis a row.
        kept: (size,) float32, the share of the variance that so many axes hold: `kept[0]` one.
        anchor: (size,) float32, the vector of one molecule, by which a model is known again; None
            if it is not known.
    """

    FILE = "axes.safetensors"
    FORMAT = "cmim-hf principal axes 1"
    WHAT = "principal axes"
    FITTED_BY = "MoleculeEmbedder.fit_axes"
    KEPT = ("axes", "kept", "anchor")

    def __init__(
        self, axes: np.ndarray, kept: np.ndarray, anchor: np.ndarray | None = None
    ) -> None:
        """See the attributes; `fit` finds them."""
        self.axes, self.kept, self.anchor = axes, kept, anchor
        self.shape = axes.shape[1:]

    @classmethod
    def fit(cls, vectors: np.ndarray, anchor: np.ndarray | None = None) -> PrincipalAxes:
        """The axes of vectors (molecules, size), of more molecules than numbers.

        Raises:
            ValueError: Fewer vectors than numbers in one, or numbers that are not finite.
        """
        if vectors.ndim != 2 or len(vectors) <= vectors.shape[1] or not np.isfinite(vectors).all():
            raise ValueError(
                "Axes are fitted to finite vectors (molecules, size) of more molecules than "
                f"numbers; got {vectors.shape}. Give more molecules, all of them valid."
            )
        variances, axes = np.linalg.eigh(np.cov(vectors.T.astype(float)))
        variances, axes = variances[::-1].clip(0), axes[:, ::-1].T
        axes *= np.sign(axes[np.arange(len(axes)), abs(axes).argmax(axis=1)])[:, None]
        kept = np.cumsum(variances) / variances.sum()
        return cls(axes.astype(np.float32), kept.astype(np.float32), anchor)

    def project(self, vectors: np.ndarray, dim: int) -> np.ndarray:
        """The first `dim` coordinates of vectors (rows, size), (rows, dim) in float32."""
        return vectors.astype(np.float32, copy=False) @ self.axes[: self.checked(dim)].T

    def checked(self, dim: int) -> int:
        """ValueError for a number of coordinates that there is not."""
        if whole_number("dim", dim, 1) > len(self.axes):
            raise ValueError(f"`dim` is at most {len(self.axes)}, the size of a vector; got {dim}.")
        return int(dim)
