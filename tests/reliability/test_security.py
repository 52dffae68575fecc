# SPDX-License-Identifier: Apache-2.0
"""Nothing goes to the network unasked, nothing is evaluated, and small files cannot grow large."""

import ast
import gzip
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from cmim_hf.data.smiles_files import read_smiles

ROOT = Path(__file__).parents[2]
FORBID = """
import atexit, os, socket, sys
asked = []
def refuse(*arguments, **options):
    asked.append(arguments)
    raise OSError("no network here")
def confess():
    if asked:
        print(f"the network was asked for: {asked}", file=sys.stderr, flush=True)
        os._exit(3)
atexit.register(confess)
class Forbidden(socket.socket):
    connect = connect_ex = sendto = refuse
socket.socket = Forbidden
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""
USE = """
import runpy
from cmim_hf import CMIMModel, CMIMTokenizer, DEFAULT_CHECKPOINT
from cmim_hf import MoleculeEmbedder, MoleculeGenerator
from transformers import pipeline
smiles, root, molecules, out = ["CCO", "c1ccccc1O"], *sys.argv[1:]
model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT)
tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
assert MoleculeEmbedder(progress=False).embed(smiles).shape[0] == 2
generator = MoleculeGenerator(progress=False, seed=0)
generator.reconstruct(smiles), generator.sample(2)
generator.optimize(smiles[:1], "qed", budget=3)
pipeline("molecule-embedding", model=DEFAULT_CHECKPOINT)(smiles)
model.save_pretrained(out + "/saved")
tokenizer.save_pretrained(out + "/saved")
MoleculeEmbedder(out + "/saved", progress=False).embed(smiles)
from cmim_hf import metrics
metrics.load("validity").compute(predictions=smiles)
sys.path.insert(0, root + "/examples")
sys.argv = ["pretrain.py", "--train_sources", molecules, "--size", "tiny", "--max_steps", "2",
            "--output_dir", out + "/run", "--per_device_train_batch_size", "8", "--use_cpu", "true"]
runpy.run_path(root + "/examples/pretrain.py", run_name="__main__")
"""


def python(code, *arguments, **environment):
    """Run without the settings that keep the Hub's client at home."""
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env={**kept, **environment},
    )  # fmt: skip


def test_without_a_hub_id_nothing_asks_for_the_network(tmp_path):
    molecules = ROOT / "examples" / "data" / "moses_test.smi"
    result = python(FORBID + USE, ROOT, molecules, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_hub_id_does_ask(tmp_path):
    """So the wall of the test above stands where it should."""
    at_once = FORBID.replace("    raise OSError", "    confess()\n    raise OSError")
    code = at_once + 'from cmim_hf import MoleculeEmbedder; MoleculeEmbedder("someone/molecules")'
    result = python(code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert result.returncode == 3 and "the network was asked for" in result.stderr


def test_nothing_is_evaluated_or_unpickled():
    """No eval, exec, compile or __import__, and of pickle's loaders only torch's safe one."""
    for path in [*(ROOT / "cmim_hf").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if isinstance(function, ast.Name):
                assert function.id not in ("eval", "exec", "compile", "__import__"), path
            elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                called = f"{function.value.id}.{function.attr}"
                assert called not in ("pickle.load", "pickle.loads", "joblib.load", "yaml.load"), (
                    path
                )
                if called == "torch.load":
                    weights_only = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                    assert weights_only.get("weights_only") is True, path


def peak_of_reading(path):
    """Mebibytes of Python's own memory, and the error."""
    tracemalloc.start()
    try:
        rows = sum(1 for _ in read_smiles(path))
    except ValueError as error:
        rows = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return rows, peak / (1 << 20)


@pytest.mark.parametrize("name", ["bomb.smi.gz", "bomb.csv.gz"])
def test_a_line_without_end_is_refused_in_little_memory(tmp_path, name):
    """256 MiB that weigh 260 kB."""
    with gzip.open(tmp_path / name, "wb", compresslevel=6) as stream:
        stream.write(b"smiles\n")
        for _ in range(256):
            stream.write(b"C" * (1 << 20))
    assert (tmp_path / name).stat().st_size < 1 << 20
    message, mebibytes = peak_of_reading(tmp_path / name)
    assert "line 2 has 16,777,216 characters or more" in message and name in message
    assert mebibytes < 100


def test_a_small_file_of_many_rows_is_read_in_little_memory(tmp_path):
    """80 MiB that weigh 80 kB."""
    with gzip.open(tmp_path / "bomb.smi.gz", "wb", compresslevel=6) as stream:
        for _ in range(80):
            stream.write((b"C" * 8191 + b"\n") * 128)
    rows, mebibytes = peak_of_reading(tmp_path / "bomb.smi.gz")
    assert rows == 80 * 128 and mebibytes < 200


def test_lines_below_the_limit_are_read(tmp_path):
    (tmp_path / "long.smi").write_text("C" * 1_000_000 + " long\nCCO short\n")
    assert [len(row.text) for row in read_smiles(tmp_path / "long.smi")] == [1_000_000, 3]
