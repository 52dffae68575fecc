# SPDX-License-Identifier: Apache-2.0
"""The molecules of a run are what its options say."""

import pytest
from packed_rows import decoded

from cmim_hf.training.run_arguments import parse_arguments
from cmim_hf.training.run_data import load_data

SALTS = ["CC(=O)[O-].[Na+]", "C[NH2+]CC.[Cl-]", "CCO", "OCCO"]


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_molecules_are_brought_to_their_parents(tmp_path, streaming):
    (tmp_path / "salts.smi").write_text("\n".join(SALTS) + "\n")
    (tmp_path / "run").mkdir()
    source = str(tmp_path / "salts.smi")
    words = ["--train_sources", source, "--validation_sources", source, "--streaming", streaming]
    words += ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--size", "tiny"]
    words += ["--per_device_train_batch_size", "4", "--standardize", "parent"]
    tokenizer, train, validation = load_data(*parse_arguments(words))
    if streaming == "true":
        train = sorted(train.one_pass(0), key=lambda item: item["row"])
    for molecules in (train, validation):
        assert decoded(molecules, tokenizer) == ["CC(=O)O", "CCNC", "CCO", "OCCO"]
