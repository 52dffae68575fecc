# SPDX-License-Identifier: Apache-2.0
"""Chemistry: canonical strings, errors, drawings."""

import gzip
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmim_hf.chemistry import smiles as chem
from cmim_hf.chemistry.drawing import draw_grid

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "moses_train.smi.gz"

DIVERSE = [
    "C[C@H](N)C(=O)O",
    "C/C=C\\C",
    "[2H]C([2H])([2H])O",
    "[Na+].[Cl-]",
    "[13CH4]",
    "CC1=CC(=CC(=C1)C)C",
    "c1ccc2[nH]ccc2c1",
    "C[N+](C)(C)CC(=O)[O-]",
    "[O-][Cl+3]([O-])([O-])O",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "F/C(Cl)=C(/Br)I",
    "[Pt](Cl)(Cl)(N)N",
    "C",
    "[H][H]",
    "C1CC2CCC1CC2",
    "O=S(=O)(N)c1ccc(cc1)C#N",
]

BROKEN = [
    ("C1CC", "does not parse: unclosed ring"),
    ("CC)", r"extra close parentheses \(around position 3\)"),
    ("C(C)(C)(C)(C)C", "valence for atom # 0 C, 5, is greater than permitted"),
    ("c1cncc1", "Can't kekulize mol"),
    ("[Zz]", "syntax error"),
    ("", "is empty"),
    ("C C", "' ' at position 2"),
    ("C\tC", r"'\\t' at position 2"),
    ("CCé", "'é' at position 3"),
    ("CC |$a$", "position 3"),
    ("C" * 10_001, "10001 characters; at most 10000"),
]


def rows(number):
    with gzip.open(SAMPLE, "rt") as stream:
        return [line.strip() for line in islice(stream, number)]


@pytest.mark.parametrize(
    ("writing", "expected"),
    [
        ("[H]C([H])([H])O[H]", "CO"),
        ("C1=CC=CC=C1", "c1ccccc1"),
        ("OCC", "CCO"),
        ("[CH3][CH2][OH]", "CCO"),
        ("[2H]C", "[2H]C"),
        ("[H][H]", "[H][H]"),
        ("[Cl-].[Na+]", "[Cl-].[Na+]"),
        ("N[C@@H](C)C(O)=O", "C[C@H](N)C(=O)O"),
        ("N[C@H](C)C(O)=O", "C[C@@H](N)C(=O)O"),
        ("C(/C)=C/C", "C/C=C\\C"),
        ("[13CH4]", "[13CH4]"),
        ("CC(F)Cl |&1:1|", "CC(F)Cl"),
    ],
)
def test_canonical_string(writing, expected):
    assert chem.canonicalize(writing) == expected


@pytest.mark.parametrize("smiles", DIVERSE)
def test_random_writings_agree(smiles):
    canonical = chem.canonicalize(smiles)
    assert chem.canonicalize(canonical) == canonical
    for seed in range(10):
        assert chem.canonicalize(chem.randomize(smiles, seed)) == canonical


def test_random_writings_agree_on_many_rows():
    writings = set()
    for smiles in rows(200):
        canonical = chem.canonicalize(smiles)
        assert chem.canonicalize(canonical) == canonical
        for seed in range(10):
            writing = chem.randomize(canonical, seed)
            writings.add(writing)
            assert chem.canonicalize(writing) == canonical
    assert len(writings) > 1900


def test_randomize_is_a_function_of_text_and_seed():
    smiles = rows(1)[0]
    seeds = [0, 1, 2, 2**31 + 1, 2**70, -1]
    first = [chem.randomize(smiles, seed) for seed in seeds]
    assert [chem.randomize(smiles, seed) for seed in reversed(seeds)] == first[::-1]
    assert len(set(first)) == len(seeds)


@pytest.mark.parametrize(("smiles", "reason"), BROKEN)
def test_errors_give_the_reason_quietly(smiles, reason, capfd):
    for function in (chem.canonicalize, lambda text: chem.randomize(text, 1)):
        with pytest.raises(ValueError, match=reason):
            function(smiles)
    assert capfd.readouterr() == ("", "")


def test_warnings_are_quiet(capfd):
    assert chem.canonicalize("[H].C") == "C.[H]"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [None, 3.5, b"CCO", float("nan")])
def test_what_is_no_string_is_a_type_error(value):
    with pytest.raises(TypeError, match="A SMILES is a string"):
        chem.canonicalize(value)


def test_reasons_stay_with_their_threads(capfd):
    cases = [case for case in BROKEN if case[0] in ("C1CC", "CC)", "c1cncc1")] * 60

    def reason(case):
        with pytest.raises(ValueError, match=case[1]):
            chem.canonicalize(case[0])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(reason, cases))
    finally:
        sys.setswitchinterval(interval)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=300, deadline=None)
@given(st.text("CNOc1=()[]@/\\+-H2%.#*$nBrl ", max_size=30))
def test_any_text_parses_to_a_fixed_point_or_raises(text):
    try:
        canonical = chem.canonicalize(text)
    except ValueError:
        return
    assert chem.canonicalize(canonical) == canonical


def test_similarity():
    assert chem.similarity("CCO", "OCC") == 1.0
    assert chem.similarity("C", "[Na+].[Cl-]") == 0.0
    # Six bits each (three atoms, three neighbourhoods); CH3, CH2 and CH3-C are shared.
    assert chem.similarity("CCO", "CCN") == pytest.approx(3 / 9)
    near = chem.similarities("CCO", ["OCC", "CCN", "C", "CCO"])
    assert near == [chem.similarity("CCO", text) for text in ("CCO", "CCN", "C", "OCC")]
    assert chem.similarities("CCO", []) == []
    assert chem.similarities("CCO", [None, "C(C", "OCC"]) == [None, None, 1.0]
    with pytest.raises(chem.SmilesError, match="C\\(C"):
        chem.similarity("CCO", "C(C")


def test_grid_is_png_or_svg_of_the_right_size():
    molecules = ["CCO", None, "c1ccccc1", "C", "N"]
    png = draw_grid(molecules, list("abcde"), columns=3, cell_size=(90, 70))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (270, 140)
    svg = draw_grid(["CCO"], cell_size=(90, 70), image_format="svg")
    assert "width='90px' height='70px'" in svg


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"smiles": []}, "no molecule"),
        ({"smiles": ["C"], "legends": ["a", "b"]}, "2 legends for 1 molecules"),
        ({"smiles": ["C1CC"]}, "unclosed ring"),
        ({"smiles": ["C"], "image_format": "gif"}, "'png' or 'svg', not 'gif'"),
    ],
)
def test_grid_errors(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        draw_grid(**arguments)
