# SPDX-License-Identifier: Apache-2.0
"""The page of speeds is made from the figures beside it, and memory is measured by process."""

import json
import shutil

import pytest

from cmim_hf.export.onnx_folder import export_onnx
from examples.benchmarks.evidence import RESULTS, read
from examples.benchmarks.speed import embedding, library_processes, memory, report


@pytest.fixture
def results(tmp_path):
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_committed_page_is_of_the_committed_figures(results):
    report.main(["--results", str(results)])
    assert (results / "speed.md").read_text() == (RESULTS / "speed.md").read_text()
    assert (results / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_goal_is_reached_by_the_figure_alone(results):
    figures = read("throughput", results)
    ours = report.row(figures["train"], molecules="ragged", model="cMIM")
    ours["share of limit"] = 0.7501
    (results / "throughput.json").write_text(json.dumps(figures))
    report.main(["--results", str(results)])
    page = (results / "speed.md").read_text()
    assert "| training, share of the limit | 0.75 | 0.609 | 0.587 | 0.75 | yes |" in page
    small = report.row(
        read("embedding", results)["ends"], checkpoint="small", vectors="informative"
    )
    hours = 1e9 / small["by processes"] * 2 / 3600
    assert f"| small | informative | {hours:,.0f} | {hours * 0.04:,.0f} |" in page


def test_what_is_missing_is_named(results, tmp_path):
    (results / "decoding.json").unlink()
    with pytest.raises(SystemExit, match="has no decoding: run the benchmarks first"):
        report.main(["--results", str(results)])


@pytest.mark.slow
def test_memory_is_of_each_process(tmp_path):
    options = ["--size", "tiny", "--batches", "8", "--codes", "8", "--output", str(tmp_path)]
    memory.main(options)
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert [(row["work"], row["model"]) for row in rows] == [
        (work, model) for work in ("train", "decode") for model in ("cMIM", "T5", "BART")
    ]
    assert all(100 < row["before"] < row["peak"] < 4000 for row in rows)


@pytest.mark.slow
def test_exported_graphs_are_timed_beside_the_checkpoint(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_onnx("tiny", tmp_path / "tiny-onnx")
    options = ["--rows", "300", "--few_rows", "100", "--shard_rows", "150", "--rounds", "1"]
    options += ["--checkpoints", "tiny", "--exported", str(tmp_path / "tiny-onnx")]
    embedding.main([*options, "--representations", "latent", "--output", str(tmp_path)])
    ends = json.loads((tmp_path / "embedding-exported.json").read_text())["ends"]
    assert [end["checkpoint"] for end in ends] == ["tiny", "tiny-onnx"]
    assert all(end["embed, one core"] > 10 and 0 < end["share of the limit"] < 1.5 for end in ends)


@pytest.mark.slow
def test_every_way_to_share_a_library_is_timed(tmp_path):
    options = ["--rows", "600", "--few_rows", "100", "--shard_rows", "150", "--rounds", "1"]
    options += ["--checkpoint", "tiny", "--processes", "2", "--output", str(tmp_path)]
    library_processes.main(options)
    ways = json.loads((tmp_path / "library_processes.json").read_text())["ways"]
    assert [way["way"] for way in ways] == list(library_processes.commands(2))
    assert all(1 < 600 / way["molecules/s"] < 600 for way in ways)
    assert all(1 < way["seconds for 100 rows"] < 600 for way in ways)


@pytest.mark.slow
def test_a_command_that_fails_says_why(tmp_path):
    options = ["--rows", "60", "--few_rows", "10", "--checkpoint", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match=r"(?s)nowhere.*ended with 1\."):
        library_processes.main(options)
