# SPDX-License-Identifier: Apache-2.0
"""What the images say of the paper's claims, by the rules of claims.py.

A pair is a data set and a seed, which draws training images, validation images and weights. The
error of a run is the mean over its probes of the share of test images that they classify wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence

from .claims import (
    FAILS,
    HOLDS,
    Json,
    Verdict,
    batch_sensitivity,
    fidelity,
    gains,
    informative_gains,
    judge,
    probe_error,
)

DECODERS = ("ae", "vae", "mim", "cmim", "cae", "cvae", "infonce_ae", "infonce_mim")
NAMES = {
    "mim": "MIM",
    "vae": "a VAE",
    "ae": "an auto-encoder",
    "infonce": "InfoNCE",
    "infonce_ae": "InfoNCE with reconstruction",
}


def vision_claims(runs: Sequence[Json]) -> list[Verdict]:
    """All claims, with "not shown" where the runs are missing or too few."""
    compared = [run for run in runs if run["study"] == "objectives"]
    return [
        *informative_claims(compared),
        *objective_claims(compared),
        fidelity(compared, "bits_per_dim", "bits per dimension of test images"),
        *sensitivity_claims([run for run in runs if run["study"] == "batch_size"]),
    ]


def informative_claims(runs: Sequence[Json]) -> list[Verdict]:
    """Whether informative embeddings are better than latents, also of models that are no MIM."""
    what = "mean probe error of informative below latent"
    kinds = (
        ("of cMIM", ("cmim",)),
        ("on average of all decoders", DECODERS),
        ("of a decoder with random weights on InfoNCE's latents", ("infonce",)),
        ("beyond MIM: of an auto-encoder", ("ae",)),
        ("beyond MIM: of a VAE", ("vae",)),
    )
    found = [
        judge(
            f"Informative embeddings predict better than latents, {kind}",
            informative_gains(runs, names),
            what,
        )
        for kind, names in kinds
    ]
    trained, random = (informative_gains(runs, (name,)) for name in ("cmim", "infonce"))
    more = [first - second for first, second in zip(trained, random, strict=False)]
    return [
        *found,
        judge(
            "This is more than a decoder with random weights and of the same width gives",
            more,
            "cmim's gain less that on infonce's latents",
        ),
    ]


def objective_claims(runs: Sequence[Json]) -> list[Verdict]:
    """Whether cMIM's embeddings are better than others'."""
    latent, informative = probe_error("latent"), probe_error("informative")
    found = [
        judge(
            f"cMIM's latents predict better than those of {name}",
            gains(runs, "cmim", rival, latent),
            f"mean probe error below that of {rival}",
        )
        for rival, name in NAMES.items()
    ]
    found += [
        judge(
            f"cMIM's informative embeddings predict better than those of {NAMES[rival]}",
            gains(runs, "cmim", rival, informative),
            f"mean probe error below that of {rival}",
        )
        for rival in ("mim", "vae", "ae", "infonce_ae")
    ]
    others = (
        ("the latents of InfoNCE", "infonce", latent),
        ("raw pixels", "pixels", probe_error("pixels")),
        ("as many principal components as a code has numbers", "pca", probe_error("components")),
    )
    return found + [
        judge(
            f"cMIM's informative embeddings predict better than {name}",
            gains(runs, "cmim", rival, informative, of_worse),
            f"mean probe error below that of {rival}",
        )
        for name, rival, of_worse in others
    ]


def sensitivity_claims(runs: Sequence[Json]) -> list[Verdict]:
    """How much the batch size matters, and in words whether reconstruction alone explains it."""
    found = batch_sensitivity(runs)
    steadier, by_reconstruction, beyond = (one.verdict for one in found)
    if steadier != HOLDS:
        reading = "There is nothing to explain: that cMIM depends less on it is not seen here."
    elif beyond == HOLDS:
        reading = "No: cMIM depends less on it than InfoNCE with reconstruction does."
    elif by_reconstruction == HOLDS or beyond == FAILS:
        reading = (
            "It may: with reconstruction InfoNCE is steadier, and cMIM not seen to be more so."
        )
    else:
        reading = "Not decided: InfoNCE with reconstruction is not told from either of the two."
    claim = "Whether reconstruction alone explains it"
    return [*found, Verdict(claim, "by the three lines above", reading)]
