# SPDX-License-Identifier: Apache-2.0
"""Ablations: each run trains what it names, runs are computed once, learning rates are chosen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.benchmarks.quality import ablation, generative, trainings
from examples.benchmarks.quality.molecule_tasks import load_tasks

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
MOLECULES = BENCHMARKS.parent / "data" / "moses_test.smi"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    pytest.importorskip("datamol")
    args = ablation.Arguments(budget=0.05, held_out=64, workers=1, source=str(MOLECULES))
    folder = tmp_path_factory.mktemp("material")
    return ablation.prepare(args, folder, load_tasks(None, ["freesolv"]))


def test_a_run_trains_its_objective(material):
    quick = {"batch_size": 16, "learning_rate": 0.003}
    untrained, trained = (
        ablation.train_and_measure(material, ablation.Run(objective=name, **quick))
        for name in ("untrained", "cmim")
    )
    assert trained["nll"] < 0.8 * untrained["nll"]
    assert untrained["curve"] == [] and trained["curve"][-1]["nll"] < trained["curve"][0]["nll"]
    assert set(trained["probes"]["freesolv"]) == {"latent", "informative", "both"}
    assert 1 < trained["probes"]["freesolv"]["both"] < 4  # kcal/mol; the labels' std is 3.85


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["infonce", "vicreg", "barlow"])
def test_losses_between_views_train_the_encoder_alone(material, objective):
    if objective != "infonce":
        pytest.importorskip("lightly")
    run = ablation.Run(objective=objective, batch_size=32)
    result = ablation.train_and_measure(material, run)
    assert result["nll"] is None and result["exact"] is None
    losses = [entry["loss"] for entry in result["curve"]]
    assert len(losses) > 3 and losses[-1] < losses[0]


def test_controls_reconstruct_two_views_and_are_measured_on_molecules_as_written(material):
    """Their figures stand beside those of objectives with one view."""
    run = ablation.Run(objective="infonce_ae", batch_size=16)
    result = ablation.train_and_measure(material, run)
    untrained = ablation.train_and_measure(material, replace(run, objective="untrained"))
    assert result["nll"] < 0.8 * untrained["nll"] and result["exact"] is not None
    assert {"nll", "log_contrastive"} <= set(result["curve"][-1])
    assert result["log_contrastive"] is None  # of one view there is none


def test_views_and_decoders_are_those_of_the_objective():
    names = ["untrained", "cmim", "infonce", "infonce_ae", "infonce_mim", "vicreg", "barlow"]
    assert [trainings.views_of(name) for name in names] == [1, 1, 2, 2, 2, 2, 2]
    assert trainings.NO_DECODER == ("infonce", "vicreg", "barlow")
    compared = [run.objective for run in ablation.fixed_runs("objectives")]
    assert compared[:5] == ["untrained", "ae", "vae", "mim", "cmim"]
    assert {"infonce", "infonce_ae", "infonce_mim"} <= set(compared)


def test_runs_that_were_computed_keep_their_names():
    assert ablation.Run().name == "cmim-128-0.003-0.1-96-learned--3.0-0"


def test_the_learning_rate_of_the_best_validation_score_is_taken():
    runs = ablation.rate_runs()
    assert len(runs) == 3 * 4 * len(ablation.RATES)
    results = [
        {**ablation.asdict(run), "valid_latent": abs(run.learning_rate - 0.004), "probes": None}
        for run in runs
    ]
    groups = trainings.grouped(results, ["objective", "batch_size"])
    chosen = [ablation.best_rate(group) for group in groups]
    assert len(set(chosen)) == 12 and {run.learning_rate for run in chosen} == {0.003}
    assert {run.batch_size for run in chosen} == {16, 64, 256, 1024}
    assert {run.objective for run in chosen} == {"cmim", "infonce", "infonce_ae"}


@pytest.mark.slow
def test_the_command_computes_each_run_once(tmp_path, monkeypatch):
    pytest.importorskip("datamol")
    monkeypatch.setattr(ablation, "keep_freed_memory", lambda: None)  # this process goes on
    options = [
        "--studies", "posterior", "--budget", "0.02", "--tasks", "freesolv", "--held_out", "40",
        "--workers", "1", "--output", str(tmp_path), "--source", str(MOLECULES),
    ]  # fmt: skip
    kept = []
    for _ in range(2):
        ablation.main(options)
        cells = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/*.json")}
        kept.append(cells)
    assert len(cells) == 3 and kept[0] == kept[1]
    runs = json.loads((tmp_path / "ablation.json").read_text())["runs"]
    std = [run["posterior_std"] for run in runs]
    assert std[2] == pytest.approx(0.2231, abs=1e-4)  # exp(-1.5), the middle of the drawn range
    assert std[1] >= 0.3678 > std[0]  # the floor of the second is exp(-1)
    page = (tmp_path / "ablation.md").read_text()
    assert page.count("| learned |") == 2 and page.count("| sampled |") == 1


def test_draws_around_molecules_are_counted_as_defined(tmp_path):
    molecules = ["CCO", "c1ccccc1", "CC(=O)Nc1ccc(O)cc1"]
    (tmp_path / "m.smi").write_text("\n".join(molecules) + "\n")
    torch.manual_seed(0)
    args = generative.Arguments(sources=[str(tmp_path / "m.smi")], around=3, draws=5)
    at = {radius: generative.around(args, "prior", radius, set) for radius in (0.0, 0.1, 2.0)}
    generator = generative.MoleculeGenerator(args.checkpoint, progress=False)
    written = generator.reconstruct(molecules)
    valid = sum(text is not None for text in written)
    same = sum(a == b for a, b in zip(molecules, written, strict=True))
    still = at[0.0]
    assert still["draws"] == 15
    assert still["validity"] == valid / 3
    assert still["uniqueness"] * still["validity"] == pytest.approx(valid / 15)
    assert still["effective novelty"] == pytest.approx((valid - same) / 15)
    assert at[2.0]["validity"] <= at[0.1]["validity"]
    known = generative.around(args, "prior", 0.0, lambda: set(written))
    assert known["novelty"] == known["effective novelty"] == 0
