# SPDX-License-Identifier: Apache-2.0
"""Importing the package is cheap, and the Auto classes know cMIM whatever is imported first."""

import subprocess
import sys

import pytest

import cmim_hf

LIGHT = """
import sys
import cmim_hf
heavy = {"torch", "transformers", "rdkit", "pandas", "pyarrow", "datasets", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(cmim_hf.__all__) <= set(dir(cmim_hf))
"""
AUTO = """
from transformers import AutoConfig
assert type(AutoConfig.from_pretrained(cmim_hf.DEFAULT_CHECKPOINT)).__name__ == "CMIMConfig"
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline
tiny = cmim_hf.list_checkpoints()["tiny"]
assert type(AutoModel.from_pretrained(tiny)) is cmim_hf.CMIMModel
classifier = AutoModelForSequenceClassification.from_pretrained(tiny)
assert type(classifier) is cmim_hf.CMIMForSequenceClassification
assert pipeline("molecule-embedding", model=tiny)("CCO").shape == (96,)
import json, pathlib, tempfile
from transformers.models.auto.image_processing_auto import AutoImageProcessor
with tempfile.TemporaryDirectory() as folder:
    settings = {"image_processor_type": "CMIMImageProcessor", "image_size": 8}
    pathlib.Path(folder, "preprocessor_config.json").write_text(json.dumps(settings))
    processor = AutoImageProcessor.from_pretrained(folder)
assert processor.image_size == 8 and type(processor).__module__.startswith("cmim_hf.")
"""
ORDERS = {
    "the package first": LIGHT,
    "one of its classes first": "import cmim_hf\ncmim_hf.CMIMModel\n",
    "transformers first": "import transformers.pipelines\nimport cmim_hf\n",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_the_model(order):
    run = [sys.executable, "-c", ORDERS[order] + AUTO]
    result = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_there():
    for name in cmim_hf.__all__:
        assert getattr(cmim_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cmim_hf.nothing  # noqa: B018
