# SPDX-License-Identifier: Apache-2.0
"""What requests of the own API say; defaults are those of the package."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

OnInvalid = Annotated[
    Literal["raise", "none"],
    Field(description="An invalid molecule is an error, or has null in its place."),
]
Pattern = Annotated[str, Field(max_length=200)]
Patterns = Annotated[
    list[Pattern] | None,
    Field(max_length=16, description="SMILES, scaffolds with attachment points, or SMARTS."),
]
Seed = Annotated[
    int | None,
    Field(ge=0, lt=2**63, description="Of what is drawn; the response has it, to draw it again."),
]
Attempts = Annotated[
    int, Field(ge=1, le=64, description="To decode a code until it is a molecule.")
]

Candidates = Annotated[
    int,
    Field(
        ge=1,
        le=10,
        description="Texts weighed for a code that the first does not come back to; at "
        "temperature 0.",
    ),
]


class Asked(BaseModel):
    """A request: nothing that is not known, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Molecules(Asked):
    """Molecules as SMILES."""

    smiles: list[str] = Field(min_length=1, examples=[["CC(=O)Oc1ccccc1C(=O)O"]])
    on_invalid: OnInvalid = "raise"


class ToEmbed(Molecules):
    """What `MoleculeEmbedder.embed` takes."""

    representation: Literal["informative", "latent", "both"] = "informative"
    pooling: Literal["mean", "last", "max"] = "mean"
    dim: int | None = Field(None, ge=1, description="Fewer numbers, along principal axes.")


class ToDecode(Asked):
    """Codes, as `/v1/latents` gives them."""

    latents: list[list[list[float]]] = Field(
        min_length=1, description="rows × num_latents × latent_size"
    )
    attempts: Attempts = 16
    candidates: Candidates = 1


class ToReconstruct(Molecules):
    """Molecules to encode and decode."""

    attempts: Attempts = 16
    candidates: Candidates = 1


class Conditions(Asked):
    """What molecules must hold."""

    keep: Patterns = None
    forbid: Patterns = None
    ranges: dict[str, tuple[float | None, float | None]] | None = Field(
        None,
        max_length=16,
        description="Lowest and highest value of properties, null for no limit.",
        examples=[{"mw": [None, 500]}],
    )


class Draws(Conditions):
    """How molecules are drawn; with any condition n molecules hold."""

    n: int = Field(10, ge=1)
    temperature: float = Field(0.0, ge=0, le=10)
    top_k: int | None = Field(None, ge=1)
    attempts: Attempts = 16
    candidates: Candidates = 1
    unique: bool = False
    max_draws: int = Field(100, ge=1, le=1000)
    seed: Seed = None


class ToSample(Draws):
    """What `MoleculeGenerator.sample` takes."""

    prior: Literal["standard", "fitted"] = "standard"


class ToSampleAround(Draws):
    """What `MoleculeGenerator.sample_around` takes."""

    smiles: list[str] = Field(min_length=1, examples=[["CC(=O)Nc1ccc(O)cc1"]])
    radius: float = Field(1.0, ge=0, le=100)
    unit: Literal["prior", "posterior", "aggregate"] = "prior"


class ToInterpolate(Asked):
    """What `MoleculeGenerator.interpolate` takes."""

    first: str = Field(examples=["CC(=O)Nc1ccc(O)cc1"])
    second: str = Field(examples=["CC(C)Cc1ccc(C(C)C(=O)O)cc1"])
    steps: int = Field(8, ge=2)
    method: Literal["linear", "spherical"] = "linear"
    attempts: Attempts = 16
    candidates: Candidates = 1


class ToOptimize(Conditions):
    """What `MoleculeGenerator.optimize` takes, of scorers those that are built in."""

    smiles: list[str] = Field(min_length=1, examples=[["CC(C)Cc1ccc(C(C)C(=O)O)cc1"]])
    scorer: dict[str, float] = Field({"qed": 1.0}, max_length=8, description="Names and weights.")
    budget: int = Field(500, ge=1, description="Molecules scored for each of `smiles`.")
    shared_budget: bool = False
    goal: float | None = None
    min_similarity: float = Field(0.0, ge=0, le=1)
    step: float = Field(0.5, gt=0, le=100)
    population: int | None = Field(None, ge=4, le=1000)
    strategy: Literal["evolution", "random"] = "evolution"
    pareto: bool = False
    seed: Seed = None
    seconds: float | None = Field(
        None,
        gt=0,
        description="Then the search ends with what it has found, as it does in any case when the "
        "server's time for a request is over.",
    )
    table: bool = Field(False, description="Also give all molecules scored.")
    stream: bool = Field(
        False,
        description="Answer in lines of JSON: after each round `scored`, `best` and `smiles`, and "
        "in the last line what is the answer otherwise.",
    )


class ToPredict(Molecules):
    """What `MoleculePredictor.predict` takes."""

    level: float = Field(0.9, gt=0, lt=1, description="Share of truths that intervals shall hold.")


class ToSearch(Asked):
    """Molecules to find in the library."""

    smiles: list[str] = Field(min_length=1)
    neighbors: int = Field(10, ge=1, le=1000)


class ToDescribe(Molecules):
    """Names of properties that RDKit computes, as in `ranges`."""

    properties: list[str] = Field(["mw", "logp", "tpsa", "qed", "sa_score"], max_length=32)


class ToWrite(Asked):
    """Rows of a file of structures."""

    rows: list[dict[str, str | float | int | None]] = Field(
        min_length=1, description="`smiles` and what else is known of each molecule."
    )
