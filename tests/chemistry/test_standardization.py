# SPDX-License-Identifier: Apache-2.0
"""What becomes of salts, charges, metals and marks where a molecule's parent is taken."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger

from cmim_hf.chemistry.smiles import SmilesError, canonicalize, parse, randomize, write
from cmim_hf.chemistry.standardization import standardized

PARENTS = {
    # salts, solvents, copies
    "CC(=O)[O-].[Na+]": "CC(=O)O",
    "CC(=O)O": "CC(=O)O",
    "CC(=O)O[Na]": "CC(=O)O",
    "CC(=O)O[Ca]OC(C)=O": "CC(=O)O",
    "[K+].[K+].[O-]C(=O)[C@@H](O)[C@H](O)C(=O)[O-]": "O=C(O)[C@@H](O)[C@H](O)C(=O)O",
    "Cl.CCN(CC)CC": "CCN(CC)CC",
    "CCN.OC(=O)C(F)(F)F": "CCN",
    "CCO.CCO.O": "CCO",
    "CC#N.F[P-](F)(F)(F)(F)F": "CC#N",  # fewer atoms, but organic
    # charges
    "[NH3+]CC(=O)[O-]": "NCC(=O)O",
    "NC(=[NH2+])c1ccccc1.[Cl-]": "N=C(N)c1ccccc1",
    "[O-]c1ccccc1": "Oc1ccccc1",
    "c1cc[n-]c1.[Na+]": "c1cc[nH]c1",
    "[nH+]1cc[nH]c1": "c1c[nH]cn1",
    "C[N+](C)(C)CCO.[Cl-]": "C[N+](C)(C)CCO",
    "C[N+](C)(C)CC(=O)[O-]": "C[N+](C)(C)CC(=O)[O-]",
    "C[N+](C)(C)CC([O-])CC(=O)O": "C[N+](C)(C)CC(O)CC(=O)[O-]",  # the acid is the ion
    "C[n+]1ccccc1.F[B-](F)(F)F": "C[n+]1ccccc1",
    # written with charges, and neutral
    "CN(=O)=O": "C[N+](=O)[O-]",
    "[O-][n+]1ccccc1": "[O-][n+]1ccccc1",
    "CN=[N+]=[N-]": "CN=[N+]=[N-]",
    "CS(C)=O": "C[S+](C)[O-]",
    "C[S+](C)[O-]": "C[S+](C)[O-]",
    "CS(C)(=O)=O": "CS(C)(=O)=O",
    # no organic part
    "[Na+].[Cl-]": "Cl",
    "[Na]Cl": "Cl",
    "[Na+]": "[Na+]",
    "[NH4+].[Cl-]": "N",
    "O": "O",
    "[Ca+2].[Cl-].[Cl-]": "[Ca+2]",
    # metals
    "[NH3][Pt]([NH3])(Cl)Cl": "[NH3]->[Pt](<-[NH3])([Cl])[Cl]",
    "CCO[Ti](OCC)(OCC)OCC": "CC[O][Ti]([O]CC)([O]CC)[O]CC",
    "CC(=O)O[Hg]c1ccccc1": "CC(=O)[O][Hg][c]1ccccc1",
    "CC[Mg]Br": "C[CH2][Mg][Br]",
    "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1": "C1=CCC=C1",
    # stereo marks, isotopes, dummy atoms, tautomers
    "C[C@H]([NH3+])C(=O)[O-]": "C[C@H](N)C(=O)O",
    "C/C=C/C(=O)[O-].[K+]": "C/C=C/C(=O)O",
    "CC[S@](C)=O": "CC[S@+](C)[O-]",
    "C[C@@H]1CC[N+]2(C1)CCCC2.[Br-]": "C[C@@H]1CC[N+]2(CCCC2)C1",
    "[2H]C([2H])([2H])C(=O)[O-].[Na+]": "[2H]C([2H])([2H])C(=O)O",
    "[18F]CC[NH3+].[Cl-]": "NCC[18F]",
    "*CC(=O)[O-].[Na+]": "*CC(=O)O",
    "[*:1]c1ccccc1": "c1ccc([*:1])cc1",
    "*": "*",
    "Oc1ccccn1": "Oc1ccccn1",
    "O=c1cccc[nH]1": "O=c1cccc[nH]1",
}

PIECES = [
    "C",
    "N",
    "O",
    "=",
    "(",
    ")",
    "1",
    ".",
    "S(=O)",
    "[O-]",
    "[N+]",
    "[NH3+]",
    "[Na]",
    "[CH-]",
]


def parent_of(smiles):
    return write(standardized(parse(smiles)))


@pytest.mark.parametrize("smiles", PARENTS)
def test_parents(smiles):
    expected = PARENTS[smiles]
    assert parent_of(smiles) == expected
    assert canonicalize(expected) == expected, "a parent is written canonically"
    assert parent_of(expected) == expected, "the parent of a parent is itself"
    for seed in range(5):
        assert parent_of(randomize(smiles, seed)) == expected


def test_a_molecule_that_is_its_parent_is_left_as_it_is(sample):
    texts = [row.text for row in sample[:200]]
    plain = [text for text in texts if "S(=O)" not in text.replace("S(=O)(=O)", "")]
    assert len(plain) > 190
    assert [parent_of(text) for text in plain] == [canonicalize(text) for text in plain]


def test_the_molecule_given_stays_as_it_was():
    molecule = parse("CC(=O)[O-].[Na+]")
    standardized(molecule)
    assert write(molecule) == "CC(=O)[O-].[Na+]"


def test_nothing_is_logged(capfd):
    RDLogger.EnableLog("rdApp.info")
    try:
        assert parent_of("CC(=O)O[Na]") == "CC(=O)O"
    finally:
        RDLogger.DisableLog("rdApp.info")
    assert capfd.readouterr() == ("", "")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_parent_of_any_molecule_is_a_molecule(text):
    try:
        smiles = parent_of(text)
    except ValueError:
        return
    assert canonicalize(smiles) == smiles and "." not in smiles


@pytest.mark.parametrize("part", ["CS(=O)", "C[NH2+]", "C[S+]([O-])"])
def test_what_would_take_long_is_refused(part):
    molecule = Chem.MolFromSmiles(part * 200 + "C")
    began = time.perf_counter()
    with pytest.raises(SmilesError, match=r"cannot be standardised: [24]00 charges and sulfoxides"):
        standardized(molecule)
    assert time.perf_counter() - began < 1
    assert "." not in parent_of(part * 10 + "C")


def test_what_has_no_parent_is_named_with_the_reason():
    with pytest.raises(SmilesError, match=r"'C.*' cannot be standardised: Explicit valence"):
        standardized(parse("[Na]<-[NH3+]C"))


def test_a_large_molecule_without_charges_is_no_trouble():
    chain = "NC(C)C(=O)" * 150 + "O"
    assert parent_of(f"{chain}.Cl") == canonicalize(chain)


def test_any_mixture_gives_one_of_its_molecules():
    drugs = ["CC(=O)Nc1ccc(O)cc1", "CN1CCC[C@H]1c1cccnc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]
    salts = ["[Na+]", "[Cl-]", "O", "[Mg+2]", "OS(=O)(=O)O", "[O-]S(=O)(=O)[O-]"]
    draw = random.Random(0)
    for drug in drugs:
        parts = [drug, *draw.sample(salts, 3)]
        draw.shuffle(parts)
        assert parent_of(".".join(parts)) == canonicalize(drug)
