# SPDX-License-Identifier: Apache-2.0
"""Codes in, molecules out: [`MoleculeGenerator`]."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..checkpoints import DEFAULT_CHECKPOINT
from ..checkpoints.loading import load_checkpoint, weights_fingerprint
from ..data.argument_checks import check_choice, whole_number
from ..data.invalid_rows import ON_INVALID, items_in_place, values_in_place
from ..data.row_encoder import EncodedRows, check_standardize
from ..data.token_batches import distinct_rows
from .code_draws import CodeDraws
from .constrained_sampling import Sampling, sample_molecules
from .decoding import Decoding, DecodingInfo
from .encode_decode import Codec
from .interpolation import interpolate_rows
from .likelihood import log_likelihoods
from .prior import BANDWIDTH, MOST_CODES, CodePrior, checked_bandwidth

if TYPE_CHECKING:
    import pandas

    from ..optimization.optimization_result import Optimization
    from ..optimization.scorers import Scorer

Smiles = str | None

_LONGEST_FOUND = 128  # tokens that a search may write, however short its seeds


class MoleculeGenerator:
    """Reconstructs, samples, interpolates and optimises molecules through their codes.

    What the decoder writes is returned as RDKit's canonical SMILES. A code is decoded greedily, and
    where that is no molecule, again from the code drawn in towards the origin until it is
    (`attempts`, 16 by default; 1 is plain greedy decoding). `None` stands where none was.
    `return_info=True` also returns which codes were decoded again. A code gives the same molecule
    in any company.

        >>> generator = MoleculeGenerator(seed=0, progress=False)
        >>> generator.reconstruct(["c1ccncc1CNS(=O)(=O)c1ccccc1C#N", "C(C"], on_invalid="none")
        ['N#Cc1ccccc1S(=O)(=O)NCc1cccnc1', None]
        >>> generator.encode(["CC(C)Cc1ccccc1"]).shape
        (1, 1, 192)
        >>> found = generator.optimize(["CC(C)Cc1ccccc1"], "qed", budget=10)
        >>> found.calls, bool(found.best["score"][0] >= found.best["seed_score"][0])
        (10, True)

    Every method takes molecules as a list, array, series or generator of SMILES or of RDKit's
    molecules, or as rows that `encoder` has read (which are then not read again). One string or a
    table in place of a list is a TypeError; an invalid molecule, under `on_invalid="raise"`, a
    ValueError. A call's `on_invalid` takes the place of the constructor's.

    Args:
        checkpoint: A folder, a Hub id, or the name of a checkpoint that ships.
        device: Where to work; the accelerator if there is one, else the CPU.
        dtype: Of the weights; the checkpoint's, but float32 on a CPU.
        canonicalize: Rewrite molecules as RDKit does, those given and those decoded. Without it
            both are taken as they are (the text of the decoder may then be no molecule), and RDKit
            is not imported.
        standardize: `"parent"` takes the parent of each molecule given (its largest fragment,
            neutral, see [`~cmim_hf.model.parent_molecule_cmim.parent`]), `"none"` the molecule as
            it is; what is decoded stays as it is.
        on_invalid: What becomes of a given row that is no text, empty, not printable, not a
            molecule (with `canonicalize`), or longer than the model reads: `"raise"` a ValueError
            that names it, `"none"` gives `None` (NaN among numbers) in its place, `"skip"` leaves
            it out.
        batch_size: Codes decoded at once; by default 512 on a CPU and 4,096 elsewhere.
        seed: Of everything that is drawn; two generators of one seed draw the same, call by call.
            By default each differs.
        progress: Show a bar when a call takes more than two seconds.
        hub: `revision`, `token`, `cache_dir` and the like of `from_pretrained`, see
            [`~cmim_hf.checkpoints.loading.load_checkpoint`].

    Raises:
        FileNotFoundError: No such checkpoint.
        TypeError: An unknown argument.
        ValueError: A checkpoint that is damaged or of another kind, or an unknown choice.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        canonicalize: bool = True,
        standardize: str = "none",
        on_invalid: Literal["raise", "none", "skip"] = "raise",
        batch_size: int | None = None,
        seed: int | None = None,
        progress: bool = True,
        **hub: Any,
    ) -> None:
        """Load the checkpoint."""
        check_choice("on_invalid", on_invalid, ON_INVALID)
        check_standardize(standardize, canonicalize)
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1)
        if seed is not None:
            seed = whole_number("seed", seed, 0)
        self.checkpoint = os.fspath(checkpoint)
        self.model, self.tokenizer = load_checkpoint(checkpoint, device, dtype, **hub)
        self.canonicalize, self.on_invalid, self.progress = canonicalize, on_invalid, progress
        self._codec = Codec(
            self.model, self.tokenizer, canonicalize, standardize, batch_size, seed, progress
        )
        self._hub = hub
        self._draws = CodeDraws(self._codec, self.checkpoint, hub)
        self.encoder = self._codec.encoder

    def with_codec(self, codec: Codec) -> MoleculeGenerator:
        """The same generator, asking its model through another codec, whose draws are its own."""
        other = copy.copy(self)
        other._codec, other.encoder = codec, codec.encoder
        other._draws = CodeDraws(codec, self.checkpoint, self._hub)
        return other

    def texts(self, smiles: Iterable[str], *, on_invalid: str | None = None) -> list[Smiles]:
        """Molecules as the model reads them: canonical SMILES, without `canonicalize` as given."""
        encoded, on_invalid = self._read(smiles, on_invalid)
        return items_in_place(self._codec.texts(encoded), encoded, on_invalid)

    def encode(self, smiles: Iterable[str], *, on_invalid: str | None = None) -> np.ndarray:
        """The mean codes of molecules, in their order: (rows, num_latents, latent_size) float32."""
        encoded, on_invalid = self._read(smiles, on_invalid)
        mean, _ = self._codec.posterior(encoded)
        return values_in_place(mean, encoded, on_invalid)

    def decode(
        self, latents: np.ndarray | torch.Tensor, *, return_info: bool = False, **decoding: Any
    ) -> list[Smiles] | tuple[list[Smiles], DecodingInfo]:
        """The molecules of codes, in their order, `None` where no attempt gave one.

        Args:
            latents: (rows, num_latents, latent_size), as `encode` gives them.
            return_info: Also return what became of each code.
            decoding: `temperature` (0), `top_k` (none), `attempts` (16), `candidates` (1) and
                `max_length` (that of the model), see [`~cmim_hf.generation.decoding.Decoding`].

        Raises:
            ValueError: Codes of another shape or not finite, a temperature below 0, a `top_k`,
                `attempts` or `candidates` below 1, candidates at a temperature above 0 or of a
                generator that does not canonicalize, or a `max_length` that the model cannot have.
            TypeError: An unknown argument.
        """
        self._check_info(return_info)
        decoded = self._codec.decoder.decode(self._codec.codes(latents), Decoding(**decoding))
        return decoded if return_info else decoded[0]

    def reconstruct(
        self,
        smiles: Iterable[str],
        *,
        on_invalid: str | None = None,
        return_info: bool = False,
        **decoding: Any,
    ) -> list[Smiles] | tuple[list[Smiles], DecodingInfo]:
        """Molecules to codes and back; `decoding` and `return_info` as in `decode`.

        The info is about the different molecules among them, in their order.
        """
        self._check_info(return_info)
        how = Decoding(**decoding)
        encoded, on_invalid = self._read(smiles, on_invalid)
        first, place = distinct_rows(encoded)
        mean, _ = self._codec.posterior(encoded)
        written, info = self._codec.decoder.decode(mean[first], how, lengths=encoded.lengths[first])
        found = items_in_place([written[i] for i in place], encoded, on_invalid)
        return (found, info) if return_info else found

    def sample(
        self,
        n: int,
        *,
        prior: CodePrior | str | os.PathLike = "standard",
        return_info: bool = False,
        **sampling: Any,
    ) -> list[Smiles] | tuple[list[Smiles], DecodingInfo]:
        """Molecules of n codes drawn from a prior; with conditions, n molecules that hold them.

            generator.sample(100, keep="NS(=O)(=O)c1ccc(*)cc1", ranges={"mw": (None, 400)})

        Args:
            n: Codes; with `keep`, `forbid`, `ranges` or `unique`, molecules: then codes are drawn
                until n molecules hold, or `max_draws` codes for each of them are spent, of which a
                warning tells what they were lost to. What is returned then holds no `None`.
            prior: `"standard"`, N(0, I), towards which the objective draws the codes; `"fitted"`,
                the prior that stands beside the checkpoint's weights as `prior.safetensors`, else
                the Gaussian with the mean and spread of the training molecules' codes; what
                `fit_prior` returned, or the file that its `save` wrote.
            return_info: Also return what became of each code, with conditions a
                [`~cmim_hf.generation.constrained_sampling.SamplingInfo`].
            sampling: See [`~cmim_hf.generation.constrained_sampling.Sampling`]: `keep`, `forbid`,
                `ranges`, `unique`, `max_draws`, and those of `decode`.

        Raises:
            ValueError: `n` below 1, an unknown prior or one of another model, a damaged file, a
                checkpoint without a fitted one, or a condition that cannot be read.
            FileNotFoundError: No such file.
            TypeError: An unknown argument, or one of another type.
        """
        self._check_info(return_info)
        n, how = whole_number("n", n, 1), Sampling(**sampling)
        draw = self._draws.from_prior(prior)
        (found,), info = sample_molecules(draw, self._codec.decoder, how, n)
        return (found, info) if return_info else found

    def sample_around(
        self,
        smiles: str | Iterable[str],
        radius: float,
        n: int,
        *,
        unit: Literal["prior", "posterior", "aggregate"] = "prior",
        on_invalid: str | None = None,
        return_info: bool = False,
        **sampling: Any,
    ) -> Any:
        """Molecules near given ones: for each, of n codes z + radius · scale · ε with ε ~ N(0, I).

        The scale goes by `unit`: `"prior"` is 1 (as in MolMIM, arXiv 2208.09016), `"posterior"` the
        standard deviation of the molecule's own posterior, `"aggregate"` the spread of the training
        molecules' codes, both in each coordinate. So radius 0 reconstructs. `n`,
        `return_info` and `sampling` are those of `sample`; the info is about the codes of all
        seeds. With conditions, codes have this distribution given that their molecules hold, see
        [`~cmim_hf.generation.constrained_sampling.ConditionalSampler`].

        Returns:
            n molecules for one SMILES; for several, a list of n for each, with `None` as the whole
            list of an invalid one under `on_invalid="none"`.

        Raises:
            ValueError: A radius below 0, an unknown unit, a checkpoint that does not know its
                codes' spread, a seed that breaks `keep` or `forbid`, and as in `sample`.
            TypeError: As in `sample`.
        """
        self._check_info(return_info)
        n, how = whole_number("n", n, 1), Sampling(**sampling)
        single = isinstance(smiles, str)
        encoded, on_invalid = self._read([smiles] if single else smiles, on_invalid)
        draw, mean = self._draws.around(encoded, radius, unit)
        groups, info = sample_molecules(
            draw,
            self._codec.decoder,
            how,
            n,
            mean,
            self._codec.texts(encoded) if how.conditional else [None] * len(mean),
            encoded.lengths,
        )
        found = items_in_place(groups, encoded, on_invalid)
        if single and not groups:
            found = [None] * n if found else []
        elif single:
            (found,) = groups
        return (found, info) if return_info else found

    def interpolate(
        self,
        first: str | Iterable[str],
        second: str | Iterable[str],
        steps: int,
        *,
        method: Literal["linear", "spherical"] = "linear",
        on_invalid: str | None = None,
        return_info: bool = False,
        **decoding: Any,
    ) -> Any:
        """Molecules at equal steps between the codes of two, both ends included.

        The `method` is the straight line or the arc, see
        [`~cmim_hf.generation.interpolation.interpolate_codes`]; `decoding` and `return_info` are
        those of `decode`.

        Returns:
            `steps` molecules for one pair of SMILES; for a list of first and one of second ends, a
            list of them for each pair, with `None` as the whole list of a pair with an invalid end
            under `on_invalid="none"`.

        Raises:
            TypeError: One SMILES against several.
            ValueError: Another number of first than of second ends, fewer than two steps, or an
                unknown method.
        """
        self._check_info(return_info)
        single = isinstance(first, str)
        if single != isinstance(second, str):
            raise TypeError("Interpolate from one SMILES to one, or from a list to a list of them.")
        steps = whole_number("steps", steps, 2)
        pair = ([first], [second]) if single else (first, second)
        (first, policy), (second, _) = (self._read(end, on_invalid) for end in pair)
        if first.number != second.number:
            raise ValueError(
                f"Got {first.number} first and {second.number} second ends; give one for each."
            )
        ends = (
            values_in_place(self._codec.posterior(end)[0], end, "none") for end in (first, second)
        )
        kept, path = interpolate_rows(*ends, steps, method)
        written, info = self._codec.decoder.decode(path, Decoding(**decoding))
        paths = {row: written[i * steps : (i + 1) * steps] for i, row in enumerate(kept.tolist())}
        rows = paths if policy == "skip" else range(first.number)
        groups = [paths.get(row) for row in rows]
        found = groups if not single else groups[0] or [None] * steps if groups else []
        return (found, info) if return_info else found

    def log_likelihood(
        self, smiles: Iterable[str], *, samples: int = 0, on_invalid: str | None = None
    ) -> np.ndarray:
        """How probable the model finds molecules, in nats: (rows,) in float64.

        By default log p(x | z = mean(x)), the probability that the decoder writes the molecule's
        (canonical) SMILES from its own code; with `samples` draws for each molecule an estimate of
        log p(x), see [`~cmim_hf.generation.likelihood.log_likelihoods`].

        Raises:
            ValueError: `samples` below 0.
        """
        samples = whole_number("samples", samples, 0)
        encoded, on_invalid = self._read(smiles, on_invalid)
        values = np.empty(len(encoded.lengths))
        for rows, ids, mask in self._codec.batches(encoded, "Scoring molecules"):
            values[rows] = log_likelihoods(self.model, ids, mask, samples, self._codec.random)
        return values_in_place(values, encoded, on_invalid)

    def properties(
        self, smiles: Iterable[str], *, on_invalid: str | None = None
    ) -> pandas.DataFrame:
        """What the model says of the properties it was trained on, in their own units.

        These are estimates: what RDKit can compute, RDKit computes exactly. A value beyond those
        of nearly all training molecules comes out as the last of these.

            generator.properties(["CCO", "c1ccccc1O"])[["MolLogP", "TPSA"]]

        Returns:
            float32, a row for each molecule, a column for each of `config.property_names`.

        Raises:
            ValueError: The checkpoint predicts no properties.
        """
        import pandas

        encoded, on_invalid = self._read(smiles, on_invalid)
        values = values_in_place(self._codec.properties(encoded), encoded, on_invalid)
        names = self.model.config.property_names or range(values.shape[1])
        return pandas.DataFrame(values, columns=names)

    def optimize(
        self,
        seeds: Iterable[str],
        scorer: str | Callable[[Any], Any] | Mapping | Scorer,
        *,
        step: float = 0.5,
        unit: Literal["prior", "aggregate"] = "aggregate",
        keep: str | Sequence[str] | None = None,
        forbid: str | Sequence[str] | None = None,
        ranges: Mapping[str, tuple[float | None, float | None]] | None = None,
        on_invalid: str | None = None,
        **search: Any,
    ) -> Optimization:
        """Look around the codes of molecules for others of higher score.

        Codes are decoded once, greedily: where one gives no molecule, another code is tried. So
        it is where a text has over 128 tokens and over twice as many as the longest seed: far out
        some would never end.

        Args:
            seeds: Molecules to start from, each with a search and a budget of its own; with
                `shared_budget` one search from all of them. To start from nowhere, give it what
                `sample` draws.
            scorer: Any function from a SMILES to a number, higher is better; a function of a list
                of SMILES, marked by [`~cmim_hf.optimization.scorers.batch_scorer`]; a built-in
                name (`"qed"`, `"penalized_logp"`, `"logp"`, `"sa_score"`, `"similarity"`); or a
                mapping of such to weights, whose weighted sum counts. It may raise, be slow, or
                return nothing usable.
            step: Radius of the first codes around those of the seeds, in `unit`.
            unit: The spread of the training molecules' codes in each coordinate, or that of the
                prior, 1.
            keep: Patterns that a molecule must have to be scored, see
                [`~cmim_hf.optimization.constraints.Constraints`]; the seeds have them.
            forbid: Patterns that it must not have; nor do the seeds.
            ranges: Of its properties, `{"mw": (None, 500)}`; seeds may lie outside.
            on_invalid: See the class; under `"none"`, too, invalid seeds are left out.
            search: `budget` (500 molecules scored for each seed, or for all that share it),
                `shared_budget` (no), `goal` (none; a score that ends a search), `min_similarity`
                (0), `pareto` (no; the terms of the scorer are objectives of their own), `table` (a
                CSV file of all that is scored, to go on from), `strategy` (`"evolution"` or
                `"random"`), `population`, `timeout` (none), `watch` (none; called after each round)
                and `seed` (0) of [`~cmim_hf.optimization.latent_search.optimize`].

        Returns:
            `best` (one row a seed, or the best molecules of a shared budget), `table` (every
            molecule scored) and with `pareto` the `front`, data frames, and what failed. Ctrl-C
            ends the search and returns what was found until then.

        Raises:
            TypeError: `scorer` is no scorer, or an unknown argument.
            ValueError: No usable seed, an argument outside its range, a checkpoint that does not
                know its codes' spread, `canonicalize=False`, a condition that cannot be read, or a
                seed that breaks `keep` or `forbid`.
            ImportError: `pareto` without the package moocore.
        """
        from ..optimization.constraints import Constraints
        from ..optimization.latent_search import optimize

        constraints = Constraints(keep, forbid, ranges)
        check_choice("unit", unit, ("prior", "aggregate"))
        if not self.canonicalize:
            raise ValueError("optimize compares molecules, so the generator must canonicalize.")
        encoded, _ = self._read(seeds, on_invalid)
        if not len(encoded.lengths):
            raise ValueError(f"None of {encoded.number} seeds is usable; give at least one.")
        texts = self._codec.texts(encoded)
        constraints.check_seeds(texts)
        mean, _ = self._codec.posterior(encoded)
        spread = self._draws.aggregate()[1].reshape(-1) if unit == "aggregate" else None
        # another code costs less than a second draw from one
        longest = max(_LONGEST_FOUND, 2 * int(encoded.lengths.max()))
        longest = min(longest, self.model.config.max_position_embeddings)
        once = Decoding(attempts=1, max_length=longest + 1)
        digest = None if spread is None else hashlib.sha256(spread.tobytes()).hexdigest()
        return optimize(
            texts,
            mean.reshape(len(mean), -1),
            lambda flat: self._codec.decoder.decode(
                self._codec.codes(flat.reshape(-1, *mean.shape[1:])), once, progress=False
            )[0],
            scorer,
            step=step,
            spread=spread,
            constraints=constraints,
            progress=self.progress,
            settings={"fingerprint": self.fingerprint, "unit": unit, "spread": digest},
            **search,
        )

    def fit_prior(
        self,
        smiles: Iterable[str],
        *,
        bandwidth: float = BANDWIDTH,
        most: int = MOST_CODES,
        on_invalid: str | None = None,
    ) -> CodePrior:
        """The distribution of these molecules' codes, for `sample`.

            prior = generator.fit_prior(molecules)
            prior.save("mine.safetensors")
            generator.sample(100, prior=prior)  # or prior="mine.safetensors"

        Some thousands of molecules will do, up to some hundred thousands. `bandwidth` leads from
        draws like the molecules (0) to new ones (1), `most` bounds the codes that are kept, see
        [`~cmim_hf.generation.prior.CodePrior`].

        Raises:
            ValueError: Fewer than two molecules, or only equal ones, or an argument outside its
                range.
        """
        bandwidth, most = checked_bandwidth(bandwidth), whole_number("most", most, 2)
        encoded, _ = self._read(smiles, on_invalid)
        return CodePrior.fit(
            self._codec.posterior(encoded)[0],
            bandwidth=bandwidth,
            most=most,
            anchor=self._draws.anchor,
            generator=self._codec.random,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal digits, of weights as loaded, their names and the tokenizer."""
        return weights_fingerprint(self.model, self.tokenizer)

    def _read(
        self, smiles: Iterable[str] | EncodedRows, on_invalid: str | None
    ) -> tuple[EncodedRows, str]:
        on_invalid = self.on_invalid if on_invalid is None else on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        return self._codec.read(smiles, on_invalid), on_invalid

    def _check_info(self, return_info: bool) -> None:
        """Without reading what was written nobody knows what is a molecule."""
        if return_info and not self.canonicalize:
            raise ValueError(
                "`return_info` tells molecules from other texts, so the generator must "
                "canonicalize."
            )
