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
        ("Training on, with properties, makes them better", "both", "small-text both"),
        ("Frozen embeddings predict better than ECFP4 fingerprints", "both", "ECFP4"),
        ("Frozen embeddings predict better than RDKit's descriptors", "both", "RDKit 2D"),
        ("Frozen embeddings predict better than MiniMol's", "both", "MiniMol"),
        ("Frozen embeddings predict better than ChemNet's", "both", "ChemNet"),
    )
    there = {score["features"] for score in results["scores"]}
    return [
        judge(claim, error_gains(results, better, worse), f"error of {better} below {worse}")
        for claim, better, worse in pairs
        if {better, worse} <= there
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

    verdicts = [
        judge(
            "The contrastive term makes latents predict better (cMIM against MIM)",
            gains(objectives, "cmim", "mim", probe_error("latent")),
            "mean probe error of cmim's latents below mim's",
        ),
        judge(
            "cMIM's latents predict better than a VAE's",
            gains(objectives, "cmim", "vae", probe_error("latent")),
            "mean probe error below vae's",
        ),
        judge(
            "cMIM's latents predict better than an auto-encoder's",
            gains(objectives, "cmim", "ae", probe_error("latent")),
            "mean probe error below ae's",
        ),
        judge(
            "Informative embeddings predict better than latents, on average of all decoders",
            informative_gains(objectives, ("ae", "vae", "mim", "cmim", "cae", "cvae")),
            "mean probe error of informative below latent",
        ),
        fidelity(objectives),
    ]
    return [*verdicts, *batch_sensitivity(batches)]


def probe_error(representation: str) -> Callable[[Json], float]:
    """Of a run: the mean over its probes of the test error on this representation."""
    return lambda run: float(np.mean([errors[representation] for errors in run["probes"].values()]))


def gains(
    runs: Sequence[Json],
    better: str,
    worse: str,
    measure: Callable[[Json], float],
    of_worse: Callable[[Json], float] | None = None,
) -> list[float]:
    """How far one objective's error lies below another's, relatively; one for each pair.

    Args:
        runs: one of each objective for each data set and seed.
        better: an objective.
        worse: another.
        measure: the error of a run.
        of_worse: of the other's runs, where it is another quantity.
    """
    first, second = _by_pair(runs, better), _by_pair(runs, worse)
    return [
        1 - measure(first[pair]) / (of_worse or measure)(second[pair])
        for pair in sorted(first.keys() & second.keys())
    ]


def informative_gains(runs: Sequence[Json], objectives: Sequence[str]) -> list[float]:
    """How far the error of informative embeddings lies below that of the same run's latents.

    Relatively, one for each pair: the mean over the objectives, whose runs of one data set and seed
    are not independent.
    """
    informative, latent = probe_error("informative"), probe_error("latent")
    found: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        if run["objective"] in objectives:
            found.setdefault(_pair(run), []).append(1 - informative(run) / latent(run))
    return [float(np.mean(found[pair])) for pair in sorted(found)]


def fidelity(
    objectives: Sequence[Json], quantity: str = "nll", what: str = "held-out nll"
) -> Verdict:
    """Whether the contrastive term costs likelihood: shown if a loss above 2 % is ruled out."""
    claim = "The contrastive term costs no generative fidelity (cMIM against MIM)"
    costs = [-gain for gain in gains(objectives, "cmim", "mim", lambda run: run[quantity])]
    if len(costs) < 3:
        return Verdict(claim, OPEN, f"{len(costs)} pairs are too few ({what}).")
    mean, low, high = interval(costs)
    verdict = HOLDS if high < 0.02 else FAILS if low > 0 else OPEN
    figure = f"{what} {mean:+.1%} (95 % interval {low:+.1%} to {high:+.1%}; a cost above 2 %"
    return Verdict(claim, verdict, f"{figure} must be ruled out, {len(costs)} pairs).")


def batch_sensitivity(runs: Sequence[Json]) -> list[Verdict]:
    """Spreads of the probe error over batch sizes, compared; and what reconstruction explains."""
    claims = (
        ("cMIM depends less on the batch size than InfoNCE", "cmim", "infonce"),
        ("Reconstruction alone makes InfoNCE depend less on it", "infonce_ae", "infonce"),
        ("Beside InfoNCE with reconstruction, cMIM depends less on it", "cmim", "infonce_ae"),
    )
    return [
        judge(
            claim,
            spread_gains(runs, steady, other),
            "range of the probe error over batch sizes, as a share of it, "
            f"{other}'s less {steady}'s",
        )
        for claim, steady, other in claims
    ]


def spread_gains(runs: Sequence[Json], steady: str, other: str) -> list[float]:
    """How much wider the spread of one objective is than another's; one for each pair."""
    mine, others = batch_spreads(runs, steady), batch_spreads(runs, other)
    return [others[pair] - mine[pair] for pair in sorted(mine.keys() & others.keys())]


def batch_spreads(runs: Sequence[Json], objective: str) -> dict[tuple[str, int], float]:
    """For each data set and seed, (max - min) / mean of the latents' error over batch sizes."""
    errors: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        if run["objective"] == objective:
            errors.setdefault(_pair(run), []).append(probe_error("latent")(run))
    return {pair: float((max(e) - min(e)) / np.mean(e)) for pair, e in errors.items()}


def _by_pair(runs: Sequence[Json], objective: str) -> dict[tuple[str, int], Json]:
    return {_pair(run): run for run in runs if run["objective"] == objective}


def _pair(run: Json) -> tuple[str, int]:
    return run.get("source", ""), run["seed"]


def _error(score: Json, binary: bool) -> float:
    return 1 - score["test"] if binary else score["test"]
