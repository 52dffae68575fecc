# SPDX-License-Identifier: Apache-2.0
"""As many molecules as are asked for that hold constraints: codes are drawn until there are."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.argument_checks import whole_number
from ..data.invalid_rows import progress_bar
from .decoding import Decoder, Decoding, DecodingInfo

if TYPE_CHECKING:
    from ..optimization.constraints import Constraints, Range
    from .code_draws import Draw

ROUND = 16_384
"""Codes drawn at once, at most; that bounds the memory."""

WORTHWHILE = 8
"""Where fewer than one in so many independent draws holds, walks take over."""

LEAST, LONG, BURN_IN = 16, 8, 4
"""Draws before that is judged and walks of a seed, unless it needs fewer; molecules that a walk is
to give at least; steps before them."""

NO_MOLECULE, REPEATED = "no molecule", "repeated"
"""What a draw may have cost beside the words of constraints."""


@dataclass(frozen=True)
class Sampling(Decoding):
    """What is asked of molecules that are sampled, beside how codes become text.

    Attributes:
        keep: Patterns that all molecules have, one or several: SMILES, scaffolds with attachment
            points or SMARTS (see [`~cmim_hf.optimization.constraints.Constraints`]).
        forbid: Patterns that none has.
        ranges: Of properties, by name: the lowest and the highest value, `{"mw": (None, 500)}`.
        unique: Each molecule once, and the seed not at all.
        max_draws: Codes drawn at most for each molecule asked for, where there is any such
            condition; then what holds is returned, with a warning.
    """

    keep: str | Sequence[str] | None = None
    forbid: str | Sequence[str] | None = None
    ranges: Mapping[str, Range] | None = None
    unique: bool = False
    max_draws: int = 100
    constraints: Constraints | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Check all of them."""
        super().__post_init__()
        object.__setattr__(self, "max_draws", whole_number("max_draws", self.max_draws, 1))
        if not isinstance(self.unique, bool):
            raise TypeError(f"`unique` is True or False, not {self.unique!r}.")
        given = (self.keep, self.forbid, self.ranges)
        if any(one is not None for one in given):  # else RDKit is not needed
            from ..optimization.constraints import Constraints

            object.__setattr__(self, "constraints", Constraints(*given) or None)

    @property
    def conditional(self) -> bool:
        """Whether a molecule may be refused."""
        return self.unique or self.constraints is not None


@dataclass(frozen=True)
class SamplingInfo(DecodingInfo):
    """What became of codes that were drawn until their molecules held.

    Attributes:
        asked: Molecules asked for.
        found: How many of them there are.
        walked: How many of these come from walks, see [`ConditionalSampler`].
        broken: Draws that each condition cost, in its words (a draw counts for the first that its
            molecule breaks); `"no molecule"` where there was none, `"repeated"` under `unique`.
    """

    asked: int
    found: int
    walked: int
    broken: Counter[str]

    @property
    def held(self) -> float:
        """Share of the draws that held."""
        draws = len(self.attempts)
        return 1 - self.broken.total() / draws if draws else math.nan

    def __str__(self) -> str:
        """Molecules, draws and costs in a line."""
        draws = len(self.attempts)
        walked = f", {self.walked:,} of them by walks" if self.walked else ""
        costs = [f"{count / draws:.1%} {words}" for words, count in self.broken.most_common()]
        lost = f" (lost: {', '.join(costs)})" if costs else ""
        return f"{self.found:,} of {self.asked:,} molecules found in {draws:,} draws{walked}{lost}"


def sample_molecules(
    draw: Draw,
    decoder: Decoder,
    how: Sampling,
    n: int,
    centres: np.ndarray | None = None,
    seeds: Sequence[str | None] = (None,),
    lengths: np.ndarray | None = None,
) -> tuple[list[list[str | None]], DecodingInfo]:
    """Molecules of n codes for each seed, or with conditions n molecules.

    The arguments are those of [`ConditionalSampler`].

    Raises:
        ValueError: Conditions where the decoder does not canonicalize, or a seed that breaks them.
    """
    if how.conditional:
        if not decoder.canonicalize:
            raise ValueError(
                "`keep`, `forbid`, `ranges` and `unique` are about molecules, so the generator "
                "must canonicalize."
            )
        return ConditionalSampler(draw, decoder, how, n, centres, seeds, lengths).run()
    rows = np.repeat(np.arange(len(seeds)), n)
    lengths = None if lengths is None else lengths[rows]
    molecules, info = decoder.decode(draw(rows), how, lengths=lengths)
    return [molecules[i * n : (i + 1) * n] for i in range(len(seeds))], info


class ConditionalSampler:
    """Draws codes around centres until their molecules hold.

    First independent draws, of which those are kept that hold: their distribution is that of
    unconditional sampling, given the conditions. Around a centre where fewer than one in
    `WORTHWHILE` holds, walks go on from those that did, or from the centre itself, by elliptical
    slice sampling (Murray, Adams and MacKay, AISTATS 2010, arXiv 1001.0356): steps of a Markov
    chain with the same distribution, for which a proposal that does not hold is drawn towards the
    last that did. It takes some four draws a step however rare molecules that hold are. The first
    `BURN_IN` steps are left out, so that walks leave the centre; still molecules of walks are more
    alike than independent ones.

    Args:
        draw: Codes (rows, num_latents, latent_size) for indices of seeds (rows,).
        decoder: It canonicalizes.
        how: What is asked.
        n: Molecules for each seed.
        centres: (seeds, num_latents, latent_size), if `draw` is Gaussian around them; without, all
            draws are independent.
        seeds: Canonical SMILES, or one None where there is no seed.
        lengths: (seeds,), expected tokens.
    """

    def __init__(
        self,
        draw: Draw,
        decoder: Decoder,
        how: Sampling,
        n: int,
        centres: np.ndarray | None = None,
        seeds: Sequence[str | None] = (None,),
        lengths: np.ndarray | None = None,
    ) -> None:
        """Keep the arguments, and check the seeds."""
        self._draw, self._centres, self._decoder, self._how = draw, centres, decoder, how
        self._lengths = lengths
        if how.constraints is not None:
            how.constraints.check_seeds([one for one in seeds if one is not None])
        self._searches = [_Search(seed, n, how, centres is not None) for seed in seeds]

    def run(self) -> tuple[list[list[str]], SamplingInfo]:
        """Find n molecules for each seed, or fewer where its budget of n · `max_draws` is spent."""
        attempts, broken = [np.zeros(0, int)], Counter()
        asked = sum(search.n for search in self._searches)
        with progress_bar(asked, "Finding molecules", self._decoder.progress) as bar:
            while wanted := self._wanted():
                before = sum(len(search.found) for search in self._searches)
                codes, info, molecules = self._decode(wanted)
                attempts.append(info.attempts)
                words = _broken(molecules, self._how)
                for (row, walk), code, smiles, lost in zip(
                    wanted, codes, molecules, words, strict=True
                ):
                    lost = self._searches[row].judge(walk, code, smiles, lost)
                    broken.update([lost] if lost else [])
                bar.update(sum(len(search.found) for search in self._searches) - before)
        found = [search.found for search in self._searches]
        info = SamplingInfo(
            np.concatenate(attempts),
            asked=asked,
            found=sum(map(len, found)),
            walked=sum(search.walked for search in self._searches),
            broken=broken,
        )
        self._warn(info)
        return found, info

    def _wanted(self) -> list[tuple[int, _Walk | None]]:
        """Seeds to draw for next, and the walks that draw; nothing when all have enough."""
        every = ((row, walk) for row, one in enumerate(self._searches) for walk in one.wanted())
        return list(islice(every, ROUND))

    def _decode(
        self, wanted: list[tuple[int, _Walk | None]]
    ) -> tuple[np.ndarray, DecodingInfo, list[str | None]]:
        rows = np.array([row for row, _ in wanted])
        offsets = self._draw(rows)
        centres = 0 if self._centres is None else self._centres[rows]
        if self._centres is not None:
            offsets = offsets - centres
            uniform = torch.rand(len(rows), generator=self._decoder.random).tolist()
            for place, (_, walk) in enumerate(wanted):
                if walk is not None:
                    offsets[place] = walk.propose(offsets[place].copy(), uniform[place])
        lengths = None if self._lengths is None else self._lengths[rows]
        molecules, info = self._decoder.decode(
            centres + offsets, self._how, lengths=lengths, progress=False
        )
        return offsets, info, molecules

    def _warn(self, info: SamplingInfo) -> None:
        short = sum(len(search.found) < search.n for search in self._searches)
        if short:
            of = f" for {short} of {len(self._searches)} seeds" if len(self._searches) > 1 else ""
            warnings.warn(
                f"{info}: the budget{of} of `max_draws` ({self._how.max_draws}) codes for each "
                "molecule asked for is spent. Raise it, ask for fewer molecules, or relax what "
                "costs most.",
                stacklevel=5,
            )


class _Search:
    """One seed: what it has found, what it may still spend, and its walks."""

    def __init__(self, seed: str | None, n: int, how: Sampling, may_walk: bool) -> None:
        self.n, self.found, self.walked = n, [], 0
        self._unique, self._known = how.unique, {seed}
        self._left = n * how.max_draws
        self._drawn = self._held = 0  # of independent draws
        self._may_walk, self._starts, self._walks, self._steps = may_walk, [], [], 0
        self._probe: _Walk | None = None

    def wanted(self) -> list[_Walk | None]:
        """The next draws: those of walks, or None for independent ones."""
        missing = self.n - len(self.found)
        if not missing:
            return []
        enough = self._drawn >= max(self.n, LEAST)
        if self._may_walk and enough and self._held * WORTHWHILE < self._drawn:
            if not self._starts and self._probe is None:
                self._probe = _Walk(None)
                return [self._probe][: self._left]
            if self._starts and not self._walks:
                number = max(min(missing, LEAST), missing // LONG)
                self._walks = [_Walk(one) for one, _ in zip(cycle(self._starts), range(number))]
        if self._walks:
            return self._step(missing)[: self._left]
        expected = math.ceil(missing * (self._drawn + 2) / (len(self.found) + 1))
        number = min(expected, 2 * self._drawn) if self._drawn else missing
        return [None] * min(number, self._left)

    def _step(self, missing: int) -> list[_Walk]:
        """The walks that have not done the present step.

        All do the same number of steps: those that are quick are where most holds.
        """
        left = [walk for walk in self._walks if walk.steps < self._steps]
        if not left:
            self._steps += 1
            self._walks = self._walks[: missing if self._steps > BURN_IN else None]
            left = self._walks
        return left

    def judge(
        self, walk: _Walk | None, offset: np.ndarray, smiles: str | None, lost: str | None
    ) -> str | None:
        """Take a draw, or say what it was lost to; surplus and first steps are neither."""
        self._left -= 1
        if walk is None:
            self._drawn += 1
            self._held += lost is None
        if walk is None or walk is self._probe:
            self._starts += [offset.copy()] if lost is None and len(self._starts) < LEAST else []
        else:
            walk.judge(lost is None)
        if lost is not None or (walk is not None and walk.steps <= BURN_IN):
            return lost
        if self._unique and smiles in self._known:
            return REPEATED
        if len(self.found) < self.n:
            self._known.add(smiles)
            self.found.append(smiles)
            self.walked += walk is not None
        return None


class _Walk:
    """Elliptical slice sampling of offsets from a centre; its start holds, or is the centre."""

    def __init__(self, start: np.ndarray | None) -> None:
        self._offset, self._fresh, self.steps = start, None, 0

    def propose(self, fresh: np.ndarray, uniform: float) -> np.ndarray:
        """Return offset · cos θ + fresh · sin θ; θ shrinks until a proposal holds."""
        if self._offset is None:
            return np.zeros_like(fresh)
        if self._fresh is None:
            self._fresh, self._high = fresh, 2 * math.pi * uniform
            self._angle, self._low = self._high, self._high - 2 * math.pi
        else:
            self._angle = self._low + (self._high - self._low) * uniform
        sine, cosine = np.float32(math.sin(self._angle)), np.float32(math.cos(self._angle))
        self._proposal = cosine * self._offset + sine * self._fresh
        return self._proposal

    def judge(self, holds: bool) -> None:
        """Go to the proposal, or draw the next one nearer to where the walk is."""
        if holds:
            self._offset, self._fresh = self._proposal, None
            self.steps += 1
        elif self._angle < 0:
            self._low = self._angle
        else:
            self._high = self._angle


def _broken(molecules: Sequence[str | None], how: Sampling) -> list[str | None]:
    """What each molecule breaks, in words."""
    there = [one for one in molecules if one is not None]
    found = iter([None] * len(there) if how.constraints is None else how.constraints.broken(there))
    return [NO_MOLECULE if one is None else next(found) for one in molecules]
