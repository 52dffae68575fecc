# SPDX-License-Identifier: Apache-2.0
"""A saved checkpoint in a process that has never heard of this package, and what is saved."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification, pipeline

from cmim_hf import CMIMForSequenceClassification, CMIMModel, list_checkpoints
from cmim_hf.model.molecule_tokenizer_cmim import CMIMMoleculeTokenizer
from cmim_hf.model.sentence_transformers_cmim import CMIMSentenceEmbedding

CODE = {
    "checked_fields_cmim.py",
    "checksums_cmim.py",
    "configuration_cmim.py",
    "decoding_cmim.py",
    "encoder_decoder_cmim.py",
    "gaussian_cmim.py",
    "generation_cmim.py",
    "informative_embeddings_cmim.py",
    "layers_cmim.py",
    "modeling_cmim.py",
    "molecule_tokenizer_cmim.py",
    "onnx_cmim.py",
    "parent_molecule_cmim.py",
    "pipelines_cmim.py",
    "posterior_cmim.py",
    "property_head_cmim.py",
    "representations_cmim.py",
    "saving_cmim.py",
    "sentence_transformers_cmim.py",
    "sequence_classification_cmim.py",
    "smiles_text_cmim.py",
}
CONFIG = {*CODE, "config.json", "modules.json"}
MODEL = {*CONFIG, "generation_config.json", "model.safetensors", "SHA256SUMS"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}

WITHOUT_PACKAGE = """
import sys
sys.modules["cmim_hf"] = None  # importing it raises ImportError
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

molecules = open("molecules.smi").read().split()
trusted = {"trust_remote_code": True}
try:
    AutoModel.from_pretrained("model")
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise SystemExit("transformers did not ask for trust")
for name in ("model", "again"):
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModel.from_pretrained(name, **trusted)
    batch = tokenizer(molecules, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = {
            "ids": batch["input_ids"],
            "latents": model.get_latents(**batch),
            "informative": model.get_informative_embeddings(**batch),
            "logits": model(**batch).logits,
            "properties": model.get_properties(**batch),
            "written": model.generate(**batch, max_new_tokens=9),
        }
    seq2seq = AutoModelForSeq2SeqLM.from_pretrained(name, **trusted)
    assert type(seq2seq).__name__ == "CMIMModel", type(seq2seq)
    embed = pipeline("molecule-embedding", model=name, **trusted)
    found["embedded"] = np.stack(embed(molecules))
    found["near"] = pipeline("molecule-generation", model=name, **trusted)(
        molecules, radius=0.1, seed=1
    )
    sentences = SentenceTransformer(name, **trusted)
    found["sentences"] = sentences.encode(molecules)
    torch.save(found, f"{name}.pt")
    fresh = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, **trusted)
    assert fresh.config.num_labels == 1
    if name == "model":
        model.save_pretrained("again")
        tokenizer.save_pretrained("again")
        sentences.save("again_sentences", create_model_card=False)
labels = AutoModelForSequenceClassification.from_pretrained("classifier", **trusted)
predict = pipeline("molecule-prediction", model="classifier", **trusted)
classify = pipeline("text-classification", model="classifier", top_k=None, **trusted)
found = {"logits": labels(**batch).logits.detach(), "predicted": predict(molecules)}
found["classified"] = classify(["OCC", "CCO"])
torch.save(found, "classifier.pt")
labels.save_pretrained("again_classifier")
"""


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved(make_model, tokenizer, molecules, tmp_path_factory):
    """A model, a classifier, and what a process without the package made of them."""
    folder = tmp_path_factory.mktemp("remote")
    model = make_model(num_latents=2, num_properties=3)
    model.property_head.quantiles.copy_(torch.randn(3, 65).sort(dim=1).values)
    model.save_pretrained(folder / "model")
    classifier = CMIMForSequenceClassification.from_pretrained(
        folder / "model", num_labels=2, problem_type="regression"
    )
    classifier.save_pretrained(folder / "classifier")
    for name in ("model", "classifier"):
        tokenizer.save_pretrained(folder / name)
    CMIMMoleculeTokenizer.save_in_place_of(folder / "classifier", "none")
    (folder / "molecules.smi").write_text("\n".join(molecules))
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", ["model", "again"])
def test_without_the_package_outputs_are_equal(saved, tokenizer, molecules, name):
    model = CMIMModel.from_pretrained(saved / "model").eval()
    batch = tokenizer(molecules, padding=True, return_tensors="pt")
    found = torch.load(saved / f"{name}.pt", weights_only=False)
    with torch.no_grad():
        expected = {
            "ids": batch["input_ids"],
            "latents": model.get_latents(**batch),
            "informative": model.get_informative_embeddings(**batch),
            "logits": model(**batch).logits,
            "properties": model.get_properties(**batch),
            "written": model.generate(**batch, max_new_tokens=9),
        }
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)  # another number of threads, other bits
    write = pipeline("molecule-generation", model=model, tokenizer=tokenizer)
    assert found["near"] == write(molecules, radius=0.1, seed=1)
    for key in ("embedded", "sentences"):
        torch.testing.assert_close(torch.tensor(found[key]), expected["informative"])


def test_without_the_package_predictions_are_equal(saved, tokenizer, molecules):
    model = AutoModelForSequenceClassification.from_pretrained(saved / "classifier")
    batch = tokenizer(molecules, padding=True, return_tensors="pt")
    found = torch.load(saved / "classifier.pt", weights_only=False)
    torch.testing.assert_close(found["logits"], model(**batch).logits)
    predict = pipeline("molecule-prediction", model=model, tokenizer=tokenizer)
    for ours, theirs in zip(predict(molecules), found["predicted"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    ethanol = pytest.approx(predict("CCO"), rel=1e-5)
    assert [{one["label"]: one["score"] for one in each} for each in found["classified"]] == [
        ethanol
    ] * 2


def test_every_save_holds_the_code_by_every_way_in(saved, make_model, tmp_path):
    assert names(saved / "model") == names(saved / "again") == MODEL | TOKENIZER
    own = MODEL - {"generation_config.json"}
    assert names(saved / "classifier") == own | TOKENIZER
    assert names(saved / "again_classifier") == own
    model = CMIMModel.from_pretrained(saved / "classifier")
    model.save_pretrained(tmp_path / "model")
    model.config.save_pretrained(tmp_path / "config")
    assert names(tmp_path / "model") == MODEL
    assert names(tmp_path / "config") == CONFIG
    for folder in (saved / "again", saved / "again_classifier", *tmp_path.iterdir()):
        content = json.loads((folder / "config.json").read_text())
        named = [*content["auto_map"].values()]
        named += [entry["impl"] for entry in content["custom_pipelines"].values()]
        assert len(named) == 7 and {f"{code.split('.')[0]}.py" for code in named} <= CODE


def test_a_sentence_module_saves_it_too(saved, tmp_path):
    module = CMIMSentenceEmbedding.load(str(saved / "model"))
    SentenceTransformer(modules=[module]).save(str(tmp_path), create_model_card=False)
    for folder in (tmp_path, saved / "again_sentences"):
        assert names(folder) >= MODEL | TOKENIZER | {"sentence_cmim.json"}
        (entry,) = json.loads((folder / "modules.json").read_text())
        assert entry["type"] == "sentence_transformers_cmim.CMIMSentenceEmbedding"


@pytest.mark.parametrize(
    "named", ["sentence_cmim", "cmim_hf.model.sentence_transformers_cmim"], ids=["0.1", "shipped"]
)
def test_saving_over_another_checkpoint_leaves_one_that_opens(tmp_path, model, named):
    """Code of 0.1 may lie there, and modules of the user's may be named beside ours."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(list_checkpoints()["tiny"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "classification_cmim.Old"}
    (folder / "config.json").write_text(json.dumps(config))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{named}.CMIMSentenceEmbedding"},
        {"idx": 1, "name": "1", "path": "1", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "classification_cmim.py").write_text("raise RuntimeError('of another version')")
    CMIMModel.from_pretrained(folder).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    assert "classification_cmim.Old" not in content["auto_map"].values()
    kinds = [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["sentence_transformers_cmim.CMIMSentenceEmbedding", modules[1]["type"]]
    assert CMIMModel.from_pretrained(folder).num_parameters() > 0
