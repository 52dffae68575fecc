# SPDX-License-Identifier: Apache-2.0
"""A predictor as a folder: JSON, safetensors and files of skops, none of which holds code.

`predictor.json` names the files and their SHA-256, its own among them, so that one flipped bit
anywhere is an error and not another prediction.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save

from ..atomic_files import write_whole
from ..checkpoints.loading import default_device, torch_device
from ..embedding.embedder import MoleculeEmbedder
from ..model.sequence_classification_cmim import CMIMForSequenceClassification
from ..model.tokenization_cmim import CMIMTokenizer
from ..version import __version__
from .applicability import ApplicabilityDomain
from .labelled_parts import Part
from .members import Heads, Members, Networks, load_heads

ABOUT = "predictor.json"
ARRAYS = "predictor.safetensors"
FORMAT = 1
_OF_A_MODEL = ("config.json", "model*.safetensors", "tokenizer.json", "tokenizer_config.json")

Loaded = tuple[dict[str, Any], Members, ApplicabilityDomain, dict[str, np.ndarray]]


def save_calibrated(
    folder: Path, about: Mapping[str, Any], members: Members, train: Part, held_out: Part
) -> None:
    """Write what makes a folder with models a predictor.

    Args:
        folder: Of the models.
        about: `task`, `targets`, `classes` (names; none of numbers), and either `networks` (folders
            in it) or `heads` (files), `checkpoint`, its `weights` and `representation`; and
            whatever else shall be known.
        members: The models.
        train: Its molecules are the domain.
        held_out: Took no part in training; it is calibrated on what is said of these.
    """
    molecules = list({tuple(ids): place for place, ids in enumerate(train.tokens)}.values())
    domain = ApplicabilityDomain.fit(members(train.take(molecules).encoded()).vectors)
    arrays = {f"domain.{name}": array for name, array in domain.arrays().items()}
    arrays["calibration.outputs"] = members(held_out.encoded()).values
    arrays["calibration.labels"] = held_out.labels
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_whole(folder / ARRAYS, content)
    files = [folder / ARRAYS, *(folder / name for name in about.get("heads", ()))]
    for name in about.get("networks", ()):
        files += [file for kind in _OF_A_MODEL for file in sorted((folder / name).glob(kind))]
    sums = {file.relative_to(folder).as_posix(): _digest(file) for file in files}
    whole = {"format": FORMAT, "cmim_hf": __version__, **about, "files": sums}
    text = json.dumps({**whole, "sha256": _own_digest(whole)}, indent=2) + "\n"
    write_whole(folder / ABOUT, text)


def load_predictor(
    folder: str | os.PathLike, checkpoint: str | os.PathLike | None, device: str | None
) -> Loaded:
    """Read a folder: what it says of itself, what predicts, its domain and its calibration.

    Raises:
        FileNotFoundError: No such folder, or no predictor in it.
        ValueError: It is damaged, of a newer version, or needs another checkpoint.
    """
    folder = Path(folder)
    about = _read_about(folder)
    arrays = load_file(folder / ARRAYS)
    parts: dict[str, dict[str, np.ndarray]] = {"domain": {}, "calibration": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = array
    if "networks" in about and checkpoint is not None:
        raise ValueError(f"{folder} holds networks, which need no `checkpoint`; leave it out.")
    if "networks" in about:
        members = load_networks([folder / name for name in about["networks"]], device)
    else:
        members = _heads(folder, about, checkpoint, device)
    return about, members, ApplicabilityDomain(parts["domain"]), parts["calibration"]


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no predictor: there is no {ABOUT} in it. Give the folder that "
            "fine-tuning wrote (its `output`)."
        )
    again = "Copy the folder again, or fine-tune anew."
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        own = about.pop("sha256")
        if about["format"] > FORMAT:
            raise ValueError(
                f"{folder} was written by cmim-hf {about['cmim_hf']}, in a form that this version, "
                f"{__version__}, does not know: pip install -U cmim-hf"
            )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). {again}") from error
    if own != _own_digest(about):
        raise ValueError(f"{path} is not what was saved. {again}")
    for name, expected in about["files"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing, which {ABOUT} names. {again}")
        if (found := _digest(file)) != expected:
            raise ValueError(
                f"{file} is not what was saved: its SHA-256 begins with {found[:12]}, {ABOUT} says "
                f"{expected[:12]}. {again}"
            )
    return about


def load_networks(folders: Sequence[Path], device: str | None = None) -> Networks:
    """Fine-tuned networks, each in a folder of its own."""
    where = default_device() if device is None else torch_device(device)
    models = [
        CMIMForSequenceClassification.from_pretrained(one, dtype=torch.float32).to(where).eval()
        for one in folders
    ]
    return Networks(models, CMIMTokenizer.from_pretrained(folders[0]))


def _heads(
    folder: Path,
    about: Mapping[str, Any],
    checkpoint: str | os.PathLike | None,
    device: str | None,
) -> Heads:
    name = checkpoint or about["checkpoint"]
    settings = {"dtype": torch.float32, "representation": about["representation"]}
    try:
        embedder = MoleculeEmbedder(name, device=device, progress=False, **settings)
    except OSError as error:
        raise ValueError(
            f"The heads in {folder} read vectors of the checkpoint {name}, which cannot be opened "
            f"({error}). Say by `checkpoint` where it is."
        ) from error
    if embedder.fingerprint != about["weights"]:
        raise ValueError(
            f"The heads in {folder} were fitted to vectors of a checkpoint with the fingerprint "
            f"{about['weights'][:12]}; {embedder.checkpoint} has {embedder.fingerprint[:12]}. Give "
            "theirs by `checkpoint`."
        )
    heads = load_heads(folder, about["heads"])
    return Heads(embedder, heads, about["task"], len(about["classes"]))


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _own_digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
