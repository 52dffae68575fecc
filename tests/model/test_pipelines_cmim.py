# SPDX-License-Identifier: Apache-2.0
"""The transformers pipelines over a checkpoint."""

import json
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from cmim_hf import (
    DEFAULT_CHECKPOINT,
    CMIMConfig,
    CMIMForSequenceClassification,
    CMIMTokenizer,
    MoleculeEmbedder,
    MoleculeEmbeddingPipeline,
    MoleculeGenerationPipeline,
)
from cmim_hf.data.packed_molecules import tokenizer_fingerprint
from cmim_hf.model.molecule_tokenizer_cmim import CMIMMoleculeTokenizer

TOO_LONG = "C" * 5000


@pytest.fixture(scope="module")
def pipe():
    return pipeline("molecule-embedding", model=DEFAULT_CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def writer():
    return pipeline("molecule-generation", model=DEFAULT_CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:24]]


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
    assert torch.is_tensor(vector) and vector.shape == (384,) and vector.dtype == torch.float32
    assert pipe(["CCO", ""])[1].isnan().all()
    latent = pipe("CCO", representation="latent", return_tensors=False)
    assert isinstance(latent, np.ndarray)
    assert np.array_equal(latent, vector[192:].numpy())
    assert torch.equal(pipe("CCO"), vector)


def test_rows_own_their_memory(pipe):
    for row in pipe(["CCO", "CCO"], batch_size=2, return_tensors=True):
        assert row.untyped_storage().nbytes() == 192 * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "NoneType is no string"),
        (3, "int is no string"),
        ("", "is empty"),
        ("C C", "' ' at position 2"),
        ("C\n", "position 2 is not printable"),
        (TOO_LONG, r"CC\.\.\. cannot be embedded: it has \d+ tokens, the model reads at most 512"),
    ],
)
def test_an_invalid_text_raises_or_gives_nan(pipe, text, reason):
    for inputs in (text, [text], ["CCO", text]):
        with pytest.raises(ValueError, match=reason + r".*\. Fix or remove it, .*'none'"):
            pipe(inputs, batch_size=2)
    vector = pipe(text, on_invalid="none")
    assert vector.shape == (192,) and np.isnan(vector).all()


@pytest.mark.parametrize(("batch_size", "representation"), [(1, "informative"), (3, "both")])
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
        ({"on_invalid": "skip"}, "one output for each input: 'none' gives a vector of NaN"),
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


def test_a_folder_saved_by_a_pipeline_opens_in_every_one(pipe, writer, drugs, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = pipeline("molecule-embedding", model=str(tmp_path), device="cpu")
    assert type(again) is MoleculeEmbeddingPipeline
    assert largest_difference(again(drugs), pipe(drugs)) == 0
    again = pipeline("molecule-generation", model=str(tmp_path), device="cpu")
    assert type(again) is MoleculeGenerationPipeline
    around = {"radius": 0.2, "num_return_sequences": 2, "seed": 3}
    assert again(drugs, **around) == writer(drugs, **around)


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


def written_by_generate(writer, codes):
    """The texts of codes (rows, num_latents, latent_size)."""
    tokens = writer.model.generate(latents=codes, do_sample=False)
    return writer.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def texts_of(rows):
    assert all(list(item) == ["generated_smiles"] for row in rows for item in row)
    return [[item["generated_smiles"] for item in row] for row in rows]


def mean_codes(writer, texts):
    with torch.no_grad():
        return torch.cat(
            [writer.model.get_latents(**writer.tokenizer(t, return_tensors="pt")) for t in texts]
        )


@pytest.mark.parametrize("batch_size", [1, 7])
def test_radius_zero_writes_what_generate_makes_of_the_mean_codes(writer, drugs, batch_size):
    expected = written_by_generate(writer, mean_codes(writer, drugs))
    assert sum(text == given for text, given in zip(expected, drugs, strict=True)) > 12
    found = texts_of(writer(drugs, radius=0.0, batch_size=batch_size))
    assert found == [[text] for text in expected]
    assert texts_of(writer(drugs[:2], num_return_sequences=2)) == [[t, t] for t in expected[:2]]
    assert writer(drugs[3]) == [{"generated_smiles": expected[3]}]


def test_codes_lie_at_radius_times_standard_noise(writer, drugs):
    around = {"radius": 0.8, "num_return_sequences": 3}
    torch.manual_seed(5)
    found = texts_of([writer(text, **around) for text in drugs])
    torch.manual_seed(5)
    codes = mean_codes(writer, drugs)
    noise = torch.stack([torch.randn(3, *codes.shape[1:]) for _ in drugs])
    expected = written_by_generate(writer, (codes[:, None] + 0.8 * noise).flatten(0, 1))
    assert sum(found, []) == expected
    assert len(set(expected)) > 60
    batches = []
    for batch_size in (1, 5, 64):
        torch.manual_seed(5)
        batches.append(writer(drugs, batch_size=batch_size, **around))
    assert batches[0] == batches[1] == batches[2]


def test_a_seed_and_the_text_alone_decide(writer, drugs):
    around = {"radius": 0.3, "num_return_sequences": 2}
    alone = [writer(text, seed=1, **around) for text in drugs]
    for batch_size in (1, 5, 64):
        mixed = [*drugs[::-1], drugs[0], ""]
        found = writer(mixed, seed=1, on_invalid="none", batch_size=batch_size, **around)
        assert found[:-2] == alone[::-1] and found[-2] == alone[0]
    assert writer(drugs, seed=2, **around) != alone
    assert writer(drugs, **around) != writer(drugs, **around)
    other = [writer.preprocess(text, seed=1)["noise"] for text in drugs[:2]]
    assert not torch.isclose(*other).any()
    seeded = pipeline("molecule-generation", model=DEFAULT_CHECKPOINT, seed=1, **around)
    assert seeded(drugs) == alone
    assert seeded(drugs, radius=0) == writer(drugs, num_return_sequences=2)


@pytest.mark.parametrize("batch_size", [3])
def test_invalid_texts_raise_or_give_none(writer, drugs, batch_size):
    bad = [None, 3, "", "C C", TOO_LONG]
    for text in bad:
        with pytest.raises(ValueError, match=r"cannot be read: .*\. Fix or remove it.*'none'"):
            writer([drugs[0], text], batch_size=batch_size)
    choice = {"on_invalid": "none", "num_return_sequences": 2, "batch_size": batch_size}
    nothing = [{"generated_smiles": None}] * 2
    expected = writer(drugs[:3], num_return_sequences=2)
    found = writer([bad[0], drugs[0], *bad[1:], *drugs[1:3]], **choice)
    assert found == [nothing, expected[0], *[nothing] * 4, *expected[1:]]
    assert writer(bad, **choice) == [nothing] * 5
    assert writer("", **choice) == nothing


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"radius": -0.1}, "radius is a finite number from 0, not -0.1"),
        ({"radius": float("nan")}, "not nan"),
        ({"radius": float("inf")}, "not inf"),
        ({"num_return_sequences": 0}, "num_return_sequences is a whole number from 1, not 0"),
        ({"num_return_sequences": 1.5}, "not 1.5"),
        ({"on_invalid": "ignore"}, "Unknown on_invalid 'ignore'; choose one of raise, none"),
        ({"on_invalid": "skip"}, "'none' gives molecules that are None"),
    ],
)
def test_unknown_choices_of_generation_are_refused_before_any_work(writer, choice, message):
    drawn = []
    texts = (drawn.append(text) or text for text in ["CCO"])
    for inputs in (texts, [], "CCO"):
        with pytest.raises(ValueError, match=message):
            writer(inputs, **choice)
    assert not drawn
    with pytest.raises(ValueError, match=message):
        MoleculeGenerationPipeline(model=writer.model, tokenizer=writer.tokenizer, **choice)


def test_generation_streams_and_several_latents_work(writer, drugs, make_model, tokenizer):
    stream = writer((text for text in drugs), batch_size=4)
    assert not isinstance(stream, list) and list(stream) == writer(drugs)
    assert list(writer(KeyDataset([{"x": t} for t in drugs], "x"))) == writer(drugs)
    model = make_model(num_latents=3, max_position_embeddings=24)
    several = MoleculeGenerationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    torch.manual_seed(1)
    found = texts_of([several("CCO", radius=0.5, num_return_sequences=2)])[0]
    torch.manual_seed(1)
    noise = torch.randn(2, 3, 96)
    expected = written_by_generate(several, mean_codes(several, ["CCO"]) + 0.5 * noise)
    assert found == expected


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, tokenizer):
    """A classifier as examples/finetune.py saves it, of random weights."""
    folder = tmp_path_factory.mktemp("predictor")
    torch.manual_seed(0)
    model = CMIMForSequenceClassification.from_pretrained(
        DEFAULT_CHECKPOINT, id2label={0: "logS", 1: "pKa"}, problem_type="regression"
    )
    model.save_pretrained(folder)
    CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(folder)
    return folder


def test_predictions_are_of_molecules_however_written(predictor):
    predict = pipeline("molecule-prediction", model=str(predictor))
    written = predict(["OCC", "CCO", "C(O)C", "[CH3][CH2]O"], batch_size=2)
    assert written == [written[0]] * 4 and set(written[0]) == {"logS", "pKa"}
    model, tokenizer = predict.model, predict.tokenizer
    with torch.no_grad():
        logits = model(**tokenizer("CCO", return_tensors="pt")).logits[0]
    assert list(written[0].values()) == pytest.approx(logits.tolist(), abs=1e-5)
    assert predict("OCC", canonicalize=False) != written[0]


@pytest.mark.parametrize("text", ["not a molecule", "", "C(C", "C" * 20_000])
def test_no_prediction_of_what_is_no_molecule(predictor, text):
    predict = pipeline("molecule-prediction", model=str(predictor))
    with pytest.raises(ValueError, match="on_invalid='none'"):
        predict(text)
    good, bad = predict(["CCO", text], on_invalid="none")
    assert np.isfinite(list(good.values())).all() and np.isnan(list(bad.values())).all()


SALTS = ["CC(=O)[O-].[Na+]", "CC(=O)O", "CC(=O)O[K]"]


def test_predictions_of_parents_where_the_checkpoint_learned_of_them(predictor, tmp_path):
    plain = pipeline("molecule-prediction", model=str(predictor))
    salt, acid, _ = plain(SALTS)
    assert salt != acid
    model = CMIMForSequenceClassification.from_pretrained(predictor, standardize="parent")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["standardize"] == "parent"
    CMIMTokenizer.from_pretrained(predictor).save_pretrained(tmp_path)
    predict = pipeline("molecule-prediction", model=str(tmp_path))
    found = predict(SALTS, batch_size=3)
    assert found == [found[0]] * 3 and found[0] == pytest.approx(acid, abs=1e-5)
    with pytest.raises(ValueError, match="cannot be standardised: Explicit valence"):
        predict("[Na]<-[NH3+]C")
    assert np.isnan(list(predict("[Na]<-[NH3+]C", on_invalid="none").values())).all()
    with pytest.raises(ValueError, match="standardize='parent' .* leave out canonicalize=False"):
        predict("CC(=O)O", canonicalize=False)


def test_text_classification_reads_molecules(predictor, tmp_path):
    """It is transformers' own pipeline; the tokenizer of what fine-tuning saves is ours."""
    CMIMForSequenceClassification.from_pretrained(predictor).save_pretrained(tmp_path)
    CMIMTokenizer.from_pretrained(predictor).save_pretrained(tmp_path)
    CMIMMoleculeTokenizer.save_in_place_of(tmp_path, "parent")
    classify = pipeline("text-classification", model=str(tmp_path), top_k=None)
    assert type(classify).__module__.startswith("transformers.")
    expected = pipeline("molecule-prediction", model=str(predictor))("CC(=O)O")
    for writing in ("CC(=O)O", "OC(C)=O", "CC(=O)O[K]", "CC(=O)O |$;;;$|"):
        found = {one["label"]: one["score"] for one in classify([writing])[0]}
        assert found == pytest.approx(expected, abs=1e-5), writing
    many = classify(["OC(C)=O", "CCO"], batch_size=2)
    assert {one["label"]: one["score"] for one in many[0]} == pytest.approx(expected, abs=1e-5)
    for text, reason in {"aspirin": "no molecule", "": "empty", "C C": "space"}.items():
        with pytest.raises(ValueError, match=f"cannot be read: .*{reason}"):
            classify(text)
    with pytest.raises(ValueError, match="one molecule"):
        classify({"text": "CCO", "text_pair": "CC"})


def test_a_tokenizer_of_molecules_is_else_that_of_the_checkpoint(predictor, tmp_path, caplog):
    plain = CMIMTokenizer.from_pretrained(predictor)
    plain.save_pretrained(tmp_path)
    reads = CMIMMoleculeTokenizer.save_in_place_of(tmp_path, "parent")
    again = CMIMMoleculeTokenizer.from_pretrained(tmp_path)
    text = "CC(=O)Nc1ccc(O)cc1"
    for tokenizer in (reads, again, CMIMTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer.encode(text)
        assert ids == plain.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(plain)
    assert reads.standardize == again.standardize == "parent" and not caplog.messages
    assert reads(np.array(["OCC", "CCO"]))["input_ids"] == [plain.encode("CCO")] * 2
    with pytest.raises(ValueError, match="None of type NoneType is no string"):
        reads(None)
    with pytest.raises(ValueError, match="nan of type float is no string"):
        reads(["CCO", float("nan")])


def test_probabilities_of_classes(tmp_path, tokenizer):
    for kind, total in (("multi_label_classification", None), ("single_label_classification", 1)):
        torch.manual_seed(0)
        config = CMIMConfig.from_size("tiny", vocab_size=len(tokenizer), num_labels=3)
        config.problem_type = kind
        model = CMIMForSequenceClassification(config).eval()
        predict = pipeline("molecule-prediction", model=model, tokenizer=tokenizer)
        found = list(predict("CCO").values())
        assert all(0 < value < 1 for value in found)
        assert total is None or sum(found) == pytest.approx(total)
