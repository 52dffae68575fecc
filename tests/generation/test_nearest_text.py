# SPDX-License-Identifier: Apache-2.0
"""Candidates: of the most probable texts the molecule whose own code is nearest."""

import warnings
import weakref

import numpy as np
import pytest
import torch

from cmim_hf import MoleculeGenerator
from cmim_hf.generation import nearest_text


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator("tiny", progress=False)


@pytest.fixture(scope="module")
def texts(generator, sample):
    return generator.texts([row.text for row in sample[-120:]])


@pytest.fixture(scope="module")
def codes(generator, texts):
    return generator.encode(texts)


@pytest.fixture(scope="module")
def greedy(generator, codes):
    return generator.decode(codes, attempts=1)


def away(generator, codes, molecules):
    """From each code to that of its molecule; infinite without one."""
    distances = np.full(len(codes), np.inf)
    rows = [row for row, one in enumerate(molecules) if one is not None]
    own = generator.encode([molecules[row] for row in rows])
    distances[rows] = np.sqrt(((codes[rows] - own) ** 2).sum((1, 2)))
    return distances


def test_more_molecules_come_back_and_none_is_lost(generator, texts, codes, greedy):
    found, info = generator.decode(codes, attempts=1, candidates=10, return_info=True)
    before = [a == b for a, b in zip(texts, greedy, strict=True)]
    after = [a == b for a, b in zip(texts, found, strict=True)]
    assert sum(before) + 15 <= sum(after)
    assert all(after[row] for row, exact in enumerate(before) if exact)
    assert (away(generator, codes, found) <= away(generator, codes, greedy) + 1e-4).all()
    assert info.attempts.tolist() == [int(one is not None) for one in found]
    assert sum(one is None for one in found) < sum(one is None for one in greedy)
    assert generator.reconstruct(texts, attempts=1, candidates=10) == found


def test_what_counts_is_the_nearest_of_the_most_probable(generator, codes):
    moved = codes[:12] + np.random.default_rng(0).normal(0, 0.1, codes[:12].shape)
    moved = moved.astype(np.float32)
    found = generator.decode(moved, attempts=1, candidates=5)
    first = generator.decode(moved, attempts=1)
    assert found != first
    for code, one, greedy in zip(moved, found, first, strict=True):
        tokens = generator.model.generate(
            latents=torch.from_numpy(code[None]),
            num_beams=5,
            num_return_sequences=5,
            length_penalty=0.0,
        )
        written = generator.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        known = generator.texts([*filter(None, [greedy]), *written], on_invalid="skip")
        distances = away(generator, np.repeat(code[None], len(known), 0), known)
        assert one == known[int(distances.argmin())]


def test_a_code_is_decoded_alike_in_any_company(generator, codes):
    together = generator.decode(codes[:9], candidates=3)
    assert together == [generator.decode(code[None], candidates=3)[0] for code in codes[:9]]


def test_codes_of_no_molecule_are_redrawn_as_ever(generator):
    far = np.random.default_rng(1).normal(0, 1, (12, 1, 96)).astype(np.float32)
    found, info = generator.decode(far, candidates=2, return_info=True)
    assert (info.attempts > 1).any() and len(set(found)) > 6


def test_all_that_decodes_takes_candidates(generator, texts, codes):
    how = {"candidates": 3, "attempts": 1}
    assert generator.sample_around(texts[:20], 0.0, 1, **how) == [
        [one] for one in generator.decode(codes[:20], **how)
    ]
    (walk,) = generator.interpolate(texts[:1], texts[1:2], 5, **how)
    steps = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None]
    assert walk == generator.decode(codes[:1] * (1 - steps) + codes[1:2] * steps, **how)
    one, other = (MoleculeGenerator("tiny", seed=3, progress=False) for _ in range(2))
    drawn = one.sample(40, prior="fitted", **how), other.sample(40, prior="fitted", attempts=1)
    assert drawn[0] != drawn[1]
    held = generator.sample_around(texts[0], 0.3, 3, keep="C(=O)N", unique=True, candidates=3)
    assert len(set(held)) == 3 and texts[0] not in held


@pytest.mark.parametrize("how", [{}, {"on_invalid": "none"}, {"on_invalid": "skip"}])
def test_where_there_is_nothing_to_decode_nothing_comes(generator, how):
    given, expected = (["C(C"], [None]) if how.get("on_invalid") == "none" else ([], [])
    given = ["C(C"] if how else given
    assert generator.reconstruct(given, candidates=3, **how) == expected
    around = generator.sample_around(given, 0.5, 2, candidates=3, **how)
    assert around == expected
    assert generator.decode(np.empty((0, 1, 96)), candidates=3) == []


def test_a_batch_may_be_smaller_than_the_candidates(codes):
    small, large = (MoleculeGenerator("tiny", batch_size=size, progress=False) for size in (2, 99))
    assert small.decode(codes[:8], candidates=5) == large.decode(codes[:8], candidates=5)


def test_a_code_beyond_all_numbers_is_searched_as_well(generator, monkeypatch):
    far = np.full((1, 1, 96), 1e30, np.float32)
    asked = []
    generate = generator.model.generate
    monkeypatch.setattr(
        generator.model, "generate", lambda **how: asked.append(how) or generate(**how)
    )
    assert generator.decode(far, attempts=1) == [None]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        generator.decode(far, candidates=2, attempts=1)
    assert len(asked) == 1


def test_weights_go_with_the_generator():
    generator = MoleculeGenerator("tiny", progress=False)
    generator.reconstruct(["CCO"], candidates=2)
    model = weakref.ref(generator.model)
    del generator
    assert model() is None


def test_candidates_are_as_short_as_texts_may_be(generator, codes, texts, monkeypatch):
    asked = []
    generate = generator.model.generate
    monkeypatch.setattr(
        generator.model, "generate", lambda **how: asked.append(how) or generate(**how)
    )
    long = max(len(generator.tokenizer(text)["input_ids"]) for text in texts) + 1
    generator.decode(codes[:40], attempts=1, candidates=2, max_length=long)
    generator.decode(codes[:40], attempts=1, candidates=2)
    assert {how["max_length"] for how in asked} == {long, nearest_text.LONGEST}


def test_a_candidate_that_is_cut_off_is_no_molecule(generator, codes, greedy, monkeypatch):
    assert generator.decode(codes[:40], attempts=1, candidates=5) != greedy[:40]
    monkeypatch.setattr(nearest_text, "LONGEST", 3)
    assert generator.decode(codes[:40], attempts=1, candidates=5) == greedy[:40]


def test_what_the_model_cannot_read_is_infinitely_far(generator, codes, texts):
    decoder = generator._codec.decoder
    own = nearest_text._distances(decoder, codes[[0, 0, 0]], [texts[0], "C" * 9000, None])
    assert own[0] < 1e-3 and own[1] == own[2] == np.inf


@pytest.mark.parametrize("candidates", [0, -1, 1.5, "3", None])
def test_candidates_are_a_whole_number(generator, codes, candidates):
    with pytest.raises((TypeError, ValueError), match="`candidates`"):
        generator.decode(codes[:1], candidates=candidates)


def test_candidates_are_not_drawn(generator, codes):
    with pytest.raises(ValueError, match=r"`candidates` \(4\).* temperature 0.5"):
        generator.decode(codes[:1], candidates=4, temperature=0.5)
    with pytest.raises(ValueError, match=r"`candidates` \(4\).*must canonicalize"):
        MoleculeGenerator("tiny", canonicalize=False).decode(codes[:1], candidates=4)
