# SPDX-License-Identifier: Apache-2.0
"""Processes that embed side by side: the vectors of one, the threads shared, files that pay."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.cli.main import main
from cmim_hf.data.smiles_files import read_batches
from cmim_hf.data.worker_pool import encode_in_order
from cmim_hf.embedding import embedding_processes, tables
from cmim_hf.embedding.embedding_processes import RowEmbedder, usual_workers
from cmim_hf.embedding.tables import embedded_batches

TINY = list_checkpoints()["tiny"]
MOLECULES = ["CCO", "C(C", "c1ccccc1O", "OCC", "", "CC(=O)O", "CCN", "CCCC"]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "molecules.csv"
    path.write_text("smiles,id\n" + "".join(f"{s},{n}\n" for n, s in enumerate(MOLECULES)))
    return path


@pytest.fixture
def asked(monkeypatch):
    """Numbers of processes that were asked for; what they would do is done in this one."""
    numbers = []

    def here(work, chunks, number):
        numbers.append(number)
        return encode_in_order(work, chunks, 0)

    monkeypatch.setattr(tables, "encode_in_order", here)
    return numbers


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("policy", ["none", "skip"])
def test_pieces_of_batches_come_back_in_their_places(source, asked, monkeypatch, policy):
    monkeypatch.setattr(tables, "EMBEDDED_ROWS", 3)
    embedder = MoleculeEmbedder(TINY, on_invalid=policy, progress=False)
    batches = list(read_batches(source, batch_rows=5))
    one, two = (list(embedded_batches(batches, embedder, number)) for number in (0, 2))
    assert [len(part.vectors) for part in two] == ([5, 3] if policy == "none" else [3, 3])
    for first, second in zip(one, two, strict=True):
        assert first.encoded.kept.tolist() == second.encoded.kept.tolist()
        assert np.allclose(first.vectors, second.vectors, atol=1e-5, equal_nan=True)
        rejects = [(r.row.number, r.kind) for r in second.encoded.rejects]
        assert rejects == [(r.row.number, r.kind) for r in first.encoded.rejects]


def test_an_invalid_row_is_told_of_by_its_number(source, asked):
    embedder = MoleculeEmbedder(TINY, progress=False)
    with pytest.raises(ValueError, match=r"^Row 2 of .*molecules.csv, 'C\(C', cannot be used"):
        list(embedded_batches(read_batches(source), embedder, 1))


def test_damaged_weights_are_told_of_as_in_one_process(source):
    embedder = MoleculeEmbedder(TINY, on_invalid="none", progress=False)
    with torch.no_grad():
        embedder.model.decoder.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="numbers in torch.float32 that are not finite"):
        list(embedded_batches(read_batches(source), embedder, 1))


def test_processes_share_the_threads(threads):
    torch.set_num_threads(6)
    embedder = MoleculeEmbedder(TINY, progress=False)
    for sharing, each in ((2, 3), (4, 1), (9, 1)):
        sent = pickle.dumps(RowEmbedder(embedder, sharing))
        torch.set_num_threads(5)
        assert pickle.loads(sent).threads == torch.get_num_threads() == each
        torch.set_num_threads(6)


def test_a_file_gets_processes_from_a_mebibyte_on(tmp_path, threads, monkeypatch):
    small, large = tmp_path / "small.smi", tmp_path / "large.smi"
    small.write_bytes(b"C\n" * (1 << 18))
    large.write_bytes(b"C\n" * (1 << 19))
    embedder = MoleculeEmbedder(TINY, progress=False)
    memory = SimpleNamespace(available=1 << 40)
    monkeypatch.setattr(embedding_processes.psutil, "virtual_memory", lambda: memory)
    torch.set_num_threads(3)
    assert usual_workers(embedder, [small]) == usual_workers(embedder, ["-", "moses"]) == 0
    assert usual_workers(embedder, [large]) == usual_workers(embedder, [small, small]) == 3
    torch.set_num_threads(40)
    assert usual_workers(embedder, [large]) == 16
    for free, workers in ((7, 3), (5, 2), (3, 0)):
        memory.available = free << 29
        assert usual_workers(embedder, [large]) == workers
    memory.available = 1 << 40
    torch.set_num_threads(1)
    assert usual_workers(embedder, [large]) == 0
    monkeypatch.setattr(embedding_processes.os, "cpu_count", lambda: 12)
    on_a_gpu = SimpleNamespace(
        backend="torch", model=SimpleNamespace(device=torch.device("cuda", 0))
    )
    assert [usual_workers(on_a_gpu, [large], sharing) for sharing in (1, 4, 12)] == [11, 2, 0]
    assert usual_workers(SimpleNamespace(backend="onnx"), [large]) == 0


def test_the_command_shares_a_large_file(source, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(embedding_processes, "_LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    command = ["embed", str(source), "--checkpoint", TINY, "--on-invalid", "none", "-o"]
    assert main([*command, str(tmp_path / "a.npy")]) == 0
    assert main([*command, str(tmp_path / "b.npy"), "--workers", "0"]) == 0
    assert asked == [2, 0]
    both = [np.load(tmp_path / f"{name}.npy") for name in "ab"]
    assert np.allclose(*both, atol=1e-5, equal_nan=True)
