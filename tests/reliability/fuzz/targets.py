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
from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.data.row_encoder import RowEncoder
from cmim_hf.data.smiles_files import Row, read_batches, read_smiles
from cmim_hf.model.smiles_text_cmim import text_problem

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


def tokenizer(data: bytes) -> None:
    """Any text is tokenized; printable ASCII without spaces comes back, with no unknown token."""
    _check_text(data.decode("latin-1"))
    _check_text(data.decode("utf-8", "replace"))


def _check_text(text: str) -> None:
    ids = _tokenizer()(text, verbose=False)["input_ids"]
    assert ids[-1] == _tokenizer().eos_token_id
    assert all(0 <= token < len(_tokenizer()) for token in ids)
    if text_problem(text) is None:
        assert _tokenizer().unk_token_id not in ids
        assert _tokenizer().decode(ids, skip_special_tokens=True) == text


def molecule(data: bytes) -> None:
    """A row is read or refused with a reason; what is read has a canonical form that is read."""
    text = data.decode("latin-1")
    encoded = RowEncoder(_tokenizer(), 512, True)([Row("fuzz", 1, text)])
    assert len(encoded.rejects) + len(encoded.kept) == 1
    try:
        canonical = canonicalize(text)
    except DOCUMENTED:
        assert encoded.rejects and encoded.rejects[0].reason
        return
    assert text_problem(canonical) is None
    canonicalize(canonical)


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


def smi(data: bytes) -> None:
    """A text file."""
    _read("a.smi", data)


def smi_gz(data: bytes) -> None:
    """What calls itself a compressed text file, and a sound one of any content."""
    _read("a.smi.gz", data)
    _read("b.smi.gz", gzip.compress(data, 1, mtime=0))


def csv(data: bytes) -> None:
    """A table with commas, and one whose header is right."""
    _read("a.csv", data)
    _read("b.csv", b"id,smiles\n" + data)


def tsv(data: bytes) -> None:
    """A table with tabs, compressed."""
    _read("a.tsv", data)
    _read("a.tsv.gz", gzip.compress(data, 1, mtime=0))


def parquet(data: bytes) -> None:
    """A Parquet file."""
    _read("a.parquet", data)


def parquet_gz(data: bytes) -> None:
    """A compressed Parquet file, and what calls itself one."""
    _read("a.parquet.gz", data)
    _read("b.parquet.gz", gzip.compress(data, 1, mtime=0))


def config(data: bytes) -> None:
    """`config.json` with any content, and the same fields given by name."""
    folder = _scratch() / "config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    try:
        CMIMConfig.from_pretrained(folder).to_json_string()
    except DOCUMENTED as error:
        assert str(error)
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(given, dict):
        try:
            CMIMConfig.from_dict({"model_type": "cmim", **given})
        except DOCUMENTED as error:
            assert str(error)


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


def _texts() -> list[bytes]:
    return [text.encode() for text in SMILES]


def _lines() -> list[bytes]:
    lines = "\n".join(f"{text} name {number}" for number, text in enumerate(SMILES))
    return [lines.encode(), b"smiles name\r\nCCO\r\n\r\n", b"\xef\xbb\xbfC\rN\tx\n", b"\xff\n"]


def _tables(delimiter: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        rows = [f'{number}{delimiter}"{text}"' for number, text in enumerate(SMILES)]
        table = "\n".join([f"id{delimiter}smiles", *rows])
        return [table.encode(), b'smiles,smiles\n"C\nC",\n,,,\n', b'id\tMol\n1\t"C""C"\n2\n']

    return seeds


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


def _configs() -> list[bytes]:
    odd = {"layout": "1", "hidden_size": 1e3, "dropout": None, "posterior": [], "auto_map": {}}
    own = json.loads(_checkpoint()["config.json"])
    return [
        _checkpoint()["config.json"],
        *(json.dumps(own | {k: v}).encode() for k, v in odd.items()),
    ]


def _checkpoints() -> list[bytes]:
    files = _checkpoint()
    return [
        bytes([2 * number + odd]) + files.get(name, b'{"weight_map": {}}')
        for number, name in enumerate(FILES)
        for odd in (0, 1)
    ]


TARGETS = {
    "tokenizer": Target(tokenizer, _texts),
    "molecule": Target(molecule, _texts),
    "smi": Target(smi, _lines),
    "smi_gz": Target(smi_gz, lambda: _lines() + [gzip.compress(line) for line in _lines()]),
    "csv": Target(csv, _tables(",")),
    "tsv": Target(tsv, _tables("\t")),
    "parquet": Target(parquet, _parquets),
    "parquet_gz": Target(parquet_gz, lambda: _parquets() + list(map(gzip.compress, _parquets()))),
    "config": Target(config, _configs),
    "checkpoint": Target(checkpoint, _checkpoints),
}
