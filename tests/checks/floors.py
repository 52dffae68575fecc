# SPDX-License-Identifier: Apache-2.0
"""The lowest versions that pyproject.toml allows, as constraints for pip.

python tests/checks/floors.py > floors.txt && pip install -c floors.txt -e ".[dev]"
"""

import re
import tomllib
from pathlib import Path

FLOOR = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)(?:\s*;.*)?")
TOOLS = ("docs", "fuzz")  # not what runs the tests


def floors() -> dict[str, str]:
    """Name and lowest version of each requirement, those of the extras included."""
    path = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    wanted += [line for name in extras if name not in TOOLS for line in extras[name]]
    found = (FLOOR.fullmatch(line) for line in wanted if not line.startswith(project["name"]))
    return dict(match.groups() for match in found)


if __name__ == "__main__":
    for name, version in floors().items():
        print(f"{name}=={version}")
