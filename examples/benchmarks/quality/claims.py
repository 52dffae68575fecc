# SPDX-License-Identifier: Apache-2.0
"""What the cMIM paper claims, and what the figures of this folder say of it, by stated rules.

A difference counts where the 95 % interval of its paired values (the same data set, seed and
division; by Student's t) leaves 0 out. A claim *holds here* if its difference counts and has the
claimed sign, *does not hold here* if it counts and has the other, and is else *not shown*. Fewer
than three pairs show nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evidence import interval

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "not shown"
Json = dict[str, Any]


@dataclass
class Verdict:
    """One claim and what was seen of it."""

    claim: str
    verdict: str
    figure: str


def judge(claim: str, gains: Sequence[float], what: str) -> Verdict:
    """The verdict on gains (above 0: as claimed), relative, one a pair."""
    gains = [gain for gain in gains if np.isfinite(gain)]
    if len(gains) < 3:
        return Verdict(claim, OPEN, f"{len(gains)} pairs are too few ({what}).")
    mean, low, high = interval(gains)
    verdict = HOLDS if low > 0 else FAILS if high < 0 else OPEN
    figure = f"{what}: {mean:+.1%} (95 % interval {low:+.1%} to {high:+.1%}, {len(gains)} pairs)"
    return Verdict(claim, verdict, figure + ".")


def claims(moleculenet: Json | None, ablation: Json | None) -> list[Verdict]:
    """All claims, with "not shown" where the figures are missing."""
    found = []
    if moleculenet is None:
        found.append(
            Verdict("Embeddings of the trained model", OPEN, "moleculenet.json is missing.")
        )
    else:
        found += frozen_claims(moleculenet)
    if ablation is None:
        found.append(Verdict("The parts of the objective", OPEN, "ablation.json is missing."))
    else:
        found += objective_claims(ablation)
    return found


def frozen_claims(results: Json) -> list[Verdict]:
    """Of the shipped checkpoint's embeddings."""
    pairs = (
        ("Informative embeddings predict better than latents", "informative", "latent"),
        ("Latent and informative together predict better than latents", "both", "latent"),
        ("Training makes embeddings better than random weights do", "both", "untrained both"),
        ("Frozen embeddings predict better than ECFP4 fingerprints", "both", "ECFP4"),
        ("Frozen embeddings predict better than RDKit's descriptors", "both", "RDKit 2D"),
    )
    return [
        judge(claim, error_gains(results, better, worse), f"error of {better} below {worse}")
        for claim, better, worse in pairs
    ]


def error_gains(results: Json, better: str, worse: str) -> list[float]:
    """Relative falls of the error, one for each data set: means over its divisions and seeds.

    The error is the RMSE, or 1 - ROC-AUC; of each seed the head that validation rows chose.
    """
    gains = []
    for task, about in results["tasks"].items():
        errors = {
            name: np.mean([_error(score, about["binary"]) for score in chosen(results, task, name)])
            for name in (better, worse)
        }
        gains.append(1 - errors[better] / errors[worse])
    return gains


def chosen(results: Json, task: str, features: str) -> list[Json]:
    """For each division and seed, the score of the head that did best on validation rows."""
    sign = 1 if results["tasks"][task]["binary"] else -1
    best: dict[tuple[str, int], Json] = {}
    for score in results["scores"]:
        if (score["task"], score["features"]) == (task, features):
            key = (score["division"], score["seed"])
            if key not in best or sign * score["valid"] > sign * best[key]["valid"]:
                best[key] = score
    return list(best.values())


def objective_claims(results: Json) -> list[Verdict]:
    """Of the objective, from the ablations."""
    objectives = [run for run in results["runs"] if run["study"] == "objectives"]
    batches = [run for run in results["runs"] if run["study"] == "batch_size"]

    def gains(better: str, worse: str, measure: Callable[[Json], float]) -> list[float]:
        pairs = zip(_of(objectives, better), _of(objectives, worse), strict=False)
        return [1 - measure(first) / measure(second) for first, second in pairs]

    def probe(representation: str) -> Callable[[Json], float]:
        return lambda run: float(
            np.mean([scores[representation] for scores in run["probes"].values()])
        )

    verdicts = [
        judge(
            "The contrastive term makes latents predict better (cMIM against MIM)",
            gains("cmim", "mim", probe("latent")),
            "mean probe error of cmim's latents below mim's",
        ),
        judge(
            "cMIM's latents predict better than a VAE's",
            gains("cmim", "vae", probe("latent")),
            "mean probe error below vae's",
        ),
        judge(
            "cMIM's latents predict better than an auto-encoder's",
            gains("cmim", "ae", probe("latent")),
            "mean probe error below ae's",
        ),
        judge(
            "Informative embeddings predict better than latents, for every decoder",
            [
                1 - probe("informative")(run) / probe("latent")(run)
                for run in objectives
                if run["objective"] in ("ae", "vae", "mim", "cmim", "cae", "cvae")
            ],
            "mean probe error of informative below latent",
        ),
        fidelity(objectives),
    ]
    return [*verdicts, batch_sensitivity(batches)]


def fidelity(objectives: Sequence[Json]) -> Verdict:
    """Whether the contrastive term costs likelihood: shown if a loss above 2 % is ruled out."""
    claim = "The contrastive term costs no generative fidelity (cMIM against MIM)"
    pairs = zip(_of(objectives, "cmim"), _of(objectives, "mim"), strict=False)
    costs = [first["nll"] / second["nll"] - 1 for first, second in pairs]
    if len(costs) < 3:
        return Verdict(claim, OPEN, f"{len(costs)} pairs are too few (held-out nll).")
    mean, low, high = interval(costs)
    verdict = HOLDS if high < 0.02 else FAILS if low > 0 else OPEN
    figure = f"held-out nll {mean:+.1%} (95 % interval {low:+.1%} to {high:+.1%}; a cost above 2 %"
    return Verdict(claim, verdict, f"{figure} must be ruled out, {len(costs)} pairs).")


def batch_sensitivity(runs: Sequence[Json]) -> Verdict:
    """Spread of the probe error over batch sizes, of InfoNCE's latents against cMIM's."""
    claim = "cMIM depends less on the batch size than InfoNCE"
    spreads: dict[str, list[float]] = {}
    for objective in ("infonce", "cmim"):
        mine = _of(runs, objective)
        spreads[objective] = []
        for seed in sorted({run["seed"] for run in mine}):
            errors = [
                np.mean([scores["latent"] for scores in run["probes"].values()])
                for run in mine
                if run["seed"] == seed
            ]
            spreads[objective].append(float((max(errors) - min(errors)) / np.mean(errors)))
    pairs = zip(spreads["infonce"], spreads["cmim"], strict=False)
    return judge(
        claim,
        [first - second for first, second in pairs],
        "range of the probe error over batch sizes 16 to 1024, as a share of it, infonce's less "
        "cmim's",
    )


def _of(runs: Sequence[Json], objective: str) -> list[Json]:
    mine = [run for run in runs if run["objective"] == objective]
    return sorted(mine, key=lambda run: (run["seed"], run["batch_size"]))


def _error(score: Json, binary: bool) -> float:
    return 1 - score["test"] if binary else score["test"]
