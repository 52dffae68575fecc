# SPDX-License-Identifier: Apache-2.0
"""The Space: what the Hub reads of it, and that it answers where gradio is installed."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

SPACE = Path(__file__).parents[2] / "examples" / "space"


def test_the_hub_can_read_it():
    front = re.match(r"---\n(.*?)\n---\n", (SPACE / "README.md").read_text(), re.DOTALL)
    about = yaml.safe_load(front[1])
    assert about["sdk"] == "gradio" and re.fullmatch(r"\d+\.\d+\.\d+", about["sdk_version"])
    assert (SPACE / about["app_file"]).is_file() and isinstance(about["python_version"], str)
    assert len(about["short_description"]) <= 60 and about["license"] == "apache-2.0"
    assert {about["colorFrom"], about["colorTo"]} <= {"green", "gray"}
    assert (SPACE / "requirements.txt").read_text().split() == ["cmim-hf"]


def test_it_answers(monkeypatch):
    gradio = pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("CMIM_CHECKPOINT", "tiny")
    app = runpy.run_path(str(SPACE / "app.py"))
    picture, told = app["around"]("CCO", 0.5, "")
    assert picture.width == 4 * 260 and "molecules found" in told
    picture, told = app["better"]("CC(=O)Nc1ccc(O)cc1", "drug-likeness (QED)", 0.2)
    assert "scored" in told
    with pytest.raises(gradio.Error, match="C\\(C"):
        app["around"]("C(C", 0.5, "")
