# SPDX-License-Identifier: Apache-2.0
"""`MoleculeGenerator`: codes in, canonical molecules out."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from cmim_hf import (
    DEFAULT_CHECKPOINT,
    CMIMModel,
    MoleculeEmbedder,
    MoleculeGenerator,
    list_checkpoints,
)
from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.data.row_encoder import RowEncoder
from cmim_hf.data.smiles_files import Row

TINY = list_checkpoints()["tiny"]
BAD = [None, "", "C(C", "C C", "C" * 2000]


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator(progress=False)


@pytest.fixture(scope="module")
def drugs(sample):
    return [row.text for row in sample[:20]]


@pytest.fixture
def make_generator():
    def make(checkpoint=DEFAULT_CHECKPOINT, **options):
        return MoleculeGenerator(checkpoint, progress=False, **options)

    return make


@pytest.fixture
def save(make_model, tokenizer, tmp_path):
    """Saves a random model."""

    def save(**overrides):
        make_model(**overrides).save_pretrained(tmp_path / "random")
        tokenizer.save_pretrained(tmp_path / "random")
        return str(tmp_path / "random")

    return save


def written(generator, codes):
    """What `generate` and RDKit make of codes; None where that is no molecule."""
    molecules = []
    for tokens in generator.model.generate(latents=torch.as_tensor(codes), do_sample=False):
        text = generator.tokenizer.decode(tokens, skip_special_tokens=True)
        try:
            molecules.append(canonicalize(text) if 2 in tokens else None)
        except ValueError:
            molecules.append(None)
    return molecules


def test_codes_are_the_latent_embeddings(generator, drugs):
    expected = MoleculeEmbedder(representation="latent", progress=False).embed(drugs)
    found = generator.encode(text for text in drugs)
    assert found.dtype == np.float32 and found.shape == (20, 1, 192)
    assert np.allclose(found.reshape(20, 192), expected, rtol=0, atol=1e-5)


def test_decoding_is_what_generate_writes_or_none(generator, drugs):
    codes = generator.encode(drugs)
    far = codes + 1.0 * np.random.default_rng(0).standard_normal(codes.shape, np.float32)
    for latents in (codes, far):
        found = generator.decode(latents, attempts=1)
        assert found == written(generator, latents)
        assert [canonicalize(text) for text in found if text] == [t for t in found if t]
    assert 1 < found.count(None) < 19


def test_shapes_and_types_of_latents_do_not_matter(generator, drugs):
    codes = generator.encode(drugs[:5])
    expected = generator.decode(codes)
    learnt = torch.from_numpy(codes).requires_grad_()
    for latents in (learnt, torch.from_numpy(codes).double(), codes.astype(float).tolist()):
        assert generator.decode(latents) == expected
    assert generator.decode(codes[:0]) == []


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((2, 1, 191)), r"= \(rows, 1, 192\), got \(2, 1, 191\)"),
        (np.zeros((2, 2, 192)), r"got \(2, 2, 192\)"),
        (np.zeros((2, 191)), r"got \(2, 191\)"),
        (np.zeros(192), r"got \(192,\)"),
        (np.zeros((1, 2, 1, 192)), r"got \(1, 2, 1, 192\)"),
        (
            np.array([[[0.0] * 192], [[np.nan] * 192], [[np.inf] * 192]]),
            "row 1 .* not finite.* 1 more",
        ),
        (torch.tensor([[[0.0] * 191 + [-torch.inf]]]), "row 0 .* not finite"),
    ],
)
def test_latents_that_cannot_be_decoded_are_refused(generator, latents, message):
    with pytest.raises(ValueError, match=message):
        generator.decode(latents)


def test_reconstruction_keeps_order_and_duplicates(generator, drugs):
    found = generator.reconstruct(drugs)
    assert found == generator.decode(generator.encode(drugs))
    assert sum(a == b for a, b in zip(found, drugs, strict=True)) > 6
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 3))
    assert generator.reconstruct([drugs[i] for i in order]) == [found[i] for i in order]
    assert generator.reconstruct(pd.Series(drugs)) == found
    assert generator.reconstruct([]) == generator.texts([]) == []


def test_every_writing_of_a_molecule_gives_the_same(generator, make_generator):
    writings = ["Oc1ccccc1", "C1=CC=CC=C1O", "c1ccccc1O"]
    assert len(set(generator.reconstruct(writings))) == 1
    codes = make_generator(canonicalize=False).encode(writings)
    assert not np.allclose(codes[0], codes[1], atol=0.1)


def test_several_latents(save, make_generator, drugs):
    generator = make_generator(save(num_latents=3, max_position_embeddings=64), seed=0)
    codes = generator.encode(drugs[:4])
    assert codes.shape == (4, 3, 96)
    assert len(generator.decode(codes)) == 4
    assert len(generator.sample_around(drugs[0], 0.1, 2, unit="posterior")) == 2
    assert len(generator.interpolate(drugs[0], drugs[1], 3, method="spherical")) == 3
    with pytest.raises(ValueError, match=r"= \(rows, 3, 96\), got"):
        generator.decode(codes[:, :1])


def test_what_does_not_end_is_none(save, make_generator):
    folder = save(max_position_embeddings=8)
    codes = np.random.default_rng(0).standard_normal((20, 1, 96))
    texts = make_generator(folder, canonicalize=False).decode(codes)
    tokens = make_generator(folder).model.generate(
        latents=torch.from_numpy(codes).float(), do_sample=False
    )
    endless = [2 not in row for row in tokens]
    assert any(endless)
    found = make_generator(folder).decode(codes, attempts=1)
    assert all(molecule is None for molecule, on in zip(found, endless, strict=True) if on)
    assert all(isinstance(text, str) for text in texts)


def test_a_molecule_cut_at_the_limit_is_none(generator, make_generator, drugs, tmp_path):
    """Its beginning may well be a molecule."""
    code = generator.encode(["CCCCCCCCOC(=O)c1ccccc1"])
    text = generator.decode(code)[0]
    model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT)
    model.config.max_position_embeddings = 3
    model.save_pretrained(tmp_path)
    generator.tokenizer.save_pretrained(tmp_path)
    short, raw = make_generator(tmp_path), make_generator(tmp_path, canonicalize=False)
    assert text is not None and len(text) > 5
    beginning = raw.decode(code)[0]
    assert canonicalize(beginning)
    assert short.decode(code) == [None]


def test_parents_are_read_and_molecules_written(make_generator):
    generator = make_generator(TINY, standardize="parent")
    salts, acid = ["CC(=O)[O-].[Na+]", "CC(=O)O[K]", "CC(=O)O"], make_generator(TINY)
    assert generator.texts(salts) == ["CC(=O)O"] * 3
    expected = acid.encode(["CC(=O)O"])
    np.testing.assert_allclose(generator.encode(salts), expected.repeat(3, axis=0), atol=1e-5)
    assert np.abs(acid.encode(salts[:1]) - expected).max() > 1e-3
    with pytest.raises(ValueError, match="`standardize` is 'parent'.*`canonicalize`"):
        make_generator(TINY, standardize="parent", canonicalize=False)


def test_without_canonicalize_the_decoders_text_is_returned(generator, make_generator, drugs):
    raw = make_generator(canonicalize=False)
    codes = generator.encode(drugs)
    codes += 0.4 * np.random.default_rng(0).standard_normal(codes.shape, np.float32)
    texts = raw.decode(codes)
    expected = []
    for text in texts:
        try:
            expected.append(canonicalize(text))
        except ValueError:
            expected.append(None)
    assert expected == generator.decode(codes, attempts=1) and None in expected
    assert any(text != canonical for text, canonical in zip(texts, expected, strict=True))


def test_without_canonicalize_rdkit_is_not_imported():
    code = """
        import sys
        from cmim_hf import MoleculeGenerator
        g = MoleculeGenerator(canonicalize=False, progress=False, seed=0)
        g.reconstruct(["CCO"]), g.sample(2), g.sample_around("CCO", 0.1, 2)
        g.interpolate("CCO", "CCN", 3), g.log_likelihood(["CCO"]), g.fit_prior(["CCO", "CCN"])
        assert "rdkit" not in sys.modules
        MoleculeGenerator(progress=False).reconstruct(["CCO"])
        assert "rdkit" in sys.modules
        print("done")
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


CALLS = {
    "encode": (lambda g, rows, **o: list(g.encode(rows, **o)), "nan"),
    "reconstruct": (lambda g, rows, **o: g.reconstruct(rows, **o), None),
    "sample_around": (lambda g, rows, **o: g.sample_around(rows, 0.0, 2, **o), None),
    "log_likelihood": (lambda g, rows, **o: list(g.log_likelihood(rows, **o)), "nan"),
    "first": (lambda g, rows, **o: g.interpolate(rows, ["CCO"] * len(rows), 2, **o), None),
    "second": (lambda g, rows, **o: g.interpolate(["CCO"] * len(rows), rows, 2, **o), None),
}


def equal(found, expected):
    if isinstance(expected, np.ndarray | float):
        return np.allclose(found, expected, atol=1e-4)
    return found == expected


@pytest.mark.parametrize("name", CALLS)
def test_invalid_rows_follow_the_policy(generator, drugs, name):
    call, gap = CALLS[name]
    good = call(generator, drugs[:3])
    with pytest.raises(ValueError, match="Row 1 of the molecules.*on_invalid"):
        call(generator, [drugs[0], "C(C"])
    rows = [BAD[0], drugs[0], *BAD[1:4], *drugs[1:3], BAD[4]]
    skipped = call(generator, rows, on_invalid="skip")
    assert len(skipped) == 3 and all(map(equal, skipped, good))
    kept = call(generator, rows, on_invalid="none")
    valid = [1, 5, 6]
    assert len(kept) == 8 and all(equal(kept[i], row) for i, row in zip(valid, good, strict=True))
    for i in set(range(8)) - set(valid):
        assert np.isnan(kept[i]).all() if gap == "nan" else kept[i] is None
    nothing = call(generator, BAD, on_invalid="none")
    assert len(nothing) == 5 and len(call(generator, BAD, on_invalid="skip")) == 0
    with pytest.raises(ValueError, match="Unknown `on_invalid` 'drop'; choose one of raise, none"):
        call(generator, rows, on_invalid="drop")


def test_the_policy_of_the_constructor_holds_until_a_call_has_another(make_generator):
    generator = make_generator(on_invalid="none")
    assert generator.reconstruct(["C(C"]) == [None]
    assert generator.reconstruct(["C(C"], on_invalid="skip") == []
    with pytest.raises(ValueError, match="Row 0"):
        generator.reconstruct(["C(C"], on_invalid="raise")


def test_a_single_invalid_molecule(generator, drugs):
    for policy, expected in (("none", [None] * 3), ("skip", [])):
        assert generator.sample_around("C(C", 1.0, 3, on_invalid=policy) == expected
        for ends in (("C(C", drugs[0]), (drugs[0], "C(C")):
            assert generator.interpolate(*ends, 3, on_invalid=policy) == expected


@pytest.mark.parametrize("name", ["encode", "reconstruct", "log_likelihood", "fit_prior"])
def test_a_single_text_or_a_table_is_refused(generator, name):
    call = getattr(generator, name)
    with pytest.raises(TypeError, match="single text 'CCO'"):
        call("CCO")
    with pytest.raises(TypeError, match="DataFrame; pass its column"):
        call(pd.DataFrame({"smiles": ["CCO"]}))


def test_radius_zero_reconstructs(generator, drugs):
    expected = generator.reconstruct(drugs)
    for unit in ("prior", "posterior", "aggregate"):
        assert generator.sample_around(drugs, 0, 3, unit=unit) == [[m] * 3 for m in expected]
    assert generator.sample_around(drugs[0], 0.0, 1) == expected[:1]
    assert generator.sample_around(drugs[:1], 0.0, 2) == [expected[:1] * 2]


@pytest.mark.parametrize("unit", ["prior", "posterior", "aggregate"])
def test_codes_lie_at_radius_times_unit(make_generator, drugs, unit):
    generator = make_generator(seed=7)
    radius = {"prior": 0.1, "posterior": 2.0, "aggregate": 0.5}[unit]
    found = generator.sample_around(drugs[:5], radius, 3, unit=unit)
    noise = torch.randn(5, 3, 1, 192, generator=torch.Generator().manual_seed(7))
    mean, std = [], []
    for text in drugs[:5]:
        with torch.no_grad():
            ids = generator.tokenizer(text, return_tensors="pt")["input_ids"]
            output = generator.model(ids, sample_latents=False, decode=False)
        mean.append(output.latent_mean)
        std.append(output.latent_log_std.exp())
    scale = {
        "prior": torch.ones(1),
        "posterior": torch.stack(std),
        "aggregate": generator.model.posterior.aggregate_std,
    }[unit]
    codes = torch.stack(mean) + radius * scale * noise
    expected = written(generator, codes.flatten(0, 1))
    assert [molecule for row in found for molecule in row] == expected
    assert len(set(expected)) > 3


def test_sampling_decodes_the_noise_of_the_seed(make_generator):
    noise = torch.randn(30, 1, 192, generator=torch.Generator().manual_seed(3))
    standard = make_generator(seed=3, canonicalize=False).sample(30)
    assert standard == make_generator(canonicalize=False).decode(noise)
    generator = make_generator("tiny", seed=3)  # has no prior of its own
    noise = torch.randn(30, 1, 96, generator=torch.Generator().manual_seed(3))
    mean, std = generator.model.posterior.aggregate()
    assert std.min() > 0
    found = generator.sample(30, prior="fitted", attempts=1)
    assert found == written(generator, mean + std * noise)
    assert 0 < 30 - found.count(None) < 30


def random_calls(generator, drugs):
    warm = {"temperature": 3.0}
    return [
        generator.sample(5, prior="fitted"),
        generator.sample(5, prior="fitted", **warm),
        generator.sample_around(drugs[:3], 1.5, 4),
        generator.sample_around(drugs[0], 1.5, 4, top_k=5, **warm),
        generator.decode(generator.encode(drugs[:5]), **warm),
        generator.log_likelihood(drugs[:2], samples=2).tolist(),
    ]


def test_a_seed_fixes_every_call_and_no_call_repeats(make_generator, drugs):
    first, second = (make_generator(seed=5, canonicalize=False) for _ in range(2))
    torch.manual_seed(0)
    calls = random_calls(first, drugs)
    torch.manual_seed(1)
    assert random_calls(second, drugs) == calls
    for other in (first, make_generator(seed=6, canonicalize=False)):
        again = random_calls(other, drugs)
        assert all(a != b for a, b in zip(calls, again, strict=True))
    unseeded = [make_generator(canonicalize=False).sample(5, prior="fitted") for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_drawing_leaves_the_global_generators_alone(generator, drugs):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    random_calls(generator, drugs)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_batches_do_not_matter(generator, make_generator, drugs):
    other = make_generator(batch_size=3, seed=9)
    same = make_generator(seed=9)
    assert other.reconstruct(drugs) == generator.reconstruct(drugs)
    *texts, likelihoods = zip(random_calls(other, drugs), random_calls(same, drugs), strict=True)
    written = [(a, b) for ours, expected in texts for a, b in zip(ours, expected, strict=True)]
    # a draw at the very edge of a token's share may fall to either side by rounding
    assert len(written) > 20 and sum(a != b for a, b in written) <= 1
    assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-5)
    ends = drugs[:3], drugs[3:6]
    assert other.interpolate(*ends, 5) == same.interpolate(*ends, 5)


def test_temperature_and_top_k_reach_the_decoder(generator, drugs):
    codes, once = generator.encode(drugs), {"attempts": 1}
    expected = generator.decode(codes, **once)
    assert generator.decode(codes, temperature=1.0, top_k=1, **once) == expected
    assert generator.decode(codes, temperature=1e-6, **once) == expected
    for hot in (
        generator.decode(codes, temperature=4.0),
        [row[0] for row in generator.sample_around(drugs, 0.0, 1, temperature=4.0)],
    ):
        assert sum(a == b for a, b in zip(hot, expected, strict=True) if a) < 5
    found = generator.sample_around(drugs, 0, 1, temperature=9, top_k=1, **once)
    assert [row[0] for row in found] == expected
    with pytest.raises(ValueError, match="temperature is 0 .* not -1"):
        generator.decode(codes, temperature=-1)
    with pytest.raises(ValueError, match="top_k is a whole number from 1, not 0"):
        generator.sample(2, temperature=1.0, top_k=0)


@pytest.mark.parametrize("n", [0, 2.5, None])
def test_a_number_of_molecules_is_a_whole_number_from_one(generator, n):
    message = re.escape(f"`n` is a whole number from 1, not {n!r}.")
    with pytest.raises(ValueError, match=message):
        generator.sample(n)
    with pytest.raises(ValueError, match=message):
        generator.sample_around("CCO", 0.1, n)


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_is_a_finite_number_from_zero(generator, radius):
    with pytest.raises(ValueError, match=f"`radius` is a number from 0 to 1e.06, not {radius}"):
        generator.sample_around("CCO", radius, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.sample(1, prior="uniform"), "`prior` 'uniform'; choose one of standard, fit"),
        (lambda g: g.sample_around("C", 1, 1, unit="z"), "`unit` 'z'; .*prior, posterior, agg"),
        (lambda g: g.interpolate("C", "N", 2, method="arc"), "method 'arc'.*linear, spherical"),
        (lambda g: g.interpolate("C", "N", 1), "`steps` is a whole number from 2, not 1"),
        (lambda g: g.interpolate(["C"], ["N", "O"], 2), "Got 1 first and 2 second ends"),
        (
            lambda g: g.log_likelihood(["C"], samples=-1),
            "`samples` is a whole number from 0, not -1",
        ),
        (lambda g: MoleculeGenerator(batch_size=0), "`batch_size` is a whole number from 1, not 0"),
        (lambda g: MoleculeGenerator(batch_size=2.0), "from 1, not 2.0"),
        (lambda g: MoleculeGenerator(on_invalid="drop"), "Unknown `on_invalid` 'drop'"),
    ],
)
def test_unknown_choices_are_refused(generator, call, message):
    with pytest.raises(ValueError, match=message):
        call(generator)


@pytest.mark.parametrize("ends", [("CCO", ["CCN"]), (["CCO"], "CCN")])
def test_one_end_against_several_is_refused(generator, ends):
    with pytest.raises(TypeError, match="one SMILES to one, or from a list to a list"):
        generator.interpolate(*ends, 3)


def test_no_pairs_and_tables_of_ends(generator):
    assert generator.interpolate([], [], 3) == []
    table = pd.DataFrame({"smiles": ["CCO"]})
    for ends in ((table, table), (table, ["CCO"]), (["CCO"], table)):
        with pytest.raises(TypeError, match="DataFrame; pass its column"):
            generator.interpolate(*ends, 3)
    column = pd.Series(["CCO"])
    expected = generator.interpolate(["CCO"], ["CCO"], 3)
    assert generator.interpolate(column, (text for text in column), 3) == expected


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_interpolation_decodes_the_path_between_the_codes(generator, drugs, method):
    first, second = drugs[:4], drugs[4:8]
    once = {"method": method, "attempts": 1}
    found = generator.interpolate(first, second, 6, **once)
    starts, ends = generator.encode(first), generator.encode(second)
    for row, a, b in zip(found, starts, ends, strict=True):
        t = np.linspace(0, 1, 6)[:, None]
        weights = 1 - t, t
        if method == "spherical":
            angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
            weights = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
        path = (weights[0] * a + weights[1] * b).astype(np.float32)
        assert row == written(generator, path[:, None])
    assert [row[0] for row in found] == generator.reconstruct(first, attempts=1)
    assert [row[-1] for row in found] == generator.reconstruct(second, attempts=1)
    assert generator.interpolate(first[0], second[0], 6, **once) == found[0]


def test_accepts_checkpoints_of_half_precision(make_generator, generator, drugs):
    half = make_generator(dtype="bfloat16")
    assert half.encode(drugs).dtype == np.float32
    found, expected = half.reconstruct(drugs), generator.reconstruct(drugs)
    assert sum(a == b for a, b in zip(found, expected, strict=True)) > 10


def test_the_fingerprint_is_the_embedders(generator):
    assert generator.fingerprint == MoleculeEmbedder(progress=False).fingerprint
    assert len(generator.fingerprint) == 64


def test_numbers_are_whole_and_named(generator):
    for call, message in (
        (lambda: generator.sample(True), "`n` is a whole number from 1, not True"),
        (lambda: generator.sample(2.5), "`n` is a whole number from 1, not 2.5"),
        (lambda: generator.interpolate("C", "N", 2.5), "`steps` is a whole number from 2, not 2.5"),
        (
            lambda: generator.log_likelihood(["C"], samples=0.5),
            "`samples` is a whole number from 0",
        ),
        (lambda: MoleculeGenerator(seed="a"), "`seed` is a whole number from 0, not 'a'"),
        (lambda: MoleculeGenerator(batch_size=True), "`batch_size` is a whole number from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert len(MoleculeGenerator(batch_size=np.int64(8), seed=np.int64(3)).sample(np.int32(2))) == 2


def test_seeds_that_are_no_list_and_no_seeds_at_all_are_said(generator):
    with pytest.raises(TypeError, match="got a DataFrame; pass its column"):
        generator.optimize(pd.DataFrame({"C": ["CCO"]}), "qed")
    with pytest.raises(ValueError, match="None of 0 seeds is usable"):
        generator.optimize([], "qed")
    with pytest.raises(ValueError, match="None of 1 seeds is usable"):
        generator.optimize(["C("], "qed", on_invalid="skip")
    assert generator.interpolate([], [], 3) == [] and generator.decode([]) == []


def test_a_temperature_near_zero_is_greedy(generator, drugs):
    codes = generator.encode(drugs)
    cold = generator.decode(codes, temperature=1e-40, attempts=1)
    assert cold == generator.decode(codes, attempts=1)
    with pytest.raises(ValueError, match="top_k = 3 draws, which needs a temperature above 0"):
        generator.decode(codes, top_k=3)


def test_vectors_of_an_embedder_are_told_from_codes(generator, molecules):
    embedder = MoleculeEmbedder(progress=False)
    with pytest.raises(ValueError, match="Informative vectors cannot be decoded"):
        generator.decode(embedder.embed(molecules))
    codes = embedder.embed(molecules, representation="latent")
    with pytest.raises(ValueError, match=r"z.reshape\(-1, 1, \d+\)"):
        generator.decode(codes)
    shape = (-1, *generator.encode(molecules).shape[1:])
    assert generator.decode(codes.reshape(shape)) == generator.reconstruct(molecules)


def test_rows_that_the_encoder_has_read_are_not_read_again(generator, drugs, monkeypatch):
    rows = [Row("a file", number, text) for number, text in enumerate([drugs[0], "C(C", "OCC"], 1)]
    encoded = generator.encoder(rows)
    expected = generator.reconstruct([drugs[0], "OCC"])
    likely = generator.log_likelihood([drugs[0], "OCC"])
    walk = generator.interpolate([drugs[0], "OCC"], [drugs[0], "OCC"], 2)
    found = generator.optimize([drugs[0], "OCC"], "qed", budget=3)

    def no_more(rows):
        raise AssertionError("read twice")

    monkeypatch.setattr(RowEncoder, "__call__", lambda encoder, rows: no_more(rows))
    assert generator.texts(encoded, on_invalid="none") == [canonicalize(drugs[0]), None, "CCO"]
    assert generator.reconstruct(encoded, on_invalid="skip") == expected
    assert generator.reconstruct(encoded, on_invalid="none") == [expected[0], None, expected[1]]
    assert np.allclose(generator.log_likelihood(encoded, on_invalid="skip"), likely, atol=1e-4)
    assert generator.interpolate(encoded, encoded, 2, on_invalid="skip") == walk
    with pytest.raises(ValueError, match=r"Row 2 of a file, 'C\(C', cannot be used"):
        generator.encode(encoded)
    again = generator.optimize(encoded, "qed", budget=3, on_invalid="skip")
    pd.testing.assert_frame_equal(again.table, found.table)
    with pytest.raises(TypeError, match="unexpected keyword argument 'budgt'"):
        generator.optimize(encoded, "qed", budgt=3, on_invalid="skip")
