# SPDX-License-Identifier: Apache-2.0
import gzip
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.cli.main import COMMANDS, main
from cmim_hf.data.token_batches import batch_rows, batch_tokens

SMILES = ["CCO", "c1ccccc1O", "C[C@H]([NH3+])C(=O)[O-]"]


@pytest.fixture(scope="module")
def expected():
    return MoleculeEmbedder(progress=False).embed(SMILES)


def vectors_of(path):
    table = pq.read_table(path)
    return table["embedding"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def close(found, expected):
    return found.shape == expected.shape and abs(found - expected).max() <= 1e-5


def as_file(kind, folder):
    """The molecules with names, as a file of each kind that is read."""
    path = folder / f"molecules{kind}"
    plain = path.with_suffix("") if kind.endswith(".gz") else path
    if ".parquet" in kind:
        pq.write_table(pa.table({"id": [1, 2, 3], "smiles": SMILES}), plain)
    elif ".smi" in kind:
        plain.write_text("".join(f"{s} name {i}\n" for i, s in enumerate(SMILES)))
    else:
        mark = "," if ".csv" in kind else "\t"
        rows = [mark.join(("id", "SMILES")), *(f"00{i}{mark}{s}" for i, s in enumerate(SMILES))]
        plain.write_text("\n".join(rows) + "\n")
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


KINDS = [".smi.gz", ".csv", ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_keeps_its_columns(kind, expected, tmp_path, capsys):
    output = tmp_path / "out.parquet"
    assert main(["embed", str(as_file(kind, tmp_path)), "-o", str(output)]) == 0
    assert close(vectors_of(output), expected)
    table = pq.read_table(output).drop_columns("embedding").to_pydict()
    if ".smi" in kind:
        assert table == {"smiles": SMILES, "name": ["name 0", "name 1", "name 2"]}
    elif ".parquet" in kind:
        assert table == {"id": [1, 2, 3], "smiles": SMILES}
    else:
        assert table == {"id": ["000", "001", "002"], "SMILES": SMILES}
    assert "Embedded 3 of 3 rows" in capsys.readouterr().err


def test_several_inputs_and_patterns_are_read_one_after_the_other(expected, tmp_path, capsys):
    parts = [tmp_path / f"part-{number}.smi" for number in range(3)]
    for part, smiles in zip(parts, SMILES, strict=True):
        part.write_text(f"{smiles} {part.name}\n")
    output = tmp_path / "out.parquet"
    inputs = [f"{tmp_path}/part-[01].smi", str(parts[2])]
    assert main(["embed", *inputs, "-o", str(output)]) == 0
    assert close(vectors_of(output), expected)
    assert pq.read_table(output)["name"].to_pylist() == [part.name for part in parts]
    (tmp_path / "last.csv").write_text("id,smiles\n1,CCO\n")
    for name, status in (("out.npy", 0), ("out.parquet", 1)):
        words = ["embed", *inputs, str(tmp_path / "last.csv"), "-o", str(tmp_path / name)]
        assert main(words) == status
    assert "read together have the same columns" in capsys.readouterr().err
    assert close(np.load(tmp_path / "out.npy"), expected[[0, 1, 2, 0]])
    parts[1].write_text("C(C\n")
    assert main(["embed", f"{tmp_path}/*.smi", "-o", str(output)]) == 1
    assert f"Row 1 of {parts[1]}" in capsys.readouterr().err
    assert main(["embed", f"{tmp_path}/*.tsv", "-o", str(output)]) == 1
    assert f"No file matches {tmp_path}/*.tsv; check the pattern" in capsys.readouterr().err


def test_numpy_output_and_settings(expected, tmp_path):
    source, output = as_file(".smi", tmp_path), tmp_path / "out.npy"
    assert main(["embed", str(source), "-o", str(output)]) == 0
    assert close(np.load(output), expected)
    assert main(["embed", str(source), "-o", str(output), "--representation", "both",
                 "--pooling", "max", "--batch-tokens", "10"]) == 0  # fmt: skip
    both = MoleculeEmbedder(representation="both", pooling="max").embed(SMILES)
    assert close(np.load(output), both)
    assert np.load(output, mmap_mode="r").flags["C_CONTIGUOUS"]


def test_many_batches_make_one_file(sample, tmp_path, monkeypatch):
    monkeypatch.setattr("cmim_hf.cli.options.BATCH_ROWS", 37)
    source = tmp_path / "many.smi"
    rows = [row.text for row in sample[:200]]
    rows[50] = "C(C"
    source.write_text("\n".join(rows))
    expected = MoleculeEmbedder(on_invalid="none").embed(rows)
    for policy, wanted in (("none", expected), ("skip", np.delete(expected, 50, axis=0))):
        for name in ("out.npy", "out.parquet"):
            output = tmp_path / name
            assert main(["embed", str(source), "-o", str(output), "--on-invalid", policy]) == 0
            found = np.load(output) if name.endswith("npy") else vectors_of(output)
            assert found.shape == wanted.shape
            assert np.array_equal(np.isnan(found), np.isnan(wanted))
            assert np.nanmax(abs(found - wanted)) <= 1e-5


def test_standard_input(expected, tmp_path, monkeypatch):
    for arguments, text in (
        ([], "\n".join(SMILES)),
        (["--file-type", ".csv", "--column", "mol"], "mol\n" + "\n".join(SMILES)),
    ):
        output = tmp_path / "out.npy"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert main(["embed", "-", "-o", str(output), *arguments]) == 0
        assert close(np.load(output), expected)


def test_the_command_is_installed():
    command = os.path.join(os.path.dirname(sys.executable), "cmim")
    version = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert version.stdout.startswith("cmim-hf ")


def test_options_are_parsed_before_anything_heavy_is_imported():
    code = (
        "import sys\nfrom cmim_hf.cli.main import COMMANDS, main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    answered = "--help|embed --help|embed x --no-such-option|sampel|finetune --help"
    answered += "|finetune --head tree|finetune --datta x"
    for words in map(str.split, answered.split("|")):
        result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True)
        assert result.returncode == 0, words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"usage: cmim {command}" in capsys.readouterr().out


def test_help_states_the_batches_of_each_device(capsys):
    cpu, gpu = map(torch.device, ("cpu", "cuda"))
    for command, option, most in (
        ("embed", "--batch-tokens", batch_tokens),
        ("sample", "--batch-size", batch_rows),
        ("serve", "--batch-size", batch_rows),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split()).split(f" {option} ")[-1]
        shown = shown.split("(default: ")[1].split(")")[0]
        assert shown.startswith(f"{most(cpu):,} on a CPU, "), command
        assert shown.endswith(f"{most(gpu):,} elsewhere"), command


BAD_ROWS = {"5,000 characters": "C" * 5000, "a missing value": ""}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_invalid_rows_follow_the_policy(what, tmp_path, capsys, expected):
    source, output = tmp_path / "bad.csv", tmp_path / "out.parquet"
    source.write_text(f"id,smiles\na,{SMILES[0]}\nb,{BAD_ROWS[what]}\nc,{SMILES[1]}\n")
    assert main(["embed", str(source), "-o", str(output)]) == 1
    message = capsys.readouterr().err
    assert f"cmim embed: Row 2 of {source}" in message and not output.exists()
    assert main(["embed", str(source), "-o", str(output), "--on-invalid", "none"]) == 0
    report = capsys.readouterr().err
    assert "Embedded 2 of 3 rows" in report and f"{source} row 2, " in report
    table = pq.read_table(output)
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert [error is None for error in table["embedding_error"].to_pylist()] == [True, False, True]
    assert np.isnan(vectors_of(output)[1]).all()
    assert main(["embed", str(source), "-o", str(output), "--on-invalid", "skip"]) == 0
    assert pq.read_table(output)["id"].to_pylist() == ["a", "c"]
    assert close(vectors_of(output), expected[:2])


def bad_file(what, folder):
    path = folder / "input.csv"
    if what == "no column":
        path.write_text("name,value\na,1\n")
    elif what == "truncated":
        path = folder / "input.smi.gz"
        noise = np.random.default_rng(0).integers(1, 60, 20000)
        whole = gzip.compress("\n".join("C" * length for length in noise).encode())
        path.write_bytes(whole[: len(whole) // 2])
    elif what == "empty":
        path.write_text("")
    elif what == "no file":
        path = folder / "nothing.smi"
    elif what == "unknown type":
        path = folder / "input.docx"
        path.write_text("CCO")
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no column", "its columns are 'name', 'value'. Name the right one by --column."),
        ("truncated", "cannot be read after row "),
        ("empty", "holds no rows"),
        ("no file", "There is no file"),
        ("unknown type", "unknown file type"),
    ],
)
def test_unusable_input_is_one_message_and_no_output(what, message, tmp_path, capsys):
    source = bad_file(what, tmp_path)
    output = tmp_path / ("out.npy" if what == "empty" else "out.parquet")
    assert main(["embed", str(source), "-o", str(output), "--on-invalid", "skip"]) == 1
    shown = capsys.readouterr().err
    assert message in shown and str(source) in shown
    assert {path for path in tmp_path.iterdir()} <= {source}


@pytest.mark.parametrize(
    ("output", "message"),
    [("out.csv", "must end in one of .parquet, .npy"), ("no/out.npy", "There is no folder")],
)
def test_unusable_output_is_said_before_any_work(output, message, tmp_path, capsys):
    source = as_file(".smi", tmp_path)
    assert main(["embed", str(source), "-o", str(tmp_path / output)]) == 1
    assert message in capsys.readouterr().err


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path, expected):
    source, output = as_file(".smi", tmp_path), tmp_path / "out.npy"
    output.write_bytes(b"precious")
    broken = tmp_path / "broken.smi"
    broken.write_text("CCO\nC(C\n")
    assert main(["embed", str(broken), "-o", str(output)]) == 1
    assert output.read_bytes() == b"precious"
    assert main(["embed", str(source), "-o", str(output)]) == 0
    assert close(np.load(output), expected)


def test_the_input_is_not_overwritten(tmp_path, capsys):
    source = as_file(".parquet", tmp_path)
    before = source.read_bytes()
    link = tmp_path / "link.parquet"
    link.symlink_to(source)
    for output in (source, link):
        assert main(["embed", str(source), "-o", str(output)]) == 1
        assert "is the input itself" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_link_stays_a_link(tmp_path, expected):
    source, target, link = as_file(".smi", tmp_path), tmp_path / "a.npy", tmp_path / "b.npy"
    target.write_bytes(b"")
    link.symlink_to(target)
    assert main(["embed", str(source), "-o", str(link)]) == 0
    assert link.is_symlink() and close(np.load(target), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "-1"], "--workers is a whole number from 0, not -1"),
        (["--dtype", "float8_e4m3fn"], "dtype is one of float32"),
        (["--checkpoint", "./nothing"], "There is no checkpoint folder ./nothing"),
        (["--batch-tokens", "0"], "--batch-tokens is a whole number from 1, not 0"),
        (["--file-type", ".xls"], "--file-type is one of .smi"),
    ],
)
def test_unusable_options_are_one_message(arguments, message, tmp_path, capsys):
    source = as_file(".smi", tmp_path)
    assert main(["embed", str(source), "-o", str(tmp_path / "out.npy"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_is_no_output(tmp_path, capsys):
    (tmp_path / "folder.npy").mkdir()
    source = as_file(".smi", tmp_path)
    assert main(["embed", str(source), "-o", str(tmp_path / "folder.npy")]) == 1
    assert "is a folder; give the name of a file" in capsys.readouterr().err


def test_left_out_rows_of_an_array_are_spoken_of(tmp_path, capsys):
    source = tmp_path / "bad.smi"
    source.write_text("CCO\nC(C\n")
    assert main(["embed", str(source), "-o", str(tmp_path / "a.npy"), "--on-invalid", "skip"]) == 0
    assert "does not say which rows were left out" in capsys.readouterr().err


def test_workers_change_nothing(tmp_path, expected):
    source = as_file(".smi", tmp_path)
    command = ["embed", str(source), "-o", str(tmp_path / "out.npy"), "--workers", "2"]
    assert main(command) == 0
    assert close(np.load(tmp_path / "out.npy"), expected)


def test_salts_are_read_as_their_parents(tmp_path, capsys):
    source, tiny = tmp_path / "salts.smi", list_checkpoints()["tiny"]
    source.write_text("CC(=O)[O-].[Na+]\nCC(=O)O\n")
    vectors, written = tmp_path / "vectors.npy", tmp_path / "written.csv"
    parent = ["--checkpoint", tiny, "--standardize", "parent"]
    assert main(["embed", str(source), "-o", str(vectors), *parent]) == 0
    first, second = np.load(vectors)
    assert abs(first - second).max() < 1e-5
    assert main(["reconstruct", str(source), "-o", str(written), *parent]) == 0
    of_salt, of_acid = written.read_text().splitlines()[1:]
    assert of_salt == of_acid.replace("CC(=O)O,", "CC(=O)[O-].[Na+],", 1)
    folder = tmp_path / "packed"
    assert main(["prepare", "--sources", str(source), "-o", str(folder), *parent[2:]]) == 0
    about = json.loads((folder / "packed.json").read_text())
    assert about["standardize"] == "parent" and about["tokens"] == 2 * len("CC(=O)O_")
    capsys.readouterr()
    for command in (["embed", str(source)], ["prepare", "--sources", str(source)]):
        assert main([*command, "-o", "x.npy", "--standardize", "parent", "--no-canonicalize"]) == 1
        told = capsys.readouterr().err
        assert "--standardize is 'parent'" in told and "but --no-canonicalize says" in told
