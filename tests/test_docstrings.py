# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings run and give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cmim_hf"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name):
    failed, attempted = doctest.testmod(import_module(name))
    assert failed == 0 and attempted > 0


def test_the_main_classes_have_examples():
    wanted = {"model.modeling_cmim", "embedding.embedder", "generation.generator"}
    assert {f"cmim_hf.{name}" for name in wanted} <= set(MODULES)
