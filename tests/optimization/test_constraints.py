# SPDX-License-Identifier: Apache-2.0
"""Conditions on molecules: what holds, what is said of what does not, what is refused."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors

from cmim_hf.optimization.constraints import Constraints

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_the_first_broken_condition_is_said():
    wanted = Constraints(
        keep=["C1=CC=CC=C1", "C=O"],
        forbid="[OH]",
        ranges={"mw": (150, 300), "hbd": [None, 0], "FractionCSP3": (0.1, 1)},
    )
    cases = {
        "CCC=O": "keep C1=CC=CC=C1",
        "Cc1ccccc1": "keep C=O",
        ASPIRIN: "forbid [OH]",
        "COC(=O)c1ccccc1": "mw below 150",
        "CCCCCCCCCCCCCCCOC(=O)c1ccccc1": "mw above 300",
        "CCNC(=O)c1ccccc1C": "hbd above 0",
        "O=C(c1ccccc1)c1ccccc1": "FractionCSP3 below 0.1",
        "CC(=O)Oc1ccccc1C(=O)OC": None,
    }
    assert wanted.broken(cases) == list(cases.values())
    assert wanted and not Constraints() and Constraints().broken([ASPIRIN]) == [None]


def test_limits_are_inclusive_and_of_rdkits_values(sample):
    smiles = [row.text for row in sample[:200]]
    molecules = list(map(Chem.MolFromSmiles, smiles))
    expected = {
        "mw": Descriptors.MolWt,
        "logp": Crippen.MolLogP,
        "tpsa": Descriptors.TPSA,
        "hbd": Descriptors.NumHDonors,
        "hba": Descriptors.NumHAcceptors,
        "rotatable_bonds": Descriptors.NumRotatableBonds,
        "rings": Descriptors.RingCount,
        "heavy_atoms": Chem.Mol.GetNumHeavyAtoms,
        "qed": QED.qed,
    }
    for name, function in expected.items():
        values = np.array(list(map(function, molecules)), dtype=float)
        low, high = np.sort(values)[[50, 150]]
        broken = Constraints(ranges={name: (low, high)}).broken(smiles)
        assert [words is None for words in broken] == list((low <= values) & (values <= high)), name
        assert {words for words in broken if words} == {
            f"{name} below {low:g}" if value < low else f"{name} above {high:g}"
            for value in values
            if not low <= value <= high
        }
    charged = ["C[NH3+]", "CC(=O)[O-]", "C[NH3+].[Cl-]", "C"]
    assert Constraints(ranges={"charge": (0, 0)}).broken(charged) == [
        "charge above 0", "charge below 0", None, None,
    ]  # fmt: skip
    assert Constraints(ranges={"sa_score": (None, 2)}).broken([ASPIRIN, "C1CC2CC1C1CC21"]) == [
        None, "sa_score above 2",
    ]  # fmt: skip


def test_a_property_without_a_value_breaks_its_range(monkeypatch):
    monkeypatch.setattr("cmim_hf.chemistry.named_properties.NAMED", {"odd": lambda m: math.nan})
    assert Constraints(ranges={"odd": (0, 1)}).broken(["C"]) == ["odd without a value"]


def test_arguments_are_kept_plain():
    given = Constraints("C", (text for text in ["N", "O", "N"]), {"mw": (-math.inf, np.int64(5))})
    assert asdict(given) == {"keep": ("C",), "forbid": ("N", "O"), "ranges": {"mw": (None, 5.0)}}
    assert given == Constraints(["C"], ["N", "O"], {"mw": [None, 5]})
    assert asdict(Constraints(None)) == {"keep": (), "forbid": (), "ranges": {}}


def test_a_seed_must_hold_patterns_but_no_range():
    wanted = Constraints(keep="c1ccccc1", forbid="[OH]", ranges={"mw": (None, 10)})
    wanted.check_seeds(["Cc1ccccc1", "COC(=O)c1ccccc1"])
    with pytest.raises(ValueError, match=r"seed CCC \(row 1\) has no match .*'c1ccccc1' in `keep`"):
        wanted.check_seeds(["Cc1ccccc1", "CCC"])
    with pytest.raises(
        ValueError, match=r"\(row 0\) has a match .*'\[OH\]' in `forbid`.* a SMILES:"
    ):
        wanted.check_seeds([ASPIRIN])
    with pytest.raises(
        ValueError, match="scaffold with substituents at its attachment points alone"
    ):
        Constraints(keep="*c1ccccc1").check_seeds([ASPIRIN])


def test_what_is_no_molecule_is_an_error():
    with pytest.raises(ValueError, match="'C1CC' does not parse: unclosed ring"):
        Constraints(keep="C").broken(["C1CC"])


BAD = [
    ({"keep": "C1CC"}, ValueError, "`keep`: The pattern 'C1CC' is neither .*unclosed ring"),
    ({"forbid": ["C", "[#6"]}, ValueError, r"`forbid`: .*'\[#6' is neither .*syntax error"),
    ({"keep": ""}, ValueError, "`keep`: The pattern '' .*empty"),
    ({"keep": ["C", ""]}, ValueError, "`keep`: The pattern '' .*empty"),
    ({"forbid": "C C"}, ValueError, "`forbid`: .*space"),
    ({"keep": "C" * 20_000}, ValueError, "has 20000 characters"),
    ({"keep": 3}, TypeError, "`keep` is a pattern or a list of them, not 3"),
    ({"keep": {"C": 1}}, TypeError, "`keep` is a pattern or a list of them"),
    ({"keep": b"C"}, TypeError, "`keep` is a pattern or a list of them"),
    ({"keep": ["C", None]}, TypeError, "A pattern of `keep` is a string, not None"),
    ({"keep": [["C"]]}, TypeError, "A pattern of `keep` is a string, not"),
    ({"ranges": {"MWT": (0, 1)}}, ValueError, "no property 'MWT': near it are .*MolWt"),
    ({"ranges": {"LogP": (0, 1)}}, ValueError, "no property 'LogP': near it are logp"),
    ({"ranges": {"@": (0, 1)}}, ValueError, "no property '@': the names are mw, "),
    ({"ranges": {5: (0, 1)}}, ValueError, "no property 5"),
    ({"ranges": {"mw": (2, 1)}}, ValueError, "range of mw in `ranges` is empty: 2 is above 1"),
    ({"ranges": {"mw": (math.nan, 1)}}, ValueError, "no finite number"),
    ({"ranges": {"mw": (math.inf, None)}}, ValueError, "no finite number"),
    ({"ranges": {"mw": (None, None)}}, ValueError, "without limits"),
    ({"ranges": {"mw": (-math.inf, math.inf)}}, ValueError, "without limits"),
    ({"ranges": {"mw": (1, 2, 3)}}, ValueError, "is a pair"),
    ({"ranges": {"mw": 500}}, TypeError, "is a pair"),
    ({"ranges": {"mw": "05"}}, TypeError, "is a pair"),
    ({"ranges": {"mw": ("0", 5)}}, TypeError, "of numbers or None, not of '0'"),
    ({"ranges": {"mw": (True, 5)}}, TypeError, "of numbers or None, not of True"),
    ({"ranges": {"mw": (1j, 5)}}, TypeError, "of numbers or None"),
    ({"ranges": [("mw", (0, 1))]}, TypeError, "`ranges` is a dictionary"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD)
def test_bad_arguments_are_refused(arguments, kind, message, capfd):
    with pytest.raises(kind, match=message):
        Constraints(**arguments)
    assert capfd.readouterr() == ("", "")  # nothing of RDKit's own
