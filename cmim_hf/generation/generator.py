# SPDX-License-Identifier: Apache-2.0
"""Codes in, molecules out: [`MoleculeGenerator`]."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..checkpoints import DEFAULT_CHECKPOINT
from ..checkpoints.loading import load_checkpoint, weights_fingerprint
from ..data.invalid_rows import (
    ON_INVALID,
    check_choice,
    items_in_place,
    texts,
    values_in_place,
    whole_number,
)
from ..data.row_encoder import EncodedRows
from ..data.token_batches import distinct_rows
from .encode_decode import Codec
from .interpolation import interpolate_codes
from .likelihood import log_likelihoods

if TYPE_CHECKING:
    import pandas

    from ..optimization.cma_search import Optimization
    from ..optimization.scorers import Scorer

LARGEST_RADIUS = 1e6  # beyond, float32 codes overflow sooner or later
PRIORS = ("standard", "fitted")
UNITS = ("prior", "posterior", "aggregate")

Smiles = str | None


class MoleculeGenerator:
    """Reconstructs, samples, interpolates and optimises molecules through their codes.

    What the decoder writes is returned as RDKit's canonical SMILES, or `None` where it is no
    molecule: nothing is drawn again or left out in silence, so shares of valid molecules can be
    counted. Greedy decoding of a code gives the same molecule in any company.

    Args:
        checkpoint: A folder or a Hub id.
        device: Where to work; the accelerator if there is one, else the CPU.
        dtype: Of the weights; the checkpoint's, but float32 on a CPU.
        canonicalize: Rewrite molecules as RDKit does, those given and those decoded. Without it
            both are taken as they are (the text of the decoder may then be no molecule), and RDKit
            is not imported.
        on_invalid: What becomes of a given row that is no text, empty, not printable, not a
            molecule (with `canonicalize`), or longer than the model reads: `"raise"` a ValueError
            that names it, `"none"` gives `None` (NaN among numbers) in its place, `"skip"` leaves
            it out.
        batch_size: Codes decoded at once; by default 512 on a CPU and 4,096 elsewhere.
        seed: Of everything that is drawn; two generators of one seed draw the same, call by call.
            By default each differs.
        progress: Show a bar when a call takes more than two seconds.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: A checkpoint that is damaged or of another kind, or an unknown choice.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        canonicalize: bool = True,
        on_invalid: Literal["raise", "none", "skip"] = "raise",
        batch_size: int | None = None,
        seed: int | None = None,
        progress: bool = True,
    ) -> None:
        """Load the checkpoint."""
        check_choice("on_invalid", on_invalid, ON_INVALID)
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1)
        if seed is not None:
            seed = whole_number("seed", seed, 0)
        self.checkpoint = os.fspath(checkpoint)
        self.model, self.tokenizer = load_checkpoint(checkpoint, device, dtype)
        self.canonicalize = canonicalize
        self.on_invalid = on_invalid
        self.progress = progress
        self._codec = Codec(self.model, self.tokenizer, canonicalize, batch_size, progress)
        self._random = torch.Generator()
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)

    def encode(self, smiles: Iterable[str], *, on_invalid: str | None = None) -> np.ndarray:
        """The mean codes of molecules, in the order given: what `decode` takes.

        Args:
            smiles: A list, array, series or generator of SMILES.
            on_invalid: See the class.

        Returns:
            (rows, num_latents, latent_size) in float32; NaN where `on_invalid="none"` says so.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: An invalid molecule and `on_invalid="raise"`.
        """
        encoded, on_invalid = self._read(smiles, on_invalid)
        mean, _ = self._codec.posterior(encoded)
        return values_in_place(mean, encoded, on_invalid)

    def decode(
        self,
        latents: np.ndarray | torch.Tensor,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
    ) -> list[Smiles]:
        """The molecules of codes, in their order.

        Args:
            latents: (rows, num_latents, latent_size), as `encode` gives them.
            temperature: 0 takes the most probable token each time (greedy); above, tokens are drawn
                from softmax(logits / temperature).
            top_k: Draw among the most probable tokens only.

        Returns:
            A SMILES for each code, `None` where the decoder wrote no molecule.

        Raises:
            ValueError: Codes of another shape or not finite, a temperature below 0, or a `top_k`
                below 1.
        """
        return self._decode(self._codec.codes(latents), temperature=temperature, top_k=top_k)

    def reconstruct(self, smiles: Iterable[str], *, on_invalid: str | None = None) -> list[Smiles]:
        """Molecules to codes and back, greedily.

        Args:
            smiles: A list, array, series or generator of SMILES.
            on_invalid: See the class.

        Returns:
            What the decoder made of each code, `None` where that is no molecule.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: An invalid molecule and `on_invalid="raise"`.
        """
        encoded, on_invalid = self._read(smiles, on_invalid)
        first, place = distinct_rows(encoded)
        mean, _ = self._codec.posterior(encoded)
        written = self._decode(mean[first], lengths=encoded.lengths[first])
        return items_in_place([written[i] for i in place], encoded, on_invalid)

    def sample(
        self,
        n: int,
        *,
        prior: Literal["standard", "fitted"] = "standard",
        temperature: float = 0.0,
        top_k: int | None = None,
    ) -> list[Smiles]:
        """Molecules of codes drawn from the prior.

        Args:
            n: How many codes to draw.
            prior: `"standard"`: N(0, I), towards which the objective draws the codes. `"fitted"`: a
                Gaussian with the mean and spread of the training molecules' codes, in each
                coordinate, which is stored with the checkpoint.
            temperature: See `decode`.
            top_k: See `decode`.

        Raises:
            ValueError: `n` below 1, an unknown prior, or a checkpoint without a fitted one.
        """
        n = whole_number("n", n, 1)
        check_choice("prior", prior, PRIORS)
        config = self.model.config
        codes = self._noise(n, config.num_latents, config.latent_size)
        if prior == "fitted":
            mean, std = self._aggregate()
            codes = mean + std * codes
        return self._decode(codes, temperature=temperature, top_k=top_k)

    def sample_around(
        self,
        smiles: str | Iterable[str],
        radius: float,
        n: int,
        *,
        unit: Literal["prior", "posterior", "aggregate"] = "prior",
        temperature: float = 0.0,
        top_k: int | None = None,
        on_invalid: str | None = None,
    ) -> list[Smiles] | list[list[Smiles] | None]:
        """Molecules near given ones: of codes z + radius · scale · ε with ε ~ N(0, I).

        Args:
            smiles: One SMILES, or several.
            radius: 0 or above; 0 reconstructs.
            n: Codes drawn for each molecule.
            unit: The scale: `"prior"` is 1 (as in MolMIM, arXiv 2208.09016), `"posterior"` the
                standard deviation of the molecule's own posterior, `"aggregate"` the spread of the
                training molecules' codes, both in each coordinate.
            temperature: See `decode`.
            top_k: See `decode`.
            on_invalid: See the class.

        Returns:
            n molecules for one SMILES; for several, a list of n for each, with `None` as the whole
            list of an invalid one under `on_invalid="none"`.

        Raises:
            TypeError: A table in place of a list.
            ValueError: A radius below 0, `n` below 1, an unknown unit, an invalid molecule and
                `on_invalid="raise"`, or a checkpoint that does not know its codes' spread.
        """
        if not isinstance(radius, Real) or not 0 <= radius <= LARGEST_RADIUS:
            raise ValueError(f"radius is a number from 0 to {LARGEST_RADIUS:g}, not {radius!r}.")
        n = whole_number("n", n, 1)
        check_choice("unit", unit, UNITS)
        encoded, on_invalid = self._read(
            [smiles] if isinstance(smiles, str) else smiles, on_invalid
        )
        mean, log_std = self._codec.posterior(encoded)
        scale = np.float32(1.0)
        if unit == "posterior":
            scale = np.exp(log_std)[:, None]
        elif unit == "aggregate":
            scale = self._aggregate()[1]
        noise = self._noise(len(mean), n, *mean.shape[1:])
        codes = mean[:, None] + np.float32(radius) * scale * noise
        written = self._decode(
            codes.reshape(-1, *mean.shape[1:]),
            lengths=np.repeat(encoded.lengths, n),
            temperature=temperature,
            top_k=top_k,
        )
        groups = items_in_place(_grouped(written, n), encoded, on_invalid)
        return _only(groups, n) if isinstance(smiles, str) else groups

    def interpolate(
        self,
        first: str | Iterable[str],
        second: str | Iterable[str],
        steps: int,
        *,
        method: Literal["linear", "spherical"] = "linear",
        on_invalid: str | None = None,
    ) -> list[Smiles] | list[list[Smiles] | None]:
        """Molecules at equal steps between the codes of two, decoded greedily.

        Args:
            first: One SMILES, or several.
            second: As many.
            steps: Codes from end to end, both ends included; so the ends are reconstructions.
            method: The straight line, or the arc (see
                [`~cmim_hf.generation.interpolation.interpolate_codes`]).
            on_invalid: See the class; a pair with an invalid end is invalid.

        Returns:
            `steps` molecules for one pair; for several, a list of them for each, with `None` as the
            whole list of an invalid pair under `on_invalid="none"`.

        Raises:
            TypeError: One SMILES against several, or a table in place of a list.
            ValueError: Another number of first than of second ends, fewer than two steps, an
                unknown method, or an invalid molecule and `on_invalid="raise"`.
        """
        single = isinstance(first, str)
        if single != isinstance(second, str):
            raise TypeError("Interpolate from one SMILES to one, or from a list to a list of them.")
        steps = whole_number("steps", steps, 2)
        ends = ([first], [second]) if single else (texts(first), texts(second))
        if len(ends[0]) != len(ends[1]):
            raise ValueError(
                f"Got {len(ends[0])} first and {len(ends[1])} second ends; give one for each."
            )
        on_invalid = self._policy(on_invalid)
        gaps = "raise" if on_invalid == "raise" else "none"
        size = self.model.config.num_latents * self.model.config.latent_size
        codes = [self.encode(end, on_invalid=gaps).reshape(len(end), size) for end in ends]
        usable = np.isfinite(codes[0]).all(axis=1) & np.isfinite(codes[1]).all(axis=1)
        path = interpolate_codes(codes[0][usable], codes[1][usable], steps, method)
        written = _grouped(self._decode(self._shaped(path)), steps)
        if on_invalid != "skip":
            rest = iter(written)
            written = [next(rest) if one else None for one in usable]
        return _only(written, steps) if single else written

    def log_likelihood(
        self, smiles: Iterable[str], *, samples: int = 0, on_invalid: str | None = None
    ) -> np.ndarray:
        """How probable the model finds molecules, in nats.

        By default log p(x | z = mean(x)), the probability that the decoder writes the molecule's
        (canonical) SMILES from its own code. With `samples` an estimate of log p(x) under the prior
        N(0, I) by importance sampling from the posterior, log mean_s p(x | z_s) P(z_s) / q(z_s | x)
        (Burda et al., arXiv 1509.00519): on average a lower bound, which more samples raise.

        Args:
            smiles: A list, array, series or generator of SMILES.
            samples: Draws for each molecule, 0 for the first meaning.
            on_invalid: See the class.

        Returns:
            (rows,) in float64; NaN where `on_invalid="none"` says so.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: `samples` below 0, or an invalid molecule and `on_invalid="raise"`.
        """
        samples = whole_number("samples", samples, 0)
        encoded, on_invalid = self._read(smiles, on_invalid)
        values = np.empty(len(encoded.lengths))
        for rows, ids, mask in self._codec.batches(encoded, "Scoring molecules"):
            found = log_likelihoods(self.model, ids, mask, samples, self._random)
            values[rows] = found.cpu().numpy()
        return values_in_place(values, encoded, on_invalid)

    def properties(
        self, smiles: Iterable[str], *, on_invalid: str | None = None
    ) -> pandas.DataFrame:
        """What the model says of the properties it was trained on, in their own units.

        These are estimates: what RDKit can compute, RDKit computes exactly. A value beyond those
        of nearly all training molecules comes out as the last of these.

            generator.properties(["CCO", "c1ccccc1O"])[["MolLogP", "TPSA"]]

        Args:
            smiles: A list, array, series or generator of SMILES.
            on_invalid: See the class.

        Returns:
            A row for each molecule and a column for each property (the checkpoint's
            `config.property_names`), float32; NaN where `on_invalid="none"` says so.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: The checkpoint predicts no properties, or an invalid molecule and
                `on_invalid="raise"`.
        """
        import pandas

        encoded, on_invalid = self._read(smiles, on_invalid)
        values = values_in_place(self._codec.properties(encoded), encoded, on_invalid)
        config = self.model.config
        return pandas.DataFrame(values, columns=config.property_names or range(values.shape[1]))

    def optimize(
        self,
        seeds: Iterable[str],
        scorer: str | Callable[[str], float] | Mapping | Scorer,
        *,
        budget: int = 500,
        min_similarity: float = 0.0,
        strategy: Literal["cma", "random"] = "cma",
        population: int = 20,
        step: float = 1.0,
        unit: Literal["prior", "aggregate"] = "aggregate",
        timeout: float | None = None,
        table: str | os.PathLike | None = None,
        seed: int = 0,
        on_invalid: str | None = None,
    ) -> Optimization:
        """Look around the codes of molecules for others of higher score, by CMA-ES.

        Args:
            seeds: SMILES to start from, each with a search and a budget of its own.
            scorer: Any function from a SMILES to a number, higher is better; a built-in name
                (`"qed"`, `"penalized_logp"`, `"logp"`, `"sa_score"`, `"similarity"`); or a mapping
                of such to weights, whose weighted sum counts. It may raise, be slow, or return
                nothing usable (see [`~cmim_hf.optimization.score_table.Oracle`]).
            budget: Molecules scored for each seed, itself included.
            min_similarity: Tanimoto similarity to its seed that a molecule must have; others are
                not scored.
            strategy: `"random"` draws around the seeds' codes instead, for comparison.
            population: Codes of a seed and round.
            step: Initial standard deviation of the codes.
            unit: What `step` is measured in: the spread of the training molecules' codes in each
                coordinate, or that of the prior, 1.
            timeout: Seconds that one call of the scorer may take; by default any number.
            table: A CSV file to which every molecule scored is added at once. Called again with it
                and the same arguments (but perhaps a larger `budget`), a search goes on.
            seed: Of the random numbers of this search.
            on_invalid: See the class; under `"none"`, too, invalid seeds are left out.

        Returns:
            `best` (one row a seed) and `table` (every molecule scored), both data frames, and what
            failed. Ctrl-C ends the search and returns what was found until then.

        Raises:
            TypeError: `scorer` is no scorer, or one string in place of a list.
            ValueError: An invalid seed and `on_invalid="raise"`, an argument outside its range, a
                checkpoint that does not know its codes' spread, or `canonicalize=False`.
            ImportError: The package cma is not installed.
        """
        from ..optimization.cma_search import optimize

        check_choice("unit", unit, ("prior", "aggregate"))
        if not self.canonicalize:
            raise ValueError("optimize compares molecules, so the generator must canonicalize.")
        seeds = texts(seeds)
        encoded, _ = self._read(seeds, on_invalid)
        if not len(encoded.lengths):
            raise ValueError(
                f"None of {len(seeds)} seeds is usable; give at least one molecule to start from."
            )
        mean, _ = self._codec.posterior(encoded)
        spread = self._aggregate()[1].reshape(-1) if unit == "aggregate" else None
        return optimize(
            [seeds[row] for row in encoded.kept],
            mean.reshape(len(mean), -1),
            lambda codes: self._decode(self._shaped(codes), progress=False),
            scorer,
            strategy=strategy,
            budget=budget,
            population=population,
            step=step,
            spread=spread,
            min_similarity=min_similarity,
            timeout=timeout,
            table=table,
            seed=seed,
            progress=self.progress,
            settings={"fingerprint": self.fingerprint, "unit": unit, "spread": _digest(spread)},
        )

    def fit_prior(self, smiles: Iterable[str], *, on_invalid: str | None = None) -> None:
        """Take the mean and spread of these molecules' codes for the fitted prior.

        Training stores those of its own molecules in the checkpoint; this replaces them in memory
        (and in what `model.save_pretrained` writes).

        Args:
            smiles: At least two molecules; some thousands give the spread to a few per cent.
            on_invalid: See the class.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: Fewer than two molecules, only equal ones, or an invalid one and
                `on_invalid="raise"`.
        """
        encoded, _ = self._read(smiles, on_invalid)
        self.model.posterior.fit_aggregate(torch.from_numpy(self._codec.posterior(encoded)[0]))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of weights as loaded, their names and the tokenizer."""
        return weights_fingerprint(self.model, self.tokenizer)

    def _policy(self, on_invalid: str | None) -> str:
        on_invalid = self.on_invalid if on_invalid is None else on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        return on_invalid

    def _read(self, smiles: Iterable[str], on_invalid: str | None) -> tuple[EncodedRows, str]:
        on_invalid = self._policy(on_invalid)
        return self._codec.read(smiles, on_invalid), on_invalid

    def _decode(self, codes: np.ndarray, **options: Any) -> list[Smiles]:
        return self._codec.decode(codes, generator=self._random, **options)

    def _shaped(self, codes: np.ndarray) -> np.ndarray:
        """Codes (rows, num_latents, latent_size) of flat ones."""
        config = self.model.config
        return self._codec.codes(codes.reshape(-1, config.num_latents, config.latent_size))

    def _noise(self, *shape: int) -> np.ndarray:
        return torch.randn(shape, generator=self._random).numpy()

    def _aggregate(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of the training molecules' codes, (num_latents, latent_size) each."""
        mean, std = self.model.posterior.aggregate()
        return mean.float().cpu().numpy(), std.float().cpu().numpy()


def _grouped(items: list[Smiles], size: int) -> list[list[Smiles]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _digest(spread: np.ndarray | None) -> str | None:
    return None if spread is None else hashlib.sha256(spread.tobytes()).hexdigest()


def _only(groups: list[list[Smiles] | None], size: int) -> list[Smiles]:
    """The molecules of a single input: `None` each if it is invalid, none if it is left out."""
    if not groups:
        return []
    return [None] * size if groups[0] is None else groups[0]


__all__ = ["PRIORS", "UNITS", "MoleculeGenerator"]
