# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of MolMIM's NIM, answered by this package's models.

Paths, fields, defaults and ranges are those of its documentation; what differs is said in each
description. A latent width is that of the model that is loaded, so clients shall read it from
`/hidden`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..optimization.scorers import BUILT_IN
from .batching import Call
from .service import Service

WORDS = {
    "n": "num_molecules",
    "radius": "scaled_radius",
    "step": "scaled_radius",
    "population": "particles",
    "budget": "particles",
    "seeds": "smi",
}
_SCORERS = {"QED": "qed", "plogP": "penalized_logp"}


class Sequences(BaseModel):
    """Molecules as SMILES."""

    sequences: list[str] = Field(min_length=1, examples=[["CC(=O)Oc1ccccc1C(=O)O"]])


class Hiddens(BaseModel):
    """Codes, as `/hidden` gives them."""

    model_config = ConfigDict(allow_inf_nan=False)
    hiddens: list[list[list[float]]] = Field(min_length=1)
    mask: list[list[bool]]


class ToSample(Sequences):
    """Molecules to draw around."""

    beam_size: int = Field(1, ge=1, le=10)
    num_molecules: int = Field(1, ge=1, le=10)
    scaled_radius: float = Field(0.7, ge=0, le=2)


class ToGenerate(BaseModel):
    """A molecule to start from, and where to."""

    smi: str = Field(examples=["CC(C)Cc1ccc(C(C)C(=O)O)cc1"])
    algorithm: Literal["CMA-ES", "none"] = "CMA-ES"
    num_molecules: int = Field(10, ge=1, le=100)
    property_name: Literal["QED", "plogP"] = "QED"
    minimize: bool = False
    min_similarity: float = Field(0.7, ge=0, le=1)
    particles: int = Field(30, ge=2, le=1000)
    iterations: int = Field(10, ge=1, le=1000)
    scaled_radius: float = Field(1.0, ge=0, le=2)


def embedding(service: Service, call: Call, body: Sequences) -> dict[str, Any]:
    """The mean code of each molecule, `num_latents · latent_size` numbers.

    `/v1/embeddings` gives informative embeddings, which tell molecules apart better.
    """
    encoded = service.read("sequences", body.sequences, None)
    latents = service.latents(call, encoded)
    return {"embeddings": latents.reshape(len(latents), -1).tolist()}


def hidden(service: Service, call: Call, body: Sequences) -> dict[str, Any]:
    """The mean code of each molecule, n × num_latents × latent_size, with a mask of all true."""
    latents = service.latents(call, service.read("sequences", body.sequences, None))
    mask = np.ones(latents.shape[:2], bool)
    return {"hiddens": latents.tolist(), "mask": mask.tolist()}


def decode(service: Service, call: Call, body: Hiddens) -> dict[str, Any]:
    """The molecule of each code, as canonical SMILES, null where none of 16 attempts was one."""
    service.limits.check("hiddens", len(body.hiddens))
    config = service.model.config
    width = (config.num_latents, config.latent_size)
    for row, code in enumerate(body.hiddens):
        found = (len(code), *sorted({len(one) for one in code}))
        if found != width:
            raise ValueError(
                f"Row {row} of `hiddens` (counted from 0) is {' × '.join(map(str, found))}; codes "
                f"of this model are {width[0]} × {width[1]}. Take their width from /hidden: it is "
                "not the 512 of MolMIM."
            )
    if [len(row) for row in body.mask] != [width[0]] * len(body.hiddens) or not np.all(body.mask):
        raise ValueError(
            f"`mask` is {len(body.hiddens)} × {width[0]} and true: a code has no part that may be "
            "left out."
        )
    generator, _ = service.generator(call)
    return {"generated": generator.decode(np.array(body.hiddens, np.float32))}


def sampling(service: Service, call: Call, body: ToSample) -> dict[str, Any]:
    """Molecules of codes drawn around each given one, a list for each.

    The radius is in units of the prior, N(0, I). A code without a molecule after 16 attempts is
    left out, so that a list may be shorter than `num_molecules`.
    """
    encoded = service.read("sequences", body.sequences, None)
    service.limits.check("num_molecules", body.num_molecules * len(body.sequences))
    generator, _ = service.generator(call)
    drawn = generator.sample_around(
        encoded, body.scaled_radius, body.num_molecules, candidates=body.beam_size
    )
    return {"generated": [[one for one in group if one is not None] for group in drawn]}


def generate(service: Service, call: Call, body: ToGenerate) -> dict[str, Any]:
    """The best molecules of a search around one, or with `algorithm` "none" draws around it.

    "CMA-ES" is this package's evolution of codes; it scores `particles · iterations` molecules at
    most, all of them at least as similar to `smi` as `min_similarity`. In a search `scaled_radius`
    is in units of the spread of the training molecules' codes, in draws of the prior's.
    """
    encoded = service.read("smi", [body.smi], None)
    generator, seed = service.generator(call)
    name = _SCORERS[body.property_name]
    sign = -1.0 if body.minimize else 1.0
    if body.algorithm == "none":
        (drawn,) = generator.sample_around(encoded, body.scaled_radius, body.num_molecules)
        found = list(dict.fromkeys(one for one in drawn if one is not None))
        rows = [(one, BUILT_IN[name](one)) for one in found]
    else:
        budget = body.particles * body.iterations
        service.limits.check("particles × iterations", budget, scored=True)
        result = generator.optimize(
            encoded,
            {name: sign},
            budget=budget,
            population=max(4, body.particles),
            step=body.scaled_radius or 1e-3,
            min_similarity=body.min_similarity,
            seed=seed,
        )
        table = result.table.iloc[1:].dropna(subset="score")
        best = table.sort_values("score", ascending=False, kind="stable").head(body.num_molecules)
        rows = [(one, sign * score) for one, score in zip(best.smiles, best.score, strict=True)]
    return {"generated": [{"smiles": one, "score": score} for one, score in rows]}
