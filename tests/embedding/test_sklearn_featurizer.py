# SPDX-License-Identifier: Apache-2.0
"""MoleculeFeaturizer inside scikit-learn, its pickles, and what comes in through it."""

import importlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import get_tags

import cmim_hf
from cmim_hf import CMIMModel, MoleculeEmbedder, MoleculeFeaturizer, list_checkpoints
from cmim_hf.embedding import sklearn_featurizer as featurizer

SIZES = {"informative": 192, "latent": 192, "both": 384}
PACKAGE = Path(cmim_hf.__file__).parent


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(progress=False)


@pytest.fixture(scope="module")
def texts(sample):
    return [row.text for row in sample[:120]]


@pytest.fixture(scope="module")
def lengths(texts):
    """A made-up target that the vectors know."""
    return np.array([float(len(text)) for text in texts])


@pytest.fixture
def two_processes():
    """The value of n_jobs for two processes, which end with the test."""
    yield 2
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    """A folder with random weights."""
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def strip_each(texts):
    return [text.strip() for text in texts]


def assert_equal_vectors(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("representation", "pooling"), [("informative", "mean"), ("latent", "last"), ("both", "max")]
)
def test_gives_the_vectors_of_the_embedder(embedder, molecules, representation, pooling):
    vectors = MoleculeFeaturizer(representation=representation, pooling=pooling).transform(
        molecules
    )
    assert vectors.shape == (8, SIZES[representation]) and vectors.dtype == np.float32
    expected = embedder.embed(molecules, representation=representation, pooling=pooling)
    assert_equal_vectors(vectors, expected)


def test_canonicalize_off_reads_the_writing_as_it_is(embedder):
    as_written = MoleculeFeaturizer(canonicalize=False).transform(["OCC", "CCO"])
    assert_equal_vectors(as_written, embedder.embed(["OCC", "CCO"], canonicalize=False))
    assert np.abs(as_written[0] - as_written[1]).max() > 0.01


@pytest.mark.parametrize(
    "collect",
    [
        tuple,
        np.array,
        lambda texts: np.array(texts, dtype=object),
        lambda texts: np.array(texts)[:, None],
        pd.Series,
        lambda texts: pd.Series(texts, dtype="category"),
        lambda texts: pd.Series(texts, index=["columns", *range(len(texts) - 1)]),
        lambda texts: pd.DataFrame({"smiles": texts}),
    ],
)
def test_takes_every_collection_of_one_column(collect, molecules, embedder):
    X = collect(molecules)
    assert_equal_vectors(MoleculeFeaturizer().fit_transform(X), embedder.embed(molecules))


@pytest.mark.parametrize(
    ("X", "error", "says"),
    [
        ("CCO", TypeError, "'CCO' of type str.*[Pp]ass a list"),
        (b"CCO", TypeError, "of type bytes.*[Pp]ass a list"),
        (7, TypeError, "7 of type int"),
        (None, TypeError, "None of type NoneType"),
        ({"smiles": ["CCO"]}, TypeError, "of type dict"),
        ((text for text in ["CCO"]), TypeError, "of type generator.*[Pp]ass a list"),
        ({"CCO", "CCC"}, TypeError, "of type set"),
        (np.array("CCO"), ValueError, r"shape \(\).*one column"),
        (np.array([["CCO", "C"]]), ValueError, r"shape \(1, 2\).*ColumnTransformer"),
        (pd.DataFrame({"a": ["C"], "b": ["C"]}), ValueError, r"\(1, 2\).*ColumnTransformer"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_refuses_what_is_no_single_column(method, X, error, says):
    with pytest.raises(error, match=says):
        getattr(MoleculeFeaturizer(), method)(X)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (None, "None of type NoneType is no string"),
        ("C(C)(C)(C)(C)C", "valence for atom # 0 C, 5"),
    ],
)
def test_a_bad_row_raises_or_is_nan(bad, says, embedder):
    rows = ["CCO", bad, "CCC"]
    with pytest.raises(ValueError, match="Row 1 .*" + says):
        MoleculeFeaturizer().fit_transform(rows)
    vectors = MoleculeFeaturizer(on_invalid="none").fit_transform(rows)
    assert vectors.shape == (3, 192) and np.isnan(vectors[1]).all()
    assert_equal_vectors(vectors[[0, 2]], embedder.embed(["CCO", "CCC"]))


def test_an_imputer_fills_bad_rows():
    pipeline = make_pipeline(MoleculeFeaturizer(on_invalid="none"), SimpleImputer())
    filled = pipeline.fit_transform(["CCO", "not one", "CCC"])
    np.testing.assert_allclose(filled[1], (filled[0] + filled[2]) / 2, atol=1e-6)


def test_no_molecules():
    with pytest.raises(ValueError, match="no molecules.*at least one"):
        MoleculeFeaturizer().fit([])
    assert MoleculeFeaturizer(representation="both").transform([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"on_invalid": "skip"}, ValueError, "'skip'.*match y"),
        ({"on_invalid": "drop"}, ValueError, "'drop'; expected 'raise', or 'none'"),
        ({"representation": "all"}, ValueError, "'all'; choose one of informative, latent, both"),
        ({"pooling": "sum"}, ValueError, "'sum'; choose one of mean, last, max"),
        ({"checkpoint": "./nowhere"}, FileNotFoundError, "no checkpoint folder ./nowhere"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_parameters_are_checked_when_used(method, parameters, error, says):
    unchecked = MoleculeFeaturizer(**parameters)
    with pytest.raises(error, match=says):
        getattr(unchecked, method)(["CCO"])


def test_clones_have_the_parameters_and_their_own_state():
    parameters = {
        "checkpoint": list_checkpoints()["tiny"],
        "representation": "both",
        "pooling": "last",
        "dim": None,
        "canonicalize": True,
        "standardize": "parent",
        "on_invalid": "none",
        "device": "cpu",
        "dtype": torch.float64,
        "revision": "main",
        "token": False,
        "cache_dir": "cache",
    }
    original = MoleculeFeaturizer(**parameters).fit(["CCO"])
    copy = clone(original)
    assert copy.get_params() == parameters
    assert not hasattr(copy, "fingerprint_")
    copy.set_params(representation="latent", dtype=None)
    assert original.get_params() == parameters
    assert copy.transform(["CCO"]).shape == (1, 96)


def test_clones_load_a_checkpoint_once(texts, lengths):
    featurizer._loaded.cache_clear()
    grid = {"moleculefeaturizer__pooling": ["mean", "max"]}
    search = GridSearchCV(make_pipeline(MoleculeFeaturizer(), Ridge()), grid, cv=3)
    search.fit(texts[:12], lengths[:12])
    counted = featurizer._loaded.cache_info()
    assert counted.misses == 1 and counted.hits >= 13  # 2 x 3 fits and the last, two calls each


def test_other_device_or_dtype_is_another_model():
    double, single = MoleculeFeaturizer(dtype="float64"), MoleculeFeaturizer()
    difference = np.abs(double.transform(["CCO"]) - single.transform(["CCO"])).max()
    assert 0 < difference < 1e-4
    assert double.fit(["CCO"]).fingerprint_ != single.fit(["CCO"]).fingerprint_


def test_tags_tell_scikit_learn_what_comes_in():
    tags = get_tags(MoleculeFeaturizer())
    assert not tags.requires_fit
    assert tags.input_tags.string and tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array


def test_names_of_columns():
    names = MoleculeFeaturizer(representation="both").get_feature_names_out()
    assert names.shape == (384,)
    assert list(names[[0, 191, 192, 383]]) == [
        "cmim_informative_0",
        "cmim_informative_191",
        "cmim_latent_0",
        "cmim_latent_191",
    ]
    latent = MoleculeFeaturizer(representation="latent").get_feature_names_out(["smiles"])
    assert list(latent) == list(names[192:])


@pytest.mark.parametrize("as_table", [False, True])
def test_pandas_output_keeps_the_index(as_table, molecules, embedder):
    X = pd.Series(molecules, index=[f"row {i}" for i in range(8)], name="smiles")
    transformer = MoleculeFeaturizer().set_output(transform="pandas")
    table = transformer.fit_transform(X.to_frame() if as_table else X)
    assert list(table.index) == list(X.index)
    assert list(table.columns) == [f"cmim_informative_{i}" for i in range(192)]
    assert_equal_vectors(table, embedder.embed(molecules))


def test_pipeline_with_neighbours_predicts(texts, lengths):
    pipeline = make_pipeline(
        FunctionTransformer(strip_each), MoleculeFeaturizer(), StandardScaler(), Ridge(10.0)
    )
    with pytest.raises(NotFittedError):
        pipeline.predict(texts)
    pipeline.fit([f" {text} " for text in texts[:80]], lengths[:80])
    predicted = pipeline.predict(texts[80:])
    assert predicted.shape == (40,) and np.isfinite(predicted).all()
    assert np.abs(predicted - lengths[80:]).mean() < np.abs(lengths[80:] - lengths.mean()).mean()


@pytest.mark.parametrize("column", ["smiles", ["smiles"]])
def test_column_transformer_picks_the_column(column, molecules, embedder):
    table = pd.DataFrame({"smiles": molecules, "charge": np.arange(8.0)})
    transformer = ColumnTransformer(
        [("cmim", MoleculeFeaturizer(), column), ("rest", "passthrough", ["charge"])]
    )
    found = transformer.fit_transform(table)
    assert found.shape == (8, 193)
    assert_equal_vectors(found[:, :192], embedder.embed(molecules))
    assert list(transformer.get_feature_names_out()[[0, 192]]) == [
        "cmim__cmim_informative_0",
        "rest__charge",
    ]


@pytest.mark.slow
def test_grid_search_and_cross_validation_in_two_processes(texts, lengths, two_processes):
    pipeline = make_pipeline(MoleculeFeaturizer(), StandardScaler(), Ridge(10.0))
    grid = {"moleculefeaturizer__representation": ["informative", "latent", "both"]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=two_processes).fit(texts, lengths)
    scores = search.cv_results_["mean_test_score"]
    assert scores.shape == (3,) and len(set(scores)) == 3
    best = search.best_params_["moleculefeaturizer__representation"]
    assert best == grid["moleculefeaturizer__representation"][int(np.argmax(scores))]
    here = cross_val_score(pipeline, texts, lengths, cv=3)
    there = cross_val_score(pipeline, texts, lengths, cv=3, n_jobs=two_processes)
    np.testing.assert_allclose(there, here, rtol=1e-3)
    np.testing.assert_allclose(there.mean(), scores[0], rtol=1e-3)


def test_a_pickle_works_in_another_installation(molecules, tmp_path):
    """Canonical rows need no rdkit there."""
    fitted = MoleculeFeaturizer(representation="both", canonicalize=False).fit(molecules)
    content = pickle.dumps(fitted)
    assert len(content) < 5_000
    assert str(PACKAGE).encode() not in content
    shutil.copytree(PACKAGE, tmp_path / "cmim_hf")
    (tmp_path / "fitted.pkl").write_bytes(content)
    (tmp_path / "molecules.smi").write_text("\n".join(molecules))
    code = """
sys.modules["rdkit"] = None  # importing it raises ImportError
loaded = pickle.load(open("fitted.pkl", "rb"))
np.save("vectors.npy", loaded.transform(open("molecules.smi").read().split()))
print(loaded.checkpoint, loaded.representation, loaded.fingerprint_, sep="\\n")
"""
    result = subprocess.run(
        [sys.executable, "-c", "import pickle, sys\nimport numpy as np\n" + code],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["None", "both", fitted.fingerprint_]
    assert_equal_vectors(np.load(tmp_path / "vectors.npy"), fitted.transform(molecules))


@pytest.mark.parametrize("given", [str, Path])
def test_a_pickle_comes_back_with_the_parameters(given):
    original = MoleculeFeaturizer(given(list_checkpoints()["tiny"]), dtype=torch.float64)
    loaded = pickle.loads(pickle.dumps(original))
    assert loaded.get_params() == original.get_params()


def test_a_missing_folder_is_an_error_when_used(tmp_path):
    missing = str(tmp_path / "gone")
    loaded = pickle.loads(pickle.dumps(MoleculeFeaturizer(missing)))
    assert loaded.checkpoint == missing
    with pytest.raises(FileNotFoundError, match="no checkpoint folder .*gone"):
        loaded.transform(["CCO"])


def test_other_weights_than_at_fit_are_refused(checkpoint):
    fitted = MoleculeFeaturizer(checkpoint).fit(["CCO"])
    content = pickle.dumps(fitted)
    torch.manual_seed(1)
    CMIMModel(CMIMModel.from_pretrained(checkpoint).config).save_pretrained(checkpoint)
    loaded = pickle.loads(content)
    with pytest.raises(ValueError, match="fit the whole pipeline again") as refused:
        loaded.transform(["CCO"])
    assert f"fitted with {fitted.fingerprint_[:12]}" in str(refused.value)
    again = loaded.fit(["CCO"])
    assert f"has the fingerprint {again.fingerprint_[:12]}" in str(refused.value)
    assert again.fingerprint_ != fitted.fingerprint_ and again.transform(["CCO"]).shape == (1, 96)


def test_a_folder_trained_anew_is_read_anew(checkpoint):
    featurizer = MoleculeFeaturizer(checkpoint)
    before = featurizer.transform(["CCO"])
    torch.manual_seed(2)
    CMIMModel(CMIMModel.from_pretrained(checkpoint).config).save_pretrained(checkpoint)
    assert np.abs(featurizer.transform(["CCO"]) - before).max() > 1e-3


def test_another_checkpoint_set_after_fit_is_refused(checkpoint):
    fitted = MoleculeFeaturizer().fit(["CCO"]).set_params(checkpoint=checkpoint)
    with pytest.raises(ValueError, match="fitted with.*fit the whole pipeline again"):
        fitted.transform(["CCO"])


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)  # importing it raises ImportError
    monkeypatch.delitem(sys.modules, featurizer.__name__)
    with pytest.raises(ImportError, match=r"pip install 'cmim-hf\[sklearn\]'"):
        importlib.import_module(featurizer.__name__)


def test_rows_of_a_dataset_are_no_molecules():
    rows = datasets.Dataset.from_dict({"smiles": ["CCO", "CCN"]})
    with pytest.raises(ValueError, match="'CCO'} of type dict is no string"):
        MoleculeFeaturizer().fit_transform(rows)
    assert MoleculeFeaturizer().fit_transform(rows["smiles"]).shape == (2, 192)
