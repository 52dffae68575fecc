# SPDX-License-Identifier: Apache-2.0
"""What README tells a newcomer to type."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import cmim_hf
from cmim_hf.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOORS = re.findall(
    r"^\| [^|]+ \| `(.+)` \|$", README.split("## Five lines")[1].split("\n## ")[0], re.MULTILINE
)


def test_the_code_runs_as_it_stands():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names = {}
        exec(block, names)  # our own text
    assert names["model"].config.model_type == "cmim"
    names = {}
    exec(blocks[1], names)
    assert len(names["found"].best) == 1 and len(names["found"].table) <= 30
    names = {}
    exec(blocks[0], names)
    assert names["vectors"].shape == (1, 192) and names["kept"].tolist() == [0]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(block, names)
    assert len(names) > 3
    pictures = re.findall(r"!\[[^\]]*\]\((\S+)\)", page.read_text())
    assert pictures and all((page.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("line", [line for line in DOORS if "(" in line and "examples" not in line])
def test_the_lines_of_other_libraries_run(line):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from transformers import pipeline

    smiles = ["CCO", "CCN", "c1ccccc1", "CC(C)O"]
    names = {
        "DEFAULT_CHECKPOINT": cmim_hf.DEFAULT_CHECKPOINT,
        "MoleculeFeaturizer": cmim_hf.MoleculeFeaturizer,
        "Ridge": Ridge,
        "SentenceTransformer": SentenceTransformer,
        "StandardScaler": StandardScaler,
        "make_pipeline": make_pipeline,
        "pipeline": pipeline,
        "smiles": smiles,
        "y": [1.0, 2.0, 3.0, 4.0],
    }
    result = eval(line, names)  # our own text
    assert len(result.predict(smiles) if hasattr(result, "predict") else result) == 4


def test_every_door_of_the_table_is_there(capsys, monkeypatch):
    assert len(DOORS) == 7
    for line in DOORS:
        words = re.findall(r"cmim (\w+)|(examples/\w+\.py)", line)
        for command, script in words:
            with pytest.raises(SystemExit):
                if command:
                    main([command, "--help"])
                monkeypatch.setattr(sys, "argv", [script, "--help"])
                runpy.run_path(str(ROOT / script), run_name="__main__")
            options = capsys.readouterr().out
            for option in re.findall(r" (--[\w-]+)", line.split(command or script, 1)[1]):
                assert option in options, (line, option)
