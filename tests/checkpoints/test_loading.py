# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from transformers import BertConfig, BertModel
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from cmim_hf import (
    CMIMConfig,
    CMIMModel,
    MoleculeEmbedder,
    MoleculeGenerator,
    list_checkpoints,
    train_tokenizer,
)
from cmim_hf.checkpoints import checkpoint_path
from cmim_hf.checkpoints.loading import load_checkpoint, load_tokenizer
from cmim_hf.embedding.sklearn_featurizer import MoleculeFeaturizer
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments
from cmim_hf.training.run_arguments import parse_arguments


@pytest.fixture
def saved(tmp_path):
    """A copy of a shipped checkpoint, to be damaged."""
    return shutil.copytree(list_checkpoints()["tiny"], tmp_path / "checkpoint")


@pytest.fixture
def folder(saved):
    """The same without checksums, as other tools write it."""
    (saved / "SHA256SUMS").unlink()
    return saved


def test_loads_for_use_on_the_cpu_in_float32(folder):
    weights = {
        name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    model, tokenizer = load_checkpoint(folder, device="cpu")
    assert model.dtype == torch.float32 and not model.training
    assert len(tokenizer) == model.config.vocab_size
    assert load_checkpoint(folder, dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "runs/of/nobody"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_checkpoint(name)


@pytest.mark.parametrize("name", ["smal", "nothing/"])
@pytest.mark.parametrize("load", [load_checkpoint, load_tokenizer])
def test_a_name_that_nothing_has_is_told_with_those_that_ship(name, load):
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint '{name}': .* ships \(small, "):
        load(name)


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        file = tmp_path / "weights.bin"
        file.write_bytes(b"0")
        load_checkpoint(file)


def test_another_kind_of_model(tmp_path):
    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model of type 'bert'; a cMIM checkpoint is expected"):
        load_checkpoint(tmp_path)


def test_missing_weights_are_no_random_weights(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["posterior.mean_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete: posterior.mean_proj.weight and 0 more"):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_model(folder):
    other = train_tokenizer(["[" + chr(65 + i % 26) + str(i) + "]" for i in range(200)] * 2)
    other.save_pretrained(folder)
    with pytest.raises(ValueError, match="do not belong together"):
        load_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("load", [load_checkpoint, CMIMModel.from_pretrained, MoleculeEmbedder])
def test_a_flipped_bit_or_a_cut_is_seen(saved, load, share):
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    written = (saved / "SHA256SUMS").stat().st_mtime_ns
    flipped = bytearray(whole)
    flipped[int(share * len(whole)) + 20] ^= 4
    for damaged in (bytes(flipped), whole[: int(share * len(whole))]):
        weights.write_bytes(damaged)
        os.utime(weights, ns=(written, written))  # where it lay, not by a program
        with pytest.raises(ValueError, match="model.safetensors is not what was saved"):
            load(saved)
    weights.write_bytes(whole)
    load(saved)


def test_weights_that_another_program_wrote_are_taken_with_a_warning(saved, caplog):
    other = CMIMModel(load_checkpoint(saved)[0].config)
    hour_ago = time.time() - 3600
    os.utime(saved / "SHA256SUMS", (hour_ago, hour_ago))
    Accelerator(cpu=True).save_model(other, str(saved))
    with caplog.at_level("WARNING", logger="transformers"):
        logging.getLogger("transformers").propagate = True
        model, _ = load_checkpoint(saved)
    assert torch.equal(model.lm_head.weight, other.lm_head.weight)
    assert "was written after SHA256SUMS" in caplog.text


def test_a_weight_file_that_is_gone_or_checksums_that_are_none(saved):
    sums = (saved / "SHA256SUMS").read_text()
    for text, message in (
        (sums.replace("model.", "other."), "other.safetensors is missing, which SHA256SUMS lists"),
        ("nothing\n", "SHA256SUMS line 1 is no checksum"),
        (sums.replace("model.", "../model."), "SHA256SUMS line 1 is no checksum"),
    ):
        (saved / "SHA256SUMS").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(saved)


def test_saving_again_writes_new_checksums(saved):
    model = CMIMModel.from_pretrained(saved)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1.0
    before = (saved / "SHA256SUMS").read_text()
    model.save_pretrained(saved)
    assert (saved / "SHA256SUMS").read_text() != before
    again = CMIMModel.from_pretrained(saved)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    (saved / "model.safetensors").unlink()  # which would be read in place of the shards
    model.save_pretrained(saved, max_shard_size="500KB")
    assert len((saved / "SHA256SUMS").read_text().splitlines()) >= 3
    assert torch.equal(load_checkpoint(saved)[0].lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("size", [0, 4, 5000])
def test_without_checksums_a_cut_file_is_named_too(folder, size):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=f"{folder} cannot be opened .*its weights are damaged or cut short"
    ):
        load_checkpoint(folder)


def test_weights_of_other_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(ValueError, match=r"do not fit its config.json: .* expected \(48"):
        load_checkpoint(folder)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        CMIMModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layout", 2, "layout 2; this code knows up to 1.*pip install --upgrade cmim-hf"),
        ("hidden_size", "many", r"'hidden_size' expected int, got str \(value: 'many'\)"),
        ("num_latents", 0, "'num_latents':\n.*whole number of at least 1, got 0"),
        ("posterior", "flow", r"'posterior' expected one of \('learned', 'sampled'\), got flow"),
        ("min_log_std", 0.5, "min_log_std must be a negative number .* got 0.5"),
        ("dropout", None, "'dropout' with value None"),
        ("layer_norm_eps", float("nan"), "'layer_norm_eps':\n.*a number of at least 0, got nan"),
        ("hidden_act", "gulu", "must name an activation of transformers, got 'gulu'"),
        ("pad_token_id", 9999, r"pad_token_id \(9999\) must be below vocab_size"),
        ("property_names", ["logP"], "property_names must be num_properties = 0 names"),
        ("problem_type", "ranking", "'problem_type' with value 'ranking' doesn't match"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(folder, field, value, message):
    config = json.loads((folder / "config.json").read_text())
    assert config["layout"] == CMIMConfig().layout == 1
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    for load in (load_checkpoint, CMIMModel.from_pretrained, CMIMConfig.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(folder)


@pytest.mark.parametrize("change", [{"dtype": "float33"}, {"id2label": []}, None])
def test_a_configuration_that_cannot_be_read(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps([] if change is None else config | change))
    with pytest.raises(ValueError, match="config.json|id2label"):
        load_checkpoint(folder)


def test_loading_shows_no_bar_and_leaves_others_their_own(folder, capfd):
    shown = is_progress_bar_enabled()
    for switch in (disable_progress_bar, enable_progress_bar):
        switch()
        load_checkpoint(folder)
        assert is_progress_bar_enabled() is (switch is enable_progress_bar)
    if not shown:
        disable_progress_bar()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["{", "{}", None])
def test_a_tokenizer_that_cannot_be_read(folder, text):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=f"The tokenizer of {folder} cannot be read"):
        load_checkpoint(folder)


class Poison:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "training_args.bin"])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("load", [load_checkpoint, CMIMModel.from_pretrained])
def test_no_pickle_is_opened(folder, tmp_path, name, alone, load):
    with open(folder / name, "wb") as stream:
        pickle.dump(Poison(tmp_path / "taken"), stream)
    if alone:
        (folder / "model.safetensors").unlink()
        with pytest.raises(OSError, match="no file named model.safetensors"):
            load(folder)
    else:
        load(folder)
    assert not (tmp_path / "taken").exists()
    with open(folder / name, "rb") as stream:
        pickle.load(stream).close()
    assert (tmp_path / "taken").exists(), "the poison works"


@pytest.fixture
def hub_cache(tmp_path):
    """A cache with two revisions of one repository of the Hub: tiny, and small with its prior."""
    repository = tmp_path / "cache" / "models--me--mine"
    for revision, name in (("main", "tiny"), ("v1", "small")):
        commit = revision.ljust(40, "0")
        shutil.copytree(list_checkpoints()[name], repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    return tmp_path / "cache"


def test_a_revision_is_opened_from_another_cache(hub_cache):
    where = {"cache_dir": hub_cache, "local_files_only": True}
    assert load_checkpoint("me/mine", **where)[0].config.hidden_size == 96
    model, tokenizer = load_checkpoint("me/mine", revision="v1", **where)
    small, _ = load_checkpoint("small")
    batch = tokenizer(["CCO"], return_tensors="pt")
    assert torch.equal(model.get_latents(**batch), small.get_latents(**batch))
    embedder = MoleculeEmbedder("me/mine", revision="v1", **where, progress=False)
    found = MoleculeEmbedder("small", progress=False).embed(["CCO"])
    assert np.array_equal(embedder.embed(["CCO"]), found)
    of_the_hub = {"revision": "v1", "cache_dir": hub_cache}
    featurizer = clone(MoleculeFeaturizer("me/mine", **of_the_hub))
    assert np.array_equal(featurizer.fit_transform(["CCO"]), found)
    generator = MoleculeGenerator("me/mine", revision="v1", seed=0, progress=False, **where)
    expected = MoleculeGenerator("small", seed=0, progress=False).sample(3, prior="fitted")
    assert generator.sample(3, prior="fitted") == expected
    with pytest.raises(OSError, match="find them in the cached files"):
        load_checkpoint("me/mine", revision="v2", **where)
    with pytest.raises(TypeError, match="'revison'; the Hub's are revision, token, cache_dir"):
        MoleculeEmbedder("me/mine", revison="v1")


def test_what_ships_is_known_by_name_wherever_a_checkpoint_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = list_checkpoints()["small"]
    table = tmp_path / "table.csv"
    table.write_text("smiles,y\nCCO,1\n")
    assert (
        FineTuningArguments(data=str(table), targets=["y"], checkpoint="small").checkpoint == small
    )
    words = ["--train_sources", "x.smi", "--model_name_or_path", "small", "--use_cpu", "true"]
    model_args, _, _ = parse_arguments(words)
    assert model_args.model_name_or_path == small
    (tmp_path / "small").mkdir()  # a folder of that name is meant
    assert checkpoint_path("small") == "small"
