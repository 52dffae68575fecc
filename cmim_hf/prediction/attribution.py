# SPDX-License-Identifier: Apache-2.0
"""Which atoms carry a prediction: how it changes where the model does not see one (occlusion).

An atom's contribution is the prediction less the one with the embeddings of the atom's tokens set
to 0, in encoder and decoder. Where a token writes several atoms, its change is shared among them.
Contributions need not add up to the prediction.

Atoms that a symmetry of the molecule exchanges (RDKit's ranks without broken ties) get the mean of
theirs. The model reads a text, which names one of them first, so that hiding one and hiding the
other change it differently (glycerol's two ends even in opposite directions); which of them comes
first is an accident of the writing, and no property of the molecule.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..chemistry.smiles import symmetry_classes
from .members import Members

_ATOM = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")
_ROWS = 256  # hidden atoms that are computed at once


class AtomContributions(NamedTuple):
    """Of one molecule.

    Attributes:
        smiles: As the model reads it; its atoms are in the order in which they are written there.
        values: (targets, atoms), or (classes, atoms) of one target with several classes: of a
            number in its unit, else of a probability. Equal for atoms that symmetry exchanges.
    """

    smiles: str
    values: np.ndarray


def atom_contributions(
    members: Members, tokenizer: PreTrainedTokenizerBase, smiles: str
) -> AtomContributions:
    """Contributions of the atoms of a SMILES that is canonical already."""
    encoding = tokenizer(smiles, return_offsets_mapping=True)
    atoms = [found.span() for found in _ATOM.finditer(smiles)]
    hidden = np.array(
        [
            [
                begin < end_of_atom and end > begin_of_atom
                for begin, end in encoding["offset_mapping"]
            ]
            for begin_of_atom, end_of_atom in atoms
        ]
    )
    ids = torch.tensor([encoding["input_ids"]])
    whole = members.without(ids, torch.zeros_like(ids, dtype=torch.bool))
    parts = [
        members.without(ids, torch.from_numpy(hidden[start : start + _ROWS]))
        for start in range(0, len(atoms), _ROWS)
    ]
    sharing = (hidden.astype(int) @ hidden.T > 0).sum(axis=1)  # atoms that the tokens write
    changes = (whole - np.concatenate(parts)) / sharing[:, None]
    classes = np.array(symmetry_classes(smiles))
    means = [changes[classes == own].mean(axis=0) for own in classes]
    return AtomContributions(smiles, np.stack(means, axis=1))
