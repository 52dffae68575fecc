# SPDX-License-Identifier: Apache-2.0
"""Where new codes are drawn from: [`CodePrior`], the distribution of a set of molecules' codes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..checkpoints.companions import SUFFIX, Companion
from ..data.argument_checks import whole_number

BANDWIDTH = 0.7
"""Chosen on MOSES training molecules that no prior was fitted to: seven of eight draws are new."""

MOST_CODES = 20_000
"""Codes that a prior keeps: 3 MB in 69 directions."""

PRIORS = ("standard", "fitted")
"""Those that have a name."""

_GROUP = 75  # codes on average
_ROUNDS = 15  # of k-means
_VARIANCE_KEPT = 0.999


class CodePrior(Companion):
    """Codes like those of a set of molecules: their smoothed bootstrap, within groups of like ones.

        z = μ_g + √(1 - h²) (z_i - μ_g) + h C_g^½ ε,   i drawn among the codes, ε ~ N(0, I)

    with mean μ_g and covariance C_g of the group g that holds z_i. Whatever the bandwidth h, draws
    have mean and covariance of each group and so of all codes (Silverman and Young, Biometrika
    1987, 74, 469). h = 0 gives the molecules' own codes, h = 1 a mixture of Gaussians with full
    covariances; in between, more is newer and less like the set. Codes are drawn in random order,
    each once before one comes again.

    Groups, of 75 codes on average, are found by k-means (Lloyd, IEEE Trans. Inf. Theory 1982, 28,
    129) in the fewest directions that hold 99.9 % of the codes' variance, in units of its root:
    trained codes fill but a part of their space, 69 of the 192 directions of `small`.

        >>> import numpy as np
        >>> codes = np.random.default_rng(0).normal(1.0, 0.5, (200, 1, 8))
        >>> prior = CodePrior.fit(codes)
        >>> prior
        CodePrior(200 codes of (1, 8), bandwidth 0.7)
        >>> prior.sample(3).shape
        (3, 1, 8)

    Attributes:
        mean: (num_latents, latent_size) float32, of all the set's codes.
        basis: (directions, num_latents · latent_size) float32; basisᵀ basis is their covariance.
        codes: (codes, directions) float16, group by group, with z_i = mean + codes_i basis.
        sizes: (groups,) int64, the codes of each group.
        bandwidth: h, from 0 to 1.
        anchor: (num_latents, latent_size) float32, its code of one molecule, by which a model is
            known again in any precision; `None` if it is not known.
    """

    FILE = "prior.safetensors"
    FORMAT = "cmim-hf code prior 1"
    WHAT = "prior of codes"
    FITTED_BY = "`cmim fit-prior` or MoleculeGenerator.fit_prior"
    KEPT = ("mean", "basis", "codes", "sizes", "bandwidth", "anchor")

    def __init__(
        self,
        mean: np.ndarray,
        basis: np.ndarray,
        codes: np.ndarray,
        sizes: np.ndarray,
        bandwidth: float = BANDWIDTH,
        anchor: np.ndarray | None = None,
    ) -> None:
        """See the attributes; `fit` finds them.

        Raises:
            ValueError: A bandwidth outside 0 to 1.
        """
        self.mean, self.basis, self.codes, self.sizes = mean, basis, codes, sizes
        self.bandwidth, self.anchor = checked_bandwidth(bandwidth), anchor
        self.shape = mean.shape

    @classmethod
    def fit(
        cls,
        codes: np.ndarray,
        *,
        bandwidth: float = BANDWIDTH,
        most: int = MOST_CODES,
        anchor: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> CodePrior:
        """The prior of a set of codes.

        Args:
            codes: (molecules, num_latents, latent_size), at least two.
            bandwidth: h.
            most: Codes to keep; of more, a random choice.
            anchor: See the attributes.
            generator: Of what is chosen, on the CPU; the global one by default.

        Raises:
            ValueError: Fewer than two codes, codes that are not finite or all equal, or an argument
                outside its range.
        """
        most = whole_number("most", most, 2)
        bandwidth = checked_bandwidth(bandwidth)
        if codes.ndim != 3:
            raise ValueError(f"codes are (molecules, num_latents, latent_size), got {codes.shape}.")
        if len(codes) < 2:
            raise ValueError(f"A prior needs at least two molecules, got {len(codes)}.")
        flat = codes.reshape(len(codes), -1).astype(np.float64)
        mean = flat.mean(axis=0)
        flat -= mean
        covariance = flat.T @ flat / len(flat)
        total = np.trace(covariance)
        if not 1e-12 * (mean @ mean) < total < np.inf:  # NaN is not, either
            raise ValueError(
                f"The codes of these {len(codes)} molecules have no finite spread above 0; give "
                "different molecules."
            )
        variances, directions = np.linalg.eigh(covariance)
        wide = np.cumsum(variances.clip(0)) > (1 - _VARIANCE_KEPT) * total
        scale = np.sqrt(variances[wide])
        chosen = torch.randperm(len(flat), generator=generator)[:most].numpy()
        white = (flat[chosen] @ (directions[:, wide] / scale)).astype(np.float16)
        groups = _k_means(white.astype(np.float32), max(1, len(white) // _GROUP))
        sizes = np.unique_counts(groups).counts
        return cls(
            mean.reshape(codes.shape[1:]).astype(np.float32),
            (directions[:, wide] * scale).T.astype(np.float32),
            white[np.argsort(groups, kind="stable")],
            sizes,
            bandwidth,
            anchor,
        )

    def sample(self, n: int, generator: torch.Generator | None = None) -> np.ndarray:
        """Draws (n, num_latents, latent_size) in float32; `generator` is one of the CPU."""
        n = whole_number("n", n, 1)
        number, width = self.codes.shape
        orders = [torch.randperm(number, generator=generator) for _ in range(-(-n // number))]
        drawn = torch.cat(orders)[:n].numpy()
        noise = torch.randn((n, width), generator=generator).numpy()
        h, white = self.bandwidth, np.empty((n, width), np.float32)
        ends = np.cumsum(self.sizes)
        for start, end in zip(ends - self.sizes, ends, strict=True):
            if not len(rows := np.flatnonzero((start <= drawn) & (drawn < end))):
                continue
            group = self.codes[start:end].astype(np.float32)
            middle = group.mean(axis=0)
            group -= middle
            _, spread, directions = np.linalg.svd(group, full_matrices=False)
            root = spread[:, None] / len(group) ** 0.5 * directions
            kept = (1 - h**2) ** 0.5 * group[drawn[rows] - start]
            white[rows] = middle + kept + h * noise[rows, : len(root)] @ root
        return self.mean + (white @ self.basis).reshape(n, *self.mean.shape)

    @classmethod
    def load(cls, path: str | os.PathLike) -> CodePrior:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: No such file.
            ValueError: It is damaged, or holds something else; or no name of such a file.
        """
        if not isinstance(path, str | os.PathLike) or Path(path).suffix != SUFFIX:
            raise ValueError(
                f"Unknown `prior` {path!r:.80}; choose one of {', '.join(PRIORS)}, what "
                f"MoleculeGenerator.fit_prior returns, or a {SUFFIX} file of it."
            )
        return super().load(path)

    def __repr__(self) -> str:
        """Its size and bandwidth."""
        return (
            f"CodePrior({len(self.codes)} codes of {self.mean.shape}, bandwidth {self.bandwidth})"
        )


def checked_bandwidth(bandwidth: float) -> float:
    """A bandwidth as a number.

    Raises:
        ValueError: It is outside 0 to 1.
    """
    try:
        number = float(bandwidth)
    except (TypeError, ValueError):
        number = np.nan
    if not 0 <= number <= 1:
        raise ValueError(f"`bandwidth` is a number from 0 to 1, not {bandwidth!r}.")
    return number


def _k_means(rows: np.ndarray, number: int) -> np.ndarray:
    """Groups (rows,) of rows (rows, size) by the nearest of `number` means, Lloyd's way."""
    means = rows[:number]
    for _ in range(_ROUNDS):
        nearest = (rows @ means.T - 0.5 * np.square(means).sum(axis=1)).argmax(axis=1)
        means = np.stack([rows[nearest == group].mean(axis=0) for group in np.unique(nearest)])
    return nearest
