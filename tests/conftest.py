# SPDX-License-Identifier: Apache-2.0
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from packed_rows import SAMPLE, pack

from cmim_hf import CMIMConfig, CMIMModel, default_tokenizer
from cmim_hf.data.smiles_files import read_smiles

# What runs in the background of a script starts with Ctrl-C ignored, and so would all its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

MOLECULES = [
    "CCO",
    "c1ccccc1O",
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[C@H]([NH3+])C(=O)[O-]",
    "Clc1ccc(Br)cc1",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "O=C(O)c1ccccc1",
    "C",
]


@pytest.fixture(scope="session")
def tokenizer():
    return default_tokenizer()


@pytest.fixture(scope="session")
def sample():
    """A thousand rows of MOSES."""
    return list(read_smiles(SAMPLE))


@pytest.fixture(scope="session")
def packed(sample, tokenizer):
    return pack(sample[:300], tokenizer)


@pytest.fixture(scope="session")
def molecules():
    return list(MOLECULES)


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """Random models, in eval mode; weights large enough that outputs differ between molecules."""

    def make(**overrides):
        torch.manual_seed(0)
        settings = {"vocab_size": len(tokenizer), "initializer_range": 0.2, **overrides}
        return CMIMModel(CMIMConfig.from_size("tiny", **settings)).eval()

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def batch(tokenizer, molecules):
    return dict(tokenizer(molecules, padding=True, return_tensors="pt"))


@pytest.fixture
def little_room():
    """No file of this process grows over 100 kB: the same to it as a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
