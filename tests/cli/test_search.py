# SPDX-License-Identifier: Apache-2.0
"""`cmim search`: what it prints, writes and draws, and its errors."""

import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.chemistry.smiles import similarity
from cmim_hf.cli.main import main
from cmim_hf.embedding.sharded_library import Library, embed_shards

TINY = list_checkpoints()["tiny"]
PHENOL = "c1ccccc1O"


@pytest.fixture(scope="module")
def smiles(sample):
    return [row.text for row in sample[:60]]


@pytest.fixture(scope="module")
def library(smiles, tmp_path_factory):
    """Two shards of 40 and 22 rows, two of them invalid."""
    folder = tmp_path_factory.mktemp("search")
    rows = [f"{text} molecule {row}" for row, text in enumerate(smiles)]
    (folder / "molecules.smi").write_text("\n".join([*rows, "C1CC", "C(C"]))
    embedder = MoleculeEmbedder(TINY, on_invalid="none", progress=False)
    library = Library(folder / "library", (str(folder / "molecules.smi"),), 40)
    library.open(embedder)
    list(embed_shards(library.pending(), embedder))
    return str(library.folder)


def cells(picture, rows, columns):
    """The share of each cell that is not white."""
    image = np.asarray(Image.open(BytesIO(picture)).convert("L")) < 128
    height, width = image.shape
    parts = image.reshape(rows, height // rows, columns, width // columns)
    return image.shape, parts.mean(axis=(1, 3))


def test_it_prints_and_draws(library, smiles, tmp_path, capsys):
    picture = tmp_path / "hits.png"
    words = ["search", "--library", library, "--queries", smiles[21], PHENOL, "--neighbors", "3"]
    assert main([*words, "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "60 molecules" in printed and "2 invalid rows left out" in printed
    assert "subtracting the library's mean" in printed and "parquet" not in printed
    found = re.findall(r"^(\d) +(-?\d\.\d{3}) +(\d\.\d{3}) +(\S+)", printed, re.MULTILINE)
    assert [rank for rank, *_ in found] == ["1", "2", "3"] * 2
    assert found[0][1:] == ("1.000", "1.000", smiles[21])
    assert re.search(r"^1 +1.000.* molecule 21 *$", printed, re.MULTILINE)
    shape, ink = cells(picture.read_bytes(), 2, 4)
    assert shape == (2 * 200, 4 * 260)
    assert (ink > 0.005).all()


def test_it_writes_every_hit_of_queries_and_of_a_file(library, smiles, tmp_path, capsys):
    queries, output = tmp_path / "queries.smi", tmp_path / "hits.csv"
    queries.write_text(f"{PHENOL} phenol\nCCO\n")
    words = ["search", "--library", library, "--queries", "CCN", "--query-file", str(queries)]
    assert main([*words, "--neighbors", "20", "-o", str(output)]) == 0
    found = pd.read_csv(output)
    assert found["query"].tolist() == ["CCN"] * 20 + [PHENOL] * 20 + ["CCO"] * 20
    assert found["rank"].tolist() == [*range(1, 21)] * 3
    assert (
        found["name"].str.removeprefix("molecule ").astype(int).tolist()
        == (found["row"] + 40 * found["file"].str.endswith("1.parquet")).tolist()
    )
    near = [similarity(*pair) for pair in zip(found["query"], found["smiles"], strict=True)]
    np.testing.assert_allclose(found["tanimoto"], near)
    capsys.readouterr()
    assert main([*words, "--neighbors", "1", "-o", "-"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == found[found["rank"] == 1][["smiles", "query"]].to_numpy().tolist()


def test_libraries_as_they_were_written_are_searched(tmp_path, capsys):
    """With blanks around SMILES, and, embedded as they are, with what is no molecule."""
    table, picture = tmp_path / "raw.csv", tmp_path / "hits.svg"
    table.write_text("smiles,name\nCCO ,ethanol\nCCN,amine\nC(C,broken\n")
    library, hits = str(tmp_path / "raw.parquet"), str(tmp_path / "hits.csv")
    made = ["embed", str(table), "-o", library, "--checkpoint", "tiny", "--no-canonicalize"]
    search = ["search", "--library", library, "--queries", "CCO ", "--picture", str(picture)]
    assert main(made) == main([*search, "-o", hits]) == main(search) == 0
    found = pd.read_csv(hits).set_index("name")
    assert found["smiles"].to_dict() == {"ethanol": "CCO", "amine": "CCN", "broken": "C(C"}
    assert found["tanimoto"]["ethanol"] == 1 and np.isnan(found["tanimoto"]["broken"])
    assert re.search(r"-?0\.\d{3} +C\(C +broken", capsys.readouterr().out)


def test_a_query_with_fewer_hits_leaves_cells_empty(tmp_path):
    from cmim_hf.cli.search import _draw

    hits = pd.DataFrame({"smiles": ["CCO", "CCN"], "cosine": [0.5, 0.4], "tanimoto": [0.3, 0.2]})
    path = tmp_path / "hits.png"
    _draw([PHENOL, "CC"], [hits[:1], hits], path)
    shape, ink = cells(path.read_bytes(), 2, 3)
    assert shape == (400, 780)
    assert (ink > 0).tolist() == [[True, True, False], [True, True, True]]


def test_a_picture_has_at_most_sixty_cells(library, smiles, tmp_path):
    path = tmp_path / "hits.svg"
    words = ["--library", library, "--neighbors", "30", "--picture", str(path)]
    assert main(["search", "--queries", *smiles[:10], *words]) == 0
    (width, height) = re.search(r"width='(\d+)px' height='(\d+)px'", path.read_text()).groups()
    assert (int(width), int(height)) == (10 * 260, 6 * 200)


def test_a_library_that_is_not_there(tmp_path, capsys):
    assert main(["search", "--library", str(tmp_path / "absent"), "--queries", "C"]) == 1
    assert " is no Parquet file, nor a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--queries", "CCO", "--neighbors", "0"], "1 queries with 0 neighbors each"),
        ([], "0 queries with 5 neighbors each. Give --queries or --query-file"),
        (["--queries", "CCO", "C1CC"], "Row 2 of --queries, 'C1CC', cannot be used"),
        (["--queries", "CCO", "--column", "text"], "0.parquet has no column 'text'"),
        (["--queries", "CCO", "--picture", "hits.jpg"], "hits.jpg must end in one of .svg, .png"),
        (["--queries", "CCO", "-o", "hits.xlsx"], "hits.xlsx must end in one of"),
        (["--queries", "CCO", "--checkpoint", "./nowhere"], "no checkpoint folder ./nowhere"),
    ],
)
def test_errors_are_one_message(library, words, message, capsys):
    assert main(["search", "--library", library, *words]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("cmim search: ") and message in said.err and not said.out
