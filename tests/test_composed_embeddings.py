# SPDX-License-Identifier: Apache-2.0
"""Multi-atom tokens whose embedding is their own plus their atoms'."""

import pytest
import torch

from cmim_hf import CMIMConfig, CMIMModel
from cmim_hf.decoding_cmim import decode_latents
from cmim_hf.tokenization_cmim import token_pieces, train_tokenizer

SMILES = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1Cl", "CC[nH+]1cccc1"] * 5


@pytest.fixture(scope="module")
def chunked():
    return train_tokenizer(SMILES, merges=30)


@pytest.fixture(scope="module")
def model(chunked):
    torch.manual_seed(0)
    pieces = token_pieces(chunked)
    config = CMIMConfig.from_size(
        "tiny", vocab_size=len(chunked), initializer_range=0.2, max_token_pieces=pieces.shape[1]
    )
    model = CMIMModel(config).eval()
    model.embed_tokens.pieces.copy_(pieces)
    return model


def test_pieces_are_the_atoms_of_a_token(chunked, tokenizer):
    pieces = token_pieces(chunked)
    vocabulary = chunked.get_vocab()
    found = {}
    for token, id_ in vocabulary.items():
        atoms = [chunked.convert_ids_to_tokens(i) for i in pieces[id_].tolist() if i >= 0]
        if atoms:
            found[token] = atoms
            assert "".join(atoms) == token
    learned = len(chunked) - len(train_tokenizer(SMILES))
    assert len(found) == learned > 10 and pieces.shape[0] == len(chunked)
    assert found["c1ccccc1"] == list("c1ccccc1")
    assert not {"Cl", "[nH+]", "C", "<pad>", "</s>", "<unk>"} & set(found)
    assert token_pieces(tokenizer).shape == (len(tokenizer), 0)


def test_an_embedding_is_its_own_row_and_those_of_its_atoms(model, chunked):
    rows = model.embed_tokens.weight.detach()
    vocabulary = chunked.get_vocab()
    ring, carbon = vocabulary["c1ccccc1"], vocabulary["C"]
    found = model.embed_tokens(torch.tensor([[ring, carbon]]))[0]
    expected = rows[ring] + 6 * rows[vocabulary["c"]] + 2 * rows[vocabulary["1"]]
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)
    assert torch.equal(found[1], rows[carbon])


def test_gradients_reach_the_atoms(model, chunked):
    ring = chunked.get_vocab()["c1ccccc1"]
    model.embed_tokens(torch.tensor([ring])).sum().backward()
    gradient = model.embed_tokens.weight.grad[:, 0]
    assert gradient[ring] == 1 and gradient[chunked.get_vocab()["c"]] == 6
    assert gradient.count_nonzero() == 3
    model.zero_grad()


@torch.no_grad()
def test_reading_writing_and_saving_agree(model, chunked, tmp_path):
    batch = chunked(SMILES[:4], padding=True, return_tensors="pt")
    written = model.generate(**batch, max_length=40)
    fast = decode_latents(model, model.get_latents(**batch), max_length=40)
    assert torch.equal(fast, written[:, : fast.shape[1]])
    model.save_pretrained(tmp_path)
    loaded = CMIMModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.embed_tokens.pieces, model.embed_tokens.pieces)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    plain = CMIMModel(CMIMConfig.from_size("tiny", vocab_size=len(chunked))).eval()
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "pieces" not in name}
    )
    assert not torch.equal(plain.get_latents(**batch), model.get_latents(**batch))
    with pytest.raises(ValueError, match="the vocabulary cannot be changed"):
        model.resize_token_embeddings(len(chunked) + 1)
    fresh = CMIMModel(model.config)
    assert (fresh.embed_tokens.pieces == -1).all()
