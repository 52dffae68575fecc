# SPDX-License-Identifier: Apache-2.0
"""Steps that are not finite: the run stops and keeps the batch, or leaves them out and counts."""

import copy

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file

from cmim_hf import CMIMTrainer, CMIMTrainingArguments
from cmim_hf.data import CMIMCollator, prepare
from cmim_hf.monitoring import TermAverages
from cmim_hf.reading import Row


@pytest.fixture
def packed(tokenizer):
    """32 molecules, of which two have bromine."""
    smiles = [f"{'C' * size}{tail}" for size in range(1, 17) for tail in ("O", "N")]
    smiles[5], smiles[20] = "CCCBr", "CCCCCCCCCBr"
    rows = [Row("made", number, text) for number, text in enumerate(smiles, 1)]
    return prepare(rows, tokenizer, max_length=64, canonicalize=False, progress=False)[0]


@pytest.fixture
def poisoned(make_model, tokenizer):
    """A model whose encoder and decoder give NaN for bromine and for nothing else."""
    model = make_model(initializer_range=0.1, tie_word_embeddings=False)
    with torch.no_grad():
        model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Br")] = torch.nan
    return model


@pytest.fixture
def train(tokenizer, packed, tmp_path):
    def run(model, **settings):
        args = CMIMTrainingArguments(
            output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, num_train_epochs=1,
            logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True,
            bucket_by_length=False, objective="mim", **settings,
        )  # fmt: skip
        trainer = CMIMTrainer(
            model=model, args=args, train_dataset=packed, data_collator=CMIMCollator(tokenizer)
        )
        trainer.train()
        return trainer

    return run


def with_bromine(batch, tokenizer):
    return (batch["0.input_ids"] == tokenizer.convert_tokens_to_ids("Br")).any(dim=1)


def test_training_stops_before_the_weights_change_and_keeps_the_batch(
    train, poisoned, tokenizer, tmp_path
):
    with pytest.raises(FloatingPointError, match=r"before step (\d).*nll \(rows \d\)") as raised:
        train(poisoned, learning_rate=0.0)
    (kept,) = (tmp_path / "run").glob("nonfinite-*-0.safetensors")
    assert str(kept) in str(raised.value) and "on_nonfinite skip" in str(raised.value)
    batch = load_file(kept)
    bad = ~batch["0.term_nll"].isfinite()
    assert bad.sum() == 1 and torch.equal(bad, with_bromine(batch, tokenizer))
    with safe_open(kept, "pt") as opened:
        step = int(opened.metadata()["step"])
    assert kept.name == f"nonfinite-{step}-0.safetensors"
    rest = [value for name, value in poisoned.named_parameters() if "embed_tokens" not in name]
    assert all(value.isfinite().all() for value in rest)


def test_steps_are_left_out_and_counted(train, poisoned, tokenizer, tmp_path):
    before = copy.deepcopy(poisoned.state_dict())
    trainer = train(poisoned, on_nonfinite="skip", learning_rate=1e-3)
    batches = [load_file(kept) for kept in (tmp_path / "run").glob("nonfinite-*")]
    assert 1 <= len(batches) <= 2
    assert sum(int(with_bromine(batch, tokenizer).sum()) for batch in batches) == 2
    assert trainer._guard.skipped == len(batches)
    logs = [entry for entry in trainer.state.log_history if "nll" in entry]
    assert len(logs) == 8 and logs[-1]["skipped_steps"] == len(batches)
    for entry in logs:
        assert entry["nll"] == entry["nll"], "a mean over the finite ones"
    for name, value in poisoned.state_dict().items():
        if "embed_tokens" not in name and "aggregate" not in name:
            assert value.isfinite().all(), name
    changed = [n for n, v in poisoned.named_parameters() if not torch.equal(v, before[n])]
    assert any("decoder" in name for name in changed)


def test_a_step_that_is_left_out_changes_nothing(train, poisoned):
    with torch.no_grad():
        poisoned.lm_head.weight.fill_(torch.inf)
    before = copy.deepcopy(poisoned.state_dict())
    trainer = train(poisoned, on_nonfinite="skip", learning_rate=1e-2)
    assert trainer._guard.skipped == 8
    for name, value in poisoned.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_a_gradient_alone_is_named(train, make_model):
    model = make_model(initializer_range=0.1)
    model.encoder.layers[0].feed_forward.up_proj.weight.register_hook(lambda g: g * torch.inf)
    with pytest.raises(FloatingPointError, match="before step 1 .*terms are finite here.*gradient"):
        train(model)


def test_a_mean_counts_what_is_finite():
    terms = TermAverages()
    terms.add("a", torch.tensor([1.0, torch.nan, 3.0]))
    terms.add("a", torch.tensor(torch.inf), torch.tensor(5))
    assert terms.pop(Accelerator(cpu=True))["a"] == 2.0
