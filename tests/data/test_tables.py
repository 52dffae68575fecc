# SPDX-License-Identifier: Apache-2.0
"""Batches of whole tables: every column as the source has it, cut where they were asked to be."""

import bz2
import gc
import gzip
import logging
import lzma
import random
import re
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from cmim_hf.data.smiles_files import read_batches, read_smiles
from cmim_hf.data.tables import find_column, text_pieces

STRING = pyarrow.string()
FORMATS = ["a.smi", "a.csv", "a.tsv.gz", "a.parquet", "a.parquet.gz", "folder"]


def strings(**columns):
    """A table whose columns are all strings."""
    return pyarrow.table({name: pyarrow.array(c, STRING) for name, c in columns.items()})


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def only(source, **arguments):
    """The one batch of a small source."""
    (batch,) = read_batches(source, **arguments)
    assert (batch.source, batch.start) == (str(source), 1)
    return batch


def write_source(folder, name, count=23):
    """A source of `count` rows (SMILES of `count` lengths, ids) in the format of a name."""
    rows = [("C" * i, f"{i:03}") for i in range(1, count + 1)]
    path = folder / name
    if name == "a.smi":
        return write(path, "".join(f"{smiles} {id}\n" for smiles, id in rows))
    if "parquet" not in name and name != "folder":
        delimiter = "\t" if "tsv" in name else ","
        return write(path, "\n".join(map(delimiter.join, [("smiles", "id"), *rows])))
    table = pyarrow.table(dict(zip(["smiles", "id"], zip(*rows, strict=True), strict=True)))
    if name == "folder":
        path.mkdir()
        pyarrow.parquet.write_table(table[:9], path / "train-0.parquet")
        pyarrow.parquet.write_table(table[9:], path / "train-1.parquet", row_group_size=4)
        return path
    pyarrow.parquet.write_table(table, folder / "plain.parquet", row_group_size=7)
    data = (folder / "plain.parquet").read_bytes()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def damage_group(path, group, columns):
    """Overwrite all pages of these columns of a row group."""
    metadata = pyarrow.parquet.read_metadata(path).row_group(group)
    data = bytearray(path.read_bytes())
    for index in columns:
        column = metadata.column(index)
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)


def collect(batches):
    """What was yielded before the error, and the error."""
    seen = []
    try:
        seen.extend(batches)
    except ValueError as error:
        return seen, str(error)
    return seen, None


@pytest.mark.parametrize("name", ["a.smi", "a.txt.gz"])
def test_text_file_has_smiles_and_name(tmp_path, name):
    path = write(tmp_path / name, "Smiles title\nCCO  ethyl\talcohol \r\nCCN\n\n N 007\nO NA")
    batch = only(path)
    assert batch.smiles == ["CCO", "CCN", "N", "O"]
    names = ["ethyl\talcohol", None, "007", "NA"]
    assert batch.columns.equals(strings(smiles=batch.smiles, name=names))


def test_text_file_without_names_has_the_column_all_the_same(tmp_path):
    path = write(tmp_path / "a.smi", "C\nCC \nCCC x\n")
    tables = [batch.columns for batch in read_batches(path, batch_rows=2)]
    assert tables[0].equals(strings(smiles=["C", "CC"], name=[None, None]))
    assert tables[1].equals(strings(smiles=["CCC"], name=["x"]))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz"])
def test_delimited_table_keeps_strings_as_written(tmp_path, name):
    header = ["id", "Smiles", "value", "note"]
    rows = [["00123", "CCO", "1e5", "NA"], [" 7", "NaN", "-0.50", ""], ["", "", "null", "True"]]
    delimiter = "\t" if ".tsv" in name else ","
    path = write(tmp_path / name, "\n".join(map(delimiter.join, [header, *rows])))
    batch = only(path)
    assert batch.smiles == ["CCO", "NaN", ""]
    columns = zip(*rows, strict=True)
    assert batch.columns.equals(strings(**dict(zip(header, columns, strict=True))))


def test_short_rows_end_in_nulls_and_long_ones_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", 'id,smiles,note\n1\n2,C\n3,N,"a,b"\n')
    batch = only(path)
    assert batch.smiles == ["", "C", "N"]
    expected = strings(id=["1", "2", "3"], smiles=[None, "C", "N"], note=[None, None, "a,b"])
    assert batch.columns.equals(expected)
    assert only(write(path, "smiles,note,more\nC\n")).columns.column_names[1:] == ["note", "more"]
    write(path, "id,smiles\n1,C\n2,hexane,N\n3,O\n")  # the molecule is in another column
    seen, error = collect(read_batches(path, batch_rows=1))
    assert [batch.smiles for batch in seen] == [["C"]]
    assert "a.csv cannot be read after row 1: the next has 3 fields, the header 2" in error


def test_nameless_and_repeated_headers(tmp_path):
    path = write(tmp_path / "a.csv", "\n,smiles,,id,id,id_2,id,smiles\n1,2,3,4,5,6,7,8\n")
    batch = only(path)
    names = ["column_1", "smiles", "column_3", "id", "id_3", "id_2", "id_4", "smiles_2"]
    assert batch.columns.equals(strings(**{name: [str(i)] for i, name in enumerate(names, 1)}))
    assert batch.smiles == ["2"]
    assert only(path, column="smiles_2").smiles == ["8"]
    assert [row.text for row in read_smiles(path, column="column_3")] == ["3"]
    with pytest.raises(ValueError, match="has no column 'x'; its columns are 'column_1', 'smiles'"):
        only(path, column="x")


def test_parquet_keeps_types_and_order(tmp_path):
    table = pyarrow.table(
        {
            "y": pyarrow.array([1, None, 3], pyarrow.int8()),
            "SMILES": pyarrow.array(["C", None, "N"]).dictionary_encode(),
            "vector": pyarrow.array([[0.5], [], None], pyarrow.list_(pyarrow.float32())),
            "smiles.raw": ["a", "b", "c"],
        }
    ).replace_schema_metadata({"pandas": "{}"})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    batch = only(path)
    assert batch.smiles == ["C", "", "N"]
    assert batch.columns.equals(table)
    assert batch.columns.schema.metadata is None
    assert [row.text for row in read_smiles(path)] == ["C", "", "N"]


def test_folder_keeps_the_types_of_the_dataset(tmp_path):
    table = pyarrow.table({"y": pyarrow.array([1, 2, 3], pyarrow.int8()), "mol": ["C", None, "N"]})
    Dataset(table).to_parquet(tmp_path / "train.parquet")
    batch = only(tmp_path)
    assert batch.smiles == ["C", "", "N"]
    assert batch.columns.schema.equals(table.schema, check_metadata=True)
    assert batch.columns.equals(table)
    with pytest.raises(ValueError, match="column 'y' holds int8, not text"):
        only(tmp_path, column="y")


# `datasets` leaves the file open when its iteration ends early.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_folder_whose_files_differ(tmp_path):
    write(tmp_path / "train-0.csv", "smiles,y\nC,1\nN,2\nO,3\n")
    write(tmp_path / "train-1.csv", "smiles,y\nCC,a\nCN,b\n")
    for batch_rows, start in [(2, 2), (3, 3)]:
        seen, error = collect(read_batches(tmp_path, batch_rows=batch_rows))
        assert [batch.smiles for batch in seen] == [["C", "N", "O"][:start]]
        assert f"cannot be read after row {start}: " in error
    gc.collect()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("batch_rows", [5, 23])
def test_batches_are_cut_as_asked(tmp_path, name, batch_rows):
    path = write_source(tmp_path, name)
    rows = list(read_smiles(path, batch_rows=batch_rows))
    assert [row.number for row in rows] == list(range(1, 24))
    batches = list(read_batches(path, batch_rows=batch_rows))
    assert [batch.start for batch in batches] == list(range(1, 24, batch_rows))
    sizes = [batch.columns.num_rows for batch in batches]
    assert sizes == [min(batch_rows, 24 - batch.start) for batch in batches]
    assert list(chain(*(batch.smiles for batch in batches))) == [row.text for row in rows]
    table = pyarrow.concat_tables([batch.columns for batch in batches])  # needs equal schemas
    assert table.column("smiles").to_pylist() == ["C" * i for i in range(1, 24)]
    assert table.column(1).to_pylist() == [f"{i:03}" for i in range(1, 24)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("numbers", [{1, 3, 4}, set()])
def test_wanted_batches_are_those_of_the_full_reading(tmp_path, name, numbers):
    path = write_source(tmp_path, name)
    batches = list(read_batches(path, batch_rows=5))
    assert len(batches) == 5
    asked = []
    some = list(read_batches(path, batch_rows=5, wanted=lambda n: asked.append(n) or n in numbers))
    assert some == [batch for number, batch in enumerate(batches) if number in numbers]
    assert asked[:5] == [0, 1, 2, 3, 4]


def test_smiles_of_parquet_are_read_without_the_other_columns(tmp_path):
    path = write_source(tmp_path, "a.parquet")
    damage_group(path, 1, [1])
    assert [row.text for row in read_smiles(path)] == ["C" * i for i in range(1, 24)]
    assert collect(read_batches(path))[0] == []


def test_parquet_with_empty_row_groups(tmp_path):
    table = pyarrow.table({"smiles": ["C", "N", "O"]})
    with pyarrow.parquet.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in [table[:0], table[:2], table[:0], table[2:], table[:0]]:
            writer.write_table(part)
    batches = list(read_batches(tmp_path / "a.parquet", batch_rows=2))
    assert [batch.smiles for batch in batches] == [["C", "N"], ["O"]]


@pytest.mark.parametrize("wanted", [None, {0, 2}.__contains__])
@pytest.mark.parametrize("name", ["a.smi.gz", "a.csv.bz2", "a.txt.xz", "a.smi.zst"])
def test_what_was_cut_short_yields_the_full_batches_before(tmp_path, name, wanted):
    text = random.Random(0).choices("CNO", k=400_000)
    molecules = ["".join(text[i : i + 40]) for i in range(0, len(text), 40)]
    pack = {"gz": gzip.compress, "bz2": partial(bz2.compress, compresslevel=1), "xz": lzma.compress}
    pack["zst"] = lambda data: pyarrow.compress(data, "zstd", asbytes=True)
    data = pack[name.rpartition(".")[2]]("\n".join(["smiles", *molecules]).encode())
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 3 // 4])
    texts, error = collect(row.text for row in read_smiles(path))
    last = int(re.search(f"{name} cannot be read after row (\\d+): (Comp|Trunc)", error)[1])
    assert 3000 < last < 10_000 and texts == molecules[: last // 4096 * 4096]
    seen, error = collect(read_batches(path, batch_rows=1000, wanted=wanted))
    assert f"{name} cannot be read after row {last}: " in error
    numbers = [number for number in range(last // 1000) if wanted is None or wanted(number)]
    assert [batch.start for batch in seen] == [1000 * number + 1 for number in numbers]
    for batch in seen:
        assert batch.smiles == molecules[batch.start - 1 : batch.start + 999]


@pytest.mark.parametrize("name", ["a.smi", "a.csv"])
def test_another_encoding_is_said(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"smiles\n" + b"C\n" * 5000 + "O é\n".encode("latin-1"))
    seen, error = collect(read_batches(path, batch_rows=1000))
    assert [batch.start for batch in seen] == [1, 1001, 2001, 3001]
    assert f"{name} cannot be read after row 4" in error and "byte 0xe9 is not UTF-8" in error
    path.write_text("smiles\nCCO é\n", encoding="utf-8-sig")
    assert only(path).smiles[0].startswith("CCO")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "folder"])
def test_missing_column(tmp_path, name):
    with pytest.raises(ValueError, match="has no column 'x'; its columns are 'smiles', 'id'"):
        list(read_batches(write_source(tmp_path, name), column="x"))


def test_batch_rows_below_one(tmp_path):
    with pytest.raises(ValueError, match="`batch_rows` is a whole number from 1, not 0"):
        list(read_batches(write_source(tmp_path, "a.smi"), batch_rows=0))


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_a_quote_that_is_never_closed_swallows_no_rows(suffix, mark, tmp_path):
    path = tmp_path / f"open{suffix}"
    path.write_text(f'smiles{mark}name\nCCO{mark}"5-prime thing\nCCN{mark}x\nCCC{mark}y\n')
    for read in (read_batches, read_smiles):
        with pytest.raises(ValueError, match="cannot be read after row 0: .*double"):
            list(read(path))


def test_a_line_that_begins_with_a_tab_has_no_smiles(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("CCO\tone\n\tCN\n CCC three\n\t\n")
    (batch,) = read_batches(path)
    assert batch.smiles == ["CCO", "", "CCC"]
    assert batch.columns["name"].to_pylist() == ["one", "CN", "three"]
    assert [row.text for row in read_smiles(path)] == batch.smiles


def test_views_become_plain_columns():
    # Text of type string_view, by pyarrow 26; pyarrow 17 reads it and cannot write it.
    (batch,) = read_batches(Path(__file__).parents[1] / "golden" / "string_views.parquet")
    assert batch.smiles == ["CCO", "", "CCN"] and batch.column == "smiles"
    assert not any("view" in str(kind) for kind in batch.columns.schema.types)
    assert batch.columns.take([0, 2])["n"].to_pylist() == [1, 3]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", b"no zip"),
        ("a.jsonl", b'{"smiles": "CCO"}\n{"smiles": \n'),
        ("a.csv", "smiles\nCCO\n".encode("utf-16")),
    ],
)
def test_a_file_of_a_folder_that_cannot_be_read_is_said(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (read_smiles, read_batches):
        with pytest.raises(ValueError, match="cannot be read after row 0: .*Write it with one"):
            list(read(tmp_path))
    gc.collect()


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("a.csv", "smiles;id\nCCO;1\nCCN;2\n", "smiles"),
        ("a.csv", "id;Canonical SMILES;note, more\n1;CCO;x,y\n2;CCN;\n", "Canonical SMILES"),
        ("a.csv", "id, smiles\n1, CCO\n2, CCN \n", "smiles"),
        ("a.csv", "id\tIsomeric SMILES\n1\tCCO\n2\tCCN\n", "Isomeric SMILES"),
        ("a.tsv", "id,canonicalsmiles\n1,CCO\n2,CCN\n", "canonicalsmiles"),
        ("a.csv", "id,Ligand SMILES\n1,CCO\n2,CCN\n", "Ligand SMILES"),
        ("a.csv", "smiles,canonical_smiles,mol\nX,CCO,y\nX,CCN,y\n", "canonical_smiles"),
        ("a.csv", "canonical_smiles;isomeric_smiles\nX;CCO\nX;CCN\n", "isomeric_smiles"),
        ("a.txt.gz", "chembl_id\tcanonical_smiles\tinchi\nC1\tCCO\tx\nC2\tCCN\ty z\n",
         "canonical_smiles"),
        ("a.smi", "SMILES,id\nCCO,1\nCCN,2\n", "SMILES"),
    ],
)  # fmt: skip
def test_tables_as_people_have_them(tmp_path, name, content, column):
    path = write(tmp_path / name, content)
    batch = only(path)
    assert batch.smiles == ["CCO", "CCN"] == [row.text for row in read_smiles(path)]
    assert batch.column == column
    assert batch.columns.num_columns == content.splitlines()[0].count(column) + max(
        content.splitlines()[0].count(mark) for mark in ",;\t"
    )


def test_another_column_is_taken_when_it_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "name;raw;clean_smiles;raw_smiles\na;C;N;O\n")
    assert only(path, column="Raw").smiles == ["C"]
    with pytest.raises(
        ValueError, match="a.csv has more than one column with SMILES.*'raw_smiles'"
    ):
        only(path)
    assert only(path, column="raw_smiles").smiles == ["O"]


def test_what_was_taken_of_two_columns_is_said(caplog):
    logging.getLogger("cmim_hf").propagate = True
    with caplog.at_level("WARNING"):
        found = find_column(["SMILES", "Canonical SMILES", "mol"], None, "some.csv")
        assert found == "Canonical SMILES"
        assert find_column(["mol", "smiles"], None, "other.csv") == "smiles"
    assert "some.csv: the SMILES are those of column 'Canonical SMILES', not of 'SMILES'" in (
        caplog.text
    )
    assert "other.csv" not in caplog.text
    with pytest.raises(ValueError, match="by `--column`"):
        find_column(["a"], None, "a.csv", "--column")


def test_a_name_that_speaks_of_smiles_is_no_header(tmp_path):
    lines = ["CCO\tsmiles of ethanol", "CCN\tanother"]
    batch = only(write(tmp_path / "a.smi", "\n".join(lines)))
    assert batch.smiles == ["CCO", "CCN"]
    assert batch.columns["name"].to_pylist() == ["smiles of ethanol", "another"]


def test_the_extension_of_a_cxsmiles_is_neither_molecule_nor_name(tmp_path):
    lines = ["C[C@H](F)Cl |&1:1|", "CC* |$;;R 1$| a name", "CCO |not one", "CCN\t|r|\tx"]
    batch = only(write(tmp_path / "a.cxsmiles", "\n".join(lines)))
    assert batch.smiles == ["C[C@H](F)Cl", "CC*", "CCO", "CCN"]
    assert batch.columns["name"].to_pylist() == [None, "a name", "|not one", "x"]
    path = write(tmp_path / "a.csv", 'id,smiles\n1,C[C@H](F)Cl |&1:1|\n2,"CC* |$;;R1$,lp:2:1|"\n')
    assert only(path).smiles == ["C[C@H](F)Cl", "CC*"]
    assert only(path).columns["smiles"][0].as_py() == "C[C@H](F)Cl |&1:1|"


def test_a_batch_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cmim_hf.data.smiles_files._LARGEST_BATCH", 1000)
    path = write(tmp_path / "a.smi", "\n".join(["C" * 90] * 30))
    assert sum(batch.columns.num_rows for batch in read_batches(path, batch_rows=9)) == 30
    with pytest.raises(ValueError, match="the 30 rows from row 1 on take over 2 GiB"):
        only(path, batch_rows=30)


def test_long_lines_do_not_make_large_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("cmim_hf.data.tables._LARGEST_PIECE", 500)
    path = write_source(tmp_path, "a.csv", 50)
    with open(path, newline="") as stream:
        sizes = [len(piece) for piece in text_pieces(stream, ".csv", None, 100)]
    assert len(sizes) > 2 and sum(sizes) == 50
    assert only(path, batch_rows=100).smiles == ["C" * i for i in range(1, 51)]
