# SPDX-License-Identifier: Apache-2.0
"""Sampling under conditions: what is returned holds and is enough, and costs are told."""

import warnings

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors

from cmim_hf import MoleculeGenerator
from cmim_hf.chemistry.smiles import canonicalize
from cmim_hf.generation.constrained_sampling import ConditionalSampler, Sampling
from cmim_hf.generation.decoding import DecodingInfo

CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
BENZENE = Chem.MolFromSmarts("c1ccccc1")


@pytest.fixture
def make_generator():
    def make(seed=0, **options):
        return MoleculeGenerator(progress=False, seed=seed, **options)

    return make


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator(progress=False, seed=0)


def has(smiles, pattern):
    return Chem.MolFromSmiles(smiles).HasSubstructMatch(pattern)


def test_what_is_returned_holds_and_is_as_much_as_asked_for(generator):
    found, info = generator.sample(
        15,
        keep="C1=CC=CC=C1",
        forbid=["[F,Cl,Br,I]", "[OH]"],
        ranges={"mw": (200, 400), "logp": (None, 4)},
        return_info=True,
    )
    assert len(found) == info.found == info.asked == 15
    hydroxyl = Chem.MolFromSmarts("[#6][OX2H]")
    halogen = Chem.MolFromSmarts("[F,Cl,Br,I]")
    for one in found:
        molecule = Chem.MolFromSmiles(one)
        assert canonicalize(one) == one and has(one, BENZENE)
        assert not has(one, halogen) and not has(one, hydroxyl)
        assert 200 <= Descriptors.MolWt(molecule) <= 400 and Crippen.MolLogP(molecule) <= 4
    assert 15 + info.broken.total() <= len(info.attempts) <= 1500
    assert {"keep C1=CC=CC=C1", "forbid [F,Cl,Br,I]"} <= set(info.broken)
    assert info.held == 1 - info.broken.total() / len(info.attempts)
    most, count = info.broken.most_common(1)[0]
    assert f"15 of 15 molecules found in {len(info.attempts):,} draws (lost: " in str(info)
    assert f"{count / len(info.attempts):.1%} {most}" in str(info) and info.walked == 0


def test_independent_draws_are_those_of_unconditional_sampling(make_generator):
    drawn = make_generator(3).sample_around(CELECOXIB, 0.6, 40)
    sulfonamide = Chem.MolFromSmiles("NS(=O)(=O)c1ccccc1")
    held = [one for one in drawn if one is not None and has(one, sulfonamide)]
    found = make_generator(3).sample_around(CELECOXIB, 0.6, 40, keep="NS(=O)(=O)c1ccccc1")
    assert 20 < len(held) < 40 == len(found)
    assert found[: len(held)] == held and None not in found


def test_a_scaffold_is_kept_around_several_seeds(generator):
    seeds = ["OCC", CELECOXIB, "Cc1ccc(C(=O)O)cc1"]
    with pytest.raises(ValueError, match=r"seed CCO \(row 0\) has no match .*`keep`.* scaffold"):
        generator.sample_around(seeds, 0.5, 2, keep="*c1ccc(*)cc1")
    groups = generator.sample_around(seeds[1:], 0.9, 6, keep="*c1ccc(*)cc1", unique=True)
    para = Chem.MolFromSmarts("[cH]1[cH]c([!#1])[cH][cH]c1")
    for seed, found in zip(seeds[1:], groups, strict=True):
        assert len(set(found)) == 6 and canonicalize(seed) not in found
        assert all(has(one, para) for one in found)
    with pytest.raises(ValueError, match=r"\(row 1\) has a match .*`forbid`"):
        generator.sample_around(seeds, 0.5, 2, forbid="FC(F)F")


def test_invalid_seeds_follow_the_policy(generator):
    for policy, expected in (("none", [None, 2]), ("skip", [2])):
        groups = generator.sample_around(
            ["C(C", "c1ccccc1CC"], 0.1, 2, keep="c1ccccc1", on_invalid=policy
        )
        assert [one and len(one) for one in groups] == expected
    assert generator.sample_around("C(C", 0.1, 2, keep="C", on_invalid="skip") == []


def test_rare_molecules_are_found_by_walks(generator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, info = generator.sample_around(
            CELECOXIB, 1.2, 3, keep="NS(=O)(=O)c1ccc(*)cc1", return_info=True
        )
    pattern = Chem.MolFromSmarts("[NH2]S(=O)(=O)c1[cH][cH]c([!#1])[cH][cH]1")
    assert len(found) == 3 and all(has(one, pattern) for one in found)
    assert info.walked >= 1 and len(info.attempts) < 300
    assert f"{info.walked} of them by walks" in str(info)


class Decoder:
    """A molecule that tells the first number of its code: methane's homologues above 1.6."""

    canonicalize, progress = True, False

    def __init__(self):
        self.random = torch.Generator().manual_seed(0)

    def decode(self, codes, how, lengths=None, progress=None):
        first = codes[:, 0, 0]
        return ["C" * round(10 * x) if x > 1.6 else "O" for x in first], DecodingInfo(
            np.ones(len(codes), int)
        )


def test_walks_have_the_distribution_of_draws_that_hold():
    """A normal variable above 1.6 has mean φ(1.6) / (1 - Φ(1.6)) = 2.024 and std .358."""
    random = np.random.default_rng(0)
    sampler = ConditionalSampler(
        lambda rows: random.standard_normal((len(rows), 1, 5)),
        Decoder(),
        Sampling(keep="C"),
        600,
        centres=np.zeros((1, 1, 5)),
    )
    (found,), info = sampler.run()
    values = np.array(list(map(len, found))) / 10
    assert len(found) == 600 and info.walked > 500
    assert values.mean() == pytest.approx(2.024, abs=0.12)
    assert values.std() == pytest.approx(0.358, abs=0.12)
    assert len(info.attempts) < 6000  # 11,000 independent ones, on average


def test_walks_begin_at_a_centre_that_holds():
    """Of independent draws one in 80 holds; without a start nothing does."""
    random = np.random.default_rng(0)
    how = Sampling(keep="C", ranges={"heavy_atoms": (24, 26)})

    def sample(centre, spread):
        centres = np.full((1, 1, 5), centre)
        draw = lambda rows: centres[rows] + spread * random.standard_normal((len(rows), 1, 5))  # noqa: E731
        return ConditionalSampler(draw, Decoder(), how, 20, centres=centres).run()

    (found,), info = sample(2.5, 10)
    assert len(found) == 20 and info.walked >= 18 and len(info.attempts) < 1600
    assert set(map(len, found)) == {24, 25, 26}
    with pytest.warns(UserWarning, match="0 of 20 molecules found in 2,000 draws"):
        sample(2.0, 0.01)


def test_a_spent_budget_is_told(generator):
    with pytest.warns(
        UserWarning, match=r"0 of 3 molecules .*\(lost: .*% keep \[Si\].*`max_draws` \(4"
    ):
        found, info = generator.sample(3, keep="[Si]", max_draws=4, return_info=True)
    assert found == [] and len(info.attempts) == 12 and info.broken.total() == 12
    with pytest.warns(UserWarning, match="repeated") as told:
        found, info = generator.sample_around(
            "CCO", 0.0, 2, unique=True, max_draws=3, return_info=True
        )
    assert found == [] and len(info.attempts) == 6 and len(told) == 1
    assert told[0].filename == __file__


def test_a_seed_fixes_what_is_found_whatever_the_batches(make_generator):
    settings = {"keep": "c1ccccc1", "ranges": {"rings": (1, 3)}}
    calls = []
    for generator in (make_generator(5), make_generator(5, batch_size=7), make_generator(6)):
        calls.append(
            [
                generator.sample(4, **settings),
                generator.sample_around(["CCOc1ccccc1", "Cc1ccccc1O"], 1.2, 3, **settings),
                generator.sample_around("Cc1ccccc1O", 1.5, 3, temperature=0.7, **settings),
            ]
        )
    assert calls[0] == calls[1]
    assert all(a != b for a, b in zip(calls[0], calls[2], strict=True))


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"kepp": "C"}, TypeError, "unexpected keyword argument 'kepp'"),
        ({"keep": "C1CC"}, ValueError, "`keep`: The pattern 'C1CC' is neither"),
        ({"keep": ""}, ValueError, "empty"),
        ({"forbid": 3}, TypeError, "`forbid` is a pattern or a list"),
        ({"ranges": {"molwt": (0, 1)}}, ValueError, "no property 'molwt': near it are .*MolWt"),
        ({"ranges": {"mw": (5, 1)}}, ValueError, "empty"),
        ({"max_draws": 0}, ValueError, "`max_draws` is a whole number from 1, not 0"),
        ({"unique": 1}, TypeError, "`unique` is True or False, not 1"),
        ({"keep": "C", "attempts": 0}, ValueError, "`attempts` is a whole number from 1, not 0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(generator, settings, kind, message):
    state = generator.model.forward
    for call in (
        lambda: generator.sample(2, **settings),
        lambda: generator.sample_around("CCO", 1.0, 2, **settings),
    ):
        with pytest.raises(kind, match=message):
            call()
    assert generator.model.forward == state


def test_conditions_need_molecules(make_generator):
    raw = make_generator(canonicalize=False)
    for settings in ({"keep": "C"}, {"unique": True}):
        with pytest.raises(ValueError, match="the generator must canonicalize"):
            raw.sample(2, **settings)
    assert len(raw.sample(2, keep=[], ranges={})) == 2


def test_optimisation_scores_what_holds_alone(generator):
    seed = "Cc1ccc(C(=O)O)cc1"
    settings = {"keep": "*c1ccc(*)cc1", "ranges": {"mw": (140, 250)}, "forbid": "[OH]"}
    with pytest.raises(ValueError, match=r"seed Cc1ccc\(C\(=O\)O\)cc1 \(row 0\) .*`forbid`"):
        generator.optimize([seed], "qed", budget=12, **settings)
    with pytest.raises(ValueError, match="`keep`: The pattern 'C1' is neither"):
        generator.optimize([seed], "qed", budget=12, keep="C1")
    del settings["forbid"]
    found = generator.optimize([seed], "qed", budget=12, **settings)
    scored = found.table["smiles"].tolist()
    assert scored[0] == seed and len(scored) == 12  # 136 g/mol: a seed may lie outside
    para = Chem.MolFromSmarts("[cH]1[cH]c([!#1])[cH][cH]c1")
    for one in scored[1:]:
        assert has(one, para) and 140 <= Descriptors.MolWt(Chem.MolFromSmiles(one)) <= 250
    assert found.best["smiles"][0] in scored[1:] and found.broken.total() > 0
