# SPDX-License-Identifier: Apache-2.0
"""The kit for a lent GPU: from packed molecules to weights that load, without chemistry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmim_hf import CMIMModel, CMIMTokenizer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ABSENT = ("rdkit", "datasets", "evaluate", "pandas", "pyarrow", "sklearn")


def python(*arguments, folder, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=folder,
        timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_from_packed_molecules_to_weights_that_load(tmp_path):
    source = EXAMPLES / "data" / "moses_test.smi"
    for name, size in (("train", 700), ("validation", 64)):
        part = tmp_path / f"{name}.smi"
        part.write_text("\n".join(source.read_text().split()[:size]))
        tokenizer = ["--tokenizer", "train"] if name == "validation" else ["--merges", "64"]
        made = python(
            "-m", "cmim_hf.cli", "prepare", "--sources", part, "--output", name,
            "--properties", "rdkit", "--property-rows", "60", *tokenizer, folder=tmp_path,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    packed = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "gpu-kit", "TRAIN=train", "VALIDATION=validation",
         "KIT=kit.tar.xz"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    command = packed.stdout.splitlines()[-1]
    assert len(command) < 2000 and "--train_sources kit/train --validation_sources" in command

    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n"
    )
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "cmim_hf").symlink_to(ROOT / "cmim_hf")
    command = command.replace("python3", sys.executable).replace("--minutes 9", "--minutes 1")
    command = command.replace("PYTHONPATH=.", f"PYTHONPATH=.:{tmp_path}")
    tiny = (
        " --size tiny --latent_size 64 --bf16 false --use_cpu true --measured_seconds 3"
        " --per_device_train_batch_size 32 --export_every 5 --disable_tqdm true"
    )
    run = subprocess.run(
        command + tiny, shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=200,
        env={**os.environ, "OUT": "out", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "steps a second" in run.stdout and "ended after" in run.stdout
    seconds = int(run.stdout.rsplit("ended after ", 1)[1].split()[0])
    assert seconds < 70

    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"config.json", "log.json", "model.safetensors"}
    history = json.loads((out / "log.json").read_text())
    assert history[-1]["eval_loss"] < 5.5 and history[-1]["eval_property_error"] < 1
    model = CMIMModel.from_pretrained(out, dtype="float32").eval()
    assert model.property_head.quantiles.abs().max() > 100  # molecular weights
    tokenizer = CMIMTokenizer.from_pretrained(tmp_path / "train")
    batch = tokenizer(["CCO", "c1ccccc1O"], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model.get_properties(**batch)
    assert found.shape == (2, model.config.num_properties) and found.isfinite().all()


@pytest.mark.slow
def test_weights_of_base_come_in_few_files_that_are_small(tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    from timed_pretrain import export

    from cmim_hf import CMIMConfig

    torch.manual_seed(0)
    model = CMIMModel(CMIMConfig.from_size("base", vocab_size=800, num_properties=118))
    export(model, tmp_path / "out", [])
    files = list((tmp_path / "out").iterdir())
    assert len(files) <= 8 and all(path.stat().st_size < 16 << 20 for path in files)
    loaded = CMIMModel.from_pretrained(tmp_path / "out", dtype="float32")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
