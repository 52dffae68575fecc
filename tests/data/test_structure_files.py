# SPDX-License-Identifier: Apache-2.0
"""Files of structures: records, names, properties, and what RDKit cannot read."""

import bz2
import gzip
import lzma
import signal
import sys

import pyarrow
import pytest
from rdkit import Chem

from cmim_hf.chemistry import structure_blocks
from cmim_hf.chemistry.structure_blocks import read_block
from cmim_hf.data.row_encoder import RowEncoder
from cmim_hf.data.smiles_files import read_batches, read_smiles
from cmim_hf.data.split import SplitOptions, split_sources
from cmim_hf.model.tokenization_cmim import default_tokenizer

PACK = {
    ".sdf": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True),
}
ETHANOL = """\
CHEMBL545
  written by hand
> <no property: this is a comment>
  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.2990    0.7500    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.5981    0.0000    0.0000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3  1  0
M  END
> <chembl_id>
CHEMBL545

>  <IC50 (nM)>  (1)
12.5

> <SMILES>
OCC

> <comment>
two
> <lines>

$$$$
"""
FIVE_BONDS = ETHANOL.replace("CHEMBL545", "bad").replace(" C   0  0", " F   0  0")
BENZENE = """\
# of a docking program

@<TRIPOS>MOLECULE
benzene
 12 12 0 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
 1 C1 1.39 0.00 0.0 C.ar 1 LIG 0.0
 2 C2 0.70 1.20 0.0 C.ar 1 LIG 0.0
 3 C3 -0.69 1.20 0.0 C.ar 1 LIG 0.0
 4 C4 -1.39 0.00 0.0 C.ar 1 LIG 0.0
 5 C5 -0.70 -1.20 0.0 C.ar 1 LIG 0.0
 6 C6 0.70 -1.20 0.0 C.ar 1 LIG 0.0
 7 H1 2.48 0.00 0.0 H 1 LIG 0.0
 8 H2 1.24 2.15 0.0 H 1 LIG 0.0
 9 H3 -1.24 2.15 0.0 H 1 LIG 0.0
 10 H4 -2.48 0.00 0.0 H 1 LIG 0.0
 11 H5 -1.24 -2.15 0.0 H 1 LIG 0.0
 12 H6 1.24 -2.15 0.0 H 1 LIG 0.0
@<TRIPOS>BOND
 1 1 2 ar
 2 2 3 ar
 3 3 4 ar
 4 4 5 ar
 5 5 6 ar
 6 6 1 ar
 7 1 7 1
 8 2 8 1
 9 3 9 1
 10 4 10 1
 11 5 11 1
 12 6 12 1
"""
# L-alanine with its hydrogens, in three dimensions
ALANINE = """\
@<TRIPOS>MOLECULE
L-alanine
 13 12 0 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
%s@<TRIPOS>BOND
%s@<TRIPOS>SUBSTRUCTURE
 1 LIG 1
"""


def alanine():
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    # RDKit 2026.3 leaves its own handler of Ctrl-C in place, which is deaf to all later ones
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    types = ["C.3", "C.3", "N.3", "C.2", "O.2", "O.3", *["H"] * 7]
    places = molecule.GetConformer().GetPositions().tolist()
    atoms = "".join(
        f"{n} A{n} {x:.4f} {y:.4f} {z:.4f} {kind} 1 LIG 0.0\n"
        for n, ((x, y, z), kind) in enumerate(zip(places, types, strict=True), 1)
    )
    bonds = "".join(
        f"{n} {bond.GetBeginAtomIdx() + 1} {bond.GetEndAtomIdx() + 1} "
        f"{int(bond.GetBondTypeAsDouble())}\n"
        for n, bond in enumerate(molecule.GetBonds(), 1)
    )
    return ALANINE % (atoms, bonds)


def record(smiles, name, v3000=False, **properties):
    molecule = Chem.MolFromSmiles(smiles)
    molecule.SetProp("_Name", name)
    block = Chem.MolToMolBlock(molecule, forceV3000=v3000)
    found = "".join(f"> <{key}>\n{value}\n\n" for key, value in properties.items())
    return f"{block}{found}$$$$\n"


def write(path, text):
    path.write_bytes(PACK.get(path.suffix, bytes)(text.encode()))
    return path


def library():
    """Five records; the second cannot be read, the fourth has no structure."""
    more = record("F/C=C\\Cl", "late", v3000=True, chembl_id="C3", pIC50="7.1")
    empty = ETHANOL.replace("  3  2", "  0  0").replace("CHEMBL545", "")
    empty = empty[: empty.index("    0.0000")] + empty[empty.index("M  END") :]
    return ETHANOL + FIVE_BONDS + more + empty + record("C[C@H](N)C(=O)O", "")


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_sdf_has_names_and_properties_of_all_its_records(tmp_path, ending, line_end):
    name = "a.sdf" + ending.removeprefix(".sdf")
    path = write(tmp_path / name, library().replace("\n", line_end))
    batches = list(read_batches(path, batch_rows=2))
    assert [batch.start for batch in batches] == [1, 3, 5]
    table = pyarrow.concat_tables([batch.columns for batch in batches])
    assert table.column_names == [
        "smiles", "name", "chembl_id", "IC50 (nM)", "SMILES", "comment", "pIC50"
    ]  # fmt: skip
    molecules = ["CCO", None, "F/C=C\\Cl", "", "C[C@H](N)C(=O)O"]
    assert table["smiles"].to_pylist() == molecules
    assert table["name"].to_pylist() == ["CHEMBL545", "bad", "late", None, None]
    assert table["chembl_id"].to_pylist() == ["CHEMBL545", "bad", "C3", "", None]
    assert table["IC50 (nM)"].to_pylist() == ["12.5", "12.5", None, "12.5", None]
    assert table["comment"][0].as_py() == "two\n> <lines>"
    rows = [row for batch in batches for row in batch.rows()]
    assert list(read_smiles(path)) == rows
    assert [row.text for row in rows] == [text or "" for text in molecules]


def test_a_property_may_be_read_in_place_of_the_structure(tmp_path):
    path = write(tmp_path / "a.sdf", ETHANOL + FIVE_BONDS)
    (batch,) = read_batches(path, column="SMILES")
    assert (batch.column, batch.smiles, batch.reasons) == ("SMILES", ["OCC", "OCC"], None)
    with pytest.raises(ValueError, match="has no column 'x'; its columns are 'smiles', 'name', 'c"):
        list(read_smiles(path, column="x"))


def test_records_that_cannot_be_read_are_invalid_rows(tmp_path):
    rows = list(read_smiles(write(tmp_path / "a.sdf", library())))
    for canonicalize in (True, False):
        encoded = RowEncoder(default_tokenizer(), 64, canonicalize)(rows)
        assert encoded.kept.tolist() == [0, 2, 4]
        bad, empty = encoded.rejects
        assert (bad.row.number, bad.kind, empty.row.number, empty.kind) == (
            2, "does not parse", 4, "empty"
        )  # fmt: skip
        assert bad.reason == (
            "the structure of 'bad' does not parse: Explicit valence for atom # 1 F, 2, is greater "
            "than permitted"
        )


def test_they_are_rejects_of_a_split(tmp_path):
    source = write(tmp_path / "a.sdf", library())
    _, rejects = split_sources([source], tmp_path / "out", SplitOptions(validation=1, test=1))
    assert [reject.row.number for reject in rejects] == [2, 4]
    lines = (tmp_path / "out" / "rejects.tsv").read_text().splitlines()
    assert lines[1].startswith(f"{source}\t2\t\tthe structure of 'bad' does not parse")


@pytest.mark.parametrize("cut", ["  1  2  1  0", "M  END", "$$$$"])
def test_a_last_record_that_was_cut_is_not_lost(tmp_path, cut):
    whole = record("CCC", "first")
    path = write(tmp_path / "a.sdf", whole + ETHANOL[: ETHANOL.index(cut)])
    rows = list(read_smiles(path))
    assert [row.text for row in rows] == ["CCC", "CCO" if cut == "$$$$" else ""]
    assert (rows[1].reason is None) == (cut == "$$$$")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_what_was_cut_short_yields_the_full_batches_before(tmp_path, ending):
    text = "".join(record("C" * (n % 9 + 1), f"m{n}", y=str(n * 7919 % 997)) for n in range(900))
    data = PACK[ending](text.encode())
    path = tmp_path / f"a.sdf{ending}"
    path.write_bytes(data[: len(data) * 3 // 4])
    seen = []
    with pytest.raises(ValueError, match=rf"a\.sdf{ending} cannot be read after row \d+: (Co|Tr)"):
        for batch in read_batches(path, batch_rows=10):
            seen.append(batch)
    if ending in (".gz", ".xz"):  # .bz2 has one block here, .zst is unpacked beforehand
        assert len(seen) > 10
    names = [name for batch in seen for name in batch.columns["name"].to_pylist()]
    assert names == [f"m{n}" for n in range(len(names))]


def test_standard_input_and_other_types(tmp_path, monkeypatch):
    with open(write(tmp_path / "in", ETHANOL)) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        (batch,) = read_batches("-", file_type=".sdf")
        assert batch.columns["chembl_id"].to_pylist() == ["CHEMBL545"]
        assert not stream.buffer.closed
    with pytest.raises(ValueError, match=r"a\.sdf holds no rows"):
        list(read_smiles(write(tmp_path / "a.sdf", "\n")))
    with pytest.raises(ValueError, match=r"a\.mol2 holds no rows"):
        list(read_smiles(write(tmp_path / "a.mol2", ETHANOL)))
    path = write(tmp_path / "a.sdf", "C" * 200)
    monkeypatch.setattr("cmim_hf.data.structure_files.LONGEST_LINE", 100)
    with pytest.raises(ValueError, match=r"a\.sdf cannot be read after row 0: there are 100 char"):
        list(read_batches(path))


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_mol2(tmp_path, ending):
    cut = BENZENE[BENZENE.index("@") : BENZENE.index(" 4 4 5")].replace("benzene", "cut")
    text = BENZENE + "\n# another\n" + alanine() + cut + "\n" + BENZENE
    (batch,) = read_batches(write(tmp_path / f"a.mol2{ending}", text))
    assert batch.columns.column_names == ["smiles", "name"]
    assert batch.smiles == ["c1ccccc1", "C[C@H](N)C(=O)O", "", "c1ccccc1"]
    assert batch.columns["name"].to_pylist() == ["benzene", "L-alanine", "cut", "benzene"]
    assert [row.reason is None for row in batch.rows()] == [True, True, False, True]
    assert batch.reasons[2].startswith("the structure of 'cut' does not parse: ")
    heavy = alanine().replace(" 13 12 ", " 6 5 ").splitlines()
    heavy = "\n".join(line for line in heavy if " H 1 LIG" not in line)
    bonds = heavy.partition("@<TRIPOS>BOND\n")[2].splitlines()[:5]
    heavy = heavy[: heavy.index("@<TRIPOS>BOND")] + "\n".join(["@<TRIPOS>BOND", *bonds, ""])
    assert read_block(heavy, ".mol2") == (
        None, "lacks hydrogens (atom 1, C), all of which a mol2 file needs"
    )  # fmt: skip


def test_what_stands_for_several_molecules_is_none():
    def changed(*changes):
        block = ETHANOL[: ETHANOL.index("> <chembl_id>")]
        for old, new in changes:
            block = block.replace(old, new, 1)
        return read_block(block, ".sdf")

    assert changed() == ("CCO", "")
    atoms = ("M  END", "M  ALS   1  2 F C   N   \nM  END")
    assert "it has a choice of atoms (atom 1)" in changed((" C ", " L "), atoms)[1]
    assert "a choice of bonds (bond 2)" in changed(("  2  3  1", "  2  3  8"))[1]
    unit = "M  STY  1   1 SRU\nM  SAL   1  1   2\nM  SBL   1  2   1   2\nM  SMT   1 n\nM  END"
    assert "a polymer" in changed(("M  END", unit))[1]
    assert changed((" C ", " R#"), ("M  END", "M  RGP  1   1   1\nM  END"))[0] == "[1*]CO"
    # a fault that RDKit reports with a place in its source and a trace of calls
    assert changed((" C ", " Du"))[1] == "does not parse: Element 'Du' not found"


def test_groups_of_centres_are_told_once(caplog):
    structure_blocks._tell_once.cache_clear()
    racemic, plain = Chem.MolFromSmiles("C[C@H](F)Cl |&1:1|"), Chem.MolFromSmiles("C[C@H](F)Cl")
    for molecule, told in ((plain, 0), (racemic, 1), (racemic, 1)):
        block = Chem.MolToMolBlock(molecule, forceV3000=True)
        assert read_block(block, ".sdf") == (Chem.MolToSmiles(plain), "")
        assert caplog.text.count("groups of racemic or relative centres") == told
