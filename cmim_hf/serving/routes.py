# SPDX-License-Identifier: Apache-2.0
"""The own HTTP API, under `/v1/`: each function answers a path of its name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..chemistry.drawing import draw_molecule
from ..chemistry.named_properties import NAMED, property_named
from ..chemistry.smiles import parse, similarities
from ..chemistry.structure_blocks import write_sdf
from ..data.invalid_rows import items_in_place
from ..data.smiles_files import bare_smiles
from ..optimization.scorers import BUILT_IN, SIMILARITY
from ..version import __version__
from . import requests
from .batching import Call
from .service import Service

WORDS = {"ranges": "ranges", "seeds": "smiles"}


def info(service: Service) -> dict[str, Any]:
    """The model, what else is loaded, the limits, and names that requests may use."""
    config, predictor = service.model.config, service.predictor
    return {
        "version": __version__,
        "checkpoint": service.name,
        "weights": service.fingerprint,
        "num_latents": config.num_latents,
        "latent_size": config.latent_size,
        "hidden_size": config.hidden_size,
        "limits": vars(service.limits),
        "scorers": sorted([*BUILT_IN, SIMILARITY]),
        "properties": list(NAMED),
        "library": None if service.library is None else {"molecules": service.library_rows},
        "predictor": predictor and {"task": predictor.task, "targets": predictor.targets},
    }


def embeddings(service: Service, call: Call, body: requests.ToEmbed) -> dict[str, Any]:
    """Vectors of molecules, informative embeddings by default."""
    if body.dim is not None and (body.representation, body.pooling) != ("informative", "mean"):
        raise ValueError("`dim` shortens informative embeddings pooled by the mean, no others.")
    encoded = service.read("smiles", body.smiles, body.on_invalid)
    vectors = service.embed(call, encoded, body.representation, body.pooling, body.dim)
    size = body.dim or service.model.representation_size(body.representation)
    found = items_in_place(vectors.tolist(), encoded, body.on_invalid)
    return {"embeddings": found, "representation": body.representation, "size": size}


def latents(service: Service, call: Call, body: requests.Molecules) -> dict[str, Any]:
    """Mean codes of molecules: rows × num_latents × latent_size."""
    encoded = service.read("smiles", body.smiles, body.on_invalid)
    found = service.latents(call, encoded).tolist()
    return {"latents": items_in_place(found, encoded, body.on_invalid)}


def decode(service: Service, call: Call, body: requests.ToDecode) -> dict[str, Any]:
    """The molecules of codes, null where no attempt gave one."""
    service.limits.check("latents", len(body.latents))
    generator, _ = service.generator(call)
    shapes = {len(one) for code in body.latents for one in code}
    if len(shapes) > 1 or len({len(code) for code in body.latents}) > 1:
        raise ValueError("The rows of `latents` have different shapes.")
    codes = np.array(body.latents, np.float32)
    return {"smiles": generator.decode(codes, **_given(body, "latents"))}


def reconstruct(service: Service, call: Call, body: requests.ToReconstruct) -> dict[str, Any]:
    """Molecules to codes and back, with the Tanimoto similarity to what was given."""
    encoded = service.read("smiles", body.smiles, body.on_invalid)
    generator, _ = service.generator(call)
    given = generator.texts(encoded, on_invalid=body.on_invalid)
    found = generator.reconstruct(encoded, **_given(body, "smiles"))
    near = [a and similarities(a, [b])[0] for a, b in zip(given, found, strict=True)]
    return {"given": given, "smiles": found, "similarity": near}


def sample(service: Service, call: Call, body: requests.ToSample) -> dict[str, Any]:
    """Molecules of codes drawn from a prior."""
    service.limits.check("n", body.n)
    generator, seed = service.generator(call, body.seed)
    found, info = generator.sample(body.n, return_info=True, **_given(body, "n", "seed"))
    return {"smiles": found, "seed": seed, "summary": str(info)}


def sample_around(service: Service, call: Call, body: requests.ToSampleAround) -> dict[str, Any]:
    """Molecules of codes drawn around given ones: a list for each, with similarities to it."""
    encoded = service.read("smiles", body.smiles, None)
    service.limits.check("n", body.n * len(body.smiles))
    generator, seed = service.generator(call, body.seed)
    how = _given(body, "smiles", "radius", "n", "seed")
    found, info = generator.sample_around(encoded, body.radius, body.n, return_info=True, **how)
    given = generator.texts(encoded)
    near = [similarities(one, group) for one, group in zip(given, found, strict=True)]
    return {"smiles": found, "similarity": near, "seed": seed, "summary": str(info)}


def interpolate(service: Service, call: Call, body: requests.ToInterpolate) -> dict[str, Any]:
    """Molecules at equal steps between the codes of two, ends included."""
    service.limits.check("steps", body.steps)
    ends = [service.read(name, [getattr(body, name)], None) for name in ("first", "second")]
    generator, _ = service.generator(call)
    how = _given(body, "first", "second", "steps")
    (path,) = generator.interpolate(*ends, body.steps, **how)
    return {"smiles": path}


def optimize(
    service: Service,
    call: Call,
    body: requests.ToOptimize,
    emit: Callable[[Any], None] = lambda content: None,
) -> dict[str, Any]:
    """Molecules of higher score around the codes of given ones."""
    encoded = service.read("smiles", body.smiles, None)
    searches = 1 if body.shared_budget else len(body.smiles)
    service.limits.check("budget", body.budget * searches, scored=True)
    service.limits.check("population", (body.population or 1) * searches, scored=True)
    generator, seed = service.generator(call, body.seed)
    end = time.monotonic() + (body.seconds or math.inf)

    def watch(table: pd.DataFrame) -> bool:
        best = table["score"].max()
        if not np.isnan(best):
            smiles = table["smiles"][table["score"].idxmax()]
            emit({"scored": len(table), "best": best, "smiles": smiles})
        return call.ended or time.monotonic() > end

    how = _given(body, "smiles", "scorer", "seconds", "table", "stream", "seed")
    try:
        found = generator.optimize(encoded, body.scorer, seed=seed, watch=watch, **how)
    except RuntimeError as error:  # the scorer fails from the start
        raise ValueError(str(error)) from error
    front = {} if found.front is None else {"front": records(found.front)}
    table = {"table": records(found.table)} if body.table else {}
    best = records(found.best)
    return {
        "best": best,
        **front,
        **table,
        "calls": found.calls,
        "seed": seed,
        "summary": str(found),
    }


def predict(service: Service, call: Call, body: requests.ToPredict) -> dict[str, Any]:
    """What the predictor given at the start says of molecules, and how far to trust it."""
    predictor = service.predictor
    if predictor is None:
        raise ValueError("This server has no predictor: it was started without --predictor.")
    encoded = service.read("smiles", body.smiles, body.on_invalid, predictor.encoder())
    columns = predictor.columns(service.outputs(call, encoded), body.level)
    found = items_in_place(records(pd.DataFrame(columns)), encoded, body.on_invalid)
    return {"task": predictor.task, "targets": predictor.targets, "predictions": found}


def neighbors(service: Service, call: Call, body: requests.ToSearch) -> dict[str, Any]:
    """The nearest molecules in the library given at the start, for each molecule."""
    if service.library is None:
        raise ValueError("This server has no library: it was started without --library.")
    service.limits.check("neighbors", len(body.smiles) * body.neighbors)
    tables = service.nearest(call, body.smiles, body.neighbors)
    for one, table in zip(body.smiles, tables, strict=True):
        table["similarity"] = similarities(bare_smiles(one), table["smiles"])
    return {"neighbors": [records(table.drop(columns="file")) for table in tables]}


def properties(service: Service, call: Call, body: requests.ToDescribe) -> dict[str, Any]:
    """Canonical SMILES of molecules, and properties that RDKit computes."""
    encoded = service.read("smiles", body.smiles, body.on_invalid)
    smiles = service.generator(call)[0].texts(encoded, on_invalid="skip")
    functions = {name: property_named(name) for name in body.properties}
    rows = []
    for one in smiles:
        molecule = parse(one)
        values = {name: function(molecule) for name, function in functions.items()}
        rows.append({"smiles": one} | {k: v if np.isfinite(v) else None for k, v in values.items()})
    return {"molecules": items_in_place(rows, encoded, body.on_invalid)}


def draw(service: Service, smiles: str, width: int, height: int) -> str:
    """A picture of a molecule, as SVG."""
    service.read("smiles", [smiles], None)
    return draw_molecule(bare_smiles(smiles), (width, height))


def sdf(service: Service, call: Call, body: requests.ToWrite) -> str:
    """A file of structures with plane coordinates: a record for each row, the rest as data."""
    smiles = [bare_smiles(str(row.get("smiles"))) for row in body.rows]
    service.read("smiles", smiles, None)
    call.check()
    return write_sdf(row | {"smiles": one} for row, one in zip(body.rows, smiles, strict=True))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table for JSON, which knows neither NaN nor infinity."""
    known = table.notna() & ~table.isin([np.inf, -np.inf])
    return table.astype(object).where(known, None).to_dict("records")


def _given(body: requests.Asked, *others: str) -> dict[str, Any]:
    """The fields that are arguments of the package by the same name."""
    return {name: value for name, value in body if name not in others and value is not None}
