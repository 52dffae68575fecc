# SPDX-License-Identifier: Apache-2.0
"""Layouts of files as vendors and databases write them: separators, headers, CXSMILES, packing."""

import bz2
import gzip
import io
import logging
import lzma

import pyarrow
import pytest

from cmim_hf.data.invalid_rows import texts
from cmim_hf.data.row_encoder import RowEncoder
from cmim_hf.data.smiles_files import read_batches, read_smiles
from cmim_hf.model import smiles_text_cmim
from cmim_hf.model.smiles_text_cmim import text_problem, without_extension
from cmim_hf.model.tokenization_cmim import default_tokenizer

ENAMINE = """\
smiles\tid\tMW\tHAC\tsLogP\tType
C[C@H](N)C(=O)N1CCC[C@@H]1C |&1:1,o2:8|\ts_22____1\t170.256\t12\t0.4\tM
CC(=O)Nc1ccc(O)cc1\tm_11____2\t151.165\t11\t1.4\tS
O=C(C1CC1)N1CCOCC1 |r|\ts_22____3\t155.197\t11\t0.3\tM
"""
ENAMINE_SMILES = ["C[C@H](N)C(=O)N1CCC[C@@H]1C", "CC(=O)Nc1ccc(O)cc1", "O=C(C1CC1)N1CCOCC1"]


def zst(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst}


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(PACK.get(path.suffix, bytes)(data))
    return path


def only(path, **arguments):
    (batch,) = read_batches(path, **arguments)
    assert batch.smiles == [row.text for row in read_smiles(path, **arguments)]
    return batch


@pytest.fixture
def told(caplog):
    """What is told, from the beginning: that of CXSMILES is told once a process."""
    smiles_text_cmim._tell_once.cache_clear()
    logging.getLogger("cmim_hf").propagate = True
    with caplog.at_level("WARNING"):
        yield caplog
    smiles_text_cmim._tell_once.cache_clear()


@pytest.mark.parametrize("packed", ["", *PACK])
def test_enamine_real_space(tmp_path, told, packed):
    batch = only(write(tmp_path / f"REAL.cxsmiles{packed}", ENAMINE))
    assert batch.smiles == ENAMINE_SMILES
    assert batch.columns.column_names == ["smiles", "id", "MW", "HAC", "sLogP", "Type"]
    assert batch.columns["id"].to_pylist() == ["s_22____1", "m_11____2", "s_22____3"]
    assert batch.columns["smiles"][0].as_py().endswith(" |&1:1,o2:8|")  # as written
    assert told.text.count("what their extensions, between two |, say") == 1


@pytest.mark.parametrize("name", ["a.smi.zst", "a.csv.zst", "a.parquet.zst"])
def test_zst_holds_any_kind(tmp_path, name):
    if "parquet" in name:
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"smiles": ["CCO", "CCN"]}), sink)
        data = sink.getvalue()
    else:
        data = b"smiles\nCCO\nCCN\n"
    path = write(tmp_path / name, data)
    assert only(path).smiles == ["CCO", "CCN"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{name} cannot be read after row 0: Truncated"):
        list(read_batches(path))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} cannot be read after row 0: ZSTD.*again"):
        list(read_batches(path))


def test_zst_of_several_frames_is_read_to_its_end(tmp_path):
    (tmp_path / "a.smi.zst").write_bytes(zst(b"smiles\nCCO\n") + zst(b"CCN\n"))
    assert only(tmp_path / "a.smi.zst").smiles == ["CCO", "CCN"]


@pytest.mark.parametrize(
    ("name", "text", "column", "names"),
    [
        # ZINC: tranches of .smi and .txt, and the 250k table, whose SMILES end in a line end
        ("a.smi", "smiles zinc_id\nCCO 1\nCCN 2\n", "smiles", ["smiles", "name"]),
        ("a.smi", "CCO\tZINC1\nCCN\tZINC2\n", "smiles", ["smiles", "name"]),
        ("a.txt", "zinc_id\tsmiles\tmwt\nZ1\tCCO\t46\nZ2\tCCN\t45\n", "smiles",
         ["zinc_id", "smiles", "mwt"]),
        ("a.csv", 'smiles,logP\n"CCO\n",1.5\n"CCN\n",2\n', "smiles", ["smiles", "logP"]),
        # eMolecules, ChEMBL, PubChem, MolPort
        ("a.smi.gz", "isosmiles version_id parent_id\nCCO 1 1\nCCN 2 2\n", "smiles",
         ["smiles", "name"]),
        ("a.csv", '"ChEMBL ID";"Smiles"\n"C1";"CCO"\n"C2";"CCN"\n', "Smiles",
         ["ChEMBL ID", "Smiles"]),
        ("a.csv", "cid|SMILES_String\n1|CCO\n2| CCN \n", "SMILES_String", ["cid", "SMILES_String"]),
        ("a.txt", "MOLPORTID SMILES QC\nM1 CCO ok\nM2   CCN no\n", "SMILES",
         ["MOLPORTID", "SMILES", "QC"]),
        ("a.txt", "id|Canonical SMILES\n1|CCO\n2|CCN\n", "Canonical SMILES",
         ["id", "Canonical SMILES"]),
        ("a.csv", "id Isomeric_Smiles\n1 CCO\n2 CCN\n", "Isomeric_Smiles",
         ["id", "Isomeric_Smiles"]),
        ("a.csv", "Canonical SMILES\nCCO\nCCN\n", "Canonical SMILES", ["Canonical SMILES"]),
        ("a.csv", 'id;"SMILES, clean"\n1;CCO\n2;CCN\n', "SMILES, clean", ["id", "SMILES, clean"]),
    ],
)  # fmt: skip
def test_vendors_tables(tmp_path, name, text, column, names):
    batch = only(write(tmp_path / name, text))
    assert batch.smiles == ["CCO", "CCN"]
    assert (batch.column, batch.columns.column_names) == (column, names)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_two_separators_are_an_error_that_a_column_settles(tmp_path, name):
    path = write(tmp_path / name, "smiles;note,canonical_smiles\nCCO;x,CCN\n")
    with pytest.raises(ValueError) as error:
        only(path)
    assert "between semicolons ('smiles')" in str(error.value)
    assert "between commas ('canonical_smiles')" in str(error.value)
    assert "by `column`" in str(error.value)
    assert only(path, column="smiles").smiles == ["CCO"]
    assert only(path, column="canonical_smiles").smiles == ["CCN"]


def test_smiles_between_two_separators_are_an_error(tmp_path):
    path = write(tmp_path / "a.csv", "id;smiles,name\n1;CCO,x\n")
    with pytest.raises(ValueError, match=r"commas \('id;smiles'\) and between semicolons"):
        only(path)


@pytest.mark.parametrize("text", ["CCO |m:0:1.2|", "C* |$;R1$,LN:1:1.3|", "*C |RG:_R1={C,N}|",
                                  "CCO |Sg:n:1:n:ht|"])  # fmt: skip
def test_a_cxsmiles_of_several_molecules_is_an_invalid_row(tmp_path, told, text):
    assert without_extension(text) == text
    kind, reason = text_problem(text)
    assert kind == "does not parse" and "stands for several molecules" in reason
    path = write(tmp_path / "a.cxsmiles", f"CCO\tone\n{text}\ttwo\n")
    encoded = RowEncoder(default_tokenizer(), 64, canonicalize=True)(list(read_smiles(path)))
    assert encoded.kept.tolist() == [0]
    assert (encoded.rejects[0].row.number, encoded.rejects[0].kind) == (2, "does not parse")
    assert not told.text  # nothing was left out


@pytest.mark.parametrize("text", ["CCO |$m:1;;LN:$|", "CCO |(0,0,;1,m:,;2,0,)|", "CC |SgD:1:m::|",
                                  "CCO.CC |f:0.1|", "CCO |Sg:gen:0,1,2::|"])  # fmt: skip
def test_other_extensions_are_left_out_and_told_once(told, text):
    assert texts([text, text]) == [text.split()[0]] * 2
    assert told.text.count("CXSMILES") == 1
