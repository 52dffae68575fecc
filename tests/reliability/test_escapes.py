# SPDX-License-Identifier: Apache-2.0
"""Ids, names and columns of the data never become a path outside the folder that was asked for."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pytest

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.checkpoints.loading import load_checkpoint
from cmim_hf.cli.main import main
from cmim_hf.embedding.sharded_library import Library, embed_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = list_checkpoints()["tiny"]
IDS = ["../../escaped", "/tmp/escaped", "..", "a/../../b", "C:\\escaped", "~/escaped", "%2e%2e/x",
       "$(touch escaped)", "x\u2028y", "-o", "escaped.parquet"]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder deep enough for names to lead out of it, and what is around it."""
    folder = tmp_path / "around" / "place"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def source(place):
    rows = [f'C{"C" * number}O,"{name}"' for number, name in enumerate(IDS)]
    (place / "ids.csv").write_text("\n".join(["smiles,id", *rows]), encoding="utf-8")
    return "ids.csv"


def test_ids_of_molecules_stay_in_their_columns(place, source, tmp_path):
    around = files(tmp_path)
    assert main(["embed", source, "-o", "out.parquet", "--checkpoint", TINY]) == 0
    for words in (
        ["reconstruct", source],
        ["optimize", source, "--scorer", "qed", "--budget", "4"],
    ):
        output = ["-o", f"{words[0]}.csv", "--picture", f"{words[0]}.svg", "--checkpoint", TINY]
        assert main([*words, *output]) == 0
    embedder = MoleculeEmbedder(TINY, on_invalid="none", progress=False)
    library = Library(place / "library", (source,), 4)
    library.open(embedder)
    list(embed_shards(library.pending(), embedder))
    assert library.close()["read"] == len(IDS)
    made = ["library", *(f"library/00000-000000{shard}.parquet" for shard in range(3)),
            "library/_library.json", "optimize.csv", "optimize.svg", "out.parquet",
            "reconstruct.csv", "reconstruct.svg"]  # fmt: skip
    assert not Path("~/escaped").expanduser().exists()
    assert files(tmp_path) == sorted([*around, *(f"around/place/{name}" for name in made)])


def test_targets_of_a_finetuned_model_stay_in_its_report(place, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    finetune = importlib.import_module("finetune")
    rows = [f"{'C' * size}O,{size},train" for size in range(1, 25)]
    rows += [f"{'C' * size}N,{size},{part}" for size in range(1, 9) for part in ("val", "test")]
    (place / "table.csv").write_text("\n".join(["smiles,../../escaped,split", *rows]))
    finetune.main(
        ["--data", "table.csv", "--targets", "../../escaped", "--output", "run", "--epochs", "1",
         "--checkpoint", TINY, "--copies", "true"]
    )  # fmt: skip
    report = json.loads((place / "run" / "metrics.json").read_text())
    assert report["arguments"]["targets"] == ["../../escaped"]
    outside = [name for name in files(tmp_path) if not name.startswith("around/place/run")]
    assert outside == ["around", "around/place", "around/place/table.csv"]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "."])
def test_names_of_cells_stay_in_their_folder(place, monkeypatch, name, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    evidence = importlib.import_module("evidence")
    with pytest.raises(ValueError, match="would be a file outside"):
        evidence.Cells(place / "cells", {}).compute(name, dict)
    assert files(tmp_path) == ["around", "around/place", "around/place/cells"]


@pytest.mark.parametrize("name", ["../escaped", "../../etc/passwd", "a/../b", "/nowhere", "..."])
def test_a_hub_id_is_no_path(place, name):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_checkpoint(name)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/model.safetensors"])
def test_checksums_are_of_files_beside_them(place, name):
    folder = shutil.copytree(TINY, place / "checkpoint")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {name}\n")
    with pytest.raises(ValueError, match="line 1 is no checksum of a file in its folder"):
        load_checkpoint(folder)
