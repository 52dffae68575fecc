# SPDX-License-Identifier: Apache-2.0
"""`examples/search.py`: neighbours in libraries written here, against brute force in NumPy."""

import importlib
import json
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cmim_hf import DEFAULT_CHECKPOINT, CMIMTokenizer, MoleculeEmbedder
from cmim_hf.chemistry.smiles import similarity
from cmim_hf.data.smiles_files import read_smiles

pytest.importorskip("faiss")

EXAMPLES = Path(__file__).parents[2] / "examples"
INVALID = (0, 7, 8, 119, 120, 299)
QUERIES = ["CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"]


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(on_invalid="none")


@pytest.fixture(scope="module")
def smiles():
    texts = [row.text for row in read_smiles(EXAMPLES / "data" / "moses_test.smi")][:300]
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
def library(tmp_path_factory, embedder, smiles, vectors):
    """Three shards of 120, 0 and 180 rows, the last with numbers as ids."""
    folder = tmp_path_factory.mktemp("library")
    made = made_by(embedder)
    names = {"Name": [f"molecule {row}" for row in range(120)]}
    write(folder / "0.parquet", smiles[:120], vectors[:120], made, names)
    write(folder / "1.parquet", [], vectors[:0], made)
    write(folder / "2.parquet", smiles[120:], vectors[120:], made, {"id": list(range(120, 300))})
    return folder


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("search")


@pytest.fixture
def hits(example, library, tmp_path):
    """What a search writes to its table."""

    def search(*queries, **choices):
        output = tmp_path / "tables" / "hits.csv"
        picture = str(tmp_path / "hits.png")
        settings = {"library": str(library), "output": str(output), "picture": picture, **choices}
        example.run(example.Arguments(queries=list(queries), **settings))
        return pd.read_csv(output)

    return search


def brute_force(embedder, vectors, queries, count):
    """Rows and cosines (queries, count), in float64."""
    valid = [row for row in range(len(vectors)) if row not in INVALID]
    mean = vectors[valid].astype(np.float64).mean(axis=0)
    library = vectors[valid] - mean
    asked = embedder.embed(queries) - mean
    norms = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(library, axis=1)
    cosines = asked @ library.T / norms
    order = np.argsort(-cosines, axis=1)[:, :count]
    return np.array(valid)[order], np.take_along_axis(cosines, order, axis=1)


def test_exact_search_is_brute_force(hits, embedder, smiles, vectors):
    found = hits(*QUERIES, neighbors=200)
    rows, cosines = brute_force(embedder, vectors, QUERIES, 200)
    in_library = found["row"] + np.where(found["file"].str.endswith("0.parquet"), 0, 120)
    np.testing.assert_array_equal(in_library.to_numpy().reshape(3, 200), rows)
    np.testing.assert_allclose(found["cosine"].to_numpy().reshape(3, 200), cosines, atol=1e-5)
    assert found["smiles"].tolist() == [smiles[row] for row in rows.flat]
    assert found["query"].tolist() == np.repeat(QUERIES, 200).tolist()
    assert found["rank"].tolist() == 3 * list(range(1, 201))
    tanimoto = [similarity(*pair) for pair in zip(found["query"], found["smiles"], strict=True)]
    np.testing.assert_allclose(found["tanimoto"], tanimoto)


def test_names_and_ids_stay_with_their_molecules(hits, smiles):
    found = hits(QUERIES[0], neighbors=294)
    named = found[found["file"].str.endswith("0.parquet")]
    numbered = found[found["file"].str.endswith("2.parquet")]
    assert (len(named), len(numbered)) == (116, 178)
    assert named["name"].tolist() == [f"molecule {row}" for row in named["row"]]
    assert numbered["id"].tolist() == (numbered["row"] + 120).tolist()
    assert [smiles[int(row)] for row in numbered["id"]] == numbered["smiles"].tolist()
    assert named["id"].isna().all() and numbered["name"].isna().all()


def test_more_neighbors_than_molecules_gives_all_valid_ones(hits):
    assert len(hits(QUERIES[0], neighbors=1000)) == 294


@pytest.mark.parametrize("index", ["Flat", "HNSW32", "IVF16,Flat", "PCA32,SQ8"])
def test_a_molecule_of_the_library_is_its_own_first_hit(hits, smiles, index):
    """By every index; its cosine is of whole vectors even where the index keeps less."""
    asked = [smiles[row] for row in (1, 118, 121, 298)]
    found = hits(*asked, index=index)
    first = found[found["rank"] == 1]
    assert first["smiles"].tolist() == asked
    assert first["cosine"].between(0.9999, 1.0001).all()
    assert first["tanimoto"].tolist() == [1.0] * 4
    assert len(found) == 20


def test_several_lists_are_searched(hits, embedder, vectors, smiles):
    """One list of 16 would give a fifth of the neighbours; the exact search is the measure."""
    asked = [smiles[row] for row in range(20, 60)]
    rows, _ = brute_force(embedder, vectors, asked, 10)
    found = hits(*asked, index="IVF16,Flat", neighbors=10)
    exact = {(query, smiles[row]) for query, own in zip(asked, rows, strict=True) for row in own}
    recall = len(exact & set(zip(found["query"], found["smiles"], strict=True))) / len(exact)
    assert recall > 0.7


def test_an_index_learns_from_the_first_valid_vectors(example, library, vectors):
    _, groups = example.open_library(str(library), None)
    valid = np.delete(vectors, INVALID, axis=0)
    for count in (1, 43, 100, 294):
        np.testing.assert_array_equal(example.first_vectors(groups, count), valid[:count])
    assert len(example.first_vectors(groups, 1000)) == 294


@pytest.mark.parametrize("representation, pooling", [("both", "max"), ("latent", "mean")])
def test_queries_are_embedded_as_the_library_was(hits, smiles, tmp_path, representation, pooling):
    """Rows not canonical, taken as they are: the same writing alone is the same vector."""
    choices = {"representation": representation, "pooling": pooling, "canonicalize": False}
    embedder = MoleculeEmbedder(**choices)
    texts = ["OCC", "CCO", *smiles[20:40]]
    write(tmp_path / "one.parquet", texts, embedder.embed(texts), made_by(embedder))
    found = hits("OCC", library=str(tmp_path / "one.parquet"))
    assert found["smiles"][0] == "OCC" and found["cosine"][0] >= 0.9999
    assert found["cosine"][1] < 0.999


def test_queries_come_from_a_file_too(hits, tmp_path):
    path = tmp_path / "queries.smi"
    path.write_text("c1ccccc1O phenol\nCCO\n")
    found = hits("CCN", query_file=str(path), neighbors=2)
    assert found["query"].unique().tolist() == ["CCN", "c1ccccc1O", "CCO"]


def test_a_printed_table_has_no_empty_column(example):
    columns = {"rank": [1, 2], "cosine": [0.5, 0.25], "tanimoto": [0.3, 0.2]}
    texts = {"smiles": ["CCO", "C"], "name": ["", ""], "id": ["001", ""]}
    lines = example.table_text(pd.DataFrame(columns | texts)).splitlines()
    assert [line.split() for line in lines] == [
        ["rank", "cosine", "tanimoto", "smiles", "id"],
        ["1", "0.500", "0.300", "CCO", "001"],
        ["2", "0.250", "0.200", "C"],
    ]


def cells(picture, rows, columns):
    """The share of each cell that is not white."""
    image = np.asarray(Image.open(BytesIO(picture)).convert("L")) < 128
    height, width = image.shape
    parts = image.reshape(rows, height // rows, columns, width // columns)
    return image.shape, parts.mean(axis=(1, 3))


def test_the_command_prints_and_draws(library, smiles, tmp_path):
    picture = tmp_path / "drawn" / "hits.png"
    arguments = [
        "--library", str(library), "--queries", smiles[121], QUERIES[1], "--neighbors", "3",
        "--picture", str(picture),
    ]  # fmt: skip
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    assert "294 molecules" in result.stdout and "6 invalid rows left out" in result.stdout
    assert "subtracting the library's mean" in result.stdout
    ranks = re.findall(r"^(\d) +(-?\d\.\d{3}) +(\d\.\d{3}) +(\S+)", result.stdout, re.MULTILINE)
    assert [rank for rank, *_ in ranks] == ["1", "2", "3"] * 2
    assert ranks[0][1:] == ("1.000", "1.000", smiles[121])
    assert picture.read_bytes().startswith(b"\x89PNG")
    shape, ink = cells(picture.read_bytes(), 2, 4)
    assert shape == (2 * 200, 4 * 260)
    assert (ink > 0.005).all()


def test_a_query_with_fewer_hits_leaves_cells_empty(example, tmp_path):
    found = pd.DataFrame({"smiles": ["CCO", "CCN"], "cosine": [0.5, 0.4], "tanimoto": [0.3, 0.2]})
    path = tmp_path / "hits.png"
    example.draw(["c1ccccc1", "CC"], [found[:1], found], str(path))
    shape, ink = cells(path.read_bytes(), 2, 3)
    assert shape == (400, 780)
    assert (ink > 0).tolist() == [[True, True, False], [True, True, True]]


def test_a_picture_has_at_most_twenty_rows_and_hits(example, tmp_path):
    row = {"smiles": "CCO", "cosine": 0.5, "tanimoto": 0.3}
    found = pd.DataFrame([row] * 25)
    path = tmp_path / "hits.png"
    example.draw(["CC"] * 30, [found] * 30, str(path))
    assert Image.open(BytesIO(path.read_bytes())).size == (21 * 260, 20 * 200)


def command(*arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "search.py"), *arguments],
        capture_output=True, text=True, timeout=200, env=environment,
    )  # fmt: skip


def test_an_error_ends_the_command_without_a_stack(tmp_path):
    result = command("--library", str(tmp_path), "--queries", "CCO")
    assert result.returncode == 1
    assert "no *.parquet in the folder" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"neighbors": 0}, "with 0 neighbors each. Give .* --neighbors of at least 1"),
        ({"queries": []}, "0 queries with 5 neighbors each. Give --queries"),
        ({"queries": ["CCO", "C1CC"]}, "Row 1 of the molecules .*'C1CC', cannot be used"),
        ({"index": "Nonsense"}, "'Nonsense' of this library: .*could not parse"),
        (
            {"index": "IVF1000,Flat"},
            r"'IVF1000,Flat' of this library: .*\(294\).*clusters \(1000\)",
        ),
    ],
)
def test_a_wrong_choice_says_so(hits, choices, message):
    queries = choices.get("queries", ["CCO"])
    others = {name: value for name, value in choices.items() if name != "queries"}
    with pytest.raises(ValueError, match=message):
        hits(*queries, **others)


def test_a_column_is_looked_for_before_anything_is_computed(example, library):
    with pytest.raises(ValueError, match="0.parquet has no column 'text'"):
        example.open_library(str(library), "text")
    assert len(example.open_library(str(library), "smiles")[1]) == 8  # row groups


def test_what_is_not_there_is_not_found(hits, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \*.parquet in the folder .*empty"):
        hits("CCO", library=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="no such folder or file: .*nowhere"):
        hits("CCO", library=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="checkpoint folder .*nowhere"):
        hits("CCO", checkpoint=str(tmp_path / "nowhere"))


def test_files_of_another_kind_are_refused(hits, tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"smiles": ["CCO"]}), path)
    with pytest.raises(ValueError, match="other.parquet has no column 'embedding'.*'smiles'"):
        hits("CCO", library=str(path))
    embedding = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"smiles": ["CCO"], "embedding": embedding}), path)
    with pytest.raises(ValueError, match="other.parquet does not say .* no metadata 'cmim'"):
        hits("CCO", library=str(path))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="other.parquet"):
        hits("CCO", library=str(path))


def test_a_library_without_a_valid_molecule_is_refused(hits, embedder, vectors, tmp_path):
    made = made_by(embedder)
    write(tmp_path / "0.parquet", [], vectors[:0], made)
    with pytest.raises(ValueError, match=f"{tmp_path} is empty"):
        hits("CCO", library=str(tmp_path))
    write(tmp_path / "1.parquet", ["C1CC"] * 2, vectors[7:9], made)
    with pytest.raises(ValueError, match="All 2 rows of the library are invalid"):
        hits("CCO", library=str(tmp_path))


def test_another_checkpoint_than_the_librarys_is_refused(hits, make_model, embedder, tmp_path):
    tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    model = make_model(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    message = f"fingerprint [0-9a-f]{{64}}, but {embedder.fingerprint} made the library"
    with pytest.raises(ValueError, match=message):
        hits("CCO", checkpoint=str(tmp_path / "other"))


def test_a_checkpoint_that_moved_is_given(hits, embedder, smiles, vectors, tmp_path):
    made = made_by(embedder, checkpoint=str(tmp_path / "gone"))
    write(tmp_path / "one.parquet", smiles[20:40], vectors[20:40], made)
    library = str(tmp_path / "one.parquet")
    with pytest.raises(FileNotFoundError, match="gone"):
        hits("CCO", library=library)
    assert len(hits("CCO", library=library, checkpoint=DEFAULT_CHECKPOINT)) == 5


def test_shards_of_two_makings_are_refused(hits, embedder, smiles, vectors, tmp_path):
    write(tmp_path / "a.parquet", smiles[:9], vectors[:9], made_by(embedder))
    other = made_by(embedder, fingerprint="00ff")
    write(tmp_path / "b.parquet", smiles[:9], vectors[:9], other)
    message = r"a\.parquet and .*b\.parquet were made with different .*fingerprint .* and '00ff'"
    with pytest.raises(ValueError, match=message):
        hits("CCO", library=str(tmp_path))


def test_a_picture_is_of_the_kind_its_name_says(hits, smiles, tmp_path):
    hits(smiles[1], picture=str(tmp_path / "hits.svg"), neighbors=2)
    assert (tmp_path / "hits.svg").read_text().lstrip().startswith("<?xml")
    with pytest.raises(ValueError, match="hits.jpg must end in .png or .svg"):
        hits(smiles[1], picture=str(tmp_path / "hits.jpg"))
    with pytest.raises(ValueError, match="hits.parquet must end in .csv"):
        hits(smiles[1], output=str(tmp_path / "hits.parquet"))
