# SPDX-License-Identifier: Apache-2.0
"""Rows brought to their parents where they are parsed."""

import pickle

import pytest

from cmim_hf.data.row_encoder import RowEncoder
from cmim_hf.data.smiles_files import Row
from cmim_hf.data.worker_pool import encode_in_order

TEXTS = ["CC(=O)[O-].[Na+]", "OC(C)=O", "C(C", "[NH3+]C[C@H](F)Cl.[Cl-]", "[Na]<-[NH3+]C"]


@pytest.fixture
def rows():
    return [Row("list", number, text) for number, text in enumerate(TEXTS, 1)]


def written(tokenizer, encoded):
    ids, ends = encoded.tokens.tolist(), encoded.lengths.cumsum().tolist()
    parts = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return tokenizer.batch_decode(parts, skip_special_tokens=True)


def test_parents_are_encoded_and_what_has_none_is_a_reject(tokenizer, rows):
    encoded = RowEncoder(tokenizer, 64, True, "parent")(rows)
    assert written(tokenizer, encoded) == ["CC(=O)O", "CC(=O)O", "NC[C@H](F)Cl"]
    assert encoded.kept.tolist() == [0, 1, 3]
    first, second = encoded.rejects
    assert first.kind == second.kind == "does not parse" and second.row == rows[4]
    assert second.reason.startswith("it cannot be standardised: Explicit valence")
    as_it_is = RowEncoder(tokenizer, 64, True)(rows[:2])
    assert written(tokenizer, as_it_is) == ["CC(=O)[O-].[Na+]", "CC(=O)O"]


def test_a_salt_is_too_long_and_its_parent_is_not(tokenizer):
    row = Row("list", 1, "CC(=O)[O-].[Na+]")
    assert RowEncoder(tokenizer, 8, True)([row]).rejects[0].kind == "too long"
    assert RowEncoder(tokenizer, 8, True, "parent")([row]).lengths.tolist() == [8]


def test_workers_and_pickles_take_parents_too(tokenizer, rows):
    encoder = RowEncoder(tokenizer, 64, True, "parent")
    expected = encoder(rows)
    (found,) = encode_in_order(encoder, [rows], num_workers=1)
    for other in (found, pickle.loads(pickle.dumps(encoder))(rows)):
        assert other.tokens.tolist() == expected.tokens.tolist()
        assert other.rejects == expected.rejects


@pytest.mark.parametrize(
    ("canonicalize", "standardize", "message"),
    [
        (True, "tautomer", "Unknown `standardize` 'tautomer'; choose one of none, parent"),
        (True, None, "Unknown `standardize` None"),
        (False, "parent", "`standardize` is 'parent', .* `canonicalize` says .*: choose one"),
    ],
)
def test_what_cannot_be_asked(tokenizer, canonicalize, standardize, message):
    with pytest.raises(ValueError, match=message):
        RowEncoder(tokenizer, 64, canonicalize, standardize)
