# SPDX-License-Identifier: Apache-2.0
"""What molecules share that a table is divided by: the scaffold."""

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from .moses import smiles_without_stereo
from .smiles import parse


def murcko_scaffold(smiles: str) -> str:
    """SMILES of a molecule's Bemis-Murcko scaffold, its own where it has no ring; without stereo.

    Bemis and Murcko, J. Med. Chem. 1996, 39, 2887: the rings and what links them, with the atoms
    double-bonded to either; elements and bonds stay as they are. Takes and raises what
    `smiles.parse` does.

    >>> murcko_scaffold("CCOC(=O)c1ccc(Cc2ccncc2)cc1")
    'c1ccc(Cc2ccncc2)cc1'
    >>> murcko_scaffold("OCC")
    'CCO'
    """
    molecule = parse(smiles)
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
    return Chem.MolToSmiles(scaffold, isomericSmiles=False) or smiles_without_stereo(molecule)
