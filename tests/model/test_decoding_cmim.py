# SPDX-License-Identifier: Apache-2.0
"""Tokens of codes: equal to those of `generate`, and independent of a row's company."""

import numpy as np
import pytest
import torch

from cmim_hf import DEFAULT_CHECKPOINT, CMIMModel
from cmim_hf.model.decoding_cmim import decode_latents


@pytest.fixture(scope="module")
def trained():
    return CMIMModel.from_pretrained(DEFAULT_CHECKPOINT).eval()


@pytest.fixture(scope="module")
def codes(trained, tokenizer, sample):
    """Of 200 molecules; they decode to between 17 and 32 tokens."""
    texts = [row.text for row in sample[:200]]
    with torch.no_grad():
        return trained.get_latents(**tokenizer(texts, padding=True, return_tensors="pt"))


def noise(model, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, model.config.num_latents, model.config.latent_size)
    return torch.randn(shape, generator=generator)


def greedy(model, latents, **options):
    return model.generate(latents=latents, do_sample=False, **options)


def seeded(model, latents, seed=0, **options):
    return decode_latents(model, latents, generator=torch.Generator().manual_seed(seed), **options)


def first_logits(model, latents):
    start = torch.full((len(latents), 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        return model(decoder_input_ids=start, latents=latents).logits[:, -1]


def test_the_tokens_are_those_of_generate(trained, codes):
    expected = greedy(trained, codes)
    lengths = (expected != 0).sum(dim=1)
    assert lengths.min() < 20 and lengths.max() > 30
    found = decode_latents(trained, codes)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("num_latents", "max_length"), [(1, 2), (1, 17), (1, 18), (1, 65), (3, 16), (3, 33)]
)
def test_the_cache_grows_without_a_change(make_model, codes, num_latents, max_length):
    if num_latents == 1:  # where random weights write one token for ever
        model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT).eval()
        model.config.eos_token_id = model.generation_config.eos_token_id = 3
        latents = codes[:20]
    else:
        model = make_model(num_latents=num_latents, initializer_range=0.3)
        latents = noise(model, 20)
    expected = greedy(model, latents, max_length=max_length)
    assert expected.shape == (20, max_length)  # not all end: every room is reached
    assert max_length < 33 or len(expected[:, 17:].unique()) > 20
    assert torch.equal(decode_latents(model, latents, max_length=max_length), expected)


def test_each_of_several_end_tokens_ends_a_row(codes, tokenizer):
    model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT).eval()
    ends = [2, *tokenizer.convert_tokens_to_ids(["N", "S", "F", "2"])]
    assert 3 not in ends  # of the unknown token
    model.config.eos_token_id = model.generation_config.eos_token_id = ends
    expected = greedy(model, codes)
    lengths = (expected != 0).sum(dim=1)
    last = expected.gather(1, lengths[:, None] - 1)
    assert set(last.flatten().tolist()) == set(ends) and len(lengths.unique()) > 12
    assert torch.equal(decode_latents(model, codes), expected)


def test_rows_that_end_leave_the_endless_ones_alone(make_model):
    model = make_model(num_latents=3, initializer_range=0.3)
    latents = noise(model, 60)
    ends = torch.randperm(167, generator=torch.Generator().manual_seed(14))[:15]
    model.config.eos_token_id = model.generation_config.eos_token_id = ends.tolist()
    expected = greedy(model, latents, max_length=50)
    ended = torch.isin(expected, ends).any(dim=1)
    assert 10 < ended.sum() < 50 and len((expected != 0).sum(dim=1).unique()) > 20
    found = decode_latents(model, latents, max_length=50)
    assert found.shape == (60, 50) and torch.equal(found, expected)


def test_all_the_known_length_by_default(make_model):
    model = make_model(max_position_embeddings=21)
    assert decode_latents(model, noise(model, 2)).shape == (2, 22)
    assert torch.equal(decode_latents(model, noise(model, 2)), greedy(model, noise(model, 2)))


@pytest.mark.parametrize("rows", [64])
def test_equal_codes_end_at_once_and_alike(trained, codes, rows):
    alone = decode_latents(trained, codes[:1])
    found = decode_latents(trained, codes[:1].repeat(rows, 1, 1))
    assert torch.equal(found, alone.expand(rows, -1))
    assert (found[:, -1] == trained.config.eos_token_id).all()


def test_no_codes_give_no_rows(trained, codes):
    for temperature in (0.0, 1.0):
        found = decode_latents(trained, codes[:0], temperature=temperature)
        assert found.shape[0] == 0 and found.dtype == torch.int64


def test_rows_are_independent_of_their_company(trained, codes):
    together = decode_latents(trained, codes[:40])
    for row in range(0, 40, 5):
        alone = decode_latents(trained, codes[row : row + 1])[0]
        assert torch.equal(together[row, : len(alone)], alone), row
        assert not together[row, len(alone) :].any()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(decode_latents(trained, codes[order]), together[order])


def test_draws_do_not_depend_on_when_other_rows_end(trained, codes):
    latents = codes[:50].clone()
    before = seeded(trained, latents, temperature=1.0)
    other = latents.clone()
    other[::2] = noise(trained, 25, seed=3)
    after = seeded(trained, other, temperature=1.0)
    width = max(before.shape[1], after.shape[1])
    pad = [torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (before, after)]
    assert torch.equal(pad[0][1::2], pad[1][1::2])
    assert (pad[0][::2] != pad[1][::2]).any(dim=1).all()
    assert not torch.equal(
        seeded(trained, latents, seed=1, temperature=1.0, max_length=10), before[:, :10]
    )


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_first_tokens_are_drawn_from_the_softmax(trained, codes, temperature):
    draws = 20_000
    tokens = seeded(trained, codes[:1].repeat(draws, 1, 1), temperature=temperature, max_length=2)[
        :, 1
    ]
    expected = (first_logits(trained, codes[:1])[0] / temperature).softmax(dim=0).double()
    found = torch.bincount(tokens, minlength=len(expected)).double()
    frequent = expected * draws >= 5
    counts = [*found[frequent].tolist(), float(found[~frequent].sum())]
    means = [*(draws * expected[frequent]).tolist(), draws * float(expected[~frequent].sum())]
    chi_square = sum((f - e) ** 2 / e for f, e in zip(counts, means, strict=True))
    degrees = len(counts) - 1
    assert degrees >= 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5 + 4


def test_second_tokens_are_drawn_under_the_first(make_model):
    model = make_model(initializer_range=0.3)
    latents = noise(model, 1).repeat(20_000, 1, 1)
    tokens = seeded(model, latents, temperature=1.0, max_length=3)
    first = int(tokens[:, 1].mode().values)
    chosen = tokens[tokens[:, 1] == first, 2]
    with torch.no_grad():
        logits = model(
            decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id, first]]),
            latents=latents[:1],
        ).logits[0, -1]
    expected = logits.softmax(dim=0).numpy()
    found = np.bincount(chosen, minlength=len(expected)) / len(chosen)
    assert first != model.config.eos_token_id and len(chosen) > 500
    assert np.abs(found - expected).max() < 4 * 0.5 / len(chosen) ** 0.5


def test_top_k_draws_among_the_k_most_probable(trained, codes):
    latents = codes[:1].repeat(5000, 1, 1)
    probability = first_logits(trained, codes[:1])[0].div(5.0).softmax(dim=0)
    best = probability.topk(3)
    tokens = seeded(trained, latents, temperature=5.0, top_k=3, max_length=2)[:, 1]
    assert set(tokens.tolist()) == set(best.indices.tolist())
    shares = torch.stack([(tokens == token).float().mean() for token in best.indices])
    assert torch.allclose(shares, best.values / best.values.sum(), atol=4 * 0.5 / 5000**0.5)
    everything = seeded(trained, codes, temperature=1.0, top_k=10**6, max_length=12)
    assert torch.equal(everything, seeded(trained, codes, temperature=1.0, max_length=12))


def test_one_candidate_or_no_temperature_is_greedy(trained, codes):
    codes = codes[:40]
    expected = decode_latents(trained, codes)
    assert torch.equal(seeded(trained, codes, temperature=2.0, top_k=1), expected)
    assert torch.equal(seeded(trained, codes, temperature=1e-6), expected)
    assert not torch.equal(seeded(trained, codes, temperature=1.0, max_length=12), expected[:, :12])


def test_draws_come_from_the_global_generator_unless_one_is_given(trained, codes):
    torch.manual_seed(4)
    drawn = decode_latents(trained, codes[:20], temperature=1.0)
    torch.manual_seed(4)
    assert torch.equal(decode_latents(trained, codes[:20], temperature=1.0), drawn)
    state = torch.random.get_rng_state()
    decode_latents(trained, codes[:5])
    seeded(trained, codes[:5], temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("num_latents", [1, 3])
def test_float64_gives_the_tokens_of_generate(make_model, num_latents):
    model = make_model(num_latents=num_latents).double()
    latents = noise(model, 30)
    expected = greedy(model, latents.double(), max_length=40)
    assert torch.equal(decode_latents(model, latents, max_length=40), expected)


@pytest.mark.parametrize(("dtype", "num_latents"), [(torch.float16, 1), (torch.bfloat16, 3)])
def test_half_precision_starts_with_a_token_as_good_as_the_best(make_model, dtype, num_latents):
    model = make_model(num_latents=num_latents)
    latents = noise(model, 30)
    logits = first_logits(model, latents)
    found = decode_latents(model.to(dtype), latents, max_length=20)
    assert found.shape == (30, 20)
    loss = logits.max(dim=1).values - logits.gather(1, found[:, 1:2]).squeeze(1)
    assert loss.max() < 0.05 * logits.std()


def test_half_precision_decodes_most_codes_alike(trained, codes, tokenizer):
    expected = tokenizer.batch_decode(decode_latents(trained, codes), skip_special_tokens=True)
    half = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT, dtype=torch.bfloat16).eval()
    found = tokenizer.batch_decode(decode_latents(half, codes), skip_special_tokens=True)
    assert sum(a == b for a, b in zip(found, expected, strict=True)) > 140


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": torch.zeros(2, 192)}, r"= \(batch, 1, 192\), got \(2, 192\)"),
        ({"latents": torch.zeros(2, 2, 192)}, r"= \(batch, 1, 192\), got \(2, 2, 192\)"),
        ({"latents": torch.zeros(2, 1, 95)}, r"= \(batch, 1, 192\), got \(2, 1, 95\)"),
        ({"max_length": 1}, "max_length is from 2 to 513 .*, not 1"),
        ({"max_length": 514}, "max_length is from 2 to 513 .*, not 514"),
        ({"temperature": -0.1}, "temperature is 0 .greedy. or above, not -0.1"),
        ({"temperature": float("nan")}, "temperature .* not nan"),
        ({"top_k": 0, "temperature": 1.0}, "top_k is a whole number from 1, not 0"),
    ],
)
def test_bad_arguments_are_named(trained, options, message):
    with pytest.raises(ValueError, match=message):
        decode_latents(trained, **{"latents": torch.zeros(2, 1, 192), **options})
