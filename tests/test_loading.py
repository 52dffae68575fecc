# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from cmim_hf import DEFAULT_CHECKPOINT, train_tokenizer
from cmim_hf.loading import load_checkpoint


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped checkpoint, to be damaged."""
    return shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "checkpoint")


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
