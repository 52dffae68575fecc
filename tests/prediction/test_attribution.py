# SPDX-License-Identifier: Apache-2.0
"""Which atoms carry a prediction."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from cmim_hf import MoleculeEmbedder, default_tokenizer, list_checkpoints, train_tokenizer
from cmim_hf.chemistry.drawing import draw_grid
from cmim_hf.prediction.attribution import atom_contributions
from cmim_hf.prediction.frozen_heads import fit_head
from cmim_hf.prediction.members import Heads

TINY = list_checkpoints()["tiny"]


class Counting:
    """Predicts the number of tokens that are not hidden, and twice that."""

    def without(self, ids, hidden):
        seen = (~hidden).sum(dim=1).numpy()[:, None]
        return np.concatenate([seen, 2 * seen], axis=1)


@pytest.mark.parametrize(
    "smiles", ["CCO", "C[C@H](N)C(=O)O", "Clc1ccc(Br)cc1[N+](=O)[O-]", "[2H]C#N", "*CC%10CCCC%10"]
)
def test_every_atom_is_hidden_with_its_tokens(smiles):
    text, values = atom_contributions(Counting(), default_tokenizer(), smiles)
    assert text == smiles and values.shape == (2, Chem.MolFromSmiles(smiles).GetNumAtoms())
    assert (values[0] >= 1).all() and values[1].tolist() == (2 * values[0]).tolist()
    plain = [
        atom.GetSymbol() in "CNO*" and "[" not in smiles
        for atom in Chem.MolFromSmiles(smiles).GetAtoms()
    ]
    assert (values[0][plain] == 1).all()  # one token each


def test_atoms_of_one_token_share_its_change():
    tokenizer = train_tokenizer(["CCCCCCO", "CCCCCCN"] * 20, merges=3, max_length=64)
    ids = tokenizer("CCCCCCO")["input_ids"]
    assert len(ids) < 8
    values = atom_contributions(Counting(), tokenizer, "CCCCCCO").values[0]
    assert values.sum() == pytest.approx(len(ids) - 1) and values.min() < 1  # without the end


class Placing:
    """Predicts the sum of the places of the tokens that are seen: no two atoms are alike to it."""

    def without(self, ids, hidden):
        return ((~hidden) * torch.arange(ids.shape[1]) ** 2).sum(dim=1, keepdim=True).numpy()


def test_atoms_that_symmetry_exchanges_get_the_mean_of_their_changes():
    values = atom_contributions(Placing(), default_tokenizer(), "OCC(O)CO").values[0]
    ends, middles = (0, 5), (1, 4)  # glycerol, whose tokens stand at 0, 1, 2, 4, 6 and 7
    for pair, places in ((ends, (0, 7)), (middles, (1, 6))):
        mean = np.mean([place**2 for place in places])
        assert values[pair[0]] == values[pair[1]] == mean
    assert values[[2, 3]].tolist() == [4, 16]
    different = atom_contributions(Placing(), default_tokenizer(), "OCC(O)CN").values[0]
    assert len(set(different)) == 6


@pytest.mark.parametrize("representation", ["both", "latent", "informative"])
def test_a_head_sees_the_embedders_vectors_where_nothing_is_hidden(representation, sample):
    embedder = MoleculeEmbedder(TINY, representation=representation, progress=False)
    encoded = embedder.encoder()(sample[:60])
    vectors = embedder.embed_encoded(encoded)
    lengths = encoded.lengths.astype(float)
    rows = [(vectors[part], lengths[part]) for part in (slice(0, 40), slice(40, 60))]
    heads = Heads(embedder, [fit_head("ridge", *rows)], "regression", 0)
    ids = torch.from_numpy(encoded.tokens[: encoded.lengths[0]].astype(np.int64))[None]
    hidden = torch.zeros(2, ids.shape[1], dtype=torch.bool)
    hidden[1, 0] = True
    whole, without = heads.without(ids, hidden)
    assert whole == pytest.approx(heads(encoded).values[0], abs=1e-3)
    assert abs(without - whole) > 1e-3


def test_weights_colour_atoms_and_are_counted():
    plain = draw_grid(["CCO", None], image_format="svg")
    drawn = draw_grid(["CCO", None], weights=[[0.5, 0.0, -0.5], None], image_format="svg")
    assert "#FF0000" in drawn and "#0000FF" in drawn and "#0000FF" not in plain
    with pytest.raises(ValueError, match=r"weights of \[2\] atoms for molecules of \[3\]"):
        draw_grid(["CCO"], weights=[[1, 2]])
