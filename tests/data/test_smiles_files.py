# SPDX-License-Identifier: Apache-2.0
"""Sources of SMILES: every format, every damage."""

import gzip
import os
import re
import sys
import threading

import pyarrow
import pyarrow.parquet
import pytest

from cmim_hf.data.smiles_files import NoRowsError, Row, read_batches, read_smiles

MOLECULES = ["CCO", "C/C=C\\C", "[Na+].[Cl-]", "NaN", "null"]


def texts(source, **arguments):
    return [row.text for row in read_smiles(source, **arguments)]


def collect(rows, seen):
    for row in rows:
        seen.append(row.text)


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=1000)
    return path


@pytest.mark.parametrize("name", ["a.SMI", "a.smiles", "a.txt.gz"])
def test_text_file_first_fields(tmp_path, name):
    path = write(tmp_path / name, "SMILES name\nCCO ethanol 1\n\n  \n CCN\r\nC1CC\n")
    assert list(read_smiles(path)) == [
        Row(str(path), 1, "CCO"),
        Row(str(path), 2, "CCN"),
        Row(str(path), 3, "C1CC"),
    ]


def test_text_file_without_header_or_final_newline_keeps_all(tmp_path):
    assert texts(write(tmp_path / "a.smi", "\ufeffC\nsmiles\nN")) == ["C", "smiles", "N"]


def test_table_quotes_short_rows_and_column_choice(tmp_path):
    path = write(tmp_path / "a.csv", 'name,mol,smiles\n"a,b\nc",X,"C,C"\nonly a name\n')
    assert texts(path) == ["C,C", ""]
    assert texts(path, column="mol") == ["X", ""]


def test_parquet_keeps_strings_and_nulls_over_batches(tmp_path):
    molecules = [*MOLECULES, None] * 500
    path = write_parquet(tmp_path / "a.parquet", y=list(range(3000)), SMILES=molecules)
    rows = list(read_smiles(path, batch_rows=7))
    assert [row.text for row in rows] == [text or "" for text in molecules]
    assert [row.number for row in rows] == list(range(1, 3001))


def test_folder_goes_through_load_dataset(tmp_path):
    for split, size in [("train", 5), ("test", 2)]:
        write_parquet(tmp_path / f"{split}.parquet", smiles=MOLECULES[:size], y=[0] * size)
    assert texts(str(tmp_path), batch_rows=2) == MOLECULES
    assert texts(tmp_path, split="test") == MOLECULES[:2]
    with pytest.raises(ValueError, match=r"no column 'x'; its columns are 'smiles', 'y'"):
        texts(str(tmp_path), column="x")
    with pytest.raises(ValueError, match="column 'y' holds int64, not text"):
        texts(str(tmp_path), column="y")


def test_moses_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "moses"
    (folder / "dataset" / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for name, smiles in [("train", "CC"), ("test", "CN"), ("test_scaffolds", "CO")]:
        write(folder / "dataset" / "data" / f"{name}.csv.gz", f"SMILES\n{smiles}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "moses", raising=False)
    assert list(read_smiles("moses")) == [Row("moses", 1, "CC")]
    assert texts("moses:test") == ["CN"]
    assert texts("moses:test_scaffolds") == ["CO"]


def test_moses_missing_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps molsets==0\.3\.1"):
        texts("moses:test")


def test_a_pattern_is_its_files_by_name_and_several_sources_are_counted_apart(tmp_path, caplog):
    for name, content in {"b.smi": "CCO\nCCN\n", "a.smi.gz": "C\n", "c.smi": "\n"}.items():
        write(tmp_path / name, content)
    (tmp_path / "folder.smi").mkdir()
    expected = [("a.smi.gz", 1, "C"), ("b.smi", 1, "CCO"), ("b.smi", 2, "CCN")]
    listed = [f"{tmp_path}/a.smi.gz", f"{tmp_path}/[ab].*"]  # a file is read once
    for source in (f"{tmp_path}/*.smi*", f"{tmp_path}/[a-c].*", listed):
        rows = list(read_smiles(source, batch_rows=1))
        assert [(os.path.basename(row.source), row.number, row.text) for row in rows] == expected
    empty = f"{tmp_path}/c.smi holds no rows; give a source with at least one molecule."
    assert caplog.messages == [empty] * 2
    write(tmp_path / "b[1].smi", "CCC\n")
    assert texts(tmp_path / "b[1].smi") == ["CCC"]  # a file of that very name
    with pytest.raises(FileNotFoundError, match=r"No file matches .*x\*\.smi; check the pattern"):
        texts(f"{tmp_path}/x*.smi")
    with pytest.raises(NoRowsError, match="c.smi holds no rows"):
        texts([tmp_path / "c.smi", tmp_path / "c.smi"])


def test_sources_of_other_columns_are_not_put_into_one_table(tmp_path):
    tables = ["smiles,id\nC,a\n", "smiles,id\nCC,b\n", "smiles,logp\nCC,1\n", "id,SMILES\nb,CC\n"]
    first, same, *others = (
        write(tmp_path / f"{number}.csv", content) for number, content in enumerate(tables)
    )
    columns = [batch.columns.to_pylist() for batch in read_batches([first, same])]
    assert columns == [[{"smiles": "C", "id": "a"}], [{"smiles": "CC", "id": "b"}]]
    told = "0.csv has smiles (string), id (string), SMILES in 'smiles' and "
    layouts = ("smiles (string), logp (string)", "id (string), SMILES (string), SMILES in 'SMILES'")
    for source, layout in zip(others, layouts, strict=True):
        with pytest.raises(ValueError, match=re.escape(f"{told}{source} has {layout}")):
            list(read_batches([first, source]))
        assert texts([first, source]) == ["C", "CC"]  # of which the SMILES alone are read


@pytest.mark.parametrize("name", ["no/where.csv", "nowhere.smi.gz", "/nowhere/at all"])
def test_missing_file_is_named(name):
    with pytest.raises(FileNotFoundError, match=name):
        texts(name)


def test_unknown_dataset_is_named(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' is neither a file here nor"):
        texts("nobody/nothing")


@pytest.mark.parametrize("name", ["a.mol3", "a.smi.zip"])
def test_unknown_type_lists_the_known(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} has an unknown file type.*\.parquet"):
        texts(write(tmp_path / name, "C\n"))


@pytest.mark.parametrize(
    ("name", "file_type"),
    [("data", ".csv"), ("data.gz", ".csv.gz"), ("data.smi", ".csv"), ("moses", ".csv")],
)
def test_file_type_overrides_the_name(tmp_path, monkeypatch, name, file_type):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, "id,smiles\n007,CCO\n")
    assert list(read_smiles(name, file_type=file_type)) == [Row(name, 1, "CCO")]


@pytest.mark.parametrize("file_type", ["csv", ".txt"])
def test_unknown_file_type_lists_the_known(tmp_path, file_type):
    known = (
        r"\.smi, \.csv, \.tsv, \.parquet, \.sdf, \.mol2, with or without \.gz, \.bz2, \.xz or \.zst"
    )
    with pytest.raises(ValueError, match=rf"one of {known} behind, not '{file_type}'"):
        texts(write(tmp_path / "a.smi", "C\n"), file_type=file_type)


def test_file_type_means_a_file(tmp_path):
    for source in ["nobody/nothing", str(tmp_path)]:
        with pytest.raises(FileNotFoundError, match=f"There is no file {source}"):
            texts(source, file_type=".smi")


def test_zipped_parquet(tmp_path):
    data = write_parquet(tmp_path / "a.parquet", y=[1, 2], smiles=["CCO", None]).read_bytes()
    path = write(tmp_path / "a.parquet.gz", data)
    assert texts(path) == ["CCO", ""]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet\.gz cannot be read after row 0: Comp"):
        texts(path)


@pytest.mark.parametrize("name", ["a.smi", "a.parquet"])
def test_named_pipe(tmp_path, name):
    if name == "a.parquet":
        data = write_parquet(tmp_path / "file", smiles=["CCO", "CCN"]).read_bytes()
    else:
        data = b"CCO\nCCN\n"
    os.mkfifo(tmp_path / name)
    writer = threading.Thread(target=(tmp_path / name).write_bytes, args=[data], daemon=True)
    writer.start()
    assert texts(tmp_path / name) == ["CCO", "CCN"]
    writer.join()


def test_standard_input_holds_a_text_file_unless_said_otherwise(tmp_path, monkeypatch):
    with open(write(tmp_path / "in", "CCO 1\nCCN 2\n")) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert texts("-") == ["CCO", "CCN"]
        assert not stream.buffer.closed
    with open(write_parquet(tmp_path / "in", smiles=["C"])) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert texts("-", file_type=".parquet") == ["C"]
        assert not stream.buffer.closed


@pytest.mark.parametrize(
    ("data", "file_type", "said"),
    [
        (b"", None, "holds no rows"),
        (b"C\n\xe9\n", None, " cannot be read after row 0: byte 0xe9"),
        (gzip.compress(b"C\n" * 9, mtime=0)[:-9], ".smi.gz", " cannot be read after row "),
        (b"id\n1\n", ".csv", " has no column with SMILES"),
        (b"no Parquet", ".parquet", " cannot be read after row 0"),
    ],
)
def test_standard_input_is_named_in_errors(tmp_path, monkeypatch, data, file_type, said):
    with open(write(tmp_path / "in", data)) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(ValueError, match=rf"^standard input ?{said}"):
            texts("-", file_type=file_type)


@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.smi.gz", "a.parquet"])
def test_no_rows(tmp_path, name):
    if name == "a.parquet":
        path = write_parquet(tmp_path / name, smiles=pyarrow.array([], pyarrow.string()))
    else:
        path = write(tmp_path / name, "smiles\n" if name == "a.csv" else "")
    with pytest.raises(ValueError, match=f"{name} holds no rows"):
        texts(path)


def test_missing_column_lists_the_columns(tmp_path):
    path = write(tmp_path / "a.csv", "id,text\n1,C\n")
    with pytest.raises(ValueError, match=r"a\.csv has no column with SMILES.*'id', 'text'"):
        texts(path)
    with pytest.raises(ValueError, match="no column 'smiles'"):
        texts(path, column="smiles")
    assert texts(path, column="TEXT") == ["C"]
    assert texts(write(tmp_path / "a.smi", "C\n"), column="smiles") == ["C"]
    with pytest.raises(ValueError, match="column 'y' holds int64, not text"):
        texts(write_parquet(tmp_path / "a.parquet", y=[1]), column="y")
    with pytest.raises(ValueError, match=r"column 'y' holds list<.*string>, not text"):
        texts(write_parquet(tmp_path / "a.parquet", y=[["C"]]), column="y")


def test_broken_gzip_and_parquet(tmp_path):
    zipped = tmp_path / "a.smi.gz"
    zipped.write_bytes(b"CCO\nCCN\n")
    with pytest.raises(ValueError, match=r"a\.smi\.gz cannot be read after row 0"):
        texts(zipped)
    data = gzip.compress(b"CCO\nCCN\n" * 9, mtime=0)
    zipped.write_bytes(data[:10] + b"\xff" * 9 + data[19:])  # no such block of deflate
    with pytest.raises(ValueError, match=r"a\.smi\.gz cannot be read after row 0: Error -3"):
        texts(zipped)
    path = write_parquet(tmp_path / "a.parquet", smiles=[f"{'C' * i}" for i in range(3000)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path.write_bytes(data)
    seen = []
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read after row \d+"):
        collect(read_smiles(path, batch_rows=1000), seen)
    assert seen == ["C" * i for i in range(len(seen))]
    path.write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read after row 0"):
        texts(path)
