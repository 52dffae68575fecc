# SPDX-License-Identifier: Apache-2.0
"""Properties against published values and their formulas."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from rdkit import Chem
from rdkit.Chem import QED, Crippen
from rdkit.Contrib.SA_Score import sascorer

from cmim_hf.chemistry.properties import logp, penalized_logp, qed, sa_score

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_values_are_those_of_rdkit():
    molecule = Chem.MolFromSmiles(ASPIRIN)
    assert qed(ASPIRIN) == QED.qed(molecule) and 0.5 < qed(ASPIRIN) < 0.6
    assert logp(ASPIRIN) == Crippen.MolLogP(molecule) == pytest.approx(1.3101)
    assert sa_score(ASPIRIN) == sascorer.calculateScore(molecule)
    assert 1 <= sa_score(ASPIRIN) < 2


def test_penalized_logp_of_the_best_molecule_of_zinc_is_the_published_one():
    best = "COc1ccc(-c2cc(-c3ccccc3)cc(-c3ccc(Br)cc3)[o+]2)cc1"
    assert round(penalized_logp(best), 2) == 4.52  # table 2 of arXiv 1802.04364


@pytest.mark.parametrize(
    ("smiles", "beyond"),
    [("CCO", 0), ("C1CCCCC1", 0), ("C1CCCCCCCCC1", 4), ("C1CCC2CCCCC2C1", 0)],
)
def test_penalized_logp_is_the_sum_of_three_standard_scores(smiles, beyond):
    expected = (
        (logp(smiles) - 2.4570953396190123) / 1.434324401111988
        + (-sa_score(smiles) + 3.0525811293166134) / 0.8335207024513095
        + (-beyond + 0.0485696876403053) / 0.2860212110245455
    )
    assert penalized_logp(smiles) == pytest.approx(expected, abs=1e-12)


def test_penalized_logp_takes_the_smallest_rings():
    """An adamantane, in which a cycle basis holds a ring of eight for some orders of the atoms."""
    adamantane = "C1C2CC3CC1CC(C2)C3"
    rings_of_six = (0.0485696876403053) / 0.2860212110245455
    rest = (logp(adamantane) - 2.4570953396190123) / 1.434324401111988
    rest += (-sa_score(adamantane) + 3.0525811293166134) / 0.8335207024513095
    assert penalized_logp(adamantane) == pytest.approx(rest + rings_of_six, abs=1e-12)


@pytest.mark.parametrize("function", [logp, penalized_logp, qed, sa_score])
def test_what_is_no_molecule_is_refused(function):
    with pytest.raises(ValueError, match="unclosed ring"):
        function("C1CC")
    with pytest.raises(TypeError, match="string"):
        function(None)


def test_threads_get_the_values_of_one():
    molecules = ["C" * length for length in range(1, 60)] * 3
    expected = [penalized_logp(smiles) for smiles in molecules]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(penalized_logp, molecules)) == expected


def test_without_contrib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Contrib.SA_Score", None)
    assert qed("CCO") > 0
    with pytest.raises(ImportError, match="Contrib folder.*pip install rdkit"):
        sa_score("CCO")
