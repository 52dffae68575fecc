# SPDX-License-Identifier: Apache-2.0
"""The fitted prior: from the codes of training into the checkpoint, and out of it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cmim_hf import CMIMModel, CMIMTrainer, CMIMTrainingArguments, MoleculeGenerator
from cmim_hf.checkpoints.loading import load_checkpoint
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.training.aggregate_posterior import fitted_prior, set_prior

KEYS = ("posterior.aggregate_mean", "posterior.aggregate_std")


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:30]]


@pytest.fixture
def unfitted(make_model, tokenizer, tmp_path):
    """A checkpoint from before the statistics were stored."""
    make_model(initializer_range=0.1).save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "model.safetensors"
    weights = load_file(file)
    for key in KEYS:
        del weights[key]
    save_file(weights, file, metadata={"format": "pt"})
    file.with_name("SHA256SUMS").unlink(missing_ok=True)
    return tmp_path / "old"


def train(model, tokenizer, packed, folder, **settings):
    settings = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-2, **settings}
    args = CMIMTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        disable_tqdm=True,
        use_cpu=True,
        report_to=[],
        **settings,
    )
    trainer = CMIMTrainer(
        model=model,
        args=args,
        train_dataset=packed,
        processing_class=tokenizer,
        data_collator=CMIMCollator(tokenizer),
    )
    trainer.train()
    return trainer


def codes_of(model, packed):
    """The mean codes, one molecule at a time."""
    with torch.no_grad():
        return torch.cat(
            [
                model.get_latents(torch.as_tensor(np.array(row["input_ids"], np.int64))[None])
                for row in packed
            ]
        )


@pytest.mark.parametrize("num_latents", [1, 3])
def test_mean_and_spread_are_those_of_the_codes(make_model, num_latents):
    model = make_model(num_latents=num_latents)
    assert not any(value.any() for value in (model.posterior.aggregate_mean,))
    codes = np.random.default_rng(0).normal(2.0, 3.0, (50, num_latents, 96)).astype(np.float32)
    set_prior(model, torch.from_numpy(codes))
    mean, std = fitted_prior(model)
    assert mean.shape == std.shape == (num_latents, 96)
    for latent in range(num_latents):
        for place in (0, 50, 95):
            column = codes[:, latent, place].tolist()
            average = sum(column) / 50
            variance = sum((x - average) ** 2 for x in column) / 49
            assert mean[latent, place] == pytest.approx(average, rel=1e-5)
            assert std[latent, place] == pytest.approx(variance**0.5, rel=1e-5)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_spread_needs_two_molecules(make_model, rows):
    with pytest.raises(ValueError, match=f"at least two molecules, got {rows}"):
        set_prior(make_model(), torch.zeros(rows, 1, 96))
    with pytest.raises(ValueError, match=f"at least two molecules, got {rows}"):
        MoleculeGenerator(progress=False).fit_prior(["CCO"] * rows)


def test_a_checkpoint_without_statistics_loads_and_says_what_to_do(unfitted, drugs):
    model, _ = load_checkpoint(unfitted, "cpu")
    assert not model.posterior.aggregate_mean.any() and not model.posterior.aggregate_std.any()
    generator = MoleculeGenerator(unfitted, progress=False, seed=0)
    assert len(generator.sample(3)) == 3
    assert len(generator.reconstruct(drugs[:3])) == 3
    assert len(generator.sample_around(drugs[0], 1.0, 3, unit="posterior")) == 3
    for call in (
        lambda: generator.sample(3, prior="fitted"),
        lambda: generator.sample_around(drugs[0], 1.0, 3, unit="aggregate"),
    ):
        with pytest.raises(ValueError, match="does not know .*call MoleculeGenerator.fit_prior"):
            call()


def test_other_missing_weights_are_still_an_error(unfitted):
    file = unfitted / "model.safetensors"
    weights = load_file(file)
    del weights["posterior.mean_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    file.with_name("SHA256SUMS").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="incomplete: posterior.mean_proj.weight"):
        load_checkpoint(unfitted, "cpu")


def test_fit_prior_takes_the_given_molecules_and_is_saved(unfitted, drugs, tmp_path):
    generator = MoleculeGenerator(unfitted, progress=False)
    generator.fit_prior([*drugs, "C(C", None], on_invalid="skip")
    codes = generator.encode(drugs)
    mean, std = fitted_prior(generator.model)
    assert np.allclose(mean, codes.mean(axis=0), rtol=0, atol=1e-5)
    assert np.allclose(std, codes.std(axis=0, ddof=1), rtol=0, atol=1e-5)
    assert std.min() > 0
    before = generator.encode(drugs)
    generator.model.save_pretrained(tmp_path / "fitted")
    generator.tokenizer.save_pretrained(tmp_path / "fitted")
    again = MoleculeGenerator(tmp_path / "fitted", progress=False, seed=1)
    for kept, stored in zip(fitted_prior(again.model), (mean, std), strict=True):
        assert torch.equal(kept, stored)
    assert np.array_equal(again.encode(drugs), before)
    assert len(again.sample(2, prior="fitted")) == 2
    with pytest.raises(ValueError, match="Row 1"):
        again.fit_prior(["CCO", "C(C"])


def test_training_stores_the_spread_of_its_codes_in_every_checkpoint(
    make_model, tokenizer, packed, tmp_path
):
    trainer = train(make_model(initializer_range=0.1), tokenizer, packed, tmp_path)
    found = {}
    for step in (2, 4):
        model = CMIMModel.from_pretrained(tmp_path / f"checkpoint-{step}").eval()
        codes = codes_of(model, packed)
        mean, std = found[step] = fitted_prior(model)
        assert torch.allclose(mean, codes.mean(dim=0), rtol=0, atol=1e-5)
        assert torch.allclose(std, codes.std(dim=0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found[2][1], found[4][1], rtol=0.01)  # after the later steps
    trainer.save_model(str(tmp_path / "last"))
    last = CMIMModel.from_pretrained(tmp_path / "last")
    torch.testing.assert_close(fitted_prior(last)[1], found[4][1])


@pytest.mark.parametrize("training", [True, False])
def test_saving_leaves_mode_and_random_states_alone(
    make_model, tokenizer, packed, tmp_path, training
):
    trainer = train(
        make_model(initializer_range=0.1, dropout=0.5), tokenizer, packed, tmp_path, max_steps=1
    )
    trainer.model.train(training)
    weights = {name: value.clone() for name, value in trainer.model.named_parameters()}
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    saved = []
    for name in ("a", "b"):
        trainer.save_model(str(tmp_path / name))
        saved.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(module.training == training for module in trainer.model.modules())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, weights[name]), name
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])
    codes = codes_of(trainer.model.eval(), packed)  # without dropout
    assert torch.allclose(saved[0][KEYS[1]], codes.std(dim=0), rtol=1e-4, atol=1e-6)


def test_at_most_two_thousand_molecules_from_all_over_the_set_are_measured(
    make_model, tokenizer, packed, tmp_path
):
    class Counted(torch.utils.data.Dataset):
        def __init__(self):
            self.read = []

        def __len__(self):
            return 6000

        def __getitem__(self, row):
            self.read.append(row)
            return packed[row % len(packed)]

    dataset = Counted()
    args = CMIMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    trainer = CMIMTrainer(
        model=make_model(),
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        data_collator=CMIMCollator(tokenizer),
    )
    trainer.save_model(str(tmp_path / "saved"))
    assert len(dataset.read) == len(set(dataset.read)) == 2000
    assert (dataset.read[0], dataset.read[-1]) == (0, 5999)
    assert max(np.diff(dataset.read)) <= 4
    saved = CMIMModel.from_pretrained(tmp_path / "saved")
    codes = codes_of(trainer.model.eval(), [packed[row % len(packed)] for row in dataset.read])
    assert torch.allclose(fitted_prior(saved)[1], codes.std(dim=0), rtol=1e-3, atol=1e-6)
