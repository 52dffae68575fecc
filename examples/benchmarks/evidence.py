# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: cells that are computed once, intervals, tables, files of results.

A benchmark is a list of cells. Each has a name and is computed by itself; what it gives is kept in
`<output>/cells/<benchmark>/<name>.json`, so that a run that was stopped goes on, several processes
may share the work, and a table can be made again without computing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from scipy import stats

from cmim_hf import __version__
from cmim_hf.atomic_files import write_whole
from cmim_hf.data.smiles_files import read_smiles

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).resolve().parents[1] / "data"
LARGE = 100_000  # bytes of figures from which on they are compressed
PACKAGES = ("torch", "transformers", "scikit-learn", "rdkit", "numpy")


class Cells:
    """Figures that were computed already, a file each.

    Args:
        folder: where the files are; made if need be.
        settings: what all cells of a run depend on; part of each file's name.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any]) -> None:
        """Make the folder."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def compute(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures of a cell: read, or computed and kept with the seconds that it took.

        Args:
            name: of the cell, unique in the run.
            work: gives figures that JSON can hold.

        Raises:
            ValueError: a name that would lead out of the folder.
        """
        if Path(name).name != name:
            raise ValueError(f"{name!r} names a cell, and would be a file outside {self.folder}.")
        path = self._path(name)
        with FileLock(path.with_suffix(".lock")):
            if path.is_file():
                return json.loads(path.read_text())
            start = time.perf_counter()
            figures = work()
            figures["seconds"] = round(time.perf_counter() - start, 2)
            write_whole(path, json.dumps(figures) + "\n")
            return figures

    def known(self, name: str) -> dict[str, Any] | None:
        """Figures of a cell that was computed before, or None."""
        path = self._path(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.{self._digest}.json"


def first(source: str, count: int) -> list[str]:
    """The first molecules of a source."""
    return [row.text for row in islice(read_smiles(source), count)]


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few runs and its confidence interval by Student's t, as (mean, low, high).

    One value, or none, has no interval: low and high are NaN.
    """
    values = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    if len(values) == 1:
        return float(values[0]), math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def shown(mean: float, low: float, high: float, digits: int = 3) -> str:
    """A mean with half the width of its interval, "0.721 ± 0.012"."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(low) else f" ± {(high - low) / 2:.{digits}f}")


def rounded(value: object) -> str:
    """A figure as a table has it: three digits, whole numbers from 100 on; "–" for none.

    >>> [rounded(value) for value in (0.60896, 2463.1, 4096, None)]
    ['0.609', '2,463', '4,096', '–']
    """
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value is None else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def provenance() -> dict[str, Any]:
    """Command, date, versions and machine of this process."""
    module = sys.modules["__main__"].__spec__  # of `python -m module`, else None
    argv = ["-m", module.name, *sys.argv[1:]] if module else sys.argv
    return {
        "command": shlex.join(["python", *map(_relative, argv)]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"cmim-hf": __version__, **{name: metadata.version(name) for name in PACKAGES}},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def processor() -> str:
    """What the processor calls itself."""
    about = Path("/proc/cpuinfo")  # of Linux, where `platform` knows no more than the architecture
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(name: str, output: str | os.PathLike, results: dict[str, Any], text: str) -> None:
    """Write figures with their provenance for `read`, and `<name>.md` (text, then provenance).

    Figures are `<name>.json`, or `<name>.json.gz` where they are `LARGE`.

    Args:
        name: of the benchmark.
        output: the folder.
        results: anything JSON can hold; NaN becomes null.
        text: Markdown.
    """
    folder = Path(output)
    origin = provenance()
    content = json.dumps(_finite({**origin, **results}), indent=1, allow_nan=False) + "\n"
    plain, packed = folder / f"{name}.json", folder / f"{name}.json.gz"
    if len(content) < LARGE:
        write_whole(plain, content)
        packed.unlink(missing_ok=True)
    else:
        write_whole(packed, gzip.compress(content.encode(), mtime=0))
        plain.unlink(missing_ok=True)
    versions = ", ".join(f"{package} {version}" for package, version in origin["versions"].items())
    machine = f"{origin['cores']} cores, {origin['processor']}"
    closing = f"`{origin['command']}`, {origin['date']}, {machine}, {versions}."
    write_whole(folder / f"{name}.md", f"{text.rstrip()}\n\n{closing}\n")
    print(f"{text}\n\nwritten to {folder}: {name}.md and its figures")


def read(name: str, folder: str | os.PathLike = RESULTS) -> dict[str, Any] | None:
    """The figures `<name>.json` or `<name>.json.gz` of a folder, if they are there."""
    plain, packed = Path(folder, f"{name}.json"), Path(folder, f"{name}.json.gz")
    if plain.is_file():
        return json.loads(plain.read_bytes())
    return json.loads(gzip.decompress(packed.read_bytes())) if packed.is_file() else None


def _relative(argument: str) -> str:
    """Where a path lies outside this folder says nothing elsewhere: its name is enough."""
    if os.sep not in argument:
        return argument
    path = Path(argument).absolute().resolve()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path.name


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
