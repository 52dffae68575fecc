# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    MarianConfig,
    MarianModel,
    T5Config,
    T5Model,
)

from cmim_hf import informative_embeddings
from cmim_hf.model.informative_embeddings_cmim import pool_hidden_states, shift_right


def small_t5():
    config = T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=1, dropout_rate=0.0,
    )  # fmt: skip
    return T5Model(config).eval()


def small_bart():
    config = BartConfig(
        vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0,
    )  # fmt: skip
    return BartModel(config).eval()


def small_marian():
    config = MarianConfig(
        vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0,
        decoder_start_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return MarianModel(config).eval()


def test_shift_right_starts_each_row_at_its_first_real_token():
    ids = torch.tensor([[5, 6, 7, 2, 0], [0, 0, 8, 9, 2]])
    mask = (ids != 0).long()
    expected = torch.tensor([[1, 5, 6, 7, 2], [1, 1, 1, 8, 9]])
    assert torch.equal(shift_right(ids, mask, 1), expected)


def test_poolings_take_real_tokens_only():
    states = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]], [[5.0, 5.0]] * 3])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.equal(pool_hidden_states(states, mask, "mean")[0], torch.tensor([2.0, -3.0]))
    assert torch.equal(pool_hidden_states(states, mask, "max")[0], torch.tensor([3.0, -2.0]))
    assert torch.equal(pool_hidden_states(states, mask, "last")[0], torch.tensor([3.0, -2.0]))
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert torch.equal(pool_hidden_states(states, left, "last")[0], torch.tensor([100.0, 100.0]))
    with pytest.raises(ValueError, match="mean, last, max"):
        pool_hidden_states(states, mask, "sum")


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_model_and_function_agree(model, batch, pooling):
    own = model.get_informative_embeddings(**batch, pooling=pooling)
    assert torch.equal(own, informative_embeddings(model, **batch, pooling=pooling))


def test_the_definition_word_by_word(model, tokenizer):
    ids = tokenizer("CCO", return_tensors="pt")["input_ids"]
    latents = model(ids, decode=False).latent_mean
    shifted = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), ids[:, :-1]], 1)
    states = model(latents=latents, decoder_input_ids=shifted).last_hidden_state
    embedding = model.get_informative_embeddings(ids)
    assert torch.allclose(embedding, states.mean(dim=1), atol=1e-6)


@pytest.mark.parametrize("make", [small_t5, small_bart, small_marian])
@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_any_encoder_decoder_gives_padding_independent_embeddings(
    make, pooling, tokenizer, molecules, batch
):
    torch.manual_seed(0)
    model = make()
    together = informative_embeddings(model, **batch, pooling=pooling)
    assert together.shape == (len(molecules), 32)
    for row, smiles in enumerate(molecules):
        alone = tokenizer([smiles], return_tensors="pt")
        one = informative_embeddings(model, **alone, pooling=pooling)[0]
        assert (together[row] - one).norm() <= 1e-5 * one.norm()
    assert (together[0] - together[1]).norm() > 1e-3 * together[0].norm()


def test_layers_are_chosen_by_index(batch):
    torch.manual_seed(0)
    model = small_t5()
    layers = [informative_embeddings(model, **batch, layer=layer) for layer in (0, 1, 2)]
    assert torch.equal(layers[2], informative_embeddings(model, **batch, layer=-1))
    assert not torch.allclose(layers[1], layers[2])
    with pytest.raises(ValueError, match="layer 3 does not exist: the decoder gives 3"):
        informative_embeddings(model, **batch, layer=3)


def test_other_models_are_refused(batch):
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    with pytest.raises(ValueError, match="BertModel is none"):
        informative_embeddings(BertModel(config), **batch)
    model = small_t5()
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        informative_embeddings(model, **batch)
