# SPDX-License-Identifier: Apache-2.0
"""Steps that are not finite: the run stops and keeps the batch, or leaves them out and counts."""

import copy
import math
import shutil
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from cmim_hf import CMIMTrainer, CMIMTrainingArguments
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import Row
from cmim_hf.model.checksums_cmim import check_weights
from cmim_hf.training import nonfinite_guard
from cmim_hf.training.evaluation import TermAverages
from cmim_hf.training.nonfinite_guard import FOLDER


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
        settings = {"objective": "cmim", **settings}
        args = CMIMTrainingArguments(
            output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, num_train_epochs=1,
            logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True,
            bucket_by_length=False, **settings,
        )  # fmt: skip
        trainer = CMIMTrainer(
            model=model, args=args, train_dataset=packed, data_collator=CMIMCollator(tokenizer)
        )
        trainer.train()
        return trainer

    return run


def with_bromine(batch, tokenizer):
    return (batch["input_ids"] == tokenizer.convert_tokens_to_ids("Br")).any(dim=1)


@pytest.mark.parametrize("objective", ["mim", "cmim"])
def test_training_stops_before_the_weights_change_and_keeps_the_batch(
    train, poisoned, tokenizer, tmp_path, objective
):
    with pytest.raises(FloatingPointError, match=r"before step \d.*nll of its batch") as raised:
        train(poisoned, learning_rate=0.0, objective=objective)
    (kept,) = (tmp_path / "run" / FOLDER).iterdir()
    assert f"kept in {kept}" in str(raised.value) and "on_nonfinite skip" in str(raised.value)
    assert f"before {kept.name.removesuffix('-rank-0.safetensors').replace('-', ' ')} changed" in (
        str(raised.value)
    )
    assert "contrastive" not in str(raised.value), "one molecule is to blame"
    batch = load_file(kept)
    bad = ~batch["term_nll"].isfinite()
    assert bad.sum() == 1 and torch.equal(bad, with_bromine(batch, tokenizer))
    rest = [value for name, value in poisoned.named_parameters() if "embed_tokens" not in name]
    assert all(value.isfinite().all() for value in rest)


def test_steps_are_left_out_and_counted(train, poisoned, tokenizer, tmp_path):
    before = copy.deepcopy(poisoned.state_dict())
    trainer = train(poisoned, on_nonfinite="skip", learning_rate=1e-3)
    batches = [load_file(kept) for kept in (tmp_path / "run" / FOLDER).iterdir()]
    assert 1 <= len(batches) <= 2
    assert sum(int(with_bromine(batch, tokenizer).sum()) for batch in batches) == 2
    assert trainer._guard.skipped == len(batches)
    logs = [entry for entry in trainer.state.log_history if "nll" in entry]
    assert len(logs) == 8 and logs[-1]["skipped_steps"] == len(batches)
    assert sum(entry.get("nll_nonfinite", 0) for entry in logs) == 2
    assert all(math.isfinite(entry["nll"]) for entry in logs)
    for name, value in poisoned.state_dict().items():
        if "embed_tokens" not in name and "aggregate" not in name:
            assert value.isfinite().all(), name
    changed = [n for n, v in poisoned.named_parameters() if not torch.equal(v, before[n])]
    assert any("decoder" in name for name in changed)


def test_what_is_kept_is_no_weight(train, poisoned, tmp_path):
    """Deleting it must not make the checkpoint look damaged."""
    trainer = train(poisoned, on_nonfinite="skip")
    with torch.no_grad():
        poisoned.embed_tokens.weight.nan_to_num_()
    trainer.save_model()
    shutil.rmtree(tmp_path / "run" / FOLDER)
    check_weights(tmp_path / "run")
    assert len((tmp_path / "run" / "SHA256SUMS").read_text().splitlines()) == 1


def test_a_step_that_is_left_out_changes_nothing(train, poisoned, tmp_path):
    with torch.no_grad():
        poisoned.lm_head.weight.fill_(torch.inf)
    before = copy.deepcopy(poisoned.state_dict())
    trainer = train(poisoned, on_nonfinite="skip", learning_rate=1e-2)
    assert trainer._guard.skipped == 8 and len(list((tmp_path / "run" / FOLDER).iterdir())) == 3
    for name, value in poisoned.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_too_many_in_a_row_stop_it_all_the_same(train, poisoned, monkeypatch):
    monkeypatch.setattr(nonfinite_guard, "MOST_IN_A_ROW", 5)
    with torch.no_grad():
        poisoned.lm_head.weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="before step 5 .*and so were the 4 before"):
        train(poisoned, on_nonfinite="skip")


@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 1e38])
def test_a_gradient_alone_is_named(train, make_model, factor):
    model = make_model(initializer_range=0.1)
    name = "encoder.layers.1.feed_forward.up_proj.weight"
    model.get_parameter(name).register_hook(lambda gradient: (gradient + 1) * factor)
    with pytest.raises(
        FloatingPointError, match=f"before step 1 .*terms are finite here.*gradient of {name} is"
    ):
        train(model)


def test_a_batch_that_cannot_be_kept_does_not_hide_the_reason(train, poisoned, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FOLDER).write_text("in the way")
    with pytest.raises(FloatingPointError, match="nll .*could not be kept in"):
        train(poisoned)


TWO_RANKS = """
import sys, torch
from torch import distributed
from cmim_hf.training.nonfinite_guard import FiniteGuard
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
model = torch.nn.Linear(2, 1)
model(torch.ones(1, 2)).sum().backward()
for policy in ("raise", "skip"):
    guard = FiniteGuard(policy)
    nll = torch.tensor([1.0, torch.nan if rank else 2.0])
    guard.watch({"input_ids": torch.ones(2)}, {"nll": nll})
    try:
        guard.check(model, step=1, output_dir=sys.argv[3], rank=rank, gradients=True)
        print("skipped", guard.skipped, model.weight.grad)
    except FloatingPointError as error:
        print(error)
distributed.destroy_process_group()
"""


def test_ranks_agree(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, str(rank), str(tmp_path / "meeting"),
             str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    raised, skipped = zip(
        *(rank.communicate(timeout=120)[0].splitlines()[-2:] for rank in ranks),
        strict=True,  # torch 2.8 says first who is connected
    )
    assert "terms or gradients of another process are not finite" in raised[0]
    assert "not finite is nll of its batch (rows 1)" in raised[1]
    assert skipped == ("skipped 1 None",) * 2
    assert [path.name for path in (tmp_path / "run" / FOLDER).iterdir()] == [
        "step-1-rank-1.safetensors"
    ]


def test_a_mean_is_of_what_is_finite_and_the_rest_is_counted():
    terms = TermAverages()
    terms.add("a", torch.tensor([1.0, torch.nan, 3.0]))
    terms.add("a", torch.tensor(torch.inf), torch.tensor(5))
    assert terms.pop(Accelerator(cpu=True)) == {"a": 2.0, "a_nonfinite": 2}
