# SPDX-License-Identifier: Apache-2.0
"""Decoding that ends in a molecule: what no SMILES can hold is not chosen, token by token.

x ~ p(x | z) given validity is drawn in two ways together. Rings and branches are held open or
closed by [`SmilesRules`], which strikes out the tokens that would break them; aromaticity and
valence, which no token shows by itself, are left to drawing again.
"""

from __future__ import annotations

import re

import torch

from ..model.tokenization_cmim import CMIMTokenizer

_UNIT = re.compile(r"\[[^\[\]]*\]|%\d\d|Br|Cl|.")
_ATOMS = frozenset("BCNOPSFIbcnops*") | {"Br", "Cl"}
_HALOGENS = frozenset({"F", "Cl", "Br", "I"})
_BONDS = frozenset("-=#$:/\\~")
_STATES = (
    "start", "atom", "halogen", "bond", "opened", "closed", "dot", "bracket", "percent", "digit",
)  # fmt: skip
_BEHIND = {  # what may stand behind what
    "atom": {"start", "atom", "bond", "opened", "closed", "dot"},
    "bond": {"atom", "opened", "closed"},
    "(": {"atom", "closed"},
    ")": {"atom", "halogen", "closed"},
    "ring": {"atom", "bond"},
    ".": {"atom", "halogen", "closed"},
}
_COMPLETE = ("atom", "halogen", "closed")


class SmilesRules:
    """What the next token of a SMILES may be, for many rows at once.

    Of each row it keeps the last thing written (an atom, a bond, …), the number of open branches
    and the set of open rings. A token's effect on these is known beforehand, so that a step is a
    few lookups for all rows together. A row may end where every ring and branch is closed.

        >>> from cmim_hf import MoleculeGenerator
        >>> generator = MoleculeGenerator(progress=False)
        >>> rules = SmilesRules(generator.tokenizer, generator.model.config.eos_token_id)
        >>> ids = generator.tokenizer("C1CC(")["input_ids"][:-1]
        >>> rules.start(1)
        >>> for one in ids:
        ...     rules.advance(torch.tensor([0]), torch.tensor([one]))
        >>> tokens = torch.tensor(generator.tokenizer.convert_tokens_to_ids(["C", ")", "</s>"]))
        >>> rules.allowed(torch.tensor([0]))[0, tokens].tolist()
        [True, False, False]

    Args:
        tokenizer: Of the model whose tokens these are.
        ends: Id or ids of the end token.
        device: Where the rows are decoded.
    """

    def __init__(
        self,
        tokenizer: CMIMTokenizer,
        ends: int | list[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Work out what each token does."""
        ends = [ends] if isinstance(ends, int) else list(ends)
        special = set(tokenizer.all_special_ids)
        size, states = len(tokenizer), range(len(_STATES))
        effects = [
            [(-1, 0, 0, 0)] * len(_STATES)
            if token in special
            else [_effect(text, state) for state in states]
            for token, text in enumerate(tokenizer.convert_ids_to_tokens(range(size)))
        ]
        tables = torch.tensor(effects).permute(2, 1, 0).contiguous().to(device)
        self._after, self._net, self._least, self._rings = tables  # each (states, vocabulary)
        self._ends = torch.zeros(size, dtype=torch.bool, device=device)
        self._ends[ends] = True
        self._complete = torch.tensor([state in _COMPLETE for state in _STATES], device=device)

    def start(self, rows: int) -> None:
        """Begin so many rows."""
        self._state = torch.zeros(rows, dtype=torch.long, device=self._ends.device)
        self._depth = torch.zeros_like(self._state)
        self._open = torch.zeros_like(self._state)

    def refused(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Places in `rows` (n,) whose token (n,) may not come next."""
        state = self._state[rows]
        good = self._after[state, tokens] >= 0
        good &= self._depth[rows] + self._least[state, tokens] >= 0
        good |= self._ends[tokens] & self._may_end(rows)
        return (~good).nonzero().squeeze(1)

    def allowed(self, rows: torch.Tensor) -> torch.Tensor:
        """The tokens that may come next in rows (n,): (n, vocabulary), true or false."""
        state = self._state[rows]
        good = (self._after[state] >= 0) & (self._depth[rows, None] + self._least[state] >= 0)
        return good | (self._ends & self._may_end(rows)[:, None])

    def advance(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Write a token (n,) in each of the rows (n,)."""
        state = self._state[rows]
        self._depth[rows] += self._net[state, tokens]
        self._open[rows] ^= self._rings[state, tokens]
        self._state[rows] = self._after[state, tokens].clamp(min=0)

    def _may_end(self, rows: torch.Tensor) -> torch.Tensor:
        return (
            self._complete[self._state[rows]] & (self._depth[rows] == 0) & (self._open[rows] == 0)
        )


def _effect(token: str, state: int) -> tuple[int, int, int, int]:
    """What a token does behind `state`.

    Returns:
        The state after it (-1 if it may not stand there), branches opened less closed, the least of
        these on the way, and the rings opened or closed as bits.
    """
    here, depth, least, rings = _STATES[state], 0, 0, 0
    for unit in list(token) if here in ("bracket", "percent", "digit") else _UNIT.findall(token):
        kind = _kind(unit)
        if here == "bracket":
            if unit in "[().%":
                return -1, 0, 0, 0
            here = "atom" if unit == "]" else here
        elif here in ("percent", "digit"):  # of a ring number that no token holds whole
            if not unit.isdigit():
                return -1, 0, 0, 0
            here = "digit" if here == "percent" else "atom"
        elif here not in _BEHIND.get(kind, ()):
            return -1, 0, 0, 0
        elif kind == "(":
            here, depth = "opened", depth + 1
        elif kind == ")":
            here, depth = "closed", depth - 1
        elif kind == "ring":
            here = "percent" if unit == "%" else "atom"
            rings ^= 0 if unit == "%" else 1 << int(unit.lstrip("%"))
        elif unit == "[":
            here = "bracket"
        elif unit in _HALOGENS and here not in ("start", "dot"):
            here = "halogen"
        else:
            here = {".": "dot"}.get(kind, kind)
        least = min(least, depth)
    return _STATES.index(here), depth, least, rings


def _kind(unit: str) -> str:
    if unit in "().":
        return unit
    if unit in _BONDS:
        return "bond"
    if unit.isdigit() or unit[0] == "%" and (len(unit) == 1 or int(unit[1:]) < 63):
        return "ring"
    return "atom" if unit in _ATOMS or unit[0] == "[" else "none"
