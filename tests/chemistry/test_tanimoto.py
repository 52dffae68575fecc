# SPDX-License-Identifier: Apache-2.0
"""Products of matrices give RDKit's numbers, to the last bit."""

import numpy as np

from cmim_hf.chemistry import moses
from cmim_hf.chemistry.smiles import fingerprints, parse, similarities
from cmim_hf.chemistry.tanimoto import tanimoto

SMILES = ["CCO", "CCN", "CCCO", "c1ccccc1O", "c1ccccc1N", "CC(=O)O", "CCOCC"]


def test_similarities_are_those_of_rdkit():
    prints = fingerprints(SMILES)
    expected = np.array([similarities(one, SMILES) for one in SMILES])
    assert (tanimoto(prints, prints) == expected).all()
    assert tanimoto(np.zeros((1, 8)), np.zeros((1, 8))).tolist() == [[0.0]]


def test_similarities_for_moses_do_not_depend_on_the_blocks(monkeypatch):
    molecules = [parse(one) for one in SMILES]
    whole = np.array(list(moses.similarities(molecules)))
    monkeypatch.setattr(moses, "_TOGETHER", 2)
    assert (np.array(list(moses.similarities(molecules))) == whole).all()
    nearest = moses.nearest_similarities(molecules, molecules[3:])
    assert nearest.tolist() == whole[:, 3:].max(axis=1).tolist()
