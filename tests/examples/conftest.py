# SPDX-License-Identifier: Apache-2.0
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # for `examples.benchmarks`


@pytest.fixture
def run_example(monkeypatch, capsys):
    """Runs a script of examples/ in this process, as `python` would; gives what it printed."""

    def run(name, *options):
        script = str(ROOT / "examples" / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        capsys.readouterr()
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run
