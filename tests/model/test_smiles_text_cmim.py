# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import pipeline

from cmim_hf import list_checkpoints, train_tokenizer
from cmim_hf.model.smiles_text_cmim import text_problem, without_extension

TINY = list_checkpoints()["tiny"]


@pytest.mark.parametrize(
    ("text", "smiles"),
    [
        ("C[C@H](F)Cl |&1:1|", "C[C@H](F)Cl"),
        ("CC* |$;;R1$,lp:2:1 1|", "CC*"),  # an extension may hold blanks
        ("CCO ||", "CCO"),
        ("CCO", "CCO"),
        ("CCO ethanol", "CCO ethanol"),
        ("CCO |", "CCO |"),
        ("CCO |&1:1| ethanol", "CCO |&1:1| ethanol"),
        (None, None),
        (7, 7),
    ],
)
def test_an_extension_is_dropped_and_nothing_else(text, smiles):
    assert without_extension(text) == smiles


def test_a_name_is_still_refused():
    assert text_problem(without_extension("CCO ethanol"))[0] == "not printable"


def test_every_way_in_reads_the_smiles_of_a_cxsmiles():
    plain, extended = "C[C@H](F)Cl", "C[C@H](F)Cl |&1:1|"
    embed = pipeline("molecule-embedding", model=TINY)
    assert np.array_equal(embed(plain), embed(extended))
    write = pipeline("molecule-generation", model=TINY)
    near = {"radius": 0.5, "seed": 3, "num_return_sequences": 2}
    assert write(plain, **near) == write(extended, **near)
    sentences = SentenceTransformer(TINY, trust_remote_code=True)
    vectors = sentences.encode([plain, extended], convert_to_tensor=True)
    assert torch.equal(vectors[0], vectors[1])
    assert train_tokenizer([extended] * 2).get_vocab() == train_tokenizer([plain] * 2).get_vocab()
