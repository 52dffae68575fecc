# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as ONNX graphs: what they compute, and what embeds by them."""

import shutil
import sys
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import pytest
import torch

from cmim_hf import CMIMConfig, CMIMModel, MoleculeEmbedder, list_checkpoints
from cmim_hf.cli.main import main
from cmim_hf.embedding.nearest import EmbeddedLibrary
from cmim_hf.model.decoding_cmim import decode_latents
from cmim_hf.model.onnx_cmim import DECODER, GRAPHS, open_graph

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from cmim_hf.export.onnx_folder import TOLERANCE, compare, export_onnx, quantize_graphs

TINY = list_checkpoints()["tiny"]
LONG = ["N[C@@H](C)C(=O)" * 12 + "O", "C" * 40 + "c1ccccc1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, sample):
    """With principal axes beside the weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    shutil.copytree(TINY, path)
    embedder = MoleculeEmbedder(path, device="cpu", progress=False)
    embedder.fit_axes(row.text for row in sample[:150]).save(path / "axes.safetensors")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    """As the command writes it."""
    path = tmp_path_factory.mktemp("exported") / "tiny-onnx"
    with redirect_stderr(StringIO()) as said:
        assert main(["export", "--checkpoint", checkpoint, "-o", str(path)]) == 0
    assert b"/cmim_hf/" not in (path / "encoder.onnx").read_bytes()  # no paths of the machine
    assert "encoder.onnx: " in said.getvalue() and "e-06 of the greatest" in said.getvalue()
    return path


@pytest.fixture(scope="module")
def torchs(checkpoint):
    return MoleculeEmbedder(checkpoint, device="cpu", progress=False)


@pytest.fixture(scope="module")
def exported(folder):
    return MoleculeEmbedder(folder, backend="onnx", progress=False)


@pytest.fixture(scope="module")
def smiles(sample):
    """In no order of length, one of them twice and one in two writings."""
    texts = [row.text for row in sample[:40]]
    return [*texts, *LONG, "C", "[Na+].CC(=O)[O-]", texts[3], "OCC", "CCO"]


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
@pytest.mark.parametrize("representation", ["informative", "latent", "both"])
def test_vectors_are_those_of_torch(torchs, exported, smiles, representation, pooling):
    settings = {"representation": representation, "pooling": pooling}
    expected = torchs.embed(smiles, **settings)
    found = exported.embed(smiles, **settings)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4
    assert (found[-1] == found[-2]).all()


def test_shorter_vectors_are_those_of_torch(torchs, exported, smiles):
    expected = torchs.embed(smiles, dim=32)
    assert np.abs(exported.embed(smiles, dim=32) - expected).max() <= 1e-4


@pytest.mark.parametrize("batch_tokens", [1, 300, 10**6])
def test_batches_and_company_do_not_matter(folder, exported, smiles, batch_tokens):
    other = MoleculeEmbedder(folder, backend="onnx", batch_tokens=batch_tokens, progress=False)
    expected = exported.embed(smiles)
    assert np.abs(other.embed(smiles) - expected).max() <= 1e-4
    assert np.abs(other.embed(smiles[::-1]) - expected[::-1]).max() <= 1e-4


def test_rows_are_read_as_by_torch(torchs, exported):
    rows = ["CCO", "C(C", None, "[Na+].CC(=O)[O-]", "", "C" * 5000]
    for settings in (
        {"on_invalid": "none", "return_indices": True},
        {"on_invalid": "skip", "return_indices": True, "standardize": "parent"},
        {"on_invalid": "none", "return_indices": True, "canonicalize": False},
    ):
        expected, found = torchs.embed(rows, **settings), exported.embed(rows, **settings)
        np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-4)
        assert (found[1] == expected[1]).all()
    with pytest.raises(ValueError, match=r"Row 1 .*C\(C"):
        exported.embed(rows)
    assert exported.embed([]).shape == (0, 96)
    assert exported.fingerprint != torchs.fingerprint


def test_threads_of_a_graph_leave_the_cores_to_the_other(folder):
    for graph in GRAPHS:
        options = open_graph(folder / graph).get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_loop_of_steps_writes_what_torch_writes(torchs, folder, molecules):
    model, step = torchs.model, open_graph(folder / DECODER)
    batch = torchs.tokenizer(molecules, padding=True, return_tensors="pt")
    with torch.no_grad():
        latents = model.get_latents(**batch)
    config = model.config
    expected = decode_latents(model, latents).numpy()
    heads, size = config.num_attention_heads, config.hidden_size
    keys = np.zeros((config.decoder_layers, len(latents), heads, 0, size // heads), np.float32)
    values, written = keys, np.full((len(latents), 1), config.decoder_start_token_id)
    ended = np.zeros(len(latents), bool)
    while not ended.all():
        feed = {"input_ids": written[:, -1:], "latents": latents.numpy()}
        feed |= {"past_keys": keys, "past_values": values}
        logits, keys, values = step.run(["logits", "keys", "values"], feed)
        token = np.where(ended, config.pad_token_id, logits.argmax(axis=1))
        written = np.concatenate((written, token[:, None]), axis=1)
        ended |= token == config.eos_token_id
    assert (written == expected).all()


def test_other_weights_are_noticed(torchs, folder):
    model = CMIMModel.from_pretrained(TINY, dtype=torch.float32).eval()
    ids = torch.randint(3, 100, (2, 9))
    batches = [(ids, torch.ones_like(ids))]
    assert compare(model, folder, batches) < TOLERANCE
    for part in (model.encoder.norm, model.decoder.norm):
        with torch.no_grad():
            part.bias[0] += 0.01
        assert compare(model, folder, batches) > TOLERANCE
        part.bias.data[0] -= 0.01
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    assert not compare(model, folder, batches) <= TOLERANCE


def test_int8_is_smaller_and_near(torchs, folder, smiles, tmp_path):
    small = tmp_path / "int8"
    shutil.copytree(folder, small)
    quantize_graphs(small)
    for name in GRAPHS:
        assert (small / name).stat().st_size < 0.4 * (folder / name).stat().st_size
    found = MoleculeEmbedder(small, backend="onnx", progress=False)
    assert found.model.dtype == torch.int8 and found.embed(["C"]).dtype == np.float32
    one, other = (each.embed(smiles) for each in (found, torchs))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert 0.98 < cosine.min() < 1 - 1e-6


def test_sentence_transformers_run_it(folder, torchs, molecules, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    expected = torchs.embed(molecules, canonicalize=False)
    settings = {"backend": "onnx", "device": "cpu", "trust_remote_code": True}
    model = sentence_transformers.SentenceTransformer(str(folder), **settings)
    assert np.abs(model.encode(molecules) - expected).max() <= 1e-4
    model.save(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), **settings)
    assert np.abs(again.encode(molecules) - expected).max() <= 1e-4
    with pytest.raises(ValueError, match="takes no model_kwargs.*file_name"):
        sentence_transformers.SentenceTransformer(
            str(folder), model_kwargs={"file_name": "x"}, **settings
        )
    with pytest.raises(FileNotFoundError, match="cmim export"):
        sentence_transformers.SentenceTransformer(TINY, **settings)


def test_the_command_embeds_by_it(folder, torchs, molecules, tmp_path):
    source, output = tmp_path / "molecules.smi", tmp_path / "vectors.npy"
    source.write_text("\n".join(molecules) + "\n")
    words = ["embed", str(source), "--backend", "onnx", "-o", str(output)]
    assert main([*words, "--checkpoint", str(folder)]) == 0
    assert np.abs(np.load(output) - torchs.embed(molecules)).max() <= 1e-4
    with redirect_stderr(StringIO()) as said:
        assert main([*words, "--checkpoint", "tiny"]) == 1
        assert main([*words, "--checkpoint", str(folder), "--device", "meta"]) == 1
        assert main(["export", "--checkpoint", "tiny", "-o", str(folder)]) == 1
    for words in ("holds no encoder.onnx", "--backend onnx works on the CPU", "exists; remove it"):
        assert words in said.getvalue()


@pytest.mark.parametrize("int8", [False, True])
def test_a_library_is_searched_as_it_was_embedded(folder, molecules, tmp_path, int8):
    graphs = folder
    if int8:
        graphs = tmp_path / "int8"
        shutil.copytree(folder, graphs)
        quantize_graphs(graphs)
    source, output = tmp_path / "molecules.smi", tmp_path / "vectors.parquet"
    source.write_text("\n".join(molecules) + "\n")
    command = ["embed", str(source), "--backend", "onnx", "-o", str(output)]
    assert main([*command, "--checkpoint", str(graphs)]) == 0
    library = EmbeddedLibrary(output)
    embedder = library.embedder()
    assert embedder.backend == "onnx" and library.made["backend"] == "onnx"
    (near,) = library.nearest(embedder.embed(molecules[3:4]), 1)
    assert near["smiles"].tolist() == molecules[3:4]
    with pytest.raises(FileNotFoundError, match="holds no encoder.onnx"):
        library.embedder("tiny")


def test_what_cannot_be_opened_is_told(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`backend`|backend.*torch"):
        MoleculeEmbedder(folder, backend="tensorrt")
    with pytest.raises(ValueError, match="float32, not in the `dtype` bfloat16"):
        MoleculeEmbedder(folder, backend="onnx", dtype="bfloat16")
    shutil.copytree(folder, tmp_path / "cut")
    content = (folder / "encoder.onnx").read_bytes()
    (tmp_path / "cut" / "encoder.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot open .*encoder.onnx.*damaged"):
        MoleculeEmbedder(tmp_path / "cut", backend="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'cmim-hf\[onnx\]'"):
        MoleculeEmbedder(folder, backend="onnx")
    with pytest.raises(ImportError, match="needs onnxruntime, which"):
        export_onnx(TINY, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_several_codes_and_a_learned_posterior(tmp_path, tokenizer):
    settings = {"num_latents": 3, "posterior": "learned", "initializer_range": 0.2}
    torch.manual_seed(0)
    config = CMIMConfig.from_size("tiny", vocab_size=len(tokenizer), **settings)
    CMIMModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = export_onnx(tmp_path / "model", tmp_path / "exported", int8=True)
    assert done.difference <= TOLERANCE and 0.9 < done.cosine < 1
