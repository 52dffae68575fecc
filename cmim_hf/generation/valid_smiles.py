# SPDX-License-Identifier: Apache-2.0
"""Decoding that ends in a molecule: a token that no molecule can hold at its place is not chosen.

Rings and branches close before the end, bonds lie between atoms, and no atom has more of them than
its valence. Whether aromatic rings can be written with alternating bonds shows late and is left to
drawing again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from ..chemistry.smiles import atom_valence
from ..model.tokenization_cmim import CMIMTokenizer

_UNIT = re.compile(r"\[[^\[\]]*\]|%\d\d|Br|Cl|.")
_ATOM = re.compile(r"\[.+\]|Br|Cl|[BCNOPSFIbcnops*]")
_ORDERS = {"-": 1, "=": 2, "#": 3, "$": 4, ":": 1, "/": 1, "\\": 1, "~": 1}
_MOST_REFUSALS = 4
"""Of one row at one place; then the row is let go, to fail."""


@dataclass
class _Beginning:
    """What has been written of a SMILES, as far as the rules ask for it.

    Attributes:
        free: Of each atom, the bonds that it may still have.
        room: Of each atom, the neighbours that it may still have.
        bonds: Pairs of atoms.
        rings: Open rings: their atom, and the order of their bond if it was given.
        branches: Atoms to which open branches lead back.
        here: The atom that the next one is bound to; -1 at the start and behind a dot.
        order: Of the bond just written; 0 if none was.
        opened: A branch has just been opened.
        part: Of a bracket atom or a ring's number that no token holds whole, what has been written.
    """

    free: list[int] = field(default_factory=list)
    room: list[int] = field(default_factory=list)
    bonds: set[tuple[int, int]] = field(default_factory=set)
    rings: dict[str, tuple[int, int]] = field(default_factory=dict)
    branches: list[int] = field(default_factory=list)
    here: int = -1
    order: int = 0
    opened: bool = False
    part: str = ""

    def copy(self) -> _Beginning:
        """One that can be written on without changing this one."""
        return replace(
            self,
            free=self.free.copy(),
            room=self.room.copy(),
            bonds=self.bonds.copy(),
            rings=self.rings.copy(),
            branches=self.branches.copy(),
        )

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self.here >= 0 and not (self.rings or self.branches or self.order or self.part)

    def write(self, unit: str) -> bool:
        """Add an atom, a bond, a ring's number or a bracket; whether it may stand here.

        What may not stand leaves this damaged.
        """
        if self.part or unit in "[%":
            self.part += unit
            if self.part[0] == "[":
                if unit in "%()." or len(self.part) > 1 and unit == "[":
                    return False
                return unit != "]" or self._finish()
            return len(self.part) < 2 or unit.isdigit() and (len(self.part) < 3 or self._finish())
        if unit.isdigit() or unit[0] == "%":
            return self._ring(unit)
        if unit in _ORDERS:
            good = self.here >= 0 and not self.order and self.free[self.here] >= _ORDERS[unit]
            self.order = _ORDERS[unit]
            return good
        if unit == "(":
            good = self.here >= 0 and not (self.order or self.opened) and self.free[self.here] > 0
            self.branches.append(self.here)
            self.opened = True
            return good
        if unit in ")." and (self.order or self.opened or self.here < 0):
            return False
        if unit == ")":
            self.here = self.branches.pop() if self.branches else -1
            return self.here >= 0
        if unit == ".":
            self.here = -1
            return True
        return _ATOM.fullmatch(unit) is not None and self._atom(unit)

    def _finish(self) -> bool:
        unit, self.part = self.part, ""
        return self.write(unit)

    def _atom(self, unit: str) -> bool:
        valence = atom_valence(unit)
        if valence is None:
            return False
        self.free.append(valence[0])
        self.room.append(valence[1])
        here, self.here = self.here, len(self.free) - 1
        self.opened = False
        return here < 0 or self._bind(here, self.here, self._take_order() or 1)

    def _ring(self, label: str) -> bool:
        if self.here < 0 or self.opened:
            return False
        order = self._take_order()
        if label not in self.rings:
            self.rings[label] = self.here, order
            self.free[self.here] -= order or 1
            self.room[self.here] -= 1
            return self.free[self.here] >= 0 and self.room[self.here] >= 0
        other, before = self.rings.pop(label)
        self.free[other] += before or 1
        self.room[other] += 1
        return self._bind(other, self.here, max(order, before, 1))

    def _bind(self, first: int, second: int, order: int) -> bool:
        pair = (min(first, second), max(first, second))
        good = first != second and pair not in self.bonds
        self.bonds.add(pair)
        for atom in pair:
            self.free[atom] -= order
            self.room[atom] -= 1
            good &= self.free[atom] >= 0 and self.room[atom] >= 0
        return good

    def _take_order(self) -> int:
        order, self.order = self.order, 0
        return order


class SmilesRules:
    """Which token may come next in texts that are written side by side.

        >>> from cmim_hf import MoleculeGenerator
        >>> generator = MoleculeGenerator(progress=False)
        >>> rules = SmilesRules(generator.tokenizer, generator.model.config.eos_token_id)
        >>> rules.start(1)
        >>> row = torch.tensor([0])
        >>> for one in generator.tokenizer("C1CC(F")["input_ids"][:-1]:
        ...     assert not len(rules.refused(row, torch.tensor([one])))
        ...     rules.advance(row, torch.tensor([one]))
        >>> tokens = generator.tokenizer.convert_tokens_to_ids(["C", ")", "1", "</s>"])
        >>> [len(rules.refused(row, torch.tensor([one]))) for one in tokens]
        [1, 0, 1, 1]

    Args:
        tokenizer: Of the model whose tokens these are.
        ends: Id or ids of the end token.
    """

    def __init__(self, tokenizer: CMIMTokenizer, ends: int | list[int]) -> None:
        """Look the tokens up."""
        self._ends = {ends} if isinstance(ends, int) else set(ends)
        self._texts = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._special = set(tokenizer.all_special_ids)

    @cached_property
    def _units(self) -> list[list[str]]:
        return [_UNIT.findall(text) for text in self._texts]

    def start(self, rows: int) -> None:
        """Begin so many rows."""
        self._rows: list[_Beginning | None] = [_Beginning() for _ in range(rows)]
        self._next: dict[int, _Beginning | None] = {}
        self._refusals = [0] * rows

    def refused(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Places in `rows` (n,) whose token (n,) may not come next."""
        wrong = []
        for place, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
            self._next[row] = self._after(self._rows[row], token)
            if self._next[row] is None and self._rows[row] is not None:
                self._refusals[row] += 1
                if self._refusals[row] <= _MOST_REFUSALS:
                    wrong.append(place)
        return torch.tensor(wrong, dtype=torch.long, device=rows.device)

    def advance(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Write the token (n,) that was asked for last in each of the rows (n,)."""
        for row in rows.tolist():
            self._rows[row] = self._next.pop(row)
            self._refusals[row] = 0

    def _after(self, beginning: _Beginning | None, token: int) -> _Beginning | None:
        if beginning is None or token in self._ends:
            return beginning if beginning and beginning.complete else None
        if token in self._special:
            return None
        after = beginning.copy()
        text = self._texts[token]
        units = text if after.part else self._units[token]
        return after if all(map(after.write, units)) else None
