# SPDX-License-Identifier: Apache-2.0
import pytest

from cmim_hf.training.run_arguments import parse_arguments


def test_a_settings_file_names_one_source_without_a_list(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"train_sources: a.smi\nvalidation_sources: b.smi\noutput_dir: {tmp_path}\n")
    _, data, _ = parse_arguments([str(file), "--use_cpu", "true"])
    assert (data.train_sources, data.validation_sources) == (["a.smi"], ["b.smi"])


def test_unknown_settings_are_named(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"learning_rat": 0.01}')
    with pytest.raises(ValueError, match="run.json: unknown settings learning_rat; see --help"):
        parse_arguments([str(file)])
