# SPDX-License-Identifier: Apache-2.0
"""Processes that embed side by side: the vectors of one, in their places, the threads shared."""

import pickle

import numpy as np
import pytest
import torch

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.data.smiles_files import read_batches
from cmim_hf.data.worker_pool import encode_in_order
from cmim_hf.embedding import tables
from cmim_hf.embedding.embedding_processes import RowEmbedder
from cmim_hf.embedding.tables import embedded_batches

TINY = list_checkpoints()["tiny"]
MOLECULES = ["CCO", "C(C", "c1ccccc1O", "OCC", "", "CC(=O)O", "CCN", "CCCC"]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "molecules.csv"
    path.write_text("smiles,id\n" + "".join(f"{s},{n}\n" for n, s in enumerate(MOLECULES)))
    return path


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("policy", ["none", "skip"])
def test_pieces_of_batches_come_back_in_their_places(source, monkeypatch, policy):
    monkeypatch.setattr(tables, "EMBEDDED_ROWS", 3)
    embedder = MoleculeEmbedder(TINY, on_invalid=policy, progress=False)
    batches = list(read_batches(source, batch_rows=5))
    numbers = (0, 2 if policy == "none" else 1)
    one, two = (list(embedded_batches(batches, embedder, number)) for number in numbers)
    assert [len(part.vectors) for part in two] == ([5, 3] if policy == "none" else [3, 3])
    for first, second in zip(one, two, strict=True):
        assert first.encoded.kept.tolist() == second.encoded.kept.tolist()
        assert np.allclose(first.vectors, second.vectors, atol=1e-5, equal_nan=True)
        rejects = [(r.row.number, r.kind) for r in second.encoded.rejects]
        assert rejects == [(r.row.number, r.kind) for r in first.encoded.rejects]


def test_an_invalid_row_is_told_of_by_its_number(source, monkeypatch):
    def here(work, chunks, number):
        return encode_in_order(work, chunks, number - 1)

    monkeypatch.setattr(tables, "encode_in_order", here)
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
