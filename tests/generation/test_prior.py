# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeGenerator
from cmim_hf.generation.prior import CodePrior


@pytest.fixture(scope="module")
def codes():
    """Two clusters along the first direction, correlated, in 6 of 2 × 8 directions."""
    random = np.random.default_rng(0)
    white = random.normal(size=(3000, 6))
    white[:, 0] = np.where(random.random(3000) < 0.5, -2.0, 2.0) + 0.2 * white[:, 0]
    return (1.0 + white @ random.normal(size=(6, 16))).reshape(-1, 2, 8).astype(np.float32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("bandwidth", [0.0, 0.3, 0.7, 1.0])
def test_draws_have_the_mean_and_covariance_of_the_codes(codes, bandwidth):
    prior = CodePrior.fit(codes, bandwidth=bandwidth, generator=seeded())
    assert prior.basis.shape == (6, 16) and prior.codes.shape == (3000, 6)
    drawn = prior.sample(30_000, seeded(1))
    assert drawn.shape == (30_000, 2, 8) and drawn.dtype == np.float32
    flat, given = drawn.reshape(-1, 16), codes.reshape(-1, 16)
    scale = given.std(axis=0)
    assert np.abs((flat.mean(axis=0) - given.mean(axis=0)) / scale).max() < 0.03
    found, expected = np.cov(flat.T), np.cov(given.T)
    assert np.abs((found - expected) / np.outer(scale, scale)).max() < 0.04


def kurtosis(prior):
    """Of the direction in which it is least; a Gaussian's is 3, that of two points 1."""
    white = (prior.sample(20_000, seeded(1)) - prior.mean).reshape(-1, 16)
    return (np.linalg.lstsq(prior.basis.T, white.T)[0] ** 4).mean(axis=1).min()


def test_the_bandwidth_leads_from_the_codes_to_their_gaussian(codes):
    few = codes[:149]  # one group
    none, half, one = (
        kurtosis(CodePrior.fit(few, bandwidth=h, generator=seeded())) for h in (0.0, 0.5, 1.0)
    )
    assert none < 2.0 and none < half < one and one == pytest.approx(3.0, abs=0.15)
    prior = CodePrior.fit(codes, bandwidth=1.0, generator=seeded())
    assert len(prior.sizes) > 10 and prior.sizes.sum() == 3000
    assert kurtosis(prior) < 1.5  # groups keep the clusters apart


def test_without_bandwidth_the_codes_come_once_before_one_comes_again(codes):
    prior = CodePrior.fit(codes, bandwidth=0.0, generator=seeded())
    given = torch.from_numpy(codes).flatten(1)
    for half in torch.from_numpy(prior.sample(6000, seeded(2))).flatten(1).split(3000):
        distances = torch.cdist(half, given)
        assert sorted(distances.argmin(dim=1).tolist()) == list(range(3000))
        assert distances.amin(dim=1).max() < 0.02


def test_a_choice_of_codes_keeps_the_moments_of_all(codes):
    prior = CodePrior.fit(codes, most=50, generator=seeded())
    whole = CodePrior.fit(codes)
    assert prior.codes.shape == (50, 6)
    assert np.array_equal(prior.mean, whole.mean) and np.array_equal(prior.basis, whole.basis)
    again, other = (CodePrior.fit(codes, most=50, generator=seeded(seed)) for seed in (0, 1))
    assert np.array_equal(prior.codes, again.codes)
    assert not np.array_equal(prior.codes, other.codes)
    assert np.array_equal(prior.sample(9, seeded(3)), again.sample(9, seeded(3)))
    assert not np.array_equal(prior.sample(9, seeded(3)), prior.sample(9, seeded(4)))


def test_two_codes_are_enough_and_draws_lie_on_their_line(codes):
    prior = CodePrior.fit(codes[:2], generator=seeded())
    along = (codes[1] - codes[0]).ravel() / np.linalg.norm(codes[1] - codes[0])
    away = (prior.sample(500, seeded()) - codes[0]).reshape(500, 16)
    assert np.abs(away - np.outer(away @ along, along)).max() < 1e-3
    half = np.linalg.norm(codes[1] - codes[0]) / 2
    assert (away @ along).std() == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (1, {}, "at least two molecules, got 1"),
        (9, {"bandwidth": 1.5}, "`bandwidth` is a number from 0 to 1, not 1.5"),
        (9, {"bandwidth": float("nan")}, "`bandwidth` is a number from 0 to 1, not nan"),
        (9, {"bandwidth": "wide"}, "`bandwidth` is a number from 0 to 1, not 'wide'"),
        (9, {"most": 1}, "`most` is a whole number from 2, not 1"),
    ],
)
def test_what_cannot_be_fitted(codes, rows, options, message):
    with pytest.raises(ValueError, match=message):
        CodePrior.fit(codes[:rows], **options)


@pytest.mark.parametrize("value", [0.7, np.nan])
def test_codes_without_a_spread_are_refused(codes, value):
    rows = np.full_like(codes[:9], value)
    with pytest.raises(ValueError, match="no finite spread above 0"):
        CodePrior.fit(rows)


def test_a_saved_prior_draws_the_same(codes, tmp_path):
    prior = CodePrior.fit(codes, bandwidth=0.4, most=100, anchor=codes[0], generator=seeded())
    prior.save(tmp_path / "prior.safetensors")
    again = CodePrior.load(tmp_path / "prior.safetensors")
    assert repr(again) == "CodePrior(100 codes of (2, 8), bandwidth 0.4)"
    assert np.array_equal(again.sample(200, seeded(5)), prior.sample(200, seeded(5)))
    assert np.array_equal(again.anchor, codes[0])
    assert [path.name for path in tmp_path.iterdir()] == ["prior.safetensors"]
    with pytest.raises(ValueError, match="must end in one of .safetensors"):
        prior.save(tmp_path / "prior.npz")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        prior.save(tmp_path / "nowhere" / "prior.safetensors")


def test_damaged_and_foreign_files_are_refused(codes, tmp_path):
    path = tmp_path / "prior.safetensors"
    CodePrior.fit(codes).save(path)
    content = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="There is no file .*no.safetensors"):
        CodePrior.load(tmp_path / "no.safetensors")
    flipped = bytearray(content)
    flipped[-100] ^= 1
    for damaged, message in (
        (content[:-1], "cannot be read .*damaged or cut short"),
        (content[:5], "cannot be read"),
        (b"", "cannot be read"),
        (b"CCO\nCCN\n", "cannot be read"),
        (bytes(flipped), "is not what was saved"),
        (content.replace(b'"0.7"', b'"0.1"'), "is not what was saved"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            CodePrior.load(path)
    path.write_bytes(content)
    save_file(load_file(path), tmp_path / "other.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="holds no prior of codes .its format is 'pt'"):
        CodePrior.load(tmp_path / "other.safetensors")


def test_another_model_is_refused(codes):
    prior = CodePrior.fit(codes, anchor=codes[0])
    prior.check_model("it", codes[0])
    prior.check_model("it in half precision", codes[0] * 1.01)
    with pytest.raises(
        ValueError, match="from runs/x itself, not from another model: numbers differ by 1[0-9]%"
    ):
        prior.check_model("runs/x", codes[0] * 1.15)
    with pytest.raises(ValueError, match=r"runs/x itself.*are \(1, 16\) numbers, not \(2, 8\)"):
        prior.check_model("runs/x", codes[0].reshape(1, 16))
    CodePrior.fit(codes).check_model("any", codes[1])  # nothing is known of its model


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:300]]


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator(progress=False, seed=0)


@pytest.fixture(scope="module")
def prior(generator, drugs):
    return generator.fit_prior([*drugs, "C(C"], bandwidth=0.3, on_invalid="skip")


def test_a_prior_of_molecules_is_that_of_their_codes(generator, drugs, prior):
    codes = generator.encode(drugs).reshape(300, -1)
    assert prior.codes.shape[0] == 300 and prior.basis.shape[1] == 192
    np.testing.assert_allclose(prior.mean.ravel(), codes.mean(axis=0), atol=1e-5)
    variance = codes.var(axis=0)
    assert np.square(prior.basis).sum() == pytest.approx(variance.sum(), rel=2e-3)
    assert len(prior.basis) < 80  # `small` fills 69 of 192 directions
    same, other = (MoleculeGenerator(progress=False, seed=seed) for seed in (4, 5))
    again, different = (one.fit_prior(drugs, most=50) for one in (same, other))
    assert not np.array_equal(again.codes, different.codes)
    assert np.array_equal(
        again.codes, MoleculeGenerator(progress=False, seed=4).fit_prior(drugs, most=50).codes
    )


def test_sample_takes_a_prior_and_the_file_of_one(prior, drugs, tmp_path):
    prior.save(tmp_path / "mine.safetensors")
    codes = prior.sample(40, seeded(7))
    expected = MoleculeGenerator(progress=False).decode(codes)
    for given in (prior, tmp_path / "mine.safetensors", str(tmp_path / "mine.safetensors")):
        generator = MoleculeGenerator(progress=False, seed=7)
        assert generator.sample(40, prior=given) == expected
        assert generator.sample(40, prior=given) != expected
    assert sum(one in drugs for one in expected) > 10  # at this bandwidth most are old
    wide = CodePrior.load(tmp_path / "mine.safetensors")
    wide.bandwidth = 1.0
    assert sum(one in drugs for one in generator.sample(40, prior=wide)) < 5


@pytest.mark.parametrize("given", ["aggregate", "", 7, None, np.zeros((3, 1, 192))])
def test_what_is_no_prior_is_named(generator, given):
    with pytest.raises(ValueError, match="(?s)Unknown `prior` .*choose one of standard"):
        generator.sample(3, prior=given)


def test_a_prior_goes_with_its_model_only(generator, drugs, prior, tmp_path):
    prior.save(tmp_path / "prior.safetensors")
    half = MoleculeGenerator(progress=False, seed=7, dtype="float16")
    assert len(half.sample(3, prior=prior)) == 3
    with pytest.raises(ValueError, match=r"tiny itself.*are \(1, 96\) numbers, not \(1, 192\)"):
        MoleculeGenerator("tiny", progress=False).sample(3, prior=prior)
    other = MoleculeGenerator(progress=False)
    with torch.no_grad():
        other.model.posterior.mean_proj.weight.mul_(1.3)
    with pytest.raises(ValueError, match="The prior of codes must come from"):
        other.sample(3, prior=prior)
    # an old one beside weights that were trained on
    other.model.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    stale = MoleculeGenerator(tmp_path, progress=False)
    assert len(stale.sample(3)) == 3
    with pytest.raises(ValueError, match="The prior of codes must come from"):
        stale.sample(3, prior="fitted")
    (tmp_path / "prior.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be read"):
        MoleculeGenerator(tmp_path, progress=False).sample(3, prior="fitted")


def test_the_prior_that_ships_is_near_molecules(generator):
    shipped = CodePrior.load(Path(DEFAULT_CHECKPOINT, "prior.safetensors"))
    assert len(shipped.codes) == 20_000 and len(shipped.basis) == 69
    same, other = (MoleculeGenerator(progress=False, seed=3) for _ in range(2))
    greedy = {"attempts": 1}
    drawn = same.sample(200, prior="fitted", **greedy)
    assert drawn == other.sample(200, prior=shipped, **greedy)
    assert drawn.count(None) < 50 and len(set(drawn)) > 150
