# SPDX-License-Identifier: Apache-2.0
"""What users of transformers do to a model: generate, export, quantise, offload, hook, compile."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import (
    DataCollatorForSeq2Seq,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
    Trainer,
    TrainingArguments,
)

from cmim_hf import DEFAULT_CHECKPOINT, CMIMConfig, CMIMModel, CMIMTokenizer
from cmim_hf.model.decoding_cmim import decode_latents


@pytest.fixture
def trained():
    return CMIMModel.from_pretrained(DEFAULT_CHECKPOINT, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)


@pytest.fixture
def batch(tokenizer, sample):
    texts = [row.text for row in sample[:16]]
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


@pytest.fixture(params=[1, 3])
def model(request):
    torch.manual_seed(0)
    config = CMIMConfig.from_size("tiny", vocab_size=212, num_latents=request.param)
    return CMIMModel(config).eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)


# generation


def test_the_mask_is_inferred_from_padding(trained, batch):
    assert not batch["attention_mask"].all()
    expected = trained.generate(**batch)
    assert torch.equal(trained.generate(batch["input_ids"]), expected)
    assert torch.equal(trained.generate(inputs=batch["input_ids"]), expected)
    embedded = trained.embed_tokens(batch["input_ids"])
    mask = batch["attention_mask"]
    assert torch.equal(trained.generate(inputs_embeds=embedded, attention_mask=mask), expected)


def test_an_end_token_that_is_the_padding_hides_nothing(trained, batch):
    trained.config.eos_token_id = trained.config.pad_token_id
    ids = batch["input_ids"]
    expected = trained.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5)
    assert torch.equal(trained.generate(ids, max_new_tokens=5), expected)


def test_lengths_are_those_of_the_generation_config(trained, batch):
    whole = trained.generate(**batch)
    assert whole.shape[1] > 21  # where the default of transformers cuts
    as_given = trained.generate(**batch, generation_config=GenerationConfig(do_sample=False))
    assert torch.equal(as_given, whole)
    trained.generation_config.max_length = 6
    assert torch.equal(trained.generate(**batch), whole[:, :6])
    assert trained.generate(**batch, max_new_tokens=3).shape[1] == 4
    assert trained.generate(**batch, generation_config=GenerationConfig(max_length=8)).shape[1] == 8


def test_an_assistant_writes_ahead_and_changes_nothing(trained, batch, tokenizer):
    assistant = copy.deepcopy(trained)
    one = {name: values[:1, : batch["attention_mask"][0].sum()] for name, values in batch.items()}
    expected = trained.generate(**one)
    assert torch.equal(trained.generate(**one, assistant_model=assistant), expected)
    torch.manual_seed(0)
    config = CMIMConfig.from_size("tiny", vocab_size=trained.config.vocab_size, latent_size=24)
    assert torch.equal(trained.generate(**one, assistant_model=CMIMModel(config)), expected)


def test_beams_and_samples_and_no_cache(trained, batch):
    expected = trained.generate(**batch)
    assert torch.equal(trained.generate(**batch, use_cache=False), expected)
    beams = trained.generate(**batch, num_beams=3, num_return_sequences=2)
    assert beams.shape[0] == 2 * len(expected)
    torch.manual_seed(0)
    drawn = trained.generate(**batch, do_sample=True, num_return_sequences=3)
    assert drawn.shape[0] == 3 * len(expected)


def test_encoder_fields_are_filled(model, batch):
    model.set_attn_implementation("eager")
    output = model.generate(
        **batch,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    rows, length = batch["input_ids"].shape
    assert [tuple(x.shape) for x in output.encoder_hidden_states] == [(rows, length, 96)] * 3
    assert [tuple(x.shape) for x in output.encoder_attentions] == [(rows, 4, length, length)] * 2
    assert len(output.decoder_attentions) == 4


def test_the_encoder_gives_the_codes(model, batch):
    encoded = model.get_encoder()(**batch, output_hidden_states=True)
    with torch.no_grad():
        assert torch.equal(encoded.last_hidden_state, model.get_latents(**batch))
        output = model(encoder_outputs=encoded, decoder_input_ids=batch["input_ids"])
        assert torch.equal(output.latents, encoded.last_hidden_state)
        close(output.logits, model(**batch, decoder_input_ids=batch["input_ids"]).logits)
    assert len(output.encoder_hidden_states) == model.config.encoder_layers + 1
    codes = (encoded.last_hidden_state,)
    close(model(encoder_outputs=codes, decoder_input_ids=batch["input_ids"]).logits, output.logits)


# inputs and outputs


def test_embeddings_are_inputs_like_ids(model, batch):
    embedded = model.embed_tokens(batch["input_ids"])
    mask = batch["attention_mask"]
    labels = batch["input_ids"].masked_fill(mask == 0, -100)
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        found = model(inputs_embeds=embedded, attention_mask=mask, labels=labels)
        close(found.nll, expected.nll)
        alone = model(inputs_embeds=embedded, attention_mask=mask)
        real = mask.bool()
        close(alone.logits[real], model(**batch).logits[real])
        written = model.embed_tokens(model.prepare_decoder_input_ids_from_labels(labels))
        found = model(**batch, decoder_inputs_embeds=written, decoder_attention_mask=mask)
        close(found.logits[real], expected.logits[real])
    with pytest.raises(ValueError, match="decoder_input_ids or decoder_inputs_embeds, not both"):
        model(**batch, decoder_input_ids=batch["input_ids"], decoder_inputs_embeds=written)


def test_labels_become_the_decoders_input():
    config = CMIMConfig.from_size("tiny", vocab_size=20)
    labels = torch.tensor([[5, 6, 2, -100], [-100, 7, 8, 2]])
    found = CMIMModel(config).prepare_decoder_input_ids_from_labels(labels)
    assert found.tolist() == [[1, 5, 6, 2], [1, 1, 7, 8]]


@pytest.mark.parametrize("model", [1], indirect=True)
def test_predictions_are_logits_first(model, tmp_path, batch, tokenizer):
    rows = [{"input_ids": ids, "labels": ids} for ids in batch["input_ids"][:4].tolist()]
    args = TrainingArguments(tmp_path, report_to=[], use_cpu=True, label_smoothing_factor=0.1)
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    trainer = Trainer(model, args, data_collator=collator, train_dataset=rows)
    predicted = trainer.predict(rows)
    assert predicted.predictions[0].shape == (4, batch["input_ids"].shape[1], 212)
    trainer.args.max_steps = 1
    trainer.train()
    assert np.isfinite(predicted.metrics["test_loss"])


# one decoder, whoever calls it


def continued(model, latents, ids, first, second, cache=None):
    """Logits of the last token, the others read by `first` and it by `second`.

    The cache is given by both of its names.
    """
    with torch.no_grad():
        begun = first(decoder_input_ids=ids[:, :-1], latents=latents, use_cache=True, cache=cache)
        return second(
            decoder_input_ids=ids[:, -1:], latents=latents, past_key_values=begun.past_key_values
        ).logits[:, -1]


@pytest.mark.parametrize(
    ("model", "other"),
    [(1, "autocast"), (3, "compiled"), (1, "static"), (3, "static")],
    indirect=["model"],
)
def test_a_cache_goes_from_one_form_of_the_model_to_another(model, batch, other):
    ids = batch["input_ids"][:4, :8]
    with torch.no_grad():
        latents = model.get_latents(ids)
        expected = model(decoder_input_ids=ids, latents=latents).logits[:, -1]
    if other == "static":
        cache = EncoderDecoderCache(
            StaticCache(model.config, 12), StaticCache(model.config, latents.shape[1])
        )
        close(continued(model, latents, ids, model, model, cache), expected)
        return
    if other == "compiled":
        called = torch.compile(model, backend="eager")
    else:

        def called(**inputs):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return model(**inputs)

    tolerance = 0.05 * expected.std() if other == "autocast" else 1e-4
    for first, second in ((model, called), (called, model)):
        found = continued(model, latents, ids, first, second)
        assert (found - expected).abs().max() < tolerance


@pytest.mark.slow
def test_inductor_gives_the_same(trained, batch):
    with torch.no_grad():
        expected = trained(**batch).logits
        close(torch.compile(trained)(**batch).logits, expected)


def test_hooks_and_pruning_and_offloading_reach_decoding(trained, batch, tmp_path):
    codes = trained.get_latents(**batch)
    expected = decode_latents(trained, codes)
    called = []
    for layer in trained.decoder.layers:
        layer.self_attn.qkv_proj.register_forward_hook(lambda *_: called.append(1))
    assert torch.equal(decode_latents(trained, codes), expected)
    assert len(called) == 3 * (expected.shape[1] - 1)
    prune.l1_unstructured(trained.decoder.layers[0].self_attn.qkv_proj, "weight", amount=0.9)
    changed = decode_latents(trained, codes)
    assert not torch.equal(changed, expected)
    assert torch.equal(changed, trained.generate(latents=codes))


def test_offloaded_weights_give_the_same(batch, tmp_path, trained):
    offloaded = CMIMModel.from_pretrained(
        DEFAULT_CHECKPOINT,
        dtype=torch.float32,
        device_map="auto",
        max_memory={"cpu": "5MB"},
        offload_folder=tmp_path,
    )
    assert "disk" in offloaded.hf_device_map.values()
    expected = trained.generate(**batch)
    assert torch.equal(offloaded.generate(**batch), expected)
    with torch.no_grad():
        codes = offloaded.get_latents(**batch)
        close(codes, trained.get_latents(**batch))
        vectors = offloaded.get_informative_embeddings(**batch)
        close(vectors, trained.get_informative_embeddings(**batch))
    assert torch.equal(decode_latents(offloaded, codes), expected)


def test_dynamic_quantisation_keeps_vectors_and_molecules(trained, batch):
    quantised = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(trained), {nn.Linear}, torch.qint8
    )
    replaced = type(quantised.decoder.layers[0].self_attn.qkv_proj)
    assert replaced.__module__.startswith("torch.ao.nn.quantized.dynamic")
    with torch.no_grad():
        for name in ("get_latents", "get_informative_embeddings"):
            expected, found = (getattr(m, name)(**batch).flatten(1) for m in (trained, quantised))
            assert nn.functional.cosine_similarity(found, expected).min() > 0.98
        expected, found = (model(**batch).properties for model in (trained, quantised))
        assert nn.functional.cosine_similarity(found, expected).min() > 0.98
        codes = trained.get_latents(**batch)
    expected = decode_latents(trained, codes)
    for tokens in (decode_latents(quantised, codes), quantised.generate(latents=codes)):
        width = min(tokens.shape[1], expected.shape[1])
        same = (tokens[:, :width] == expected[:, :width]).all(dim=1)
        assert same.float().mean() > 0.6


@pytest.mark.parametrize("model", [3], indirect=True)
def test_export_takes_other_batches_and_lengths(model, batch):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    shape = {0: torch.export.Dim("rows", min=2, max=4096), 1: torch.export.Dim("length", max=512)}
    shapes = {"input_ids": shape, "attention_mask": shape}
    program = torch.export.export(model, (ids, mask), dynamic_shapes=shapes)
    with torch.no_grad():
        for rows, length in ((3, ids.shape[1]), (len(ids), 20)):
            some = ids[:rows, :length], mask[:rows, :length]
            found, expected = program.module()(*some), model(*some)
            close(found["latents"], expected.latents)
            close(found["logits"], expected.logits)


# gradients


def test_gradient_checkpointing_with_logits_alone(model, batch):
    model.train()
    torch.manual_seed(1)
    model(**batch).logits.sum().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    torch.manual_seed(1)
    model(**batch).logits.sum().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6


def test_functional_gradients(model, batch):
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    names = dict(model.named_parameters())

    def loss(parameters):
        arguments = {**batch, "labels": labels, "sample_latents": False}
        return torch.func.functional_call(model, parameters, (), arguments).loss

    found = torch.func.grad(loss)({name: value.detach() for name, value in names.items()})
    model(**batch, labels=labels, sample_latents=False).loss.backward()
    for name, parameter in names.items():
        if parameter.grad is not None:
            close(found[name], parameter.grad)


def test_padded_rows_and_several_codes_under_flash_attention(batch):
    """The posterior's queries are never unpadded by the keys' mask, whatever attends elsewhere."""
    torch.manual_seed(0)
    model = CMIMModel(CMIMConfig.from_size("tiny", vocab_size=212, num_latents=3)).eval()
    encoded = torch.randn(16, batch["input_ids"].shape[1], 96)
    expected = model.posterior(encoded, batch["attention_mask"])
    model.config._attn_implementation = "flash_attention_2"  # there is none on a CPU to call
    found = model.posterior(encoded, batch["attention_mask"])
    assert torch.equal(found[0], expected[0])
    alone = model.posterior(encoded[:1, : batch["attention_mask"][0].sum()], None)
    close(found[0][:1], alone[0])
