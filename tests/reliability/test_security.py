# SPDX-License-Identifier: Apache-2.0
"""Nothing goes to the network unasked, nothing is evaluated, and small files cannot grow large."""

import ast
import gzip
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cmim_hf.data.smiles_files import read_batches, read_smiles

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
from cmim_hf import CMIMModel, CMIMTokenizer, DEFAULT_CHECKPOINT
from cmim_hf import MoleculeEmbedder, MoleculeGenerator
from transformers import pipeline
smiles = ["CCO", "c1ccccc1O"]
model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT)
tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
assert MoleculeEmbedder(progress=False).embed(smiles).shape[0] == 2
generator = MoleculeGenerator(progress=False, seed=0)
generator.reconstruct(smiles), generator.sample(2)
generator.optimize(smiles[:1], "qed", budget=3)
pipeline("molecule-embedding", model=DEFAULT_CHECKPOINT)(smiles)
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
MoleculeEmbedder(sys.argv[1], progress=False).embed(smiles)
from cmim_hf import metrics
metrics.load("validity").compute(predictions=smiles)
"""
TRAIN = """
import runpy
sys.path.insert(0, ROOT + "/examples")
sys.argv = ["pretrain.py", "--train_sources", MOLECULES, "--size", "tiny", "--max_steps", "2",
            "--output_dir", sys.argv[1], "--per_device_train_batch_size", "8", "--use_cpu", "true"]
runpy.run_path(ROOT + "/examples/pretrain.py", run_name="__main__")
""".replace("ROOT", repr(str(ROOT))).replace(
    "MOLECULES", repr(str(ROOT / "examples" / "data" / "moses_test.smi"))
)


def python(code, *arguments, **environment):
    """Run without the settings that keep the Hub's client at home."""
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env={**kept, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("code", [USE, TRAIN], ids=["use", "train"])
def test_without_a_hub_id_nothing_asks_for_the_network(code, tmp_path):
    result = python(FORBID + code, tmp_path / "out")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").is_file()


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


READ = """
import resource, sys
from cmim_hf.data.smiles_files import read_smiles
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    sum(1 for _ in read_smiles(sys.argv[1]))
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in KiB")
@pytest.mark.parametrize("name", ["bomb.smi.gz", "bomb.csv.gz", "bomb.tsv.gz"])
def test_a_line_without_end_is_refused_in_little_memory(tmp_path, name):
    """256 MiB that weigh 260 kB."""
    with gzip.open(tmp_path / name, "wb", compresslevel=6) as stream:
        stream.write(b"smiles\n")
        for _ in range(256):
            stream.write(b"C" * (1 << 20))
    assert (tmp_path / name).stat().st_size < 1 << 20
    result = python(READ, tmp_path / name)
    message, mebibytes = result.stdout.splitlines()
    assert "line 2 has 16,777,216 characters or more" in message and name in message
    assert int(mebibytes) < 150


@pytest.mark.parametrize("name", ["bomb.smi.gz", "bomb.csv.gz", "bomb.parquet.gz"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_small_file_of_much_content_is_refused(tmp_path, monkeypatch, name, piped):
    """80 MiB that weigh 80 to 230 kB, in lines that are short enough, from a file and a pipe."""
    with gzip.open(tmp_path / name, "wb", compresslevel=6) as stream:
        stream.write(b"smiles\n")
        for _ in range(80):
            stream.write((b"C" * 1023 + b"\n") * 1024)
    assert (tmp_path / name).stat().st_size < 1 << 18
    source, where = (f"{tmp_path / name}", name) if not piped else ("-", "standard input")
    with open(tmp_path / name, "rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        with pytest.raises(ValueError, match=rf"{where} unpacks to over 100 times its size"):
            for _ in read_batches(source, file_type=name.removeprefix("bomb")):
                pass


def test_what_shrinks_less_or_is_small_is_read(tmp_path):
    """70 MiB that shrink to a 40th, and 1 MiB that shrinks to a 1000th."""
    line = bytes(random.Random(0).choices(b"CNOc1(=)", k=65536)) + b"C" * 983039 + b"\n"
    with gzip.open(tmp_path / "a.smi.gz", "wb", compresslevel=6) as stream:
        for _ in range(67):
            stream.write(line)
    with gzip.open(tmp_path / "b.smi.gz", "wb", compresslevel=6) as stream:
        stream.write((b"C" * 1023 + b"\n") * 1024)
    assert (tmp_path / "b.smi.gz").stat().st_size < 1 << 12
    rows = [sum(1 for _ in read_smiles(tmp_path / name)) for name in ("a.smi.gz", "b.smi.gz")]
    assert rows == [67, 1024]


def test_lines_below_the_limit_are_read(tmp_path):
    (tmp_path / "long.smi").write_text("C" * 1_000_000 + " long\nCCO short\n")
    assert [len(row.text) for row in read_smiles(tmp_path / "long.smi")] == [1_000_000, 3]
