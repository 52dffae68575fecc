# SPDX-License-Identifier: Apache-2.0
"""The property term: its formula, the head, the scale of the targets, and training on them."""

import math

import numpy as np
import pytest
import torch

from cmim_hf import CMIMConfig, CMIMModel, CMIMTrainer, CMIMTrainingArguments, MoleculeGenerator
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.property_labels import PropertyLabels, PropertyScale, as_floats
from cmim_hf.training.model_card import read_settings
from cmim_hf.training.objectives import OBJECTIVES, Objective, property_error

NAN = float("nan")


def by_loops(properties, labels):
    """The Huber error of each molecule, averaged over projections and labelled properties."""
    errors = []
    for row, targets in enumerate(labels.tolist()):
        total = 0.0
        known = [place for place, target in enumerate(targets) if not math.isnan(target)]
        projections = properties[row].tolist()
        for projection in projections:
            for place in known:
                off = abs(projection[place] - targets[place])
                error = off**2 / 2 if off <= 1 else off - 0.5
                total += error / len(known) / len(projections)
        errors.append(total)
    return torch.tensor(errors, dtype=torch.float64)


def made(batch=5, number=4, projections=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, projections, number)
    properties = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randn((batch, number), generator=generator, dtype=torch.float64)
    labels[0, 1] = labels[2, :3] = labels[3] = NAN
    return properties.requires_grad_(), labels


def test_the_error_is_that_of_the_formula():
    properties, labels = made()
    expected = by_loops(properties, labels)
    assert expected[3] == 0 and (expected[[0, 1, 2, 4]] > 0.1).all()
    torch.testing.assert_close(property_error(properties, labels), expected, rtol=0, atol=1e-12)
    one = property_error(properties[:, 0], labels)
    torch.testing.assert_close(one, by_loops(properties[:, :1], labels), rtol=0, atol=1e-12)


def test_gradients_are_finite_and_zero_where_nothing_is_known():
    properties, labels = made()
    property_error(properties, labels).sum().backward()
    known = ~labels.isnan()[:, None].expand_as(properties)
    assert properties.grad.isfinite().all()
    assert (properties.grad[~known] == 0).all() and (properties.grad[known] != 0).all()
    properties.grad = None
    error = property_error(properties, torch.full_like(labels, NAN))
    error.sum().backward()
    assert error.abs().max() == 0 and properties.grad.abs().max() == 0


def test_labels_of_another_shape_are_refused():
    properties, labels = made()
    with pytest.raises(ValueError, match=r"property_labels` of \(5, 3\), got \(5, 2, 4\)"):
        property_error(properties, labels[:, :3])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_term_is_added_to_every_objective(name):
    views = 2 if name.startswith("infonce") else 1
    properties, labels = made(batch=4 * views)
    labels = labels[:4]
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(4 * views, 6, generator=generator, dtype=torch.float64)
    batch = {
        "latents": latents, "mean": latents, "log_std": latents - 3,
        "nll": latents[:, 0].abs(), "num_tokens": torch.full((len(latents),), 7),
    }  # fmt: skip
    plain = Objective(name)(**batch).loss
    found = Objective(name, property_weight=0.3)(
        **batch, properties=properties, property_labels=labels
    )
    expected = by_loops(properties, labels.repeat(views, 1)).view(views, 4).mean(0)
    torch.testing.assert_close(found.loss, plain + 0.3 * expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.terms["property_error"], expected, rtol=0, atol=1e-12)
    off = Objective(name, property_weight=0.0)(
        **batch, properties=properties, property_labels=labels
    )
    assert torch.equal(off.loss, plain) and "property_error" not in off.terms


def test_a_scale_is_that_of_normal_quantiles_and_goes_back():
    random = np.random.default_rng(0)
    values = np.stack(
        [
            np.exp(2 * random.normal(size=20_000)),  # heavy tail
            random.poisson(0.3, 20_000),  # mostly 0
            random.normal(-7, 0.01, 20_000),
        ],
        axis=1,
    ).astype(np.float32)
    values[::7, 2] = NAN
    scale = PropertyScale.fit(("a", "b", "c"), values)
    codes = scale.standardized(values)
    found = as_floats(codes)
    assert np.isnan(found[::7, 2]).all() and not np.isnan(found[1::7]).any()
    exact = np.log(values[:, 0]) / 2
    inner = np.abs(exact) < 2.5
    assert np.abs(found[inner, 0] - exact[inner]).max() < 0.15
    assert np.nanmean(found, axis=0) == pytest.approx([0, 0, 0], abs=0.12)
    assert np.nanstd(found[:, [0, 2]], axis=0) == pytest.approx([1, 1], abs=0.02)
    # a frequent value lies in the middle of its step: P(0) = exp(-.3), so u = .37
    zeros = found[values[:, 1] == 0, 1]
    assert zeros == pytest.approx(torch.special.ndtri(torch.tensor(0.3704)).item(), abs=0.05)

    head = CMIMModel(CMIMConfig.from_size("tiny", num_properties=3)).property_head
    with pytest.raises(ValueError, match="no units yet"):
        head.in_own_units(torch.zeros(1, 3))
    head.quantiles.copy_(torch.from_numpy(scale.quantiles))
    back = head.in_own_units(torch.from_numpy(found)).numpy()
    assert (back[:, 1] == values[:, 1]).mean() > 0.99
    assert np.abs(np.log(back[inner, 0] / values[inner, 0])).max() < 0.3
    known = ~np.isnan(values[:, 2])
    assert np.abs(back[known, 2] - values[known, 2]).mean() < 2e-4
    beyond = head.in_own_units(torch.tensor([[99.0, 99.0, -99.0]]))[0]
    assert beyond.tolist() == pytest.approx(
        [scale.quantiles[0, -1], scale.quantiles[1, -1], scale.quantiles[2, 0]], rel=1e-3
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, 1.0, NAN], "'logD' is 1 for all 2 labelled molecules"),
        ([NAN, NAN, NAN], "'logD' has no value at all"),
    ],
)
def test_a_property_that_teaches_nothing_is_named(column, message):
    values = np.stack([np.arange(3.0), np.array(column)], axis=1)
    with pytest.raises(ValueError, match=message):
        PropertyScale.fit(("pIC50", "logD"), values)
    with pytest.raises(ValueError, match="different names, got a, a"):
        PropertyScale.fit(("a", "a"), values)


@pytest.fixture
def labelled(packed):
    """Two properties of each second molecule: its length, and its first token, with gaps."""
    rows = np.arange(0, len(packed), 2)
    values = np.stack([packed.lengths[rows], [packed[int(r)]["input_ids"][0] for r in rows]], 1)
    values = values.astype(np.float32)
    values[:3, 1] = NAN
    return packed.labelled(rows, values, PropertyScale.fit(("length", "first"), values))


def test_labels_stay_with_their_molecules(labelled):
    label = labelled[4]["property_labels"]
    assert label.dtype == np.float32 and np.isnan(label[1]) and not np.isnan(label[0])
    assert np.isnan(labelled[5]["property_labels"]).all()
    order = np.argsort(labelled.lengths[::2], kind="stable") * 2
    lengths = np.array([labelled[int(row)]["property_labels"][0] for row in order])
    assert (np.diff(lengths) >= 0).all() and lengths[0] < -1 < 1 < lengths[-1]
    labels = labelled.labels()
    assert isinstance(labels, PropertyLabels) and len(labels.codes) == len(range(0, 300, 2))


@pytest.fixture
def make_trainer(make_model, tokenizer, labelled, tmp_path):
    def make(model=None, dataset=labelled, folder="run", **settings):
        args = CMIMTrainingArguments(
            **{
                "output_dir": str(tmp_path / folder), "per_device_train_batch_size": 16,
                "max_steps": 4, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
                "use_cpu": True, "reconstruction_samples": 0, "optimizer": "muon", **settings,
            }
        )  # fmt: skip
        return CMIMTrainer(
            model=model or make_model(initializer_range=0.1, num_properties=2),
            args=args, train_dataset=dataset, eval_dataset=dataset, processing_class=tokenizer,
            data_collator=CMIMCollator(tokenizer, views=args.build_objective().views),
        )  # fmt: skip

    return make


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_training_learns_properties_and_says_so(make_trainer, tmp_path, molecules):
    trainer = make_trainer(max_steps=60, learning_rate=3e-3, property_weight=1.0)
    before = trainer.evaluate()["eval_property_error"]
    trainer.train()
    after = trainer.evaluate()["eval_property_error"]
    assert len(logged(trainer, "property_error")) == 60
    assert 0.3 < before < 1 and after < 0.6 * before, (before, after)
    trainer.save_model()
    trainer.create_model_card()
    settings = read_settings(tmp_path / "run" / "README.md")
    assert settings["property_weight"] == "1.0" and settings["optimizer"] == "muon"
    assert "optim" not in settings and settings["muon_learning_rate"] == "0.02"
    assert (
        "predict 2 properties from the latent and the informative embedding (length, first)"
        in (tmp_path / "run" / "README.md").read_text()
    )

    generator = MoleculeGenerator(tmp_path / "run", on_invalid="none")
    texts = ["CCO", "C1CC", *molecules[:3]]
    found = generator.properties(texts)
    assert list(found.columns) == ["length", "first"] and found.loc[1].isna().all()
    lengths = np.array([len(generator.tokenizer(text)["input_ids"]) for text in texts])
    quantiles = trainer.train_dataset.property_scale.quantiles[0]
    known = [0, 2, 3, 4]
    expected = lengths[known].clip(quantiles[0], quantiles[-1])
    assert np.abs(found["length"][known] - expected).max() < 0.6 * np.ptp(quantiles)


@pytest.mark.parametrize("objective", ["cmim", "infonce"])
def test_every_parameter_of_the_head_gets_a_gradient(make_trainer, make_model, objective):
    kind = "latent" if objective == "infonce" else "both"
    model = make_model(num_properties=2, property_representation=kind)
    trainer = make_trainer(model, objective=objective, max_steps=1, warmup_steps=0)
    before = {name: each.clone() for name, each in model.property_head.named_parameters()}
    trainer.train()
    assert len(before) == (2 if kind == "latent" else 4)
    for name, each in model.property_head.named_parameters():
        assert not torch.equal(each, before[name]), name


def test_infonce_reads_properties_off_the_code_only(make_trainer):
    with pytest.raises(ValueError, match='infonce decodes nothing.*"latent" instead of "both"'):
        make_trainer(objective="infonce")


def test_a_resumed_run_takes_the_same_steps(make_trainer, make_model):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(**settings)
    whole.train()
    other = make_trainer(make_model(initializer_range=0.1, num_properties=2), **settings)
    other.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-3")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def test_another_scale_or_other_properties_are_refused(make_trainer, make_model, packed):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    assert trainer.model.config.property_names == ["length", "first"]
    rows = np.arange(len(packed))
    values = np.stack([packed.lengths, packed.lengths % 7], axis=1).astype(np.float32)
    others = packed.labelled(rows, values, PropertyScale.fit(("length", "first"), values))
    with pytest.raises(ValueError, match="standardised by other molecules than these labels"):
        make_trainer(trainer.model, others)
    with pytest.raises(ValueError, match=r"predicts 3 properties \(unnamed ...\), .* with 2"):
        make_trainer(make_model(num_properties=3), others)
    make_trainer(make_model(num_properties=3), packed)  # no labels, nothing to match
    assert "property_weight" not in shown_without_properties(make_trainer, make_model, packed)


def shown_without_properties(make_trainer, make_model, packed):
    """The settings on the card of a model without a head."""
    trainer = make_trainer(make_model(), packed, folder="plain", optimizer="adamw", max_steps=1)
    trainer.create_model_card()
    settings = read_settings(f"{trainer.args.output_dir}/README.md")
    assert "muon_learning_rate" not in settings and "optim" in settings
    return settings


def test_a_checkpoint_without_a_head_gets_a_fresh_one(make_trainer, make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "plain")
    model = CMIMModel.from_pretrained(tmp_path / "plain", num_properties=2)
    assert (model.property_head.quantiles == 0).all()
    assert model.property_head.latent_proj.weight.std().item() == pytest.approx(0.2, rel=0.3)
    trainer = make_trainer(model, max_steps=1)
    found = model.property_head.quantiles
    assert torch.equal(found, torch.from_numpy(trainer.train_dataset.property_scale.quantiles))


def test_quantiles_stay_whole_in_half_precision(make_model, tmp_path, batch):
    model = make_model(num_properties=2)
    values = torch.linspace(300.17, 100_000.0, 65).expand(2, -1)
    model.property_head.quantiles.copy_(values)
    model.save_pretrained(tmp_path)
    for dtype in (torch.bfloat16, torch.float16):
        loaded = CMIMModel.from_pretrained(tmp_path, dtype=dtype).eval()
        assert loaded.dtype == dtype and torch.equal(loaded.property_head.quantiles, values)
        assert loaded.get_properties(**batch).isfinite().all()


def test_labels_that_no_head_uses_are_told_of(make_trainer, make_model, caplog):
    make_trainer(make_model())
    assert "the model has no property head" in caplog.text


def test_validation_labels_of_another_scale_are_refused(make_trainer, labelled, packed):
    values = np.stack([packed.lengths, packed.lengths % 7], axis=1).astype(np.float32)
    scale = PropertyScale.fit(("length", "first"), values)
    trainer = make_trainer(max_steps=1)
    with pytest.raises(ValueError, match="for evaluation are labelled with other properties"):
        CMIMTrainer(
            model=trainer.model, args=trainer.args, train_dataset=labelled,
            eval_dataset=packed.labelled(np.arange(len(packed)), values, scale),
            processing_class=trainer.processing_class, data_collator=trainer.data_collator,
        )  # fmt: skip
    with pytest.raises(ValueError, match="standardised by other molecules than these labels"):
        CMIMTrainer(
            model=trainer.model, args=trainer.args, train_dataset=packed,
            eval_dataset=packed.labelled(np.arange(len(packed)), values, scale),
            processing_class=trainer.processing_class, data_collator=trainer.data_collator,
        )  # fmt: skip


def test_a_model_without_a_head_says_so(make_model, batch):
    model = make_model()
    assert model(**batch, sample_latents=False).properties is None
    with pytest.raises(ValueError, match="predicts no properties"):
        model.get_properties(**batch)


@pytest.mark.parametrize("kind", ["latent", "informative", "both"])
def test_properties_depend_on_no_padding_and_need_no_labels(make_model, tokenizer, kind):
    model = make_model(num_properties=3, property_representation=kind)
    texts = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1"]
    together = tokenizer(texts, padding=True, return_tensors="pt")
    found = model(**together).properties
    labels = together["input_ids"].masked_fill(together["attention_mask"] == 0, -100)
    torch.testing.assert_close(model(**together, labels=labels).properties, found)
    for place, text in enumerate(texts):
        alone = model(**tokenizer(text, return_tensors="pt")).properties[0]
        torch.testing.assert_close(alone, found[place], rtol=0, atol=1e-5)
    decoded = model(**together, decode=False).properties
    assert (decoded is None) == (kind != "latent")
    latent = model.get_latents(**together).flatten(1)
    informative = model.get_informative_embeddings(**together)
    head = model.property_head
    parts = [
        projection(features)
        for projection, features in (
            (head.latent_proj, latent), (head.informative_proj, informative),
        )
        if projection is not None
    ]  # fmt: skip
    torch.testing.assert_close(torch.stack(parts).mean(0), found, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_properties": -1}, "'num_properties':\n.*a number of at least 0, got -1"),
        ({"num_properties": 2, "property_names": ["a"]}, "must be num_properties = 2 names, got"),
        ({"property_representation": "decoder"}, "'property_representation' expected one of"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CMIMConfig(**fields)


def test_time_that_is_up_ends_a_run_at_a_saved_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=100_000, max_minutes=0.02)
    trainer.train()
    steps = trainer.state.global_step
    assert 0 < steps < 100_000
    assert (tmp_path / "run" / f"checkpoint-{steps}" / "trainer_state.json").is_file()
    with pytest.raises(ValueError, match="max_minutes must be finite and above 0"):
        make_trainer(max_minutes=0.0)
    with pytest.raises(ValueError, match="Unknown `optimizer` 'lion'; choose one of adamw, muon"):
        make_trainer(optimizer="lion")
