# SPDX-License-Identifier: Apache-2.0
"""A saved checkpoint in a process that has never heard of this package."""

import json
import subprocess
import sys
import textwrap

import torch

from cmim_hf import CMIMForSequenceClassification, CMIMModel

BLOCKED = """
import sys
sys.modules["cmim_hf"] = None  # importing it raises ImportError
"""


def run_without_package(code, folder, **options):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + textwrap.dedent(code), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        **options,
    )


def test_loads_and_gives_equal_outputs_without_the_package(
    make_model, tokenizer, molecules, tmp_path
):
    model = make_model(num_latents=2, num_properties=3)
    model.property_head.quantiles.copy_(torch.randn(3, 65).sort(dim=1).values)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    code = """
        import torch
        from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
        folder = sys.argv[1]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        batch = tokenizer(open("molecules.smi").read().split(), padding=True, return_tensors="pt")
        with torch.no_grad():
            torch.save({
                "ids": batch["input_ids"],
                "latents": model.get_latents(**batch),
                "informative": model.get_informative_embeddings(**batch),
                "logits": model(**batch).logits,
                "properties": model.get_properties(**batch),
                "written": model.generate(**batch, max_new_tokens=9),
            }, "outputs.pt")
        again = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
        assert type(again) is type(model), type(again)
        try:
            import cmim_hf
        except ImportError:
            print("never imported")
    """
    (folder / "molecules.smi").write_text("\n".join(molecules))
    result = run_without_package(code, folder, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    assert "never imported" in result.stdout
    batch = tokenizer(molecules, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = {
            "ids": batch["input_ids"],
            "latents": model.get_latents(**batch),
            "informative": model.get_informative_embeddings(**batch),
            "logits": model(**batch).logits,
            "properties": model.get_properties(**batch),
            "written": model.generate(**batch, max_new_tokens=9),
        }
    for name, value in torch.load(folder / "outputs.pt").items():
        assert torch.equal(value, expected[name]), name


def test_without_trust_transformers_refuses(model, tmp_path):
    model.save_pretrained(tmp_path)
    code = """
        from transformers import AutoModel
        AutoModel.from_pretrained(sys.argv[1])
    """
    result = run_without_package(code, tmp_path, stdin=subprocess.DEVNULL)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "trust_remote_code=True" in result.stderr and "ValueError" in result.stderr, last


def test_a_checkpoint_holds_weights_config_and_the_code_that_opens_it_only(
    model, tokenizer, tmp_path
):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "SHA256SUMS",
        "config.json",
        "sequence_classification_cmim.py",
        "configuration_cmim.py",
        "decoding_cmim.py",
        "generation_config.json",
        "informative_embeddings_cmim.py",
        "checksums_cmim.py",
        "gaussian_cmim.py",
        "layers_cmim.py",
        "model.safetensors",
        "modeling_cmim.py",
        "modules.json",
        "pipelines_cmim.py",
        "property_head_cmim.py",
        "sentence_transformers_cmim.py",
        "encoder_decoder_cmim.py",
        "smiles_text_cmim.py",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_saved_again_without_the_package_every_way_in_stays_open(model, tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    code = """
        from transformers import AutoModel, AutoTokenizer, pipeline
        folder = sys.argv[1]
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        model.save_pretrained("again")
        AutoTokenizer.from_pretrained(folder).save_pretrained("again")
        pipe = pipeline("molecule-embedding", model="again", trust_remote_code=True)
        print(pipe("CCO").shape)
    """
    result = run_without_package(code, folder, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("(96,)")
    files = {path.name for path in folder.iterdir()} - {"again"}
    assert {path.name for path in (folder / "again").iterdir()} == files


def test_a_classifier_opens_from_a_model_that_was_never_one(model, tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    code = """
        from transformers import AutoModelForSequenceClassification
        model = AutoModelForSequenceClassification.from_pretrained(
            sys.argv[1], num_labels=1, trust_remote_code=True
        )
        assert model.config.num_labels == 1
    """
    result = run_without_package(code, folder)
    assert result.returncode == 0, result.stderr


def test_auto_map_names_files_that_are_there(model, tmp_path):
    classifier = CMIMForSequenceClassification(model.config)
    classifier.save_pretrained(tmp_path / "classifier")
    again = CMIMModel.from_pretrained(tmp_path / "classifier")
    again.save_pretrained(tmp_path / "model")
    again.config.save_pretrained(tmp_path / "config")
    for folder in ("classifier", "model", "config"):
        named = json.loads((tmp_path / folder / "config.json").read_text())["auto_map"]
        files = {f"{code.split('.')[0]}.py" for code in named.values()}
        assert files <= {path.name for path in (tmp_path / folder).iterdir()}, folder
    assert set(named) == {"AutoConfig", "AutoModelForSequenceClassification"}


def test_the_tokenizer_is_data_and_opens_without_a_question(tokenizer, model, tmp_path):
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    code = """
        from transformers import PreTrainedTokenizerFast
        print(PreTrainedTokenizerFast.from_pretrained(sys.argv[1])("CCO")["input_ids"])
    """
    result = run_without_package(code, folder, stdin=subprocess.DEVNULL)
    assert result.stdout.strip() == str(tokenizer("CCO")["input_ids"]) and not result.stderr
