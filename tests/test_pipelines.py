# SPDX-License-Identifier: Apache-2.0
"""The transformers pipelines over a checkpoint, with the package imported and without it."""

import subprocess
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_remote_code import run_without_package
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from cmim_hf import DEFAULT_CHECKPOINT, CMIMModel, MoleculeEmbedder, MoleculeEmbeddingPipeline

TOO_LONG = "C" * 5000


@pytest.fixture(scope="module")
def pipe():
    return pipeline("molecule-embedding", model=DEFAULT_CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(DEFAULT_CHECKPOINT, device="cpu", canonicalize=False, progress=False)


def largest_difference(rows, expected):
    """Of vectors, each relative to the length of its expectation."""
    rows, expected = np.stack(rows), np.stack(expected)
    assert rows.shape == expected.shape
    norms = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(rows - expected, axis=1) / norms).max()


@pytest.mark.parametrize(
    ("representation", "pooling"),
    [("informative", "mean"), ("informative", "last"), ("informative", "max"), ("latent", "mean")]
    + [("both", "max")],
)
def test_gives_the_vectors_of_the_embedder(pipe, embedder, molecules, representation, pooling):
    choice = {"representation": representation, "pooling": pooling}
    expected = embedder.embed(molecules, **choice)
    rows = pipe(molecules, batch_size=3, **choice)
    assert isinstance(rows, list) and {row.dtype for row in rows} == {np.dtype("float32")}
    assert largest_difference(rows, expected) < 1e-5
    single = pipe(molecules[2], **choice)
    assert single.shape == (pipe.model.representation_size(representation),)
    assert largest_difference([single], expected[2:3]) < 1e-5


def test_batch_and_padding_do_not_matter(pipe, molecules):
    alone = [pipe(text, representation="both") for text in molecules]
    for batch_size in (1, 3, 8):
        rows = pipe(molecules, representation="both", batch_size=batch_size)
        assert largest_difference(rows, alone) < 1e-5, batch_size


def test_generators_and_datasets_stream(pipe, molecules):
    expected = pipe(molecules)
    drawn = []
    texts = (drawn.append(text) or text for text in molecules * 50)
    assert largest_difference(list(islice(pipe(texts, batch_size=4), 8)), expected) < 1e-5
    assert len(drawn) < 16
    other_iterator = pipe(iter(molecules))
    assert largest_difference(list(other_iterator), expected) < 1e-5
    table = [{"smiles": text, "y": 1.0} for text in molecules]
    stream = pipe(KeyDataset(table, "smiles"), batch_size=4)
    assert not isinstance(stream, list)
    assert largest_difference(list(stream), expected) < 1e-5


def test_other_containers_are_lists_of_molecules(pipe, molecules):
    expected = pipe(molecules)
    for container in (tuple(molecules), np.array(molecules), dict.fromkeys(molecules).keys()):
        rows = pipe(container)
        assert isinstance(rows, list)
        assert largest_difference(rows, expected) == 0


def test_a_call_overrules_the_construction(molecules):
    pipe = pipeline(
        "molecule-embedding",
        model=DEFAULT_CHECKPOINT,
        device="cpu",
        representation="both",
        on_invalid="none",
        return_tensors=True,
        batch_size=2,
        local_files_only=True,
    )
    vector = pipe("CCO")
    assert torch.is_tensor(vector) and vector.shape == (192,) and vector.dtype == torch.float32
    assert pipe(["CCO", ""])[1].isnan().all()
    latent = pipe("CCO", representation="latent", return_tensors=False)
    assert isinstance(latent, np.ndarray)
    assert np.array_equal(latent, vector[96:].numpy())
    assert torch.equal(pipe("CCO"), vector)


def test_rows_own_their_memory(pipe):
    for row in pipe(["CCO", "CCO"], batch_size=2, return_tensors=True):
        assert row.untyped_storage().nbytes() == 96 * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "NoneType is no string"),
        (3, "int is no string"),
        (b"CCO", "bytes is no string"),
        ({"smiles": "CCO"}, "dict is no string"),
        ("", "is empty"),
        ("C C", "' ' at position 2"),
        ("C\n", "position 2 is not printable"),
        (TOO_LONG, r"CC\.\.\. cannot be embedded: it has \d+ tokens, the model reads at most 512"),
    ],
)
def test_an_invalid_text_raises_or_gives_nan(pipe, text, reason):
    for inputs in (text, [text], ["CCO", text]):
        with pytest.raises(ValueError, match=reason + r".*\. Mend or remove it, .*'none'"):
            pipe(inputs, batch_size=2)
    vector = pipe(text, on_invalid="none")
    assert vector.shape == (96,) and np.isnan(vector).all()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("representation", ["informative", "both"])
def test_invalid_rows_do_not_change_their_neighbours(pipe, molecules, batch_size, representation):
    texts = [None, *molecules[:3], TOO_LONG, "", molecules[3], "C C"]
    rows = pipe(texts, batch_size=batch_size, on_invalid="none", representation=representation)
    invalid = [bool(np.isnan(row).all()) for row in rows]
    assert invalid == [True, False, False, False, True, True, False, True]
    valid = [row for row, bad in zip(rows, invalid, strict=True) if not bad]
    expected = pipe(molecules[:4], representation=representation)
    assert largest_difference(valid, expected) < 1e-5


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"representation": "mean"}, "Unknown representation 'mean'.*informative, latent, both"),
        ({"pooling": "cls"}, "Unknown pooling 'cls'; choose one of mean, last, max"),
        ({"on_invalid": "ignore"}, "Unknown on_invalid 'ignore'; choose one of raise, none"),
        ({"on_invalid": "skip"}, "one output for each input: use 'none'.*MoleculeEmbedder"),
    ],
)
def test_unknown_choices_are_refused_before_any_work(pipe, choice, message):
    drawn = []
    texts = (drawn.append(text) or text for text in ["CCO"])
    for inputs in (texts, [], [None], "CCO"):
        with pytest.raises(ValueError, match=message):
            pipe(inputs, **choice)
    assert not drawn
    with pytest.raises(ValueError, match=message):
        MoleculeEmbeddingPipeline(model=pipe.model, tokenizer=pipe.tokenizer, **choice)


def test_nothing_gives_nothing(pipe):
    for nothing in ([], (), np.array([]), (text for text in []), iter([])):
        assert list(pipe(nothing, batch_size=2)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_give_float32(pipe, molecules, dtype):
    half = pipeline("molecule-embedding", model=DEFAULT_CHECKPOINT, device="cpu", dtype=dtype)
    assert half.model.dtype == dtype
    texts = [*molecules, ""]
    rows = half(texts, batch_size=4, on_invalid="none", representation="both")
    assert {row.dtype for row in rows} == {np.dtype("float32")}
    assert np.isnan(rows.pop()).all()
    assert 0 < largest_difference(rows, pipe(molecules, representation="both")) < 0.05


@pytest.mark.parametrize("saved_by", ["pipeline", "model"])
def test_a_saved_folder_opens_with_and_without_the_package(pipe, molecules, tmp_path, saved_by):
    if saved_by == "pipeline":
        pipe.save_pretrained(tmp_path)
    else:
        CMIMModel.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(tmp_path)
        pipe.tokenizer.save_pretrained(tmp_path)
    expected = pipe(molecules)
    again = pipeline("molecule-embedding", model=str(tmp_path), device="cpu")
    assert type(again) is MoleculeEmbeddingPipeline
    assert largest_difference(again(molecules), expected) == 0

    code = """
        import torch
        from transformers import pipeline
        folder = sys.argv[1]
        pipe = pipeline("molecule-embedding", model=folder, trust_remote_code=True, device="cpu")
        texts = open("molecules.smi").read().split()
        rows = pipe(texts + [""], batch_size=3, on_invalid="none", return_tensors=True)
        torch.save(rows, "rows.pt")
        print(type(pipe).__module__)
        pipeline("molecule-embedding", model=folder, trust_remote_code=False)
    """
    (tmp_path / "molecules.smi").write_text("\n".join(molecules))
    result = run_without_package(code, tmp_path, stdin=subprocess.DEVNULL)
    assert result.stdout.startswith("transformers_modules."), result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert "ValueError" in result.stderr and "trust_remote_code=True" in last, result.stderr
    *rows, missing = torch.load(tmp_path / "rows.pt")
    assert missing.isnan().all()
    assert largest_difference(rows, expected) < 1e-5


def test_feature_extraction_gives_the_decoders_states(molecules):
    pipe = pipeline("feature-extraction", model=DEFAULT_CHECKPOINT, device="cpu")
    for text, states in zip(molecules, pipe(molecules, batch_size=4), strict=True):
        alone = pipe.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = pipe.model(**alone).last_hidden_state
        length = expected.shape[1]
        for found in (states, pipe(text)):
            found = torch.tensor(found)[:, :length]
            assert found.shape == expected.shape
            assert (found - expected).norm() / expected.norm() < 1e-5, text


def test_a_table_is_refused_and_a_column_of_arrow_is_read():
    pipe = pipeline("molecule-embedding", model=DEFAULT_CHECKPOINT)
    table = pa.table({"smiles": ["CCO", "CCN"]})
    for given in (table, table.to_pandas()):
        with pytest.raises(TypeError, match="pass its column of SMILES"):
            pipe(given, on_invalid="none")
    expected = pipe(["CCO", "CCN"])
    found = pipe(table["smiles"])
    assert np.allclose(found, expected, atol=1e-6) and len(found) == 2
    assert np.allclose(pipe(np.array("CCO")), expected[0], atol=1e-6)
