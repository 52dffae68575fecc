# SPDX-License-Identifier: Apache-2.0
"""Libraries: what is in the shards, and that nothing is lost or repeated however a run ends."""

import gzip
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cmim_hf import MoleculeEmbedder
from cmim_hf.atomic_files import remove_partials
from cmim_hf.cli.exit_status import exit_status
from cmim_hf.embedding.sharded_library import SETTINGS_FILE, Library, embed_shards
from cmim_hf.embedding.tables import METADATA_KEY

SCRIPT = Path(__file__).parents[2] / "examples" / "embed_library.py"


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(on_invalid="none", progress=False)


@pytest.fixture(scope="module")
def source(sample, tmp_path_factory):
    """300 molecules with ids, three of the rows invalid."""
    rows = [f"{row.text},{row.number:05d},{row.number / 7}" for row in sample[:300]]
    rows[10], rows[150], rows[299] = ",00011,1", "C(C,00151,2", "C" * 6000 + ",00300,3"
    path = tmp_path_factory.mktemp("library") / "molecules.csv"
    path.write_text("\n".join(["smiles,id,value", *rows]) + "\n")
    return path


def write(library, embedder, **settings):
    library.open(embedder)
    list(embed_shards(library.pending(**settings), embedder))
    return library.close()


def read(folder):
    """All columns, and the vectors (rows, size)."""
    table = pq.read_table(folder)
    vectors = table["embedding"].combine_chunks().flatten().to_numpy()
    return table, vectors.reshape(table.num_rows, -1)


def close(found, expected):
    """Equal but for the rounding of another number of threads; invalid in the same rows."""
    same_rows = np.array_equal(np.isnan(found), np.isnan(expected))
    return same_rows and np.nanmax(abs(found - expected)) <= 1e-5 * np.nanmax(abs(expected))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the example in this process: its exit status, output and errors."""
    spec = importlib.util.spec_from_file_location("embed_library", SCRIPT)
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "embed_library", example)
    spec.loader.exec_module(example)

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        status = exit_status(SCRIPT.name, example.main, example.INTERRUPTED)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def whole(source, embedder, tmp_path_factory):
    """The library written in one go, in shards of 64."""
    folder = tmp_path_factory.mktemp("whole") / "library"
    write(Library(folder, (str(source),), 64), embedder)
    return folder


def test_shards_hold_the_columns_the_vectors_and_the_reasons(whole, source, embedder):
    table, vectors = read(whole)
    assert table.column_names == ["smiles", "id", "value", "embedding", "embedding_error"]
    lines = [line.split(",") for line in source.read_text().splitlines()[1:]]
    assert table["smiles"].to_pylist() == [fields[0] for fields in lines]
    assert table["id"].to_pylist() == [fields[1] for fields in lines]
    expected = embedder.embed([fields[0] for fields in lines])
    assert np.array_equal(np.isnan(vectors), np.isnan(expected))
    assert close(vectors, expected)
    errors = {row: error for row, error in enumerate(table["embedding_error"].to_pylist()) if error}
    assert sorted(errors) == [10, 150, 299]
    assert errors[10] == "the text is empty"
    assert "extra open parentheses" in errors[150] and " tokens with the end token" in errors[299]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 192)


def test_shards_say_what_made_them(whole, embedder):
    names = sorted(path.name for path in whole.iterdir())
    assert names == [*(f"00000-{shard:07d}.parquet" for shard in range(5)), SETTINGS_FILE]
    about = json.loads(pq.read_schema(whole / names[0]).metadata[METADATA_KEY])
    assert about["fingerprint"] == embedder.fingerprint and about["size"] == 192
    assert about["checkpoint"] == embedder.checkpoint and about["representation"] == "informative"
    assert about["cmim_hf"] and about["rdkit"]
    assert about["column"] == "smiles" and about["dtype"] == "float32"
    assert [pq.read_metadata(whole / name).num_rows for name in names[:5]] == [64] * 4 + [44]


def test_two_ranks_write_what_one_does(whole, source, embedder, tmp_path):
    library = Library(tmp_path / "two", (str(source),), 64)
    library.open(embedder)
    for rank in (1, 0):
        written = list(embed_shards(library.pending(rank, 2), embedder))
        assert len(written) == (3, 2)[rank]
    counts = library.close()
    assert counts == {
        "rows": 300,
        "read": 300,
        "shards": 5,
        "invalid": {"empty": 1, "does not parse": 1, "too long": 1},
    }
    (first, vectors), (second, others) = read(whole), read(tmp_path / "two")
    assert np.array_equal(vectors, others, equal_nan=True)
    assert first.drop_columns("embedding").equals(second.drop_columns("embedding"))


def test_several_sources_follow_one_another(source, sample, embedder, tmp_path):
    other = tmp_path / "more.smi"
    other.write_text("\n".join(row.text for row in sample[300:400]))
    with pytest.raises(ValueError, match="at least one source"):
        Library(tmp_path / "both", ())
    library = Library(tmp_path / "both", (str(other), str(source)), 64)
    counts = write(library, embedder)
    assert counts["read"] == 400 and counts["shards"] == 7
    first = pq.read_table(tmp_path / "both" / "00000-0000000.parquet")
    assert first["smiles"].to_pylist() == [row.text for row in sample[300:364]]


def test_a_pattern_stands_for_its_files(source, tmp_path):
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_bytes(source.read_bytes())
    files = tuple(str(tmp_path / name) for name in ("a.csv", "b.csv"))
    assert Library(tmp_path / "out", (f"{tmp_path}/*.csv",)) == Library(tmp_path / "out", files)


def test_workers_and_policies_change_nothing_else(whole, source, tmp_path):
    skipping = MoleculeEmbedder(on_invalid="skip", progress=False)
    library = Library(tmp_path / "skip", (str(source),), 64)
    library.open(skipping)
    list(embed_shards(library.pending(), skipping, num_workers=2))
    assert library.close()["rows"] == 297
    table, vectors = read(tmp_path / "skip")
    everything, all_vectors = read(whole)
    kept = ~np.isnan(all_vectors[:, 0])
    assert np.array_equal(vectors, all_vectors[kept])
    assert table["id"].to_pylist() == everything["id"].filter(pa.array(kept)).to_pylist()
    assert "embedding_error" not in table.column_names


def test_raise_stops_at_the_row_and_keeps_the_shards_before(source, tmp_path):
    strict = MoleculeEmbedder(progress=False)
    library = Library(tmp_path / "strict", (str(source),), 8)
    with pytest.raises(ValueError, match=r"Row 11 of .*molecules.csv, ''"):
        write(library, strict)
    assert [path.name for path in sorted((tmp_path / "strict").glob("*.parquet"))] == [
        "00000-0000000.parquet"
    ]


def test_other_settings_are_no_continuation(whole, source, embedder, tmp_path):
    with pytest.raises(ValueError, match="shard_rows was 64, is 65"):
        Library(whole, (str(source),), 65).open(embedder)
    with pytest.raises(ValueError, match="representation was 'informative', is 'latent'"):
        latent = MoleculeEmbedder(representation="latent", on_invalid="none")
        Library(whole, (str(source),), 64).open(latent)
    grown = tmp_path / source.name
    grown.write_text(source.read_text() + "CCO,1,1\n")
    folder = tmp_path / "library"
    Library(folder, (str(grown),), 64).open(embedder)
    grown.write_text(source.read_text() + "CCO,1,1\nCCN,2,2\n")
    Library(folder, (str(grown),), 64).open(embedder)  # nothing is written yet
    write(Library(folder, (str(grown),), 64), embedder)
    text = grown.read_text()
    grown.write_text(text + "CCO,3,3\n")
    with pytest.raises(ValueError, match="sources was .*'bytes'"):
        Library(folder, (str(grown),), 64).open(embedder)
    grown.write_text(text.replace("CCN,2,2", "CCS,2,2"))
    with pytest.raises(ValueError, match="sources was .*'sha256_ends'"):
        Library(folder, (str(grown),), 64).open(embedder)
    grown.write_text(text)
    moved = grown.rename(tmp_path / "elsewhere.csv").rename(grown)
    Library(folder, (os.path.relpath(moved),), 64).open(embedder)


def test_folders_that_are_not_ours(source, embedder, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "data.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="no library of ours"):
        Library(tmp_path / "theirs", (str(source),)).open(embedder)
    with pytest.raises(FileExistsError, match="molecules.csv"):
        Library(source, (str(source),)).open(embedder)
    with pytest.raises(ValueError, match="Standard input cannot be read again"):
        Library(tmp_path / "none", ("-",))
    with pytest.raises(ValueError, match="`shard_rows` is a whole number from 1, not 0"):
        Library(tmp_path / "none", (str(source),), 0)


def test_a_column_of_the_same_name_is_not_overwritten(whole, embedder, tmp_path):
    library = Library(tmp_path / "again", (str(whole / "00000-0000000.parquet"),))
    with pytest.raises(ValueError, match="has a column 'embedding' already"):
        write(library, embedder)


def same(folder, whole):
    """Whether two libraries hold the same rows and columns, vectors up to rounding."""
    (expected, vectors), (found, others) = read(whole), read(folder)
    assert close(vectors, others)
    return expected.drop_columns("embedding").equals(found.drop_columns("embedding"))


def test_interrupted_it_goes_on_where_it_was(run, whole, source, tmp_path):
    """By Ctrl-C when the first shard is there; what a killed process left is removed."""
    folder = tmp_path / "library"
    words = ["--sources", source, "--output", folder, "--shard_rows", 64, "--batch_tokens", 60]

    def interrupt():
        while not list(folder.glob("*.parquet")) and threading.main_thread().is_alive():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    status, _, errors = run(*words)
    assert status == 130 and "embed_library.py: interrupted; the same command goes on" in errors
    assert "Traceback" not in errors
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 0 < len(before) < 5
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f".00000-0000004.parquet.{socket.gethostname()}.{dead.pid}.01234567.partial"
    (folder / name).write_bytes(b"half a shard")
    status, printed, _ = run(*words)
    assert status == 0 and "'rows': 300, 'read': 300, 'shards': 5" in printed
    for name, written in before.items():
        assert (folder / name).stat().st_mtime_ns == written, "a finished shard was written again"
    assert same(folder, whole) and not list(folder.glob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_any_moment_lose_and_repeat_nothing(run, embedder, tmp_path):
    """Of 20,000 rows; the process may die while it starts, embeds, or writes."""
    rows = gzip.decompress((SCRIPT.parent / "data" / "moses_train.smi.gz").read_bytes())
    source = tmp_path / "molecules.smi"
    source.write_bytes(b"\n".join(rows.splitlines()[:20_000]))
    write(Library(tmp_path / "whole", (str(source),), 400), embedder)
    folder = tmp_path / "library"
    arguments = ["--sources", str(source), "--output", str(folder), "--shard_rows", "400"]
    chance = random.Random(0)
    shards = []
    while len(shards) < 20:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if len(shards) % 2 == 0:  # while it starts
            time.sleep(chance.uniform(0.0, 4.0))
        elif len(shards) % 4 == 1:  # while it embeds or writes
            while len(list(folder.glob("*.parquet"))) <= shards[-1] and process.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.5))
        else:  # while it writes
            begun = len(list(folder.glob(".*.partial")))
            while len(list(folder.glob(".*.partial"))) <= begun and process.poll() is None:
                time.sleep(0.001)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shards.append(len(list(folder.glob("*.parquet"))))
    begun = len(list(folder.glob(".*.partial")))
    print(f"shards after each kill: {shards}; {begun} kills within the writing of one")
    assert begun
    assert shards == sorted(shards) and 0 < shards[-1] < 50
    assert "'rows': 20000, 'read': 20000, 'shards': 50" in run(*arguments)[1]
    assert same(folder, tmp_path / "whole")


def test_two_processes_through_accelerate(whole, source, tmp_path):
    folder = tmp_path / "library"
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
         "--main_process_port", "0", str(SCRIPT), "--sources", str(source), "--output",
         str(folder), "--shard_rows", "64"],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("'rows': 300, 'read': 300, 'shards': 5") == 1  # one speaks
    assert same(folder, whole)


@pytest.mark.slow
def test_two_actors_of_ray(run, whole, source, tmp_path, monkeypatch):
    """Given relative paths, which the actors must not take as relative to their own folder."""
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    (tmp_path / source.name).write_bytes(source.read_bytes())
    words = ["--sources", source.name, "--output", "library", "--shard_rows", 64]
    status, printed, errors = run(*words, "--ray_actors", 2)
    assert status == 0, errors
    assert "'rows': 300, 'read': 300, 'shards': 5" in printed and same(Path("library"), whole)
    words = ["--sources", source, "--output", "strict", "--ray_actors", 2]
    status, _, errors = run(*words, "--on_invalid", "raise")
    assert status == 1 and "embed_library.py: Row 11 of" in errors
    assert "Traceback" not in errors


def test_by_onnxruntime_it_holds_the_same(run, whole, source, tmp_path):
    """To 1e-4, as exported graphs compute what torch does, and the folder says by which."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from cmim_hf.export.onnx_folder import export_onnx

    export_onnx("small", tmp_path / "onnx")
    folder = tmp_path / "library"
    words = ["--sources", source, "--output", folder, "--shard_rows", 64]
    status, _, errors = run(*words, "--checkpoint", tmp_path / "onnx", "--backend", "onnx")
    assert status == 0, errors
    (expected, vectors), (found, others) = read(whole), read(folder)
    assert np.array_equal(np.isnan(others), np.isnan(vectors))
    assert 0 < np.nanmax(abs(others - vectors)) <= 1e-4
    assert found.drop_columns("embedding").equals(expected.drop_columns("embedding"))
    made = json.loads(pq.read_schema(next(folder.glob("*.parquet"))).metadata[METADATA_KEY])
    assert made["backend"] == "onnx"
    status, _, errors = run(*words, "--backend", "onnx")
    assert status == 1 and "Write them from a checkpoint: cmim export" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sources", "no/such/file.smi"), "There is no file no/such/file.smi"),
        (("--column", "mol", "--sources", "SOURCE"), "has no column 'mol'; its columns are"),
        (("--on_invalid", "drop"), "Unknown `on_invalid` 'drop'"),
        (("--checkpoint", "./nothing"), "There is no checkpoint folder ./nothing"),
        (("--workers", "-1"), "`num_workers` is a whole number from 0, not -1"),
    ],
)
def test_errors_end_in_one_message(run, arguments, message, source, tmp_path):
    filled = [str(source) if argument == "SOURCE" else argument for argument in arguments]
    status, _, errors = run(*filled, "--output", tmp_path / "library")
    assert status == 1 and errors.count("embed_library.py: ") == 1
    assert message in errors and "Traceback" not in errors


def test_a_process_with_another_checkpoint_is_refused_at_once(source, embedder, tmp_path):
    """Also before the first shard is there."""
    library = Library(tmp_path / "library", (str(source),), 64)
    library.open(embedder)
    library.check(embedder)
    other = MoleculeEmbedder(on_invalid="none", progress=False)
    with torch.no_grad():
        other.model.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="begun with other settings: fingerprint was"):
        library.check(other)


def test_a_run_that_wrote_nothing_binds_nobody(source, embedder, tmp_path):
    folder = tmp_path / "library"
    with pytest.raises(FileNotFoundError):
        write(Library(folder, (str(tmp_path / "typo.csv"),), 64), embedder)
    assert write(Library(folder, (str(source),), 64), embedder)["read"] == 300


def test_an_empty_source_among_others_is_passed_over(source, embedder, tmp_path):
    empty = tmp_path / "empty.smi"
    empty.write_text("")
    library = Library(tmp_path / "library", (str(empty), str(source)), 200)
    assert write(library, embedder)["shards"] == 2
    with pytest.raises(ValueError, match="holds no rows"):
        write(Library(tmp_path / "nothing", (str(empty),)), embedder)


def test_closing_leaves_what_is_being_written(tmp_path):
    ours = tmp_path / f".a.parquet.{socket.gethostname()}.{os.getpid()}.01234567.partial"
    dead = subprocess.Popen(["true"])
    dead.wait()
    theirs = tmp_path / f".a.parquet.{socket.gethostname()}.{dead.pid}.01234567.partial"
    elsewhere = tmp_path / ".a.parquet.another-host.1.01234567.partial"
    old = tmp_path / ".b.parquet.another-host.1.01234567.partial"
    foreign = [tmp_path / ".download.partial", tmp_path / f".{socket.gethostname()}.x.y.partial"]
    for path in (ours, theirs, elsewhere, old, *foreign):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 90000,) * 2)
    remove_partials(tmp_path)
    assert set(tmp_path.iterdir()) == {ours, elsewhere, *foreign}


def test_damaged_and_foreign_files_are_named(source, embedder, tmp_path):
    folder = tmp_path / "library"
    library = Library(folder, (str(source),), 150)
    write(library, embedder)
    shard = folder / "00000-0000001.parquet"
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000-0000001.parquet is damaged: .*Remove it"):
        write(library, embedder)
    shard.unlink()
    assert write(library, embedder)["rows"] == 300
    (folder / "_library.json").write_text("")
    with pytest.raises(ValueError, match="_library.json is damaged"):
        library.open(embedder)
