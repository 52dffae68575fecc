# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from cmim_hf import (
    DEFAULT_CHECKPOINT,
    CMIMForSequenceClassification,
    CMIMModel,
    CMIMTokenizer,
    MoleculeEmbedder,
)

NAN = float("nan")
MULTI, SINGLE = "multi_label_classification", "single_label_classification"


@pytest.fixture(scope="module")
def tokenizer():
    """That of the shipped model."""
    return CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)


def make(problem_type="regression", num_labels=1, **options):
    """The shipped model with a new head, in eval mode."""
    torch.manual_seed(0)
    return CMIMForSequenceClassification.from_pretrained(
        DEFAULT_CHECKPOINT, problem_type=problem_type, num_labels=num_labels, **options
    )


def equal_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_only_the_head_is_new():
    model, report = make(num_labels=3, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"classifier"}
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert equal_weights(model.cmim, CMIMModel.from_pretrained(DEFAULT_CHECKPOINT))
    assert model.cmim.lm_head.weight is model.cmim.embed_tokens.weight
    head = model.classifier
    assert head.label_mean.tolist() == [0, 0, 0] and head.label_std.tolist() == [1, 1, 1]
    assert head.dense.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.05)
    assert head.dropout.p == model.config.classifier_dropout == 0.1
    assert model.config.classifier_features == "both"


@pytest.mark.parametrize("features", ["both", "latent", "informative"])
@pytest.mark.parametrize("training", [False, True])
def test_the_head_reads_the_representation_at_the_posterior_mean(batch, features, training):
    model = make(num_labels=2, classifier_features=features, classifier_dropout=0.0)
    model.train(training)
    vectors = model.cmim.get_representation(**batch, representation=features)
    head = model.classifier
    expected = head.output(functional.gelu(head.dense(vectors)))
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    assert head.dense.in_features == model.cmim.representation_size(features)


def test_dropout_is_on_in_training_only(batch):
    model = make(classifier_dropout=0.5)
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


def test_logits_do_not_depend_on_padding_or_its_side(batch):
    model = make()
    alone = [
        model(input_ids=ids[mask.bool()][None]).logits[0]
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    torch.testing.assert_close(model(**batch).logits, torch.stack(alone), atol=1e-5, rtol=1e-5)
    turned = {name: value.clone() for name, value in batch.items()}
    for row, count in enumerate(batch["attention_mask"].sum(1).tolist()):
        for value in turned.values():
            value[row] = value[row].roll(value.shape[1] - count)
    torch.testing.assert_close(model(**turned).logits, torch.stack(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "silent"),
    [
        ("both", set()),
        ("informative", set()),
        ("latent", {"cmim.decoder"}),
    ],
)
def test_gradients_reach_all_that_the_features_use(batch, features, silent):
    model = make(classifier_features=features).train()
    model(**batch, labels=torch.arange(8.0)).loss.backward()
    for name, parameter in model.named_parameters():
        used = not name.startswith(("cmim.posterior.log_std", "cmim.property_head", *silent))
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == used, name


def test_gradient_checkpointing_gives_the_same_gradients(batch):
    gradients = []
    for checkpointing in (False, True):
        model = make(classifier_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch, labels=torch.arange(8.0)).loss.backward()
        gradients.append(model.cmim.encoder.layers[0].self_attn.qkv_proj.weight.grad)
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_label_scale_in_numbers():
    model = make(num_labels=4)
    model.fit_label_scale(
        torch.tensor([[1.0, 5.0, NAN, 0.1], [3.0, NAN, NAN, 0.1], [NAN, 7.0, NAN, 0.1]])
    )
    assert model.classifier.label_mean.tolist() == pytest.approx([2, 6, 0, 0.1])
    assert model.classifier.label_std.tolist() == [1, 1, 1, 1]  # two varying, absent, constant
    model.fit_label_scale([[1.0, 0, 0, 0], [2.0, 0, 0, 10], [6.0, 0, 0, 20], [NAN, 0, 0, 30]])
    assert model.classifier.label_mean.tolist() == [3, 0, 0, 15]
    assert model.classifier.label_std.tolist() == pytest.approx(
        [math.sqrt(14 / 3), 1, 1, math.sqrt(125)]
    )


def test_regression_is_learned_in_units_of_the_spread_and_answered_in_the_labels_own(batch):
    model = make(num_labels=2)
    plain = model(**batch).logits
    model.fit_label_scale(torch.tensor([[90.0, 1.0], [110.0, 1.2], [NAN, 1.4]]))
    labels = torch.stack((torch.linspace(80, 120, 8), torch.linspace(0, 2, 8)), dim=1)
    labels[3, 0] = labels[5, 1] = NAN
    output = model(**batch, labels=labels)
    mean, std = torch.tensor([100.0, 1.2]), torch.tensor([10.0, math.sqrt(0.08 / 3)])
    torch.testing.assert_close(output.logits, plain * std + mean)
    errors = [
        ((output.logits[row, target] - labels[row, target]) / std[target]).item() ** 2
        for row in range(8)
        for target in range(2)
        if (row, target) not in ((3, 0), (5, 1))
    ]
    assert len(errors) == 14
    assert output.loss.item() == pytest.approx(sum(errors) / 14, rel=1e-4)


def test_large_labels_keep_their_precision(batch):
    """Standardised before they are compared, not after: 1e7 + 1 has no more digits in float32."""
    model = make()
    scores = model(**batch).logits[:, 0]
    labels = 1e7 + torch.tensor([1.0, -1.0] * 4)
    model.fit_label_scale(labels)
    assert model.classifier.label_std.item() == 1.0
    expected = (scores - torch.tensor([1.0, -1.0] * 4)).square().mean()
    assert model(**batch, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_yes_or_no_with_gaps(batch):
    model = make(MULTI, 2)
    labels = torch.tensor([[1.0, 0.0], [NAN, 1.0]] * 4)
    output = model(**batch, labels=labels)
    terms = [
        math.log1p(math.exp(-logit if label else logit))
        for logit, label in zip(output.logits.flatten().tolist(), labels.flatten(), strict=True)
        if not label.isnan()
    ]
    assert len(terms) == 12
    assert output.loss.item() == pytest.approx(sum(terms) / 12, rel=1e-5)


def test_one_class_of_three_with_gaps(batch):
    model = make(SINGLE, 3)
    labels = torch.tensor([0, 1, 2, -100, 2, 1, -100, 0])
    output = model(**batch, labels=labels)
    logits = output.logits.log_softmax(1)
    terms = [-logits[row, label].item() for row, label in enumerate(labels) if label >= 0]
    assert output.loss.item() == pytest.approx(sum(terms) / 6, rel=1e-5)
    assert model(**batch, labels=labels[:, None]).loss.item() == output.loss.item()


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("regression", 2, torch.full((8, 2), NAN)),
        (MULTI, 1, torch.full((8,), NAN)),
        (SINGLE, 3, torch.full((8,), -100)),
    ],
)
def test_without_any_label_loss_and_gradients_are_zero(batch, problem_type, num_labels, labels):
    model = make(problem_type, num_labels)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    assert loss.item() == 0.0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@pytest.mark.parametrize(
    ("num_labels", "labels", "inferred"),
    [
        (1, torch.ones(8, dtype=torch.long), "regression"),
        (2, torch.ones(8, dtype=torch.long), SINGLE),
        (2, torch.ones(8, 2), MULTI),
    ],
)
def test_the_first_labels_settle_the_problem_type(batch, num_labels, labels, inferred):
    model = make(None, num_labels)
    assert model(**batch).loss is None and model.config.problem_type is None
    model(**batch, labels=labels)
    assert model.config.problem_type == inferred


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "message"),
    [
        ("regression", 2, torch.ones(8), r"\(batch, 2\), got torch.float32 \(8,\)"),
        ("regression", 1, torch.ones(8, 2), r"\(batch, 1\), got torch.float32 \(8, 2\)"),
        ("regression", 1, torch.ones(7), "7 rows of labels for 8 molecules"),
        ("regression", 1, torch.full((8,), math.inf), "finite, NaN if missing, got inf"),
        (MULTI, 2, torch.full((8, 2), 2.0), "1, 0, NaN if missing, got 2.0"),
        (MULTI, 2, torch.full((8, 2), -100), "1, 0, NaN if missing, got -100"),
        (SINGLE, 2, torch.ones(8), r"integers \(batch,\), got torch.float32"),
        (SINGLE, 2, torch.ones(8, 2, dtype=torch.long), r"got torch.int64 \(8, 2\)"),
        (SINGLE, 2, torch.full((8,), 2), "from 0 to 1, -100 if missing, got 2"),
        (SINGLE, 2, torch.full((8,), -1), "from 0 to 1, -100 if missing, got -1"),
    ],
)
def test_wrong_labels_are_named(batch, problem_type, num_labels, labels, message):
    model = make(problem_type, num_labels)
    with pytest.raises(ValueError, match=message):
        model(**batch, labels=labels)


def test_only_a_regression_has_a_label_scale():
    with pytest.raises(ValueError, match=MULTI):
        make(MULTI, 2).fit_label_scale(torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"got torch.float64 \(4, 2\)"):
        make("regression", 3).fit_label_scale(torch.ones(4, 2))
    model = make(None, 1)
    model.fit_label_scale([1.0, 3.0])
    assert model.config.problem_type == "regression"


def test_other_features_are_refused():
    with pytest.raises(ValueError, match="'pooled'.*informative, latent, both"):
        make(classifier_features="pooled")


def test_what_molecules_are_brought_to_is_kept_in_the_config(tmp_path):
    assert make().config.standardize == "none"
    with pytest.raises(ValueError, match="Unknown standardize 'tautomer'; choose one of none, par"):
        make(standardize="tautomer")
    make(standardize="parent").save_pretrained(tmp_path)
    again = CMIMForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.standardize == "parent"
    plain = CMIMForSequenceClassification.from_pretrained(tmp_path, standardize="none")
    assert plain.config.standardize == "none"
    config = json.loads((tmp_path / "config.json").read_text())
    del config["standardize"]  # as of a folder that was saved when there was no choice
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert CMIMForSequenceClassification.from_pretrained(tmp_path).config.standardize == "none"


def test_hidden_states_on_request(batch):
    model = make()
    output = model(**batch, output_hidden_states=True)
    own = model.cmim(**batch, output_hidden_states=True)
    assert len(output.decoder_hidden_states) == model.config.decoder_layers + 1
    states = own.decoder_hidden_states[1]
    torch.testing.assert_close(output.decoder_hidden_states[1], states, rtol=1e-4, atol=1e-4)
    assert model(**batch).decoder_hidden_states is None
    latent = make(classifier_features="latent")(**batch, output_hidden_states=True)
    assert torch.equal(latent.encoder_hidden_states[1], own.encoder_hidden_states[1])
    assert latent.decoder_hidden_states is None
    assert torch.equal(model(**batch, return_dict=False)[0], output.logits)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds, not both"):
        model(**batch, inputs_embeds=output.encoder_hidden_states[0])


def test_latents_alone_need_no_decoder(batch):
    model = make(classifier_features="latent")
    logits = model(**batch).logits
    model.cmim.decoder = None
    assert torch.equal(model(**batch).logits, logits)


@pytest.fixture
def tuned(tmp_path, tokenizer):
    """A model whose every weight has moved, saved to a folder."""
    model = make(num_labels=2, classifier_features="latent", classifier_dropout=0.3)
    model.fit_label_scale(torch.tensor([[1.0, 10.0], [3.0, 50.0]]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    return model


def test_saved_and_opened_again(tuned, tmp_path, batch):
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    assert type(again) is CMIMForSequenceClassification
    assert equal_weights(again, tuned)
    assert again.classifier.label_std.tolist() == [1, 20]
    assert again.config.classifier_features == "latent"
    assert again.config.classifier_dropout == again.classifier.dropout.p == 0.3
    torch.testing.assert_close(again(**batch).logits, tuned(**batch).logits, atol=1e-5, rtol=1e-5)


def test_a_fine_tuned_folder_opens_as_a_plain_model_too(tuned, tmp_path, batch):
    plain, report = CMIMModel.from_pretrained(tmp_path / "tuned", output_loading_info=True)
    assert not report["missing_keys"]
    assert equal_weights(plain, tuned.cmim)
    vector, shipped = (
        torch.from_numpy(MoleculeEmbedder(folder).embed(["CCO"]))
        for folder in (tmp_path / "tuned", DEFAULT_CHECKPOINT)
    )
    mask = batch["attention_mask"][:1]
    own = tuned.cmim.get_informative_embeddings(batch["input_ids"][:1], mask)
    torch.testing.assert_close(vector, own, atol=1e-5, rtol=1e-5)
    assert (vector - shipped).abs().max() > 1e-2


def test_peft_trains_attentions_and_head_and_keeps_the_label_scale(tmp_path, batch):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = make(num_labels=2)
    model.fit_label_scale(torch.tensor([[1.0, 10.0], [3.0, 50.0]]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = ["qkv_proj", "kv_proj", "v_proj", "out_proj"]
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=modules))
    adapted.train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 0.05)
    labels = torch.tensor([2.0, 30.0]) + torch.tensor([1.0, 20.0]) * torch.randn(8, 2)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**batch, labels=labels).loss.backward()
        optimizer.step()
    adapted.eval()
    logits = adapted(**batch).logits
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = make(num_labels=2)
    assert fresh.classifier.label_std.tolist() == [1, 1]
    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    torch.testing.assert_close(again(**batch).logits, logits, atol=1e-4, rtol=1e-5)
    merged = adapted.merge_and_unload()
    assert merged.classifier.label_std.tolist() == [1, 20]
    changed = {
        name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {name.rsplit(".", 2)[-2] for name in changed} == {*modules, "dense", "output"}
    torch.testing.assert_close(merged(**batch).logits, logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("features", ["both", "informative", "latent"])
def test_all_that_asks_for_a_gradient_gets_one(batch, features):
    """Or processes that train together wait for it; under gradient checkpointing, too."""
    model = make(classifier_features=features).train()
    model.gradient_checkpointing_enable()
    labels = torch.randn(len(batch["input_ids"]), model.config.num_labels)
    model(**batch, labels=labels).loss.backward()
    asked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == asked
    assert any("encoder" in name for name in asked)
    assert ("cmim.decoder.norm.weight" in asked) == (features != "latent")
    reloaded = CMIMModel(model.config)
    assert all(parameter.requires_grad for parameter in reloaded.parameters())
