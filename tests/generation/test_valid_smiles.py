# SPDX-License-Identifier: Apache-2.0
"""The rules of SMILES, and redraws under them."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from cmim_hf import MoleculeGenerator
from cmim_hf.generation.decoding import Decoding
from cmim_hf.generation.valid_smiles import SmilesRules
from cmim_hf.model.decoding_cmim import decode_latents


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator(progress=False)


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:20]]


@pytest.fixture(scope="module")
def rules(generator):
    return SmilesRules(generator.tokenizer, generator.model.config.eos_token_id)


def refused(rules, generator, text):
    """Place of the first token that the rules refuse of a text, None if they refuse none."""
    rules.start(1)
    row = torch.tensor([0])
    for place, one in enumerate(generator.tokenizer(text)["input_ids"]):
        token = torch.tensor([one])
        if len(rules.refused(row, token)):
            return place
        rules.advance(row, token)
    return None


def test_rules_refuse_no_molecule(rules, generator, drugs, molecules):
    odd = ["[13CH3][Zn]C", "C%30CCCCC%30", "F", "Cl.Cl", "N#N", "C1=CC=CC=C1", "[Xe]", "F/C=C/F"]
    for text in [*drugs, *molecules, *odd]:
        assert refused(rules, generator, text) is None, text


@pytest.mark.parametrize(
    "text",
    [
        "C1CC",
        "C(C",
        "CC)C",
        "C()C",
        "C(=)C",
        "C==",
        "(C)C",
        "1CC1",
        "CFC",
        "C.",
        "C-",
        "[CH3",
        "=C",
    ],
)
def test_rules_refuse_what_no_molecule_holds(rules, generator, text):
    assert refused(rules, generator, text) is not None
    assert Chem.MolFromSmiles(text) is None


def test_rules_of_rows_side_by_side_do_not_touch(rules, generator):
    ids = generator.tokenizer.convert_tokens_to_ids
    rules.start(3)
    rows = torch.arange(3)
    for column in zip("C1CC", "CCC(", "CCCF", strict=True):
        tokens = torch.tensor(ids(list(column)))
        assert not len(rules.refused(rows, tokens))
        rules.advance(rows, tokens)
    found = [
        sorted({0, 1, 2} - set(rules.refused(rows, torch.tensor([one] * 3)).tolist()))
        for one in ids(["1", ")", "</s>", "C"])
    ]
    assert found == [[0], [], [2], [0, 1]]


def test_redraws_give_molecules_and_leave_those_that_are(generator, drugs):
    codes = generator.encode(drugs)
    codes = np.repeat(codes, 4, axis=0)
    codes += np.random.default_rng(0).standard_normal(codes.shape, np.float32)
    plain, first = generator.decode(codes, attempts=1, return_info=True)
    found, info = generator.decode(codes, return_info=True)
    assert 0.3 < first.valid < 0.9 and info.valid > 0.95
    assert [one for one in found if one is not None] == [
        Chem.CanonSmiles(one) for one in found if one is not None
    ]
    assert all(b == a for a, b in zip(plain, found, strict=True) if a is not None)
    assert [a is not None for a in plain] == (info.attempts == 1).tolist()
    assert [a is None for a in found] == (info.attempts == 0).tolist()
    assert info.redrawn == pytest.approx(info.valid - first.valid)
    assert f"{len(codes)} codes: {info.valid:.1%} are molecules" in str(info)
    few, twice = generator.decode(codes, attempts=2, return_info=True)
    assert all(b == a for a, b, n in zip(found, few, info.attempts, strict=True) if n in (1, 2))
    assert first.valid < twice.valid < info.valid and set(twice.attempts) == {0, 1, 2}


def test_a_code_is_redrawn_alike_in_any_company(generator, drugs):
    codes = np.repeat(generator.encode(drugs), 2, axis=0)
    codes += np.random.default_rng(1).standard_normal(codes.shape, np.float32)
    whole, info = generator.decode(codes, return_info=True)
    assert (info.attempts > 2).any()
    assert generator.decode(codes[::-1].copy())[::-1] == whole
    row = int(np.flatnonzero(info.attempts > 1)[0])
    assert generator.decode(codes[[row, row]]) == [whole[row]] * 2
    other = MoleculeGenerator(progress=False, batch_size=5, seed=8)
    assert other.decode(codes) == whole


def test_a_text_longer_than_max_length_is_no_molecule(generator, drugs):
    codes = generator.encode(drugs)
    sizes = np.array([len(ids) + 1 for ids in generator.tokenizer(drugs)["input_ids"]])
    limit = int(np.median(sizes))
    found = generator.decode(codes, max_length=limit, attempts=1)
    whole = generator.decode(codes, attempts=1)
    expected = [one if n <= limit else None for one, n in zip(whole, sizes, strict=True)]
    assert found == expected and None in found and any(found)
    redrawn = generator.decode(codes, max_length=limit)
    assert redrawn.count(None) < found.count(None)
    lengths = [len(ids) + 1 for ids in generator.tokenizer([s for s in redrawn if s])["input_ids"]]
    assert max(lengths) <= limit + 8  # written canonically, it may have some more tokens


def test_redraws_of_a_draw_differ_among_equal_codes(generator, drugs):
    codes = np.repeat(generator.encode(drugs[:1]), 40, axis=0)
    found, info = generator.decode(codes, temperature=2.5, return_info=True)
    again = [one for one, n in zip(found, info.attempts, strict=True) if n > 1]
    assert len(again) > 5 and len(set(again)) > 5


@pytest.mark.parametrize("length", [1, 20.5, "9"])
def test_max_length_is_a_whole_number(generator, length):
    with pytest.raises((TypeError, ValueError), match="`max_length`"):
        generator.sample(1, max_length=length)


@pytest.mark.parametrize("attempts", [0, -1, 1.5, "3", None])
def test_attempts_are_a_whole_number(generator, attempts):
    with pytest.raises((TypeError, ValueError), match="`attempts`"):
        generator.sample(1, attempts=attempts)


def test_each_row_has_a_limit_of_its_own(generator, drugs):
    """Whoever is decoded beside it, and however long these are."""
    model = generator.model
    codes = torch.from_numpy(generator.encode(drugs))
    sizes = (decode_latents(model, codes) != model.config.pad_token_id).sum(dim=1)
    limits = sizes - torch.arange(len(sizes)) % 3  # as long as the text, or up to two tokens less
    found = decode_latents(model, codes, max_length=limits)
    end = model.config.eos_token_id
    assert ((found == end).any(dim=1) == (limits == sizes)).all()
    for row, limit in enumerate(limits.tolist()):
        alone = decode_latents(model, codes[row : row + 1], max_length=limit)[0]
        assert torch.equal(found[row, :limit], alone)
        assert (found[row, limit:] == model.config.pad_token_id).all()


def test_without_canonicalize_nothing_is_told_of_molecules(drugs):
    raw = MoleculeGenerator(canonicalize=False, progress=False, seed=0)
    codes = raw.encode(["CCO", "CCN"])
    calls = (
        lambda: raw.decode(codes, return_info=True),
        lambda: raw.reconstruct(["CCO"], return_info=True),
        lambda: raw.sample(2, return_info=True),
        lambda: raw.sample_around("CCO", 1.0, 2, return_info=True),
        lambda: raw.interpolate("CCO", "CCN", 3, return_info=True),
    )
    for call in calls:
        with pytest.raises(ValueError, match="`return_info` .* must canonicalize"):
            call()


def test_an_unknown_argument_is_named(generator):
    with pytest.raises(TypeError, match="tempretaure"):
        generator.sample(1, tempretaure=1.0)
    assert Decoding().attempts == 16
