# SPDX-License-Identifier: Apache-2.0
"""Molecules brought to one form: without their salt and their charge."""

from rdkit import Chem

from ..model.parent_molecule_cmim import parent
from .smiles import SmilesError, read_by, write


def standardized(molecule: Chem.Mol) -> Chem.Mol:
    """Return the parent of one of RDKit's molecules: its largest fragment, neutral.

    [`~cmim_hf.model.parent_molecule_cmim.parent`] says what RDKit is asked. The molecule given is
    left as it is; the parent of a parent is itself (but for carbanions beside other charges, which
    RDKit may move again). Nothing reaches the standard error stream.

    Raises:
        SmilesError: It has no parent, or too many charges to find it.

    >>> write(standardized(Chem.MolFromSmiles("[Na+].CC(=O)[O-]")))
    'CC(=O)O'
    """
    try:
        return read_by(parent, molecule)[0]
    except ValueError as error:
        raise SmilesError(write(molecule), f"cannot be standardised: {error}") from error
