# SPDX-License-Identifier: Apache-2.0
"""Codes to molecules: decoded once, and drawn again where the text is no molecule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.argument_checks import whole_number
from ..data.invalid_rows import progress_bar
from ..data.token_batches import batch_rows
from ..model.decoding_cmim import decode_latents
from ..model.modeling_cmim import CMIMModel
from ..model.tokenization_cmim import CMIMTokenizer
from .nearest_text import nearest_molecules

if TYPE_CHECKING:
    from .valid_smiles import SmilesRules

REDRAWS = ((0.65, 0.0), (0.5, 0.5), (0.4, 0.7))
"""What a code is multiplied by, and the temperature, in the second, third and all later attempts.

Of codes far out the decoder has seen least. Where the text of a code at radius 1 around a molecule
of ZINC is none, a draw at temperature 0.5 is a molecule for a third of them; the same code times
0.8 gives one for over half, more like the one at the centre (Tanimoto 0.29 against 0.24).
"""

_ROOM = 8
"""Tokens that a draw may be longer than the text that was no molecule."""

_WITHOUT_RULES = 3
"""Attempts before the rules are held: while many rows are left, they cost more than they mend."""

_TOGETHER = 64
"""Fewer rows than this are drawn several times at once: a decoding step costs what it costs."""


@dataclass(frozen=True)
class Decoding:
    """How codes become text.

    Attributes:
        temperature: 0 takes the most probable token each time (greedy); above, tokens are drawn
            from softmax(logits / temperature).
        top_k: Draw among the most probable tokens only.
        attempts: How often a code is decoded at most until its text is a molecule: the first time
            as it is, then drawn in towards the origin and at the temperatures of `REDRAWS` (at
            `temperature` where that is above 0), from the fourth time on under the rules of
            [`~cmim_hf.generation.valid_smiles.SmilesRules`]. With 1, and in a generator that does
            not canonicalize, what comes first counts.
        candidates: Above 1, a code whose first molecule has another code, or that gave none, is
            searched for its so many most probable texts (beams), and the molecule counts whose own
            code is nearest. Greedy decoding only, and texts of 257 tokens at most. Codes of
            molecules come back as these more often; what is drawn at random is no molecule's code,
            so that each row costs a search, ten times what decoding it costs and more.
        max_length: Tokens of a text, the start token included; a longer one is cut off there, and
            no molecule. By default as many as the model knows.
    """

    temperature: float = 0.0
    top_k: int | None = None
    attempts: int = 16
    candidates: int = 1
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Check the whole numbers; what decodes checks the others."""
        for name in ("attempts", "candidates"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        if self.candidates > 1 and self.temperature > 0:
            raise ValueError(
                f"`candidates` ({self.candidates}) are the most probable texts, and at temperature "
                f"{self.temperature} texts are drawn: take temperature 0, or candidates 1."
            )
        if self.max_length is not None:
            object.__setattr__(self, "max_length", whole_number("max_length", self.max_length, 2))


@dataclass(frozen=True)
class DecodingInfo:
    """What became of codes.

    Attributes:
        attempts: (codes,), which decoding of each code was a molecule: 1 for the first (or one of
            the candidates), more for a redraw, 0 if none was.
    """

    attempts: np.ndarray

    @property
    def valid(self) -> float:
        """Share of the codes that gave a molecule."""
        return float((self.attempts > 0).mean()) if len(self.attempts) else float("nan")

    @property
    def redrawn(self) -> float:
        """Share of the codes whose first text and candidates were none: they were drawn again."""
        return float((self.attempts > 1).mean()) if len(self.attempts) else float("nan")

    def __str__(self) -> str:
        """Both in a line."""
        if not len(self.attempts):
            return "no codes"
        return (
            f"{len(self.attempts):,} codes: {self.valid:.1%} are molecules, {self.redrawn:.1%} of "
            "all after redraws"
        )


class Decoder:
    """Decodes codes in batches.

    Args:
        model: In `eval()`, on its device.
        tokenizer: The model's.
        canonicalize: Return canonical SMILES, and `None` where there is no molecule; without it the
            texts as they were first written.
        batch_size: Codes decoded at once; `None` for what suits the device.
        random: Of what is drawn.
        progress: Show bars.
        encode: Canonical SMILES to their mean codes (rows, num_latents, latent_size), NaN of what
            the model cannot read.
    """

    def __init__(
        self,
        model: CMIMModel,
        tokenizer: CMIMTokenizer,
        canonicalize: bool,
        batch_size: int | None,
        random: torch.Generator,
        progress: bool,
        encode: Callable[[Sequence[str]], np.ndarray],
    ) -> None:
        """Keep the arguments."""
        self.encode = encode
        self.model, self.tokenizer, self.canonicalize = model, tokenizer, canonicalize
        self.batch_size = batch_size or batch_rows(model.device)
        self.random, self.progress = random, progress

    def decode(
        self,
        codes: np.ndarray,
        how: Decoding = Decoding(),  # noqa: B008 - frozen
        *,
        lengths: np.ndarray | None = None,
        progress: bool | None = None,
    ) -> tuple[list[str | None], DecodingInfo]:
        """Molecules of codes, in their order; `None` where there is none.

        What a code is decoded to, redraws and all, does not depend on the others: greedy decoding
        redraws each code with the same random numbers, so that equal codes give equal molecules.

        Args:
            codes: (rows, num_latents, latent_size).
            how: See there.
            lengths: (rows,), expected tokens, so that rows of similar ones go together.
            progress: Show a bar; by default as the decoder does.

        Raises:
            ValueError: `candidates` above 1 where the decoder does not canonicalize.
        """
        if how.candidates > 1 and not self.canonicalize:
            raise ValueError(
                f"`candidates` ({how.candidates}) are compared as molecules, so the generator must "
                "canonicalize."
            )
        order = np.arange(len(codes)) if lengths is None else np.argsort(-lengths, kind="stable")
        written: list[str | None] = [None] * len(codes)
        attempts, sizes = np.zeros(len(codes), int), np.zeros(len(codes), int)
        progress = self.progress if progress is None else progress
        with progress_bar(len(codes), "Decoding molecules", progress) as bar:
            for start in range(0, len(codes), self.batch_size):
                rows = order[start : start + self.batch_size]
                options = {"top_k": how.top_k, "generator": self.random}
                options["max_length"] = how.max_length
                tokens = self._tokens(codes[rows], how.temperature, **options)
                sizes[rows] = (tokens != self.model.config.pad_token_id).sum(1).cpu()
                for row, smiles in zip(rows, self.molecules(tokens), strict=True):
                    written[row], attempts[row] = smiles, smiles is not None
                bar.update(len(rows))
        if how.candidates > 1:
            for row, smiles in nearest_molecules(self, codes, written, sizes, how, progress):
                written[row], attempts[row] = smiles, 1
        if self.canonicalize and how.attempts > 1:
            for row, attempt, smiles in self._redrawn(codes, attempts, sizes, how):
                written[row], attempts[row] = smiles, attempt
        return written, DecodingInfo(attempts)

    def _redrawn(
        self, codes: np.ndarray, attempts: np.ndarray, sizes: np.ndarray, how: Decoding
    ) -> Iterator[tuple[int, int, str]]:
        """Row, attempt and molecule of the rows that have none yet, as they are drawn."""
        base = (0,)
        if how.temperature > 0:  # else equal codes would give equal draws
            base = (1, int(torch.randint(2**62, (1,), generator=self.random)))
        left = np.flatnonzero(attempts == 0)
        left = left[np.argsort(-sizes[left], kind="stable")]
        done = 1
        while len(left) and done < how.attempts:
            times = 1
            if done >= len(REDRAWS):  # alike from here on
                times = min(max(1, _TOGETHER // len(left)), how.attempts - done)
            tries = [(row, done + n) for row in left.tolist() for n in range(1, times + 1)]
            found: dict[int, tuple[int, str]] = {}
            for start in range(0, len(tries), self.batch_size):
                part = tries[start : start + self.batch_size]
                for (row, attempt), smiles in zip(
                    part, self._draw(codes, sizes, part, base, how), strict=True
                ):
                    if smiles is not None:
                        found.setdefault(row, (attempt, smiles))
            yield from ((row, *result) for row, result in found.items())
            left = np.array([row for row in left.tolist() if row not in found], int)
            done += times

    def _draw(
        self,
        codes: np.ndarray,
        sizes: np.ndarray,
        tries: list[tuple[int, int]],
        base: tuple[int, ...],
        how: Decoding,
    ) -> list[str | None]:
        """Molecules of attempts (row, number), all of one line of `REDRAWS`."""
        rows = np.array([row for row, _ in tries])
        scale, temperature = REDRAWS[min(tries[0][1] - 2, len(REDRAWS) - 1)]
        longest = how.max_length or self.model.config.max_position_embeddings + 1
        limits = np.minimum(sizes[rows] + _ROOM, longest)
        uniform = np.empty((len(tries), limits.max()), np.float32)
        drawn: dict[tuple[int, ...], np.ndarray] = {}
        for place, (row, attempt) in enumerate(tries):
            key = (*base, attempt, row) if how.temperature > 0 else (*base, attempt)
            if key not in drawn or drawn[key].size < limits.max():
                drawn[key] = np.random.default_rng(key).random(limits.max(), np.float32)
            uniform[place] = drawn[key]
        tokens = self._tokens(
            codes[rows] * np.float32(scale),
            how.temperature or temperature,
            top_k=how.top_k,
            max_length=torch.from_numpy(limits),
            uniform=torch.from_numpy(uniform),
            rules=self._rules if tries[0][1] > _WITHOUT_RULES else None,
        )
        return self.molecules(tokens)

    def _tokens(self, codes: np.ndarray, temperature: float, **options: object) -> torch.Tensor:
        return decode_latents(
            self.model, torch.from_numpy(codes), temperature=temperature, **options
        )

    @cached_property
    def _rules(self) -> SmilesRules:
        from .valid_smiles import SmilesRules

        return SmilesRules(self.tokenizer, self.model.config.eos_token_id)

    def molecules(self, tokens: torch.Tensor) -> list[str | None]:
        """What tokens (rows, length) write; None where they do not end, or write no molecule."""
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        if not self.canonicalize:
            return texts
        from ..chemistry.smiles import canonicalize, parse

        ends = torch.as_tensor(self.model.config.eos_token_id, device=tokens.device).reshape(-1)
        ended = torch.isin(tokens, ends).any(dim=1).tolist()
        molecules: list[str | None] = []
        for text, complete in zip(texts, ended, strict=True):
            try:
                smiles = canonicalize(text) if complete else None
                if smiles is not None:
                    parse(smiles)  # RDKit writes a few fused rings that it cannot read again
            except ValueError:
                smiles = None
            molecules.append(smiles)
        return molecules
