# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: functions of bytes that return, or raise what the package does not document.

Documented are ValueError for what a source or a checkpoint holds (`NoRowsError` is one), and
OSError for what is missing or cannot be opened (FileNotFoundError is one). Both are caught here;
any other error is a finding, and so is an AssertionError for a promise that is not kept.
"""

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet
import torch
from transformers.utils import logging

from cmim_hf import CMIMConfig, CMIMModel, default_tokenizer
from cmim_hf.checkpoints.loading import load_checkpoint
from cmim_hf.data.smiles_files import read_batches, read_smiles

DOCUMENTED = (ValueError, OSError)

SMILES = (
    "CCO", "c1ccccc1O", "C[C@H]([NH3+])C(=O)[O-]", "[Na+].[Cl-]", "F/C=C\\Cl", "[13CH4]", "C1CC",
    "C%12CC%12", "N(", "[Uuo]", "*", "CC>>CO", "[2H]O[2H]", "C~C", "O=S(=O)(N)c1ccc2[nH]ccc2c1",
    "[#6]",
)  # fmt: skip


class Target(NamedTuple):
    """`run` takes any bytes; `seeds` are some from which mutations lead somewhere."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


@cache
def _scratch() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _scratch.keep = folder  # removed when the process ends
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return Path(folder.name)


@cache
def _tokenizer():
    return default_tokenizer()


def _read(name: str, content: bytes) -> None:
    """Both ways through a file see the same rows, or both end in a documented error."""
    path = _scratch() / name
    path.write_bytes(content)
    texts, batches = [], []
    failed = [False, False]
    try:
        texts.extend(row.text for row in read_smiles(path, batch_rows=16))
    except DOCUMENTED as error:
        assert str(error)
        failed[0] = True
    try:
        for batch in read_batches(path, batch_rows=16):
            assert len(batch.smiles) == batch.columns.num_rows > 0
            batches.extend(batch.smiles)
    except DOCUMENTED as error:
        assert str(error)
        failed[1] = True
    if not any(failed):
        assert texts == batches
    assert texts[: len(batches)] == batches[: len(texts)]


def text(data: bytes) -> None:
    """A text file, what calls itself a compressed one, and a sound one of any content."""
    _read("a.smi", data)
    _read("a.smi.gz", data)
    _read("b.smi.gz", gzip.compress(data, 1, mtime=0))


def table(data: bytes) -> None:
    """A table with commas, one whose header is right, and one with tabs."""
    _read("a.csv", data)
    _read("b.csv", b"id,smiles\n" + data)
    _read("a.tsv", data)


def parquet(data: bytes) -> None:
    """A Parquet file, and what calls itself a compressed one."""
    _read("a.parquet", data)
    _read("a.parquet.gz", data)


def structures(data: bytes) -> None:
    """Files of structures, whole or from where a record's atoms begin."""
    _read("a.sdf", data)
    _read("b.sdf", b"\n\n\n" + data)
    _read("a.mol2", data)


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
         "SHA256SUMS", "model.safetensors", "model.safetensors.index.json")  # fmt: skip


@cache
def _checkpoint() -> dict[str, bytes]:
    """The files of the smallest checkpoint."""
    folder = _scratch() / "checkpoint"
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "latent_size": 4}
    model = CMIMModel(
        CMIMConfig(vocab_size=len(_tokenizer()), encoder_layers=1, decoder_layers=1, **sizes)
    )
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def checkpoint(data: bytes) -> None:
    """A checkpoint of which one file holds any bytes; the first byte says which.

    Odd ones take the checksums away, without which damaged weights go further. What loads, works.
    """
    files = _checkpoint()
    folder = _scratch() / "checkpoint"
    choice = data[0] if data else 0
    name = FILES[choice // 2 % len(FILES)]
    try:
        if choice % 2:
            (folder / "SHA256SUMS").unlink()
        (folder / name).write_bytes(data[1:])
        try:
            model, tokenizer = load_checkpoint(folder, device="cpu")
        except DOCUMENTED as error:
            assert str(error)
            return
        batch = tokenizer(["CCO"], return_tensors="pt")
        assert batch["input_ids"].max() < model.config.vocab_size
    finally:
        for name in {*os.listdir(folder), *files}:
            if name not in files:
                (folder / name).unlink()
            elif not (folder / name).is_file() or (folder / name).read_bytes() != files[name]:
                (folder / name).write_bytes(files[name])


def _lines() -> list[bytes]:
    lines = "\n".join(f"{text} name {number}" for number, text in enumerate(SMILES))
    return [lines.encode(), b"smiles name\r\nCCO\r\n\r\n", b"\xef\xbb\xbfC\rN\tx\n", b"\xff\n"]


def _tables() -> list[bytes]:
    made = [b'smiles,smiles\n"C\nC",\n,,,\n', b'id\tMol\n1\t"C""C"\n2\n']
    for mark in ",\t;":
        rows = [f'{number}{mark}"{text}"' for number, text in enumerate(SMILES)]
        made.append("\n".join([f"id{mark}smiles", *rows]).encode())
    return made


def _parquets() -> list[bytes]:
    made = []
    for columns, options in (
        ({"smiles": list(SMILES), "y": list(range(len(SMILES)))}, {"row_group_size": 5}),
        ({"smiles": ["C", None, "N"]}, {"compression": "none", "use_dictionary": False}),
        ({"smiles": pyarrow.array(["C", "C"]).dictionary_encode()}, {"compression": "zstd"}),
    ):
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table(columns), sink, **options)
        made.append(sink.getvalue().to_pybytes())
    return made


def _structures() -> list[bytes]:
    atoms = b"\n\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n"
    atoms += b"    0.0000    0.0000    0.0000 C   0  0\n    1.5000    0.0000    0.0000 O   0  0\n"
    record = atoms + b"  1  2  1  0\nM  END\n> <id>\n1\n\n$$$$\n"
    mol2 = b"@<TRIPOS>MOLECULE\nx\n 1 0 0 0 0\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n"
    return [record * 2, record.replace(b"\n", b"\r\n"), mol2 + b" 1 C1 0.0 0.0 0.0 C.3 1 L 0.0\n"]


def _checkpoints() -> list[bytes]:
    files = _checkpoint()
    odd = {"layout": "1", "hidden_size": 1e3, "dropout": None, "posterior": [], "auto_map": {}}
    own = json.loads(files["config.json"])
    configs = [b"\x01" + json.dumps(own | {name: value}).encode() for name, value in odd.items()]
    return configs + [
        bytes([2 * number + odd]) + files.get(name, b'{"weight_map": {}}')
        for number, name in enumerate(FILES)
        for odd in (0, 1)
    ]


TARGETS = {
    "text": Target(text, lambda: _lines() + [gzip.compress(line) for line in _lines()]),
    "table": Target(table, _tables),
    "parquet": Target(parquet, lambda: _parquets() + [gzip.compress(one) for one in _parquets()]),
    "structures": Target(structures, _structures),
    "checkpoint": Target(checkpoint, _checkpoints),
}
