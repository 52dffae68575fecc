# SPDX-License-Identifier: Apache-2.0
"""The fitted prior: from the codes of training into the checkpoint."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmim_hf import CMIMModel, CMIMTrainer, CMIMTrainingArguments
from cmim_hf.data.collator import CMIMCollator

STD = "posterior.aggregate_std"


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


def test_training_stores_the_spread_of_its_codes_in_every_checkpoint(
    make_model, tokenizer, packed, tmp_path
):
    trainer = train(make_model(initializer_range=0.1), tokenizer, packed, tmp_path)
    found = {}
    for step in (2, 4):
        model = CMIMModel.from_pretrained(tmp_path / f"checkpoint-{step}").eval()
        codes = codes_of(model, packed)
        mean, std = found[step] = model.posterior.aggregate()
        assert torch.allclose(mean, codes.mean(dim=0), rtol=0, atol=1e-5)
        assert torch.allclose(std, codes.std(dim=0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found[2][1], found[4][1], rtol=0.01)  # after the later steps
    trainer.save_model(str(tmp_path / "last"))
    last = CMIMModel.from_pretrained(tmp_path / "last")
    torch.testing.assert_close(last.posterior.aggregate()[1], found[4][1])


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
    assert torch.allclose(saved[0][STD], codes.std(dim=0), rtol=1e-4, atol=1e-6)


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
    assert torch.allclose(saved.posterior.aggregate()[1], codes.std(dim=0), rtol=1e-3, atol=1e-6)
