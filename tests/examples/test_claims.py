# SPDX-License-Identifier: Apache-2.0
"""Sentences on the paper's claims follow from the figures; the report says what is missing."""

import json

import pytest

from cmim_hf import list_checkpoints
from examples.benchmarks.quality import claims, report

ORIGIN = {
    "command": "python measure.py",
    "date": "2026-11-24",
    "versions": {"torch": "2.13.0"},
    "weights": "0123456789abcdef",
}


def frozen(errors):
    """Scores of three data sets, two seeds: (features) -> RMSE on test; one head is a decoy."""
    scores = []
    for task, factor in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        for name, error in errors.items():
            for seed in range(2):
                test = factor * (error + 0.01 * seed)
                row = {"task": task, "division": "published", "features": name, "seed": seed}
                scores.append({**row, "head": "good", "valid": test, "test": test})
                scores.append({**row, "head": "decoy", "valid": 2 * test, "test": test / 9})
    tasks = {name: {"binary": False, "measure": "RMSE", "test_in_train": "0.0%"} for name in "abc"}
    return {"tasks": tasks, "scores": scores, "checkpoint": "tiny", **ORIGIN}


def objectives(latent, nll=None, seeds=3):
    """Runs of the study of objectives: objective -> probe error of its latents."""
    return [
        {
            "study": "objectives", "objective": name, "batch_size": 128, "seed": seed,
            "nll": (nll or {}).get(name, 1.0) + 0.001 * seed,
            "probes": {"a": {"latent": error + 0.001 * seed, "informative": 0.8 * error}},
            "curve": [{"step": 1, "nll": 3.0, "log_contrastive": -0.1}],
        }
        for name, error in latent.items()
        for seed in range(seeds)
    ]  # fmt: skip


EQUAL = {"both": 1.0, "latent": 1.0, "informative": 1.0, "ECFP4": 1.0, "RDKit 2D": 1.0,
         "untrained both": 1.0}  # fmt: skip


def test_frozen_claims_take_the_head_that_validation_chose():
    errors = {**EQUAL, "informative": 0.8, "untrained both": 1.5, "RDKit 2D": 0.5}
    found = {one.claim: one for one in claims.frozen_claims(frozen(errors))}
    verdicts = {claim: one.verdict for claim, one in found.items()}
    assert verdicts == {
        "Informative embeddings predict better than latents": claims.HOLDS,
        "Latent and informative together predict better than latents": claims.OPEN,
        "Training makes embeddings better than random weights do": claims.HOLDS,
        "Frozen embeddings predict better than ECFP4 fingerprints": claims.OPEN,
        "Frozen embeddings predict better than RDKit's descriptors": claims.FAILS,
    }
    beside = claims.frozen_claims(frozen({**errors, "small-text both": 1.2}))
    (one,) = [one for one in beside if "with properties" in one.claim]
    assert one.verdict == claims.HOLDS and "+16.6%" in one.figure  # 1 - 1.005 / 1.205
    figure = found["Training makes embeddings better than random weights do"].figure
    assert "+33.2%" in figure and "3 pairs" in figure  # 1 - 1.005 / 1.505


def verdict(ablation, claim):
    (one,) = [one for one in claims.objective_claims(ablation) if one.claim.startswith(claim)]
    return one.verdict


@pytest.mark.parametrize(
    ("cmim", "expected"), [(0.7, claims.HOLDS), (1.3, claims.FAILS), (1.0, claims.OPEN)]
)
def test_objectives_are_compared_seed_by_seed(cmim, expected):
    runs = objectives({"mim": 1.0, "cmim": cmim, "vae": 1.1, "ae": 1.2})
    assert verdict({"runs": runs}, "The contrastive term makes latents") == expected
    few = objectives({"mim": 1.0, "cmim": cmim, "vae": 1.1, "ae": 1.2}, seeds=2)
    assert verdict({"runs": few}, "The contrastive term makes latents") == claims.OPEN


@pytest.mark.parametrize(
    ("nll", "expected"), [(1.0, claims.HOLDS), (1.019, claims.HOLDS), (1.05, claims.FAILS)]
)
def test_fidelity_must_rule_out_a_cost(nll, expected):
    runs = objectives({"mim": 1.0, "cmim": 1.0, "vae": 1.0, "ae": 1.0}, {"cmim": nll})
    assert verdict({"runs": runs}, "The contrastive term costs no") == expected


@pytest.mark.parametrize(
    ("cmim", "infonce", "expected"),
    [(0.02, 0.4, claims.HOLDS), (0.4, 0.02, claims.FAILS), (0.2, 0.2, claims.OPEN)],
)
def test_sensitivity_is_the_range_over_batch_sizes(cmim, infonce, expected):
    runs = [
        {
            "study": "batch_size", "objective": name, "batch_size": size, "seed": seed,
            "probes": {"a": {"latent": 1.0 + (1 + 0.05 * seed) * spread * place / 3}},
        }
        for name, spread in (("cmim", cmim), ("infonce", infonce))
        for place, size in enumerate((16, 64, 256, 1024))
        for seed in range(3)
    ]  # fmt: skip
    runs += objectives({"mim": 1.0, "cmim": 1.0, "vae": 1.0, "ae": 1.0})
    assert verdict({"runs": runs}, "cMIM depends less") == expected


def test_the_report_draws_what_is_there_and_says_what_is_not(tmp_path):
    (tmp_path / "moleculenet.json").write_text(json.dumps(frozen(EQUAL)))
    (tmp_path / "finetune-a-lora.json").write_text(
        json.dumps(
            {
                **ORIGIN,
                "command": "python examples/finetune.py --data a.csv --lora 8",
                "arguments": {"data": "somewhere/a.csv", "lora": 8},
                "test": {"rmse": {"mean": 0.5, "low": 0.4, "high": 0.6}},
                "runs": [{"test": {"mean": {"rmse": value}}} for value in (0.45, 0.55)],
            }
        )
    )
    tiny = list_checkpoints()["tiny"]
    report.main(["--results", str(tmp_path), "--count", "40", "--checkpoint", tiny])
    page = (tmp_path / "report.md").read_text()
    assert "| ECFP4 | published | 1.005 ± 0.064 | 2.010 ± 0.127 | 3.015 ± 0.191 |" in page
    assert "| a | 0123456789ab | LoRA, rank 8 | rmse | 2 | 0.500 ± 0.635 |" in page
    command = "python examples/finetune.py --data a.csv --lora 8"
    assert f"`{command}`, 2026-11-24, torch 2.13.0; weights 0123456789ab." in page
    assert "Not measured yet: `python -m examples.benchmarks.quality.ablation`." in page
    assert "Not measured yet: `python -m examples.benchmarks.quality.generative`." in page
    assert "ablation.json is missing" in page
    for name in ("report_scores.png", "report_map.png", "report_reconstructions.png"):
        assert f"({name})" in page
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "report_terms.png").exists()
