# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of fine-tuned checkpoints: it reads molecules, however they are written.

Saved beside fine-tuned weights, so that what predicts does as what trained did, whoever asks:
`pipeline("text-classification")`, `evaluate`, or a loop of the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerFast

from .parent_molecule_cmim import parent
from .smiles_text_cmim import refusal, text_problem, without_extension

_MOST_CHARACTERS = 10_000  # RDKit's time grows with the square of the length


class CMIMMoleculeTokenizer(PreTrainedTokenizerFast):
    """Writes molecules as RDKit does, or their parents, before it cuts them into tokens.

    A call takes one SMILES or a list of them, and the keywords of any tokenizer of transformers.
    `encode` and `backend_tokenizer` take texts as they are, for who has canonical ones.

    Args:
        standardize: `"none"` or `"parent"`, what is done to molecules first; saved with it.

    Raises:
        ImportError: RDKit is not there.
        ValueError: A text that is no molecule, named; two texts in place of one.

    Examples:
        >>> from cmim_hf import DEFAULT_CHECKPOINT
        >>> from cmim_hf.model.molecule_tokenizer_cmim import CMIMMoleculeTokenizer
        >>> read = CMIMMoleculeTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
        >>> read("OCC")["input_ids"] == read("CCO")["input_ids"]
        True
    """

    @property
    def standardize(self) -> str:
        """What is done to molecules first."""
        return self.init_kwargs.get("standardize", "none")

    def __call__(self, text: str | list[str], text_pair: None = None, **kwargs: Any) -> Any:
        """Token ids and mask, as of any tokenizer; see the class."""
        if text_pair is not None:
            raise ValueError("A prediction is of one molecule, got a pair of texts.")
        many = not isinstance(text, str) and isinstance(text, Iterable)
        written = list(map(self._written, text)) if many else self._written(text)
        return super().__call__(written, **kwargs)

    def _written(self, text: Any) -> str:
        given, text = text, without_extension(text)
        problem = text_problem(text)
        reason = problem and problem[1]
        if not reason:
            text, reason = canonical_smiles(text, self.standardize)
        if reason:
            raise refusal(given, "read", reason)
        return text

    @classmethod
    def save_in_place_of(cls, folder: str | os.PathLike, standardize: str) -> Self:
        """Make the plain tokenizer that is saved in `folder` one that reads molecules."""
        tokenizer = cls.from_pretrained(Path(folder), standardize=standardize)
        tokenizer.save_pretrained(folder)
        return tokenizer


def canonical_smiles(text: str, standardize: str) -> tuple[str, str | None]:
    """RDKit's SMILES of a molecule, or of its parent; and the reason where there is none."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ImportError(
            "Predictions need RDKit, which writes molecules as the model knows them: pip install "
            "rdkit"
        ) from error
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text) if len(text) <= _MOST_CHARACTERS else None
        if molecule is None:
            return text, "RDKit cannot read it, it is no molecule"
        try:
            molecule = parent(molecule) if standardize == "parent" else molecule
        except ValueError as error:
            return text, f"it cannot be standardised: {error}"
    return Chem.MolToSmiles(molecule), None


CMIMMoleculeTokenizer.register_for_auto_class("AutoTokenizer")
