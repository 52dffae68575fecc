# SPDX-License-Identifier: Apache-2.0
"""Adapters of every kind, trained and merged."""

import copy

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)

from cmim_hf import CMIMConfig, CMIMForSequenceClassification, CMIMModel, MoleculeGenerator
from cmim_hf.cpu_kernels import speed_up
from cmim_hf.model.decoding_cmim import decode_latents

TASKS = ["FEATURE_EXTRACTION", "SEQ_2_SEQ_LM", "CAUSAL_LM", None]


@pytest.fixture(params=[1, 3])
def model(request):
    torch.manual_seed(0)
    settings = {"vocab_size": 286, "num_latents": request.param, "initializer_range": 0.2}
    return CMIMModel(CMIMConfig.from_size("tiny", **settings)).eval()


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    config = CMIMConfig.from_size("tiny", vocab_size=286, num_labels=2, initializer_range=0.2)
    return CMIMForSequenceClassification(config).eval()


def drawn(adapted, std=0.1):
    """The adapter's weights from N(0, std²), so that it changes something."""
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=std)
    return adapted.eval()


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("modules", ["all-linear", ["qkv_proj", "out_proj", "up_proj"]])
def test_merged_is_unmerged_for_every_task(model, batch, task, modules):
    before = logits(model, batch)
    adapted = drawn(get_peft_model(model, LoraConfig(task, r=4, target_modules=modules)))
    expected = logits(adapted, batch)
    assert (expected - before).abs().max() > 0.1
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-4, atol=1e-5)


def test_a_classifiers_merged_adapter_answers_alike(classifier, batch):
    before = logits(classifier, batch)
    config = LoraConfig("SEQ_CLS", r=4, target_modules="all-linear")
    adapted = drawn(get_peft_model(classifier, config))
    assert not any("lm_head" in name for name, _ in adapted.named_parameters() if "lora" in name)
    expected = logits(adapted, batch)
    assert (expected - before).abs().max() > 1e-3
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("faster", [False, True])
def test_decoding_goes_through_the_adapter(model, batch, faster):
    if faster:
        speed_up(model)
    with torch.no_grad():
        codes = model.get_latents(**batch)
    before = decode_latents(model, codes, max_length=12)
    adapted = drawn(get_peft_model(model, LoraConfig("SEQ_2_SEQ_LM", target_modules="all-linear")))
    found = decode_latents(model, codes, max_length=12)
    assert not torch.equal(found, before)
    assert torch.equal(found, model.generate(latents=codes, max_length=12))
    assert torch.equal(decode_latents(adapted.merge_and_unload(), codes, max_length=12), found)


def test_a_generator_works_through_the_adapter():
    generator = MoleculeGenerator(progress=False, canonicalize=False)
    codes = generator.encode(["CCO", "CNC(=O)c1ccccc1"])
    before = generator.decode(codes)
    adapted = get_peft_model(generator.model, LoraConfig(r=4, target_modules="all-linear"))
    drawn(adapted, std=0.2)
    expected = generator.model.generate(latents=torch.from_numpy(codes))
    texts = generator.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert generator.decode(codes) == texts != before


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        (PromptTuningConfig, "FEATURE_EXTRACTION"),
        (PromptTuningConfig, "SEQ_2_SEQ_LM"),
        (PrefixTuningConfig, "FEATURE_EXTRACTION"),
        (PrefixTuningConfig, "SEQ_2_SEQ_LM"),
    ],
)
def test_prompts_and_prefixes_learn(model, batch, kind, task):
    adapted = get_peft_model(model.train(), kind(task_type=task, num_virtual_tokens=3))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = adapted(**batch, labels=labels, sample_latents=False).loss
        optimizer.zero_grad()
        loss.backward()
        trained = [p for p in adapted.parameters() if p.requires_grad]
        assert trained and all(p.grad is not None and p.grad.any() for p in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", "SEQ_2_SEQ_LM"])
def test_behind_a_prefix_rows_are_independent_of_their_company(model, batch, task):
    before = logits(model, batch)
    adapted = get_peft_model(model, PrefixTuningConfig(task_type=task, num_virtual_tokens=3)).eval()
    torch.nn.init.normal_(adapted.prompt_encoder["default"].embedding.weight)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    together = logits(adapted, {**batch, "labels": labels})
    assert (together - before).abs().max() > 0.1
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        alone = {name: values[row : row + 1, :length] for name, values in batch.items()}
        found = logits(adapted, {**alone, "labels": labels[row : row + 1, :length]})
        torch.testing.assert_close(found[0], together[row, :length], rtol=1e-4, atol=1e-4)


def test_prompts_of_a_classifier_learn(classifier, batch):
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    adapted = get_peft_model(classifier.train(), config)
    labels = torch.arange(len(batch["input_ids"])) % 2
    loss = adapted(**batch, labels=labels).loss
    loss.backward()
    (prompt,) = [p for n, p in adapted.named_parameters() if "prompt_encoder" in n]
    assert prompt.grad.any()


def test_prompts_reach_generation(model, batch):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    adapted = get_peft_model(model, config).eval()
    tokens = adapted.generate(**batch, max_new_tokens=5)
    assert tokens.shape[0] == len(batch["input_ids"])
    plain = model.generate(**batch, max_new_tokens=5)
    assert not torch.equal(tokens, plain)


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"]])
def test_adapters_of_untied_weights_merge(batch, modules):
    torch.manual_seed(0)
    settings = {"vocab_size": 286, "initializer_range": 0.2, "tie_word_embeddings": False}
    model = CMIMModel(CMIMConfig.from_size("tiny", **settings)).eval()
    assert model.lm_head.weight is not model.embed_tokens.weight
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=modules))
    expected = logits(drawn(adapted), batch)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"]])
def test_an_adapter_of_one_of_two_tied_weights_is_warned_of(model, modules):
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        get_peft_model(model, LoraConfig(r=4, target_modules=modules))


def test_saved_adapters_are_loaded(model, batch, tmp_path):
    plain = copy.deepcopy(model)
    adapted = drawn(
        get_peft_model(model, LoraConfig("FEATURE_EXTRACTION", target_modules="all-linear"))
    )
    expected = logits(adapted, batch)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(plain, tmp_path).eval()
    torch.testing.assert_close(logits(loaded, batch), expected)
