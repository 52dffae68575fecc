# SPDX-License-Identifier: Apache-2.0
import copy
import errno
import logging
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from cmim_hf import CMIMTrainer, CMIMTrainingArguments
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import Row
from cmim_hf.training.evaluation import (
    exact_reconstructions,
    frozen_features,
    ridge_error,
    spread_rows,
)
from cmim_hf.training.model_card import read_settings
from cmim_hf.training.objectives import OBJECTIVES, PRESETS
from cmim_hf.training.run_folder import newest_checkpoint


@pytest.fixture(scope="module")
def packed(tokenizer):
    smiles = [f"{'C' * i}{tail}" for i in range(1, 13) for tail in ("O", "N", "Cl", "C(=O)O")]
    rows = [Row("made", number, text) for number, text in enumerate(smiles, 1)]
    return prepare(rows, tokenizer, max_length=64, canonicalize=False, progress=False)[0]


@pytest.fixture
def make_trainer(make_model, tokenizer, packed, tmp_path):
    def make(model=None, **settings):
        settings = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 8,
            "max_steps": 3,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            **settings,
        }
        args = CMIMTrainingArguments(**settings)
        collator = CMIMCollator(tokenizer, views=args.build_objective().views)
        return CMIMTrainer(
            model=model or make_model(initializer_range=0.1),
            args=args,
            train_dataset=packed,
            eval_dataset=packed,
            processing_class=tokenizer,
            data_collator=collator,
        )

    return make


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), ChildProcessError),
        (ConnectionRefusedError(111, "Connection refused"), ChildProcessError),
        (FileNotFoundError(2, "No such file or directory"), ChildProcessError),  # a socket
        (FileNotFoundError(2, "No such file or directory", "molecules"), FileNotFoundError),
        (RuntimeError("shapes differ"), RuntimeError),
    ],
)
def test_the_end_of_a_worker_is_told_from_other_errors(make_trainer, error, becomes, monkeypatch):
    trainer = make_trainer(dataloader_num_workers=1)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(trainer, "evaluation_loop", fail)
    with pytest.raises(becomes) as caught:
        trainer.evaluate()
    assert ("worker of the data loader ended" in str(caught.value)) == (becomes is not type(error))


def test_weights_that_do_not_fit_leave_the_earlier_ones(
    make_trainer, make_model, little_room, tmp_path
):
    trainer = make_trainer(make_model(hidden_size=64, intermediate_size=256))
    weights = tmp_path / "run" / "model.safetensors"
    weights.parent.mkdir(exist_ok=True)
    save_file({"earlier": torch.ones(3)}, weights)
    with pytest.raises(OSError, match="run could not be written"):
        trainer.save_model()
    assert load_file(weights)["earlier"].tolist() == [1, 1, 1]


class PushToTheHub(TrainerCallback):
    """As if the run had been started with it."""

    def on_step_begin(self, args, *others, **more):
        args.push_to_hub = True


def test_a_checkpoint_that_was_written_stays_when_the_rest_fails(make_trainer, monkeypatch):
    trainer = make_trainer(save_strategy="steps", save_steps=2)
    trainer.add_callback(PushToTheHub())

    def fail(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer, "_push_from_checkpoint", fail)
    with pytest.raises(OSError, match="checkpoint-2 could not be written"):
        trainer.train()
    assert newest_checkpoint(trainer.args.output_dir).endswith("checkpoint-2")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_four_values_and_explicit_ones_win(preset, tmp_path):
    args = CMIMTrainingArguments(output_dir=str(tmp_path), preset=preset)
    for name in ("nll_reduction", "latent_reduction", "latent_warmup_steps", "max_grad_norm"):
        assert getattr(args, name) == PRESETS[preset][name]
    explicit = CMIMTrainingArguments(
        output_dir=str(tmp_path), preset=preset, nll_reduction="sum", max_grad_norm=7.0,
        latent_warmup_steps=3,
    )  # fmt: skip
    assert (explicit.nll_reduction, explicit.max_grad_norm) == ("sum", 7.0)
    assert explicit.latent_warmup_steps == 3
    assert explicit.latent_reduction == PRESETS[preset]["latent_reduction"]


def test_latent_warmup_in_steps_or_as_a_share(tmp_path):
    steps = CMIMTrainingArguments(output_dir=str(tmp_path), latent_warmup_steps=200)
    assert [steps.latent_scale(step, 1000) for step in (0, 50, 200, 900)] == [0, 0.25, 1, 1]
    share = CMIMTrainingArguments(output_dir=str(tmp_path), latent_warmup_steps=0.1)
    assert [share.latent_scale(step, 1000) for step in (0, 50, 100)] == [0, 0.5, 1]
    none = CMIMTrainingArguments(output_dir=str(tmp_path), latent_warmup_steps=0)
    assert none.latent_scale(0, 1000) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "cmmi"}, "ae, vae, mim, cmim, cae, cvae, infonce"),
        ({"preset": "nemo"}, "theory, molmim, kermt"),
        ({"contrastive_temperature": 0.0}, "contrastive_temperature must be finite and above 0"),
        ({"nll_reduction": "max"}, "sum, mean"),
        ({"latent_warmup_steps": -1}, "0 or more, got -1"),
        ({"probe_file": "a.csv"}, "probe_target"),
        ({"on_nonfinite": "ignore"}, "Unknown `on_nonfinite` 'ignore'; choose one of raise, skip"),
    ],
)
def test_wrong_arguments_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        CMIMTrainingArguments(output_dir=str(tmp_path), **settings)


def test_the_loss_is_the_objective_of_the_batch(make_trainer, make_model, packed, tokenizer):
    """Against the formula, term by term, on one batch without latent noise."""
    trainer = make_trainer(preset="kermt", contrastive_temperature=0.5)
    model = make_model(initializer_range=0.1)
    batch = CMIMCollator(tokenizer)([packed[row] for row in (3, 17, 40)])
    loss = trainer.compute_loss(model, dict(batch)).item()
    keys = batch.pop("keys")
    assert len(set(keys.tolist())) == 3
    output = model(**batch)
    z, log_std = output.latent_mean.flatten(1).double(), output.latent_log_std.flatten(1).double()
    nll = output.nll.double() / batch["attention_mask"].sum(1)
    log_q = (-log_std - 0.5 * math.log(2 * math.pi)).sum(1)
    log_p = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(1)
    unit = z / z.norm(dim=1, keepdim=True)
    similarity = (unit @ unit.T) / 0.5
    others = similarity.exp().sum(1) - similarity.diagonal().exp()
    log_k = similarity.diagonal() - (similarity.diagonal().exp() + others / 2).log()
    expected = (nll - 0.5 * (log_q + log_p) - log_k).mean().item()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_and_logs_its_terms(make_trainer, objective):
    trainer = make_trainer(objective=objective, max_steps=12, latent_warmup_steps=3)
    trainer.train()
    losses = logged(trainer, "loss")
    assert len(losses) == 12 and np.mean(losses[-3:]) < np.mean(losses[:3])
    terms = {"mean_cosine", "posterior_std"}
    if objective != "infonce":
        terms |= {"nll", "token_accuracy"}
    if objective in ("vae", "mim", "cmim", "cvae", "infonce_mim"):
        terms |= {"log_posterior", "log_prior"}
    if objective not in ("ae", "vae", "mim"):
        terms |= {"log_contrastive"}
    every = {"nll", "token_accuracy", "log_posterior", "log_prior", "log_contrastive"} | terms
    for name in every:
        assert len(logged(trainer, name)) == (12 if name in terms else 0), name
    assert -1 <= logged(trainer, "mean_cosine")[-1] <= 1


def test_two_accumulated_batches_make_the_mean_gradient(make_trainer, make_model):
    """SGD on the mean of two micro-batches' losses, computed by hand, gives the same weights."""
    settings = {
        "objective": "cae", "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant",
        "warmup_steps": 0, "max_grad_norm": 0, "weight_decay": 0.0, "max_steps": 1,
        "bucket_by_length": False, "per_device_train_batch_size": 4,
    }  # fmt: skip
    trainer = make_trainer(gradient_accumulation_steps=2, **settings)
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    by_hand = copy.deepcopy(trainer.model)
    trainer.train()
    losses = [trainer.compute_loss(by_hand.train(), dict(batch)) for batch in batches]
    assert abs(losses[0] - losses[1]) > 1e-4
    loss = (losses[0] + losses[1]) / 2
    loss.backward()
    assert logged(trainer, "loss")[0] == pytest.approx(loss.item(), rel=1e-5)
    for (name, trained), parameter in zip(
        trainer.model.named_parameters(), by_hand.parameters(), strict=True
    ):
        if parameter.grad is not None:
            expected = parameter.detach() - 0.1 * parameter.grad
            assert torch.allclose(trained, expected, atol=1e-6), name


def test_an_evaluation_means_the_same_at_every_step(make_trainer, packed, tokenizer):
    """The warm-up of the latent terms belongs to training alone."""
    trainer = make_trainer(latent_warmup_steps=100)
    metrics = trainer.evaluate()
    densities = metrics["eval_log_posterior"] + metrics["eval_log_prior"]
    expected = metrics["eval_nll"] - 0.5 * densities - metrics["eval_log_contrastive"]
    assert abs(densities) > 0.1 and metrics["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"bf16": True}, 0.02),
        pytest.param(
            {"torch_compile": True, "torch_compile_backend": "aot_eager"},
            1e-5,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_half_precision_and_compiled_steps_take_the_same_course(make_trainer, settings, tolerance):
    plain, other = make_trainer(objective="cae"), make_trainer(objective="cae", **settings)
    plain.train()
    other.train()
    assert logged(other, "loss") == pytest.approx(logged(plain, "loss"), rel=tolerance)


def test_evaluation_measures_every_row_and_exact_reconstruction(
    make_trainer, make_model, packed, tokenizer, tmp_path
):
    table = tmp_path / "labelled.csv"
    smiles = tokenizer.batch_decode(
        [row["input_ids"].tolist() for row in packed], skip_special_tokens=True
    )
    lines = [f"{text},{len(text)},{text[-1]}" for text in smiles]
    table.write_text("\n".join(["SMILES,length,last", *lines, "CCCCCC,,C"]))
    model = make_model(initializer_range=0.1)
    trainer = make_trainer(
        model, max_steps=160, learning_rate=0.005, logging_steps=160, objective="cae",
        per_device_eval_batch_size=20, probe_file=str(table), probe_target="length",
        bucket_by_length=False, per_device_train_batch_size=16, reconstruction_samples=40,
    )  # fmt: skip
    before = trainer.evaluate()
    assert before["eval_exact_reconstruction"] == 0.0
    trainer.train()
    after = trainer.evaluate()
    sequences = [row["input_ids"] for row in packed]
    sample = [sequences[row] for row in spread_rows(len(sequences), 40)]
    exact = exact_reconstructions(trainer.model, sample, 7)
    assert after["eval_exact_reconstruction"] == pytest.approx(exact / 40) and exact > 20
    assert after["eval_loss"] < before["eval_loss"]

    batch = CMIMCollator(tokenizer)([packed[row] for row in range(len(packed))])
    batch.pop("keys")
    with torch.no_grad():
        output = trainer.model.eval()(**batch)
    hits = (output.logits.argmax(-1) == batch["labels"]) & (batch["labels"] != -100)
    accuracy = hits.sum() / (batch["labels"] != -100).sum()
    assert after["eval_token_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    nll = (output.nll / batch["attention_mask"].sum(1)).mean()
    assert after["eval_nll"] == pytest.approx(nll.item(), rel=1e-4)

    lengths = np.array([len(text) for text in smiles], float)
    features = frozen_features(trainer.model, sequences, 11)
    for name in ("latent", "informative"):
        probed = after[f"eval_probe_rmse_{name}"]
        assert probed == pytest.approx(ridge_error(features[name], lengths), rel=1e-3)
        assert probed < 0.7 * lengths.std()
    alone = trainer.model.get_latents(torch.tensor([sequences[30].tolist()]))
    assert np.allclose(features["latent"][30], alone.detach().flatten(), atol=1e-5)


def test_probe_files_that_cannot_be_used_say_why(make_trainer, tmp_path):
    table = tmp_path / "labelled.csv"
    table.write_text("SMILES,y\nCCO,1.5\nCC,high\n")
    with pytest.raises(ValueError, match="row 2: column 'y' holds 'high'"):
        make_trainer(probe_file=str(table), probe_target="y")
    with pytest.raises(
        ValueError, match="no column 'logP'; its columns are 'SMILES'.*`probe_target`"
    ):
        make_trainer(probe_file=str(table), probe_target="logP")
    table.write_text("SMILES,y\nCCO,\nCCN,\n")
    with pytest.raises(ValueError, match="has 0 molecules with a label in 'y'; a probe needs 5"):
        make_trainer(probe_file=str(table), probe_target="y")
    table.write_text("SMILES,y\nCCO,1.5\nC(C,2\n")
    with pytest.raises(ValueError, match="labelled.csv row 2: 'C\\(C' cannot be embedded: .*parse"):
        make_trainer(probe_file=str(table), probe_target="y")
    table.write_text(f"SMILES,y\nCCO,1.5\n{'C' * 600},2\n")
    with pytest.raises(ValueError, match="601 tokens with the end token; at most 512 fit"):
        make_trainer(probe_file=str(table), probe_target="y")


def test_too_little_data_for_a_batch_is_said(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=64)
    with pytest.raises(ValueError, match="48 training examples do not fill one batch of 64"):
        trainer.train()


def test_a_sample_is_spread_over_all_rows():
    assert spread_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_rows(3, 256).tolist() == [0, 1, 2] and spread_rows(8000, 256)[-1] == 7999


def test_the_card_tells_of_the_run(make_trainer, tmp_path):
    trainer = make_trainer(preset="theory", seed=11)
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card(dataset=["made up alkanes"])
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.library_name == "transformers" and card.data.license is None
    assert card.data.pipeline_tag == "feature-extraction" and "molecules" in card.data.tags
    for text in (
        "made up alkanes",
        "| objective | cmim |",
        "| preset | theory |",
        "| seed | 11 |",
        "| molecules presented | 24 |",
        f"{trainer.model.num_parameters():,} parameters",
        "| eval_exact_reconstruction | 0 |",
        f"| {trainer.state.global_step} | {trainer.state.log_history[-1]['eval_nll']:.4g} |",
        "minutes since its last start |",
        "cores, ",
    ):
        assert text in card.text, text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--hub_token", "secret"], "--hub_token ..."),
        (["--push_to_hub_token=secret"], "--push_to_hub_token=..."),
        (["--hub-token", "secret"], "--hub-token ..."),
        (["--hub_tok", "secret"], "--hub_tok ..."),
        (["--hub-to=secret"], "--hub-to=..."),
        (["--note", "hf_secret"], "--note ..."),
    ],
)
def test_the_card_does_not_tell_secrets(make_trainer, tmp_path, monkeypatch, words, shown):
    """Nor by options with dashes or cut short, which the parser takes as well."""
    monkeypatch.setattr("sys.argv", ["pretrain.py", *words, "--seed", "3"])
    make_trainer().create_model_card(license="mit")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "secret" not in card and "license: mit" in card
    assert f"`python pretrain.py {shown} --seed 3`" in card


def test_the_settings_of_a_card_can_be_read_back(make_trainer, tmp_path):
    assert read_settings(tmp_path / "README.md") == {}
    trainer = make_trainer(preset="kermt")
    trainer.train()
    trainer.create_model_card()
    settings = read_settings(tmp_path / "run" / "README.md")
    assert settings["preset"] == "kermt" and settings["molecules presented"] == "24"
    assert settings["processes"] == "1" and "torch 2" in settings["versions"]


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step, state in ((9, "{}"), (100, "{}"), (200, '{"global'), (300, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_a_checkpoint_with_damaged_weights_is_passed_over(make_trainer, tmp_path):
    make_trainer(save_strategy="steps", save_steps=1).train()
    newest = tmp_path / "run" / "checkpoint-3"
    assert newest_checkpoint(tmp_path / "run") == str(newest)
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    assert newest_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-2")


@pytest.fixture(scope="module")
def examples(packed):
    return [{"input_ids": np.asarray(packed[row]["input_ids"]).tolist()} for row in range(48)]


def arguments(folder, **settings):
    return CMIMTrainingArguments(
        str(folder), per_device_train_batch_size=8, max_steps=3, logging_steps=1, use_cpu=True,
        save_strategy="no", disable_tqdm=True, bucket_by_length=False, seed=3, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["list", "Dataset", "IterableDataset"])
def test_takes_the_data_sets_that_trainer_takes(
    make_model, make_trainer, tokenizer, examples, tmp_path, kind
):
    """Without a collator; in order, the losses of prepared molecules."""
    data = examples
    if kind != "list":
        data = Dataset.from_list(examples)
    if kind == "IterableDataset":
        data = data.to_iterable_dataset()
    trainer = CMIMTrainer(
        make_model(initializer_range=0.1),
        arguments(tmp_path),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    trainer.train()
    assert "eval_log_contrastive" in trainer.evaluate()
    trainer.save_model()
    if kind != "IterableDataset":  # which is not shuffled
        prepared = make_trainer(bucket_by_length=False, seed=3)
        prepared.train()
        assert logged(trainer, "loss") == pytest.approx(logged(prepared, "loss"), rel=1e-5)


def test_a_batch_without_labels_and_keys_gets_them(make_model, packed, tokenizer, tmp_path):
    trainer = CMIMTrainer(make_model(), arguments(tmp_path), train_dataset=packed)
    batch = CMIMCollator(tokenizer)([packed[0], packed[5], packed[0]])
    trainer.model.eval()
    expected = trainer.compute_loss(trainer.model, batch)
    bare = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(trainer.compute_loss(trainer.model, bare), expected)


def test_equal_molecules_are_saved_without_a_fitted_prior(
    make_model, tokenizer, tmp_path, caplog, monkeypatch
):
    data = [{"input_ids": tokenizer("CCO")["input_ids"]}] * 16
    trainer = CMIMTrainer(
        make_model(), arguments(tmp_path), train_dataset=data, processing_class=tokenizer
    )
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    trainer.save_model()
    assert "saved without a fitted prior" in caplog.text
    assert (tmp_path / "model.safetensors").is_file()


def test_an_earlier_run_into_the_same_folder_is_passed_over(make_trainer, tmp_path):
    folder = tmp_path / "run"
    make_trainer(max_steps=4, save_strategy="steps", save_steps=2).train()
    assert newest_checkpoint(folder).endswith("checkpoint-4")
    second = make_trainer(max_steps=3, save_strategy="steps", save_steps=3)
    second.train()
    assert newest_checkpoint(folder).endswith("checkpoint-3")
    goes_on = make_trainer(max_steps=5, save_strategy="steps", save_steps=1)
    goes_on.train(resume_from_checkpoint=newest_checkpoint(folder))
    assert newest_checkpoint(folder).endswith("checkpoint-5")


def test_a_folder_of_a_run_without_a_checkpoint_starts_anew(make_trainer, tmp_path):
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    make_trainer(max_steps=2).train()
    assert newest_checkpoint(tmp_path / "run") is None


def test_the_users_model_is_plain_after_training(make_trainer, make_model):
    model = make_model()
    kinds = [type(module) for module in model.modules()]
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, *_, **__):
            seen.append([type(module) for module in model.modules()] == kinds)

    trainer = make_trainer(model)
    trainer.add_callback(Look())
    trainer.train()
    trainer.predict(trainer.eval_dataset)
    assert seen == [False] * 3
    assert [type(module) for module in model.modules()] == kinds
    assert model.config._attn_implementation == "sdpa"


def test_resuming_does_not_miss_what_is_stored_once(make_trainer, tmp_path, caplog, monkeypatch):
    """The output layer is the embedding's."""
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    resumed = make_trainer(max_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 3 and "missing keys" not in caplog.text
