# SPDX-License-Identifier: Apache-2.0
"""What can be a scorer, and what its terms are called."""

import math
import sys

import numpy as np
import pytest

from cmim_hf.chemistry.properties import penalized_logp, qed, sa_score
from cmim_hf.optimization.scorers import (
    Scorer,
    as_scorer,
    batch_scorer,
    load_scorer,
    parse_scorers,
)


def carbons(smiles):
    return smiles.count("C")


@pytest.fixture
def search_path():
    before = list(sys.path)
    yield
    sys.path[:] = before


def test_a_weighted_sum_keeps_names_weights_and_functions_in_order():
    scorer = as_scorer({"qed": 1, carbons: 0.5, "sa_score": -0.2, "similarity": 2.0})
    assert [(term.name, term.weight, term.function) for term in scorer.terms] == [
        ("qed", 1.0, qed),
        ("carbons", 0.5, carbons),
        ("sa_score", -0.2, sa_score),
        ("similarity", 2.0, None),
    ]
    assert scorer.weights == {"qed": 1.0, "carbons": 0.5, "sa_score": -0.2, "similarity": 2.0}
    assert scorer.columns == ["qed", "carbons", "sa_score"]
    values = {"qed": 0.5, "carbons": 4.0, "sa_score": 2.0, "similarity": 0.25}
    assert scorer.combine(values) == pytest.approx(0.5 + 2.0 - 0.4 + 0.5)


def test_callables_whose_names_are_taken_get_numbers():
    def score(smiles):
        return 0.0

    def similarity(smiles):
        return 0.0

    anonymous = [lambda smiles: 1.0, lambda smiles: 2.0]

    def qed(smiles):
        return 0.0

    class Docking:
        def __call__(self, smiles):
            return 0.0

    terms = dict.fromkeys((score, similarity, *anonymous, qed, Docking()), 1.0)
    assert [term.name for term in as_scorer(terms).terms] == [
        "score_2",
        "similarity_2",
        "lambda",
        "lambda_2",
        "qed_2",
        "Docking",
    ]


def test_as_scorer_takes_what_users_have():
    assert as_scorer("penalized_logp").terms[0].function is penalized_logp
    assert as_scorer(carbons).terms[0].function is carbons
    assert as_scorer({carbons: np.float32(-2)}).weights == {"carbons": -2.0}
    scorer = as_scorer({"qed": 1.0, carbons: 1.0})
    assert as_scorer(scorer) is scorer and isinstance(scorer, Scorer)


def test_a_sole_term_of_weight_one_needs_no_column():
    assert as_scorer(carbons).columns == []
    assert as_scorer({carbons: -1.0}).columns == ["carbons"]
    assert as_scorer({"similarity": -1.0}).columns == []


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (3, TypeError, "function from a SMILES to a number.*got a int: 3"),
        (None, TypeError, "dictionary of these"),
        ([carbons], TypeError, "got a list"),
        ({3: 1.0}, TypeError, "a name of .* or a callable, not 3"),
        ({"qed": "1"}, TypeError, "weight of 'qed' is a number, not '1'"),
        ({"qed": True}, TypeError, "not True"),
        ({"qed": math.nan}, ValueError, "not nan"),
        ({"qed": 0}, ValueError, "not zero, not 0"),
        ({}, ValueError, "no term"),
        ("QED", ValueError, "no scorer 'QED'; the names are 'logp', 'penalized_logp', 'qed'"),
        ("dock.py:score", ValueError, "load_scorer"),
    ],
)
def test_what_is_no_scorer_is_refused(what, error, message):
    with pytest.raises(error, match=message):
        as_scorer(what)


def test_a_batch_scorer_keeps_its_name_and_says_that_it_takes_a_list(tmp_path, search_path):
    class Model:
        def predict(self, smiles):
            return np.array([float(len(one)) for one in smiles])

        def __call__(self, smiles):
            return self.predict(smiles)

    model = Model()
    scorer = as_scorer({batch_scorer(model.predict): 1.0, batch_scorer(model): 1.0, carbons: 2.0})
    assert [(term.name, term.takes_list) for term in scorer.terms] == [
        ("predict", True), ("Model", True), ("carbons", False),
    ]  # fmt: skip
    assert scorer.takes_list and not as_scorer(carbons).takes_list
    model.takes_list = True
    assert as_scorer(model).takes_list
    path = tmp_path / "own.py"
    path.write_text(
        "from cmim_hf.optimization.scorers import batch_scorer\n"
        "@batch_scorer\ndef potency(smiles):\n    return [2.0 for one in smiles]\n"
    )
    (term,) = parse_scorers([f"{path}:potency=0.5"]).terms
    assert term.takes_list and term.name == "potency" and term.function(["C", "N"]) == [2.0, 2.0]
    with pytest.raises(TypeError, match="a function of a list of SMILES, not 3"):
        batch_scorer(3)


def test_load_scorer_from_a_file_that_imports_its_neighbour(tmp_path, search_path):
    (tmp_path / "neighbour_of_scorer.py").write_text("WEIGHT = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "import pickle\n"
        "from dataclasses import dataclass\n"
        "from neighbour_of_scorer import WEIGHT\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def score(smiles):\n    return WEIGHT * pickle.loads(pickle.dumps(Point(len(smiles)))).x\n"
        "number = 3\n"
    )
    assert load_scorer(f"{path}:score")("CCO") == 9
    with pytest.raises(AttributeError, match=r"no 'dock'; it has .*Point, score"):
        load_scorer(f"{path}:dock")
    with pytest.raises(TypeError, match="is a int"):
        load_scorer(f"{path}:number")


def test_load_scorer_from_a_module_of_the_working_folder(tmp_path, search_path, monkeypatch):
    package = tmp_path / "package_of_scorers"
    package.mkdir()
    (package / "dock.py").write_text("def score(smiles):\n    return len(smiles)\n")
    (package / "broken.py").write_text("import not_a_module_anywhere\n")
    monkeypatch.chdir(tmp_path)
    assert load_scorer("package_of_scorers.dock:score")("CCO") == 3
    with pytest.raises(ImportError, match="no module 'package_of_scorers.other' to load"):
        load_scorer("package_of_scorers.other:score")
    with pytest.raises(ModuleNotFoundError, match="not_a_module_anywhere"):
        load_scorer("package_of_scorers.broken:score")


@pytest.mark.parametrize("location", ["mine.py", "mine.py:", ":score", ""])
def test_load_scorer_needs_a_place_and_a_name(location):
    with pytest.raises(ValueError, match="path/to/file.py:function"):
        load_scorer(location)


def test_load_scorer_names_the_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no file nowhere/mine.py"):
        load_scorer("nowhere/mine.py:score")


def test_scorers_of_a_command_line(tmp_path, search_path):
    path = tmp_path / "my=own.py"
    path.write_text(
        "def score(smiles):\n    return len(smiles)\ndef half(smiles):\n    return 0.5\n"
    )
    texts = ["qed", "sa_score=-2e-1", "similarity=2", f"{path}:score", f"{path}:half=0.5"]
    scorer = parse_scorers(texts)
    assert scorer.weights == {
        "qed": 1,
        "sa_score": -0.2,
        "similarity": 2,
        "score_2": 1,
        "half": 0.5,
    }
    assert scorer.terms[3].function("CCO") == 3 and scorer.terms[4].function("CCO") == 0.5


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["qed", "qed=2"], ValueError, "qed is given twice"),
        (["mine.py:score", "./mine.py:score=2"], ValueError, "./mine.py:score is given twice"),
        (["operator:neg", "operator:__neg__"], ValueError, "operator:__neg__ is given twice"),
        (["qed=much"], ValueError, "weight of the scorer qed=much is no number: 'much'"),
        (["qed="], ValueError, "is no number: ''"),
        (["qed=0"], ValueError, "not zero"),
        (["mine.py:other=2"], ValueError, "mine.py:other=2 cannot be used: mine.py has no 'other'"),
        (["nowhere_at_all:score"], ValueError, "no module 'nowhere_at_all'"),
        (["none.py:score"], FileNotFoundError, "no file none.py"),
        ([], ValueError, "no term"),
    ],
)
def test_scorers_of_a_command_line_that_are_none(
    texts, error, message, tmp_path, search_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def score(smiles):\n    return 1.0\n")
    with pytest.raises(error, match=message):
        parse_scorers(texts)
