# SPDX-License-Identifier: Apache-2.0
"""Patterns as a chemist means them."""

import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from cmim_hf.chemistry.smiles import parse
from cmim_hf.chemistry.substructures import Pattern

ALANINE = "C[C@H](N)C(=O)O"
MEANT = {
    # a SMILES: Kekulé or not, hydrogens that had to be written or not, charges, isotopes
    "C1=CC=CC=C1": ["Cc1ccccc1", "c1ccc2ccccc2c1"],
    "C(=O)[OH]": ["CC(=O)O"],
    "[NH2]": ["CN", "C[NH3+]"],
    "[H]C(=O)c1ccccc1": ["O=Cc1ccccc1"],
    "c1cc[nH]c1": ["Cn1cccc1"],
    "C[NH3+]": ["C[N+](C)(C)C"],
    "C[PH](=O)O": ["CP(=O)(O)O"],
    "[N+](=O)[O-]": ["C[N+](=O)[O-]"],
    "C[N+]": ["C[N+](C)(C)C"],
    "[2H]C": ["[2H]CO"],
    "CCO.c1ccccc1": ["CCOc1ccccc1", "CCO.Cc1ccccc1"],
    "C*C": ["COC"],
    "CO": ["CCO", "Oc1ccccc1"],
    "*": ["C"],
    "CC |(0,0;1,0)|": ["CCC"],
    # stereo
    ALANINE: [ALANINE, "C[C@H](N)C(=O)OC"],
    "CC(N)C(=O)O": [ALANINE, "C[C@@H](N)C(=O)O"],
    "[H][C@](C)(N)C(=O)O": ["[H][C@](C)(N)C(=O)O"],
    "C/C=C/C": ["C/C=C/C"],
    # a scaffold
    "*c1ccccc1": ["c1ccccc1", "Cc1ccccc1"],
    "c1ccc([1*])cc1[*:2]": ["c1ccccc1", "Cc1cccc(O)c1"],
    "*N1CCOCC1": ["C[NH+]1CCOCC1", "C1COCCN1"],
    "*=C1CCCCC1": ["O=C1CCCCC1", "CC=C1CCCCC1"],
    "*[C@H](C)N": ["O[C@H](C)N"],
    "*[C@](C)(N)O": ["CC[C@](C)(N)O", "[H][C@](C)(N)O"],
    "C[C@H]1CC[C@@H](*)CC1": ["C[C@H]1CC[C@@H](O)CC1"],
    "*/C(C)=C/C": ["O/C(C)=C/C", "C/C=C\\C"],
    "*/N=C(/C)CC": ["O/N=C(/C)CC"],
    "*CCC*": ["CCC", "CCCO", "OCCCO"],
    "**": ["CO"],
    # SMARTS
    "cc": ["c1ccccc1"],
    "c1ccnc1": ["Cn1cccc1"],
    "[#6;R]": ["C1CC1"],
    "[C;X4][C@](F)(Cl)Br": ["C[C@](F)(Cl)Br"],
}
NOT_MEANT = {
    "C1=CC=CC=C1": ["C1CCCCC1"],
    "C(=O)[OH]": ["CC(=O)OC"],
    "[NH2]": ["CNC"],
    "[H]C(=O)c1ccccc1": ["CC(=O)c1ccccc1"],
    "C[NH3+]": ["CN"],
    "[2H]C": ["C"],
    "CCO.c1ccccc1": ["CCO", "CCCc1ccccc1"],
    "C*C": ["CC"],
    ALANINE: ["C[C@@H](N)C(=O)O", "CC(N)C(=O)O"],
    "C/C=C/C": ["C/C=C\\C", "CC=CC"],
    "*c1ccccc1": ["Cc1ccccc1C", "c1ccc2ccccc2c1"],
    "c1ccc([1*])cc1[*:2]": ["Cc1ccccc1C", "Cc1cc(C)cc(C)c1", "c1ccc2ccccc2c1"],
    "*N1CCOCC1": ["CN1CCOCC1C"],
    "*C1CCCCC1": ["O=C1CCCCC1", "CC1(C)CCCCC1"],
    "*=C1CCCCC1": ["C1CCCCC1", "CC1CCCCC1"],
    "*[C@H](C)N": ["O[C@@H](C)N", "CCN"],
    "*[C@](C)(N)O": ["CC[C@@](C)(N)O", "[H][C@@](C)(N)O"],
    "C[C@H]1CC[C@@H](*)CC1": ["C[C@H]1CC[C@H](O)CC1", "CC1CCCCC1"],
    "*/C(C)=C/C": ["O/C(C)=C\\C", "C/C=C/C"],
    "*/N=C(/C)CC": ["O/N=C(\\C)CC", "N=C(C)CC"],
    "*CCC*": ["C1CC1", "CC(C)C", "CC=O"],
    "c1ccnc1": ["c1ccoc1"],
    "[CX4]O": ["Oc1ccccc1"],
    "[H]": ["C"],
    "[C;X4][C@](F)(Cl)Br": ["C[C@@](F)(Cl)Br"],
}


@pytest.mark.parametrize("text", MEANT)
def test_patterns_find_what_is_meant(text):
    pattern = Pattern(text)
    assert [one for one in MEANT[text] if not pattern.is_in(parse(one))] == []


@pytest.mark.parametrize("text", NOT_MEANT)
def test_patterns_find_nothing_else(text, capfd):
    pattern = Pattern(text)
    assert [one for one in NOT_MEANT[text] if pattern.is_in(parse(one))] == []
    assert capfd.readouterr() == ("", "")  # nothing of RDKit's own


def test_kinds():
    kinds = {text: Pattern(text).kind for text in MEANT}
    smarts = {"cc", "c1ccnc1", "[#6;R]", "[C;X4][C@](F)(Cl)Br"}
    assert {text for text, kind in kinds.items() if kind == "SMARTS"} == smarts
    scaffolds = {text for text in MEANT if "*" in text} - {"*", "C*C"}
    assert {text for text, kind in kinds.items() if kind == "scaffold"} == scaffolds


def test_patterns_agree_with_rdkit(sample):
    """Scaffolds as SMILES need nothing more than what RDKit does."""
    molecules = [parse(row.text) for row in sample[:100]]
    scaffolds = list(map(MurckoScaffold.GetScaffoldForMol, molecules))
    found = 0
    for scaffold in scaffolds[:30]:
        pattern = Pattern(Chem.MolToSmiles(scaffold))
        rows = [pattern.is_in(molecule) for molecule in molecules]
        assert rows == [one.HasSubstructMatch(scaffold, useChirality=True) for one in molecules]
        found += sum(rows)
    assert found >= 30


def test_a_molecule_has_its_scaffold_with_its_attachments(sample):
    """And with one attachment less it has not."""
    fewer = 0
    for row in sample[:100]:
        molecule = parse(row.text)
        core = MurckoScaffold.GetScaffoldForMol(molecule)
        text = Chem.MolToSmiles(Chem.ReplaceSidechains(molecule, core))
        assert Pattern(text).is_in(molecule), row.text
        closed = text.removeprefix("[1*]")
        if closed != text and "*" in closed:
            assert not Pattern(closed).is_in(molecule), row.text
            fewer += 1
    assert fewer > 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1CC", r"neither SMILES \(unclosed ring\) nor SMARTS \(unclosed ring\)"),
        ("[#6", r"nor SMARTS \(syntax error \(around position 3\)\)"),
        ("", "the text is empty"),
        ("C C", "' ' at position 2 is not printable ASCII or is a space"),
        ("C" * 10_001, "has 10001 characters; at most 10000 are parsed"),
    ],
)
def test_what_cannot_be_read_is_refused(text, reason, capfd):
    with pytest.raises(ValueError, match=reason):
        Pattern(text)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TypeError, match="string"):
        Pattern(None)
