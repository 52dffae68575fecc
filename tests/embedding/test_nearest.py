# SPDX-License-Identifier: Apache-2.0
"""Neighbours in libraries written here, against brute force in NumPy."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packed_rows import SAMPLE

from cmim_hf import DEFAULT_CHECKPOINT, CMIMTokenizer, MoleculeEmbedder
from cmim_hf.data.smiles_files import read_smiles
from cmim_hf.embedding import nearest
from cmim_hf.embedding.nearest import EmbeddedLibrary, nearest_neighbors

INVALID = (0, 7, 8, 119, 120, 299)
QUERIES = ["CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"]
INDICES = ["Flat", "HNSW32", "IVF16,Flat", "PCA32,SQ8"]


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(on_invalid="none", progress=False)


@pytest.fixture(scope="module")
def smiles():
    texts = [row.text for row in read_smiles(SAMPLE)][:300]
    for row in INVALID:
        texts[row] = "C1CC"
    return texts


@pytest.fixture(scope="module")
def vectors(embedder, smiles):
    return embedder.embed(smiles)


def made_by(embedder, **changes):
    names = ("checkpoint", "fingerprint", "representation", "pooling", "canonicalize", "size")
    return {name: getattr(embedder, name) for name in names} | changes


def write(path, smiles, vectors, made, columns=None, rows=45):
    flat = pa.array(vectors.reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table({"SMILES": smiles, **(columns or {}), "embedding": embedding})
    table = table.replace_schema_metadata({b"cmim": json.dumps(made).encode()})
    pq.write_table(table, path, row_group_size=rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedder, smiles, vectors):
    """Three shards of 120, 0 and 180 rows, the last with numbers as ids."""
    folder = tmp_path_factory.mktemp("library")
    made = made_by(embedder)
    names = {"Name": [f"molecule {row}" for row in range(120)]}
    write(folder / "0.parquet", smiles[:120], vectors[:120], made, names)
    write(folder / "1.parquet", [], vectors[:0], made)
    write(folder / "2.parquet", smiles[120:], vectors[120:], made, {"id": list(range(120, 300))})
    return folder


@pytest.fixture
def library(folder):
    return EmbeddedLibrary(folder)


def brute_force(vectors, queries, count):
    """Rows and cosines (queries, count), in float64."""
    valid = np.delete(np.arange(len(vectors)), INVALID)
    mean = vectors[valid].astype(np.float64).mean(axis=0)
    library, asked = vectors[valid] - mean, queries - mean
    norms = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(library, axis=1)
    cosines = asked @ library.T / norms
    order = np.argsort(-cosines, axis=1)[:, :count]
    return valid[order], np.take_along_axis(cosines, order, axis=1)


def rows_of(table):
    """Rows of the library, from those of its files."""
    return table["row"].to_numpy() + np.where(table["file"].str.endswith("0.parquet"), 0, 120)


@pytest.mark.parametrize("index", ["Flat", "L2norm,Flat"])
def test_exact_search_is_brute_force(folder, embedder, smiles, vectors, index):
    """By our comparison and by an index of faiss that is exact."""
    pytest.importorskip("faiss")
    queries = embedder.embed(QUERIES)
    tables = EmbeddedLibrary(folder, index=index).nearest(queries, 200)
    for table, rows, cosines in zip(tables, *brute_force(vectors, queries, 200), strict=True):
        np.testing.assert_array_equal(rows_of(table), rows)
        np.testing.assert_allclose(table["cosine"], cosines, atol=1e-5)
        assert table["smiles"].tolist() == [smiles[row] for row in rows]


def test_neighbours_of_vectors_in_memory(embedder, vectors):
    queries, valid = embedder.embed(QUERIES), np.delete(vectors, INVALID, axis=0)
    rows, cosines = nearest_neighbors(queries, valid, 7)
    expected, exact = brute_force(vectors, queries, 7)
    np.testing.assert_array_equal(np.delete(np.arange(300), INVALID)[rows], expected)
    np.testing.assert_allclose(cosines, exact, atol=1e-5)
    assert nearest_neighbors(queries, valid[:2], 7)[0].shape == (3, 2)


def test_invalid_rows_in_memory_are_no_neighbours(embedder, vectors):
    queries = embedder.embed(QUERIES)
    rows, cosines = nearest_neighbors(queries, vectors, 300)
    expected, exact = brute_force(vectors, queries, 294)
    np.testing.assert_array_equal(rows[:, :294], expected)
    np.testing.assert_allclose(cosines[:, :294], exact, atol=1e-5)
    assert set(rows[0, 294:]) == set(INVALID) and np.isnan(cosines[:, 294:]).all()
    with pytest.raises(ValueError, match="None of the 6 rows of `vectors` is finite"):
        nearest_neighbors(queries, vectors[list(INVALID)], 1)


def test_a_query_without_a_vector_is_an_error(library, embedder):
    queries = embedder.embed(["CCO", "C(C"])
    for search in (
        lambda: nearest_neighbors(queries, queries, 1),
        lambda: library.nearest(queries, 1),
    ):
        with pytest.raises(ValueError, match="Query 1 .counted from 0. holds numbers"):
            search()


def test_names_and_ids_stay_with_their_molecules(library, embedder, smiles):
    """More neighbours than molecules are all valid ones."""
    (found,) = library.nearest(embedder.embed(QUERIES[:1]), 1000)
    named = found[found["file"].str.endswith("0.parquet")]
    numbered = found[found["file"].str.endswith("2.parquet")]
    assert (len(named), len(numbered)) == (116, 178)
    assert (library.rows, library.invalid_rows) == (300, 6)
    assert named["name"].tolist() == [f"molecule {row}" for row in named["row"]]
    assert numbered["id"].astype(int).tolist() == (numbered["row"] + 120).tolist()
    assert [smiles[int(row)] for row in numbered["id"]] == numbered["smiles"].tolist()
    assert named["id"].isna().all() and numbered["name"].isna().all()


@pytest.mark.parametrize("index", INDICES)
def test_a_molecule_of_the_library_is_its_own_first_hit(folder, embedder, smiles, index):
    """By every index; its cosine is of whole vectors even where the index keeps less."""
    pytest.importorskip("faiss")
    asked = [smiles[row] for row in (1, 118, 121, 298)]
    found = EmbeddedLibrary(folder, index=index).nearest(embedder.embed(asked), 5)
    assert [len(table) for table in found] == [5] * 4
    assert [table["smiles"][0] for table in found] == asked
    assert all(0.9999 <= table["cosine"][0] <= 1.0001 for table in found)
    assert all(table["cosine"].is_monotonic_decreasing for table in found)


def test_several_lists_are_searched(folder, vectors):
    """One list of 16 would give a fifth of the neighbours; the exact search is the measure."""
    pytest.importorskip("faiss")
    asked = vectors[20:60]
    expected, _ = brute_force(vectors, asked, 10)
    tables = EmbeddedLibrary(folder, index="IVF16,Flat").nearest(asked, 10)
    common = sum(
        len(set(rows) & set(rows_of(table))) for rows, table in zip(expected, tables, strict=True)
    )
    assert common / expected.size > 0.7


def test_an_index_learns_from_the_first_valid_vectors(folder, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "TRAINING_ROWS", 43)
    with pytest.raises(ValueError, match=r"'IVF44,Flat' of this library: .*\(43\).*\(44\)"):
        EmbeddedLibrary(folder, index="IVF44,Flat").nearest(np.ones((1, 192), np.float32), 1)
    index = EmbeddedLibrary(folder, index="IVF43,Flat")._faiss
    assert index.ntotal == 294 and faiss.try_extract_index_ivf(index).nprobe == 6


@pytest.mark.parametrize("representation, pooling", [("both", "max"), ("latent", "mean")])
def test_queries_are_embedded_as_the_library_was(smiles, tmp_path, representation, pooling):
    """Rows not canonical, taken as they are: the same writing alone is the same vector."""
    choices = {"representation": representation, "pooling": pooling, "canonicalize": False}
    embedder = MoleculeEmbedder(**choices)
    texts = ["OCC", "CCO", *smiles[20:40]]
    write(tmp_path / "one.parquet", texts, embedder.embed(texts), made_by(embedder))
    library = EmbeddedLibrary(tmp_path / "one.parquet")
    (found,) = library.nearest(library.embedder().embed(["OCC"]), 5)
    assert found["smiles"][0] == "OCC" and found["cosine"][0] >= 0.9999
    assert found["cosine"][1] < 0.999


def test_flat_needs_no_faiss(folder, vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it raises ImportError
    assert len(EmbeddedLibrary(folder).nearest(vectors[20:21], 3)[0]) == 3
    with pytest.raises(ImportError, match=r"'HNSW32' needs faiss.*cmim-hf\[search\]"):
        EmbeddedLibrary(folder, index="HNSW32").nearest(vectors[20:21], 3)


def test_an_index_that_faiss_does_not_know(folder, vectors):
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="'Nonsense' of this library: .*could not parse"):
        EmbeddedLibrary(folder, index="Nonsense").nearest(vectors[20:21], 3)


def test_a_column_is_looked_for_before_anything_is_computed(folder):
    with pytest.raises(ValueError, match="0.parquet has no column 'text'"):
        EmbeddedLibrary(folder, column="text")
    assert EmbeddedLibrary(folder, column="smiles").rows == 300


def test_what_is_not_there_is_not_found(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is no Parquet file, nor a folder of such"):
        EmbeddedLibrary(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere is no Parquet file"):
        EmbeddedLibrary(tmp_path / "nowhere")
    (tmp_path / "table.csv").write_text("smiles\nCCO\n")
    with pytest.raises(ValueError, match=r"table.csv cannot be read as Parquet; .* `cmim embed"):
        EmbeddedLibrary(tmp_path / "table.csv")


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"smiles": ["CCO"]}), path)
    with pytest.raises(ValueError, match="other.parquet is no file .* 'embedding'.*'smiles'"):
        EmbeddedLibrary(path)
    embedding = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"smiles": ["CCO"], "embedding": embedding}), path)
    with pytest.raises(ValueError, match="other.parquet is no file .*'cmim' in the metadata"):
        EmbeddedLibrary(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="other.parquet"):
        EmbeddedLibrary(path)


def test_a_library_without_a_valid_molecule_is_refused(embedder, vectors, tmp_path):
    made = made_by(embedder)
    write(tmp_path / "0.parquet", [], vectors[:0], made)
    with pytest.raises(ValueError, match=f"{tmp_path} is empty"):
        EmbeddedLibrary(tmp_path)
    write(tmp_path / "1.parquet", ["C1CC"] * 2, vectors[7:9], made)
    with pytest.raises(ValueError, match="All 2 rows of the library are invalid"):
        EmbeddedLibrary(tmp_path).nearest(vectors[20:21], 3)


def test_large_row_groups_are_read_in_parts(embedder, smiles, vectors, tmp_path, monkeypatch):
    """The first part has no valid row."""
    monkeypatch.setattr(nearest, "_BATCH_ROWS", 7)
    texts = ["C1CC"] * 9 + smiles[:50]
    rows = np.concatenate([vectors[np.zeros(9, int)], vectors[:50]])
    write(tmp_path / "one.parquet", texts, rows, made_by(embedder), rows=1000)
    library = EmbeddedLibrary(tmp_path / "one.parquet")
    (found,) = library.nearest(vectors[20:21], 3)
    assert found["row"][0] == 29 and found["smiles"][0] == smiles[20]
    assert library.invalid_rows == 12 and len(library.nearest(vectors[20:21], 99)[0]) == 47


def test_another_checkpoint_than_the_librarys_is_refused(library, make_model, embedder, tmp_path):
    tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    make_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    message = f"fingerprint [0-9a-f]{{64}}, but {embedder.fingerprint} made the library"
    with pytest.raises(ValueError, match=message):
        library.embedder(tmp_path / "other")


def test_a_checkpoint_that_moved_is_given(embedder, smiles, vectors, tmp_path):
    made = made_by(embedder, checkpoint=str(tmp_path / "gone"))
    write(tmp_path / "one.parquet", smiles[20:40], vectors[20:40], made)
    library = EmbeddedLibrary(tmp_path / "one.parquet")
    with pytest.raises(FileNotFoundError, match="gone"):
        library.embedder()
    assert library.embedder(DEFAULT_CHECKPOINT).fingerprint == embedder.fingerprint


def test_shards_of_two_makings_are_refused(embedder, smiles, vectors, tmp_path):
    write(tmp_path / "a.parquet", smiles[:9], vectors[:9], made_by(embedder))
    other = made_by(embedder, fingerprint="00ff")
    write(tmp_path / "b.parquet", smiles[:9], vectors[:9], other)
    message = r"a\.parquet and .*b\.parquet were made with another fingerprint, so"
    with pytest.raises(ValueError, match=message):
        EmbeddedLibrary(Path(tmp_path))
