# SPDX-License-Identifier: Apache-2.0
"""`cmim prepare` and `cmim split`: a folder that is whole or not there, errors in their words."""

import pytest
from packed_rows import SAMPLE, decoded
from transformers import AutoTokenizer

from cmim_hf.cli.main import main
from cmim_hf.data.packed_molecules import PackedMolecules


@pytest.fixture
def table(tmp_path):
    lines = ["text,logD", *(f"{text},{len(text)}" for text in SAMPLE.read_text().split()[:40])]
    (tmp_path / "assays.csv").write_text("\n".join([*lines, "C1CC,1", "OCC,"]) + "\n")
    return tmp_path / "assays.csv"


def prepare(source, output, *words):
    return main(["prepare", "--sources", str(source), "--output", str(output), *words])


def test_a_prepared_folder_has_molecules_labels_tokenizer_and_rejects(table, tmp_path, capsys):
    columns = ["--smiles-column", "text", "--property-columns", "logd"]
    assert prepare(table, tmp_path / "new" / "packed", *columns, "--merges", "30") == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["packed"]
    folder = tmp_path / "new" / "packed"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    molecules = PackedMolecules.load(folder, tokenizer)
    assert decoded(molecules, tokenizer)[-1] == "CCO" and len(molecules) == 41
    assert molecules.property_scale.names == ("logd",) and len(molecules.labels().codes) == 40
    assert "C1CC\tit does not parse: unclosed ring" in (folder / "rejects.tsv").read_text()
    said = capsys.readouterr().err
    assert "41 molecules of" in said and ", 40 labelled with 1 properties, in" in said
    assert "1 rows could not be used (1 does not parse)" in said
    # Again, with that tokenizer and that scale, as they are written.
    more = ["--tokenizer", str(folder), "--no-canonicalize"]
    assert prepare(table, tmp_path / "more", *columns, *more) == 0
    again = PackedMolecules.load(tmp_path / "more", tokenizer)
    assert decoded(again, tokenizer)[-2:] == ["C1CC", "OCC"]
    assert again.property_scale == molecules.property_scale


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--smiles-column", "smiles"], "by --smiles-column."),
        (["--smiles-column", "text", "--property-rows", "5"], "--property-rows says how many"),
        (
            ["--smiles-column", "text", "--max-length", "1"],
            "expected --max-length to be an integer of at least 2",
        ),
        (
            ["--smiles-column", "text", "--workers", "-1"],
            "--workers is a whole number from 0, not -1",
        ),
        (["--smiles-column", "text", "--property-columns", "text"], "which is no finite number"),
    ],
)
def test_what_cannot_be_prepared_leaves_nothing(table, tmp_path, capsys, words, message):
    assert prepare(table, tmp_path / "out", *words) == 1
    error = capsys.readouterr().err
    assert "cmim prepare: " in error and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == [table]


def test_a_folder_that_exists_and_a_full_disk(table, tmp_path, capsys, little_room):
    (tmp_path / "out").mkdir()
    assert prepare("absent.smi", tmp_path / "out") == 1
    assert "out exists; remove it, or give another name" in capsys.readouterr().err
    many = tmp_path / "many.smi"
    many.write_text(SAMPLE.read_text() * 2)
    assert prepare(many, tmp_path / "full", "--no-canonicalize") == 1
    assert f"{tmp_path / 'full'} could not be written" in capsys.readouterr().err
    assert not (tmp_path / "full").exists()


def test_split_writes_its_files_and_counts(table, tmp_path, capsys):
    words = ["split", "--sources", str(table), "--output", str(tmp_path / "out")]
    sizes = ["--smiles-column", "text", "--validation", "6", "--test"]
    assert main([*words, *sizes, "4"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "assays.test.smi", "assays.train.smi.gz", "assays.validation.smi", "rejects.tsv",
        "split.json", "train.smi.gz",
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "31 training molecules" in said and "1 rows do not parse, see rejects.tsv" in said
    assert main(["split", "--sources", "absent.smi", "--output", str(tmp_path / "no")]) == 1
    assert "cmim split: There is no file absent.smi" in capsys.readouterr().err
    assert main([*words, *sizes, "400"]) == 1
    assert "cmim split: assays has 41 molecules to hold out" in capsys.readouterr().err
