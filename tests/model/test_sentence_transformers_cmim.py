# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a `SentenceTransformer`: encoding, saving, training."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, pipeline

from cmim_hf import DEFAULT_CHECKPOINT, CMIMConfig, CMIMModel, MoleculeEmbedder

pytest.importorskip("sentence_transformers")
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, util
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize

from cmim_hf.model.sentence_transformers_cmim import CMIMSentenceEmbedding

TOO_LONG = "C" * 5000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The shipped weights as a user saves them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    CMIMModel.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sentences(checkpoint):
    return open_folder(checkpoint)


@pytest.fixture(scope="module")
def expected(molecules):
    """(molecules, 192), by the package's own embedder."""
    embedder = MoleculeEmbedder(DEFAULT_CHECKPOINT, device="cpu", canonicalize=False)
    return embedder.embed(molecules)


def open_folder(folder, **kwargs):
    return SentenceTransformer(
        str(folder), device="cpu", trust_remote_code=True, local_files_only=True, **kwargs
    )


def largest_difference(rows, expected):
    assert rows.shape == expected.shape
    norms = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(rows - expected, axis=1) / norms).max()


def test_encodes_as_the_embedder_in_any_batch(sentences, molecules, expected):
    for batch_size in (1, 3, 32):
        rows = sentences.encode(molecules, batch_size=batch_size)
        assert rows.dtype == np.float32
        assert largest_difference(rows, expected) < 1e-5, batch_size
    single = sentences.encode(molecules[0])
    assert single.shape == (192,)
    assert largest_difference(single[None], expected[:1]) < 1e-5


def test_says_its_size_and_limit(sentences):
    assert sentences.get_embedding_dimension() == 192
    assert sentences.max_seq_length == 512
    with pytest.raises(ValueError, match="cannot be 256: molecules are never cut"):
        sentences.max_seq_length = 256


def test_similarity_and_search_find_the_molecule_itself(sentences, molecules, expected):
    rows = sentences.encode(molecules, convert_to_tensor=True)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(sentences.similarity(rows, rows).numpy(), unit @ unit.T, atol=1e-5)
    hits = util.semantic_search(rows, rows, top_k=1)
    assert [hit[0]["corpus_id"] for hit in hits] == list(range(len(molecules)))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"representation": "latent", "pooling": "mean"}, 192),
        ({"representation": "both", "pooling": "max"}, 384),
        ({"representation": "informative", "pooling": "last"}, 192),
    ],
)
def test_the_choice_of_representation_is_saved(
    sentences, checkpoint, molecules, tmp_path, settings, size
):
    model, tokenizer = sentences[0].model, sentences[0].tokenizer
    CMIMSentenceEmbedding(model, tokenizer, **settings).save(str(tmp_path))
    assert json.loads((tmp_path / "sentence_cmim.json").read_text()) == settings
    again = open_folder(tmp_path)
    assert again.get_embedding_dimension() == size
    expected = MoleculeEmbedder(checkpoint, device="cpu", canonicalize=False, **settings)
    assert largest_difference(again.encode(molecules), expected.embed(molecules)) < 1e-5


def test_unknown_choices_are_refused(sentences, checkpoint):
    model, tokenizer = sentences[0].model, sentences[0].tokenizer
    with pytest.raises(ValueError, match="Unknown pooling 'cls'; choose one of mean, last, max"):
        CMIMSentenceEmbedding(model, tokenizer, pooling="cls")
    with pytest.raises(ValueError, match="Unknown representation 'mean'.*informative, latent"):
        CMIMSentenceEmbedding(model, tokenizer, representation="mean")
    with pytest.raises(ValueError, match="'torch' and 'onnx', not on 'openvino'"):
        open_folder(checkpoint, backend="openvino")


def test_loading_passes_arguments_on(checkpoint, molecules, expected):
    half = open_folder(
        checkpoint,
        model_kwargs={"dtype": torch.bfloat16, "attn_implementation": "eager"},
        processor_kwargs={"padding_side": "left"},
        config_kwargs={"max_position_embeddings": 64},
    )
    model = half[0].model
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")
    assert (half.tokenizer.padding_side, half.max_seq_length) == ("left", 64)
    rows = half.encode(molecules, convert_to_tensor=True)
    assert rows.dtype == torch.float32
    assert 0 < largest_difference(rows.numpy(), expected) < 0.05


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "NoneType is no string"),
        (("CCO", "CC"), "tuple is no string"),
        ("", "is empty"),
        ("C C", "' ' at position 2"),
        (TOO_LONG, r"CC\.\.\. cannot be embedded: it has \d+ tokens, the model reads at most 512"),
    ],
)
def test_a_bad_text_is_named(sentences, text, reason):
    single = [] if isinstance(text, tuple) else [text]  # a tuple is a list of texts to `encode`
    for inputs in (*single, [text], ["CCO", text]):
        with pytest.raises(ValueError, match=reason + r".*\. Fix or remove it\."):
            sentences.encode(inputs)


def test_nothing_gives_no_rows(sentences):
    assert len(sentences.encode([])) == 0


def test_a_prompt_is_refused(sentences, molecules, expected):
    with pytest.raises(ValueError, match="no prompt, got 'molecule: '"):
        sentences.encode(molecules, prompt="molecule: ")
    assert largest_difference(sentences.encode_query(molecules), expected) < 1e-5


def test_without_trust_sentence_transformers_refuses(checkpoint):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(checkpoint, device="cpu", local_files_only=True)


def test_the_card_it_writes_shows_molecules(checkpoint, tmp_path, caplog):
    open_folder(checkpoint).save_pretrained(str(tmp_path))
    assert not [record for record in caplog.records if "cannot be embedded" in record.message]
    card = (tmp_path / "README.md").read_text()
    assert "'CCO'" in card and "weather" not in card


def test_saved_again_it_opens_in_every_way(sentences, molecules, expected, tmp_path):
    sentences.save_pretrained(str(tmp_path))
    assert np.array_equal(open_folder(tmp_path).encode(molecules), sentences.encode(molecules))
    model = CMIMModel.from_pretrained(tmp_path).eval()
    batch = sentences.tokenizer(molecules, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model.get_representation(batch["input_ids"], batch["attention_mask"])
    assert largest_difference(rows.numpy(), expected) < 1e-5
    pipe = pipeline("molecule-embedding", model=str(tmp_path), device="cpu")
    assert largest_difference(np.stack(pipe(molecules)), expected) < 1e-5


@pytest.mark.parametrize("representation", ["informative", "latent", "both"])
def test_in_training_the_vectors_carry_gradient_and_no_noise(
    make_model, tokenizer, molecules, representation
):
    module = CMIMSentenceEmbedding(make_model(), tokenizer, representation=representation)
    features = module.preprocess(molecules)
    with torch.no_grad():
        expected = module.eval()(dict(features))["sentence_embedding"]
    vectors = module.train()(dict(features))["sentence_embedding"]
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-5)
    vectors.square().sum().backward()
    without = {n for n, p in module.model.named_parameters() if p.grad is None}
    decoder_only = {n for n in without if n.startswith("decoder.")}
    noise = {n for n in without if n.startswith("posterior.log_std")}
    assert without == decoder_only | noise
    assert bool(decoder_only) == (representation == "latent")


def test_training_lowers_the_loss_and_is_saved(checkpoint, molecules, tmp_path):
    sentences = open_folder(checkpoint)
    other_writings = ["OCC", "Oc1ccccc1", "OC(=O)c1ccccc1OC(C)=O", "[O-]C(=O)[C@H](C)[NH3+]"]
    pairs = Dataset.from_dict({"anchor": molecules[:4], "positive": other_writings})
    loss = MultipleNegativesRankingLoss(sentences)
    before = {name: p.detach().clone() for name, p in sentences.named_parameters()}
    trainer = SentenceTransformerTrainer(
        model=sentences,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=6,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=0,
        ),
        train_dataset=pairs,
        loss=loss,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0], losses
    changed = {n for n, p in sentences.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in before if n.startswith("0.model.encoder.layers")} <= changed
    assert {n for n in before if n.startswith("0.model.decoder.layers")} <= changed

    sentences.save_pretrained(str(tmp_path / "trained"))
    rows = sentences.encode(molecules)
    assert np.array_equal(open_folder(tmp_path / "trained").encode(molecules), rows)
    untrained = open_folder(checkpoint).encode(molecules)
    assert largest_difference(rows, untrained) > 0.01


def test_saving_the_model_keeps_the_modules_that_were_added(tmp_path):
    first = SentenceTransformer(DEFAULT_CHECKPOINT, trust_remote_code=True)
    normalised = SentenceTransformer(modules=[first[0], Normalize()])
    normalised.save(str(tmp_path))
    before = (tmp_path / "modules.json").read_text()
    CMIMModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "modules.json").read_text() == before and "Normalize" in before


def test_a_module_given_directly_is_saved_and_pickled(checkpoint, tmp_path):
    module = CMIMSentenceEmbedding.load(checkpoint)
    sentences = SentenceTransformer(modules=[module], device="cpu")
    sentences.save(str(tmp_path / "saved"))
    found = open_folder(tmp_path / "saved").encode("CCO")
    assert np.allclose(found, sentences.encode("CCO"), atol=1e-4)
    again = pickle.loads(pickle.dumps(module))
    assert type(again) is CMIMSentenceEmbedding and again.pooling == module.pooling


def test_a_model_under_adapters_keeps_its_precisions(tokenizer, tmp_path):
    config = CMIMConfig.from_size("tiny", vocab_size=len(tokenizer), num_properties=2)
    model = CMIMModel(config)
    model.property_head.quantiles.fill_(1e6)  # beyond half precision
    model.save_pretrained(tmp_path / "whole")
    half = CMIMModel.from_pretrained(tmp_path / "whole", dtype=torch.float16)
    half.add_adapter(LoraConfig(target_modules=["qkv_proj", "up_proj"]))
    CMIMSentenceEmbedding(half, tokenizer).save(str(tmp_path / "adapted"))
    saved = load_file(tmp_path / "adapted" / "model.safetensors")
    assert saved["embed_tokens.weight"].dtype == torch.float16
    assert (saved["property_head.quantiles"] == 1e6).all()


def test_adapters_are_saved_beside_their_model(checkpoint, tmp_path):
    sentences = open_folder(checkpoint)
    before = sentences.encode("CCO")
    sentences.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", target_modules="all-linear"))
    for name, parameter in sentences.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = sentences.encode("CCO")
    assert np.abs(expected - before).max() > 0.01
    sentences.save_pretrained(str(tmp_path / "adapted"))
    found = open_folder(tmp_path / "adapted").encode("CCO")
    assert np.allclose(found, expected, atol=1e-4)
