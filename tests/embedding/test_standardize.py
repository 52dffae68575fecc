# SPDX-License-Identifier: Apache-2.0
"""A salt and its acid have one vector on request, and files say whether they have."""

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone

from cmim_hf import MoleculeEmbedder, MoleculeFeaturizer, list_checkpoints
from cmim_hf.data.smiles_files import read_batches
from cmim_hf.embedding.embedding_files import save_embeddings
from cmim_hf.embedding.nearest import EmbeddedLibrary
from cmim_hf.embedding.sharded_library import SETTINGS_FILE, Library, embed_shards
from cmim_hf.embedding.tables import METADATA_KEY

TINY = list_checkpoints()["tiny"]
SALTS = ["CC(=O)[O-].[Na+]", "C[NH2+]CC.[Cl-]", "O.c1ccccc1O"]
PARENTS = ["CC(=O)O", "CCNC", "Oc1ccccc1"]


def make(**settings):
    return MoleculeEmbedder(TINY, progress=False, **settings)


@pytest.fixture(scope="module")
def parents():
    """Vectors of molecules that are their own parents."""
    return make().embed(PARENTS)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "salts.csv").write_text("smiles\n" + "\n".join(SALTS) + "\n")
    return str(tmp_path / "salts.csv")


def near(found, expected):
    return np.abs(found - expected).max(axis=1) < 1e-5


def test_a_salt_has_the_vector_of_its_parent_on_request(parents):
    embedder = make(standardize="parent")
    assert near(embedder.embed(SALTS), parents).all()
    assert near(embedder.embed(PARENTS), parents).all()
    assert not near(embedder.embed(SALTS, standardize="none"), parents).any()
    assert not near(make().embed(SALTS), parents).any()
    assert near(make().embed(SALTS, standardize="parent"), parents).all()


def test_what_has_no_parent_is_an_invalid_row():
    with pytest.raises(ValueError, match="Row 1 .* it cannot be standardised: Explicit valence"):
        make(standardize="parent").embed(["CCO", "[Na]<-[NH3+]C"])
    vectors = make().embed(["[Na]<-[NH3+]C", "CCO"], standardize="parent", on_invalid="none")
    assert np.isnan(vectors[0]).all() and np.isfinite(vectors[1]).all()


def test_the_featurizer_gives_the_vectors_of_the_embedder(parents):
    featurizer = MoleculeFeaturizer(TINY, standardize="parent")
    assert clone(featurizer).get_params()["standardize"] == "parent"
    assert near(pickle.loads(pickle.dumps(featurizer)).fit_transform(SALTS), parents).all()
    assert not near(featurizer.set_params(standardize="none").transform(SALTS), parents).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"standardize": "tautomer"}, "Unknown `standardize` 'tautomer'; choose one of none, par"),
        ({"standardize": "parent", "canonicalize": False}, "`standardize` is 'parent', .* choose"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
    with pytest.raises(ValueError, match=message):
        make().embed([], **settings)
    with pytest.raises(ValueError, match=message):
        MoleculeFeaturizer(TINY, **settings).fit(PARENTS)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_says_what_its_vectors_are_of(source, parents, tmp_path, workers):
    output = tmp_path / "salts.parquet"
    embedder = make(standardize="parent")
    save_embeddings(read_batches(source), embedder, output, num_workers=workers, progress=False)
    table = pq.read_table(output)
    assert json.loads(table.schema.metadata[METADATA_KEY])["standardize"] == "parent"
    assert table["smiles"].to_pylist() == SALTS  # as they were
    found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(parents.shape)
    assert near(found, parents).all()


def test_a_library_goes_on_and_is_searched_as_it_was_begun(source, tmp_path):
    embedder = make(standardize="parent")
    library = Library(tmp_path / "library", (source,))
    library.open(embedder)
    list(embed_shards(library.pending(), embedder))
    assert json.loads((library.folder / SETTINGS_FILE).read_text())["standardize"] == "parent"
    with pytest.raises(ValueError, match="standardize was 'parent', is 'none'"):
        library.open(make())
    embedded = EmbeddedLibrary(library.folder)
    queries = embedded.embedder().embed(["CC(=O)O[K]", "CN(CC)[H].Br"], progress=False)
    first, second = embedded.nearest(queries, 1)
    assert (first["smiles"][0], second["smiles"][0]) == tuple(SALTS[:2])
    assert min(first["cosine"][0], second["cosine"][0]) == pytest.approx(1, abs=1e-5)


def test_files_of_different_standards_are_not_searched_together(source, tmp_path):
    for standard in ("none", "parent"):
        embedder = make(standardize=standard)
        path = tmp_path / f"{standard}.parquet"
        save_embeddings(read_batches(source), embedder, path, progress=False)
    with pytest.raises(ValueError, match="made with another standardize"):
        EmbeddedLibrary(tmp_path)
