# SPDX-License-Identifier: Apache-2.0
"""What README tells a newcomer to type."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("line", [line for line in DOORS if "(" in line and "examples" not in line])
def test_the_lines_of_other_libraries_run(line):
    pytest.importorskip("sentence_transformers")
    code = """
from cmim_hf import DEFAULT_CHECKPOINT, MoleculeFeaturizer
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import pipeline
smiles, y = ["CCO", "CCN", "c1ccccc1", "CC(C)O"], [1.0, 2.0, 3.0, 4.0]
result = LINE
print(len(result.predict(smiles) if hasattr(result, "predict") else result))
""".replace("LINE", line)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.strip() == "4", result.stderr


def test_every_door_of_the_table_is_there():
    assert len(DOORS) == 7
    for line in DOORS:
        for script in re.findall(r"examples/\w+\.py", line):
            options = subprocess.run(
                [sys.executable, ROOT / script, "--help"], capture_output=True, text=True
            ).stdout
            for option in re.findall(r" (--\w+)", line.split(script)[1]):
                assert option in options, (script, option)
