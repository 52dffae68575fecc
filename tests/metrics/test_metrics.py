# SPDX-License-Identifier: Apache-2.0
import json
import math
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
from packed_rows import SAMPLE

from cmim_hf import metrics
from cmim_hf.chemistry import moses
from cmim_hf.chemistry.smiles import parse
from cmim_hf.metrics import frechet

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "moses_metrics.json").read_text())[
    "values"
]
HARD = [
    "C[C@H]([NH3+])C(=O)[O-]",
    "C1CCCCCCC1",
    "[13CH3]C(=O)[O-].[Na+]",
    "O=C(/C=C/c1ccccc1)Nc1ccccc1",
    "c1ccc(cc1)N=Nc1ccccc1",
    "CN(C)c1ccc(C(NC(=O)Cc2ccccc2)NC(=O)Cc2ccccc2)cc1",
    "CC(=NN=c1scc(-c2ccccc2)n1C)c1ccc(Cl)c(Cl)c1",
    "FC(F)(F)C(F)(F)C(F)(F)F",
    "C",
]
COMPARING = ["fcd", "fragment_similarity", "novelty", "scaffold_similarity", "snn"]
ALONE = ["internal_diversity", "moses_filters", "uniqueness", "validity"]
BIPHENYL, NAPHTHALENE = "c1ccc(-c2ccccc2)cc1", "c1ccc2ccccc2c1"


def generated_and_reference():
    """540 strings, of which 14 are no molecule, and 500 reference molecules."""
    rows = SAMPLE.read_text().split()
    broken = [None, "", *(row[: len(row) // 2] + "(" for row in rows[:12])]
    generated = rows[:470] + rows[:27] + rows[500:520] + HARD + broken
    return [generated[i * 7 % len(generated)] for i in range(len(generated))], rows[500:]


def needs_fcd(name):
    return pytest.param(
        name, marks=pytest.mark.skipif(not _has_fcd(), reason="fcd-torch is not installed")
    )


def _has_fcd():
    try:
        import fcd_torch  # noqa: F401
    except ImportError:
        return False
    return True


ALL = [needs_fcd(name) if name == "fcd" else name for name in COMPARING + ALONE]


def compute(name, predictions, **arguments):
    return metrics.load(name).compute(predictions=predictions, **arguments)


@pytest.mark.parametrize("name", ALL)
def test_values_are_those_of_molsets(name):
    generated, reference = generated_and_reference()
    result = compute(name, generated, reference_smiles=reference, k=[10, 400])
    assert result.pop("invalid") == 14
    expected = {key: GOLDEN[key] for key in GOLDEN if key.startswith(name)}
    assert result == pytest.approx(expected, abs=1e-3 if name == "fcd" else 1e-6)


def test_every_name_is_listed_and_documented():
    assert metrics.list_metrics() == sorted([*COMPARING, *ALONE, "reconstruction"])
    for name in metrics.list_metrics():
        metric = metrics.load(name)
        assert metric.name == name
        assert name in metrics.__doc__
        assert len(metric.description) > 100
        assert "Args:" in metric.inputs_description
        assert f"    {name}: " in metric.inputs_description
        assert metric.inputs_description in metric.compute.__doc__
        assert (name == "reconstruction") == ("references" in metric.features)


def test_unknown_names_meet_the_known_ones():
    with pytest.raises(ValueError, match="'qed'; there are fcd, fragment_similarity, .*validity"):
        metrics.load("qed")


def test_an_empty_list_does_not_spoil_the_next():
    metric = metrics.load("validity")
    with pytest.raises(ValueError, match="predictions is empty"):
        metric.compute(predictions=[])
    assert metric.compute(predictions=["C"]) == {"validity": 1.0, "invalid": 0}


def test_modules_of_one_name_compute_at_once():
    first, second = (metrics.load("validity") for _ in range(2))
    first.add(prediction="C")
    second.add_batch(predictions=[None, "C(", "CC"])
    assert first.compute() == {"validity": 1.0, "invalid": 0}
    assert second.compute() == {"validity": 1 / 3, "invalid": 2}


@pytest.mark.slow
def test_processes_load_and_compute_at_once(tmp_path):
    code = (
        "import sys; from cmim_hf import metrics; n = int(sys.argv[1]); "
        "print([metrics.load(m).compute(predictions=['C'] * n + [None] * (10 - n))[m] "
        "for m in ['validity', 'uniqueness'] for _ in range(3)])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(count)],
            env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for count in (1, 4, 8)
    ]
    ended = [process.communicate() for process in started]
    for (printed, errors), count in zip(ended, (1, 4, 8), strict=True):
        assert printed.strip() == str([count / 10] * 3 + [1 / count] * 3), errors


def test_modules_combine():
    combined = evaluate.combine([metrics.load(name) for name in ("validity", "uniqueness", "snn")])
    result = combined.compute(predictions=["CCO", None, "OCC"], reference_smiles=["CCO"], k=1)
    assert result == {
        "validity": pytest.approx(2 / 3),
        "uniqueness": 0.5,
        "uniqueness@1": 1.0,
        "snn": 1.0,
        "validity_invalid": 1,
        "uniqueness_invalid": 1,
        "snn_invalid": 1,
    }


def test_predictions_may_come_one_by_one():
    metric = metrics.load("validity")
    metric.add(prediction=None)
    metric.add_batch(predictions=["C", "CC"])
    assert metric.compute(predictions=("C(",)) == {"validity": 0.5, "invalid": 2}


def test_lists_without_any_molecule():
    assert compute("validity", ["C(", None, " ", ""]) == {"validity": 0.0, "invalid": 4}
    for name in [*COMPARING, "internal_diversity", "moses_filters", "uniqueness"]:
        for predictions in ([], [None, "C("]):
            message = f"None of {len(predictions)} predictions is a molecule"
            with pytest.raises(ValueError, match=message):
                compute(name, predictions, reference_smiles=["C"])
    with pytest.raises(ValueError, match="predictions is empty"):
        compute("validity", [])
    with pytest.raises(ValueError, match="validity got no predictions"):
        metrics.load("validity").compute()


def test_wrong_arguments():
    with pytest.raises(TypeError, match="Expected a list of SMILES, got the single text 'CCO'"):
        compute("validity", "CCO")
    with pytest.raises(TypeError, match="predictions row 2 is 3 of type int"):
        compute("validity", ["C", 3])
    with pytest.raises(TypeError, match="unknown argument reference"):
        compute("snn", ["C"], reference=["C"])
    for name in COMPARING:
        with pytest.raises(ValueError, match="pass reference_smiles="):
            compute(name, ["C"])
    with pytest.raises(ValueError, match="reference_smiles is empty"):
        compute("snn", ["C"], reference_smiles=[])
    with pytest.raises(ValueError, match=r"reference_smiles row 2, 'C\(', is no molecule"):
        compute("snn", ["C"], reference_smiles=["C", "C("])
    with pytest.raises(TypeError, match="Expected a list of SMILES, got the single text"):
        compute("snn", ["C"], reference_smiles="C")


def test_uniqueness_counts_molecules_and_not_writings():
    predictions = ["CCO", None, "OCC", "C(O)C", "CCN"]
    result = compute("uniqueness", predictions, k=(1, 3))
    assert result == {
        "uniqueness": 0.5,
        "uniqueness@1": 1.0,
        "uniqueness@3": pytest.approx(1 / 3),
        "invalid": 1,
    }
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k}, and 4 predictions are molecules"):
            compute("uniqueness", predictions, k=k)


def test_what_k_may_be():
    predictions = ["CCO", "OCC", "CCN"]
    for k in (np.int64(2), np.array([2]), (2,)):
        assert compute("uniqueness", predictions, k=k)["uniqueness@2"] == 0.5
    for k in (2.5, "3", None, [1, 2.0]):
        with pytest.raises(TypeError, match="k is an integer or a list of integers, got "):
            compute("uniqueness", predictions, k=k)


def test_tables_are_no_lists():
    frame = pd.DataFrame({"smiles": ["C", "CC"]})
    for table, kind in ((frame, "DataFrame"), ({"smiles": ["C"]}, "dict")):
        message = f"Expected a list of SMILES, got a {kind}; pass its column"
        with pytest.raises(TypeError, match=message):
            compute("validity", table)
        with pytest.raises(TypeError, match=message):
            compute("snn", ["C"], reference_smiles=table)
    assert compute("validity", frame["smiles"]) == {"validity": 1.0, "invalid": 0}


def test_gaps_and_text_without_encoding_are_no_molecules():
    predictions = ["C", math.nan, np.float64("nan"), "C\ud800", "\udfff", "[\ud800]"]
    assert compute("validity", predictions) == {"validity": 1 / 6, "invalid": 5}
    with pytest.raises(ValueError, match=r"references row 1, 'C\\\\ud800', is no molecule"):
        compute("reconstruction", ["C"], references=["C\ud800"])
    with pytest.raises(ValueError, match="reference_smiles row 2, '', is no molecule"):
        compute("snn", ["C"], reference_smiles=["C", math.nan])


def test_novelty_reads_the_reference_as_molecules():
    result = compute("novelty", ["CCO", "OCC", "CCN", "CC"], reference_smiles=["C(C)O", "C(C)C"])
    assert result == {"novelty": pytest.approx(2 / 3), "invalid": 0}


def test_reconstruction_with_and_without_stereo():
    references = ["C[C@H](N)O", "C[C@H](N)O", "[H]/N=C(/C)N", "[13CH4]", "CCO", "CCO", "[2H]C"]
    predictions = ["O[C@@H](N)C", "C[C@@H](N)O", "CC(=N)N", "C", "OCC", None, "C"]
    result = compute("reconstruction", predictions, references=references)
    assert result["reconstruction"] == pytest.approx(2 / 7)
    assert result["reconstruction_without_stereo"] == pytest.approx(4 / 7)
    assert result["invalid"] == 1
    equal = compute("reconstruction", ["CCO", None], references=["OCC", "CCO"])
    assert equal["reconstruction_tanimoto"] == 0.5
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        compute("reconstruction", ["C", "C"], references=["C"])
    with pytest.raises(ValueError, match="references is empty"):
        compute("reconstruction", [], references=[])
    with pytest.raises(ValueError, match=r"references row 1, 'C\(', is no molecule"):
        compute("reconstruction", ["C"], references=["C("])
    with pytest.raises(TypeError, match="Expected a list of SMILES, got None"):
        compute("reconstruction", ["C"])


def test_equal_molecules_are_near_and_not_diverse():
    assert compute("snn", ["CCO", "OCC"], reference_smiles=["CCN", "CCO"])["snn"] == 1.0
    diversity = compute("internal_diversity", ["CCO", "OCC"])
    assert diversity == {"internal_diversity": 0.0, "internal_diversity_2": 0.0, "invalid": 0}


def test_two_molecules_without_common_bit():
    diversity = compute("internal_diversity", ["C", "O"])
    assert diversity["internal_diversity"] == 0.5
    assert diversity["internal_diversity_2"] == pytest.approx(1 - math.sqrt(0.5))
    assert compute("snn", ["C", "O"], reference_smiles=["N"])["snn"] == 0.0


def test_means_and_nearest_of_all_pairs():
    """Beside loops over the bits that RDKit sets."""
    smiles = SAMPLE.read_text().split()[:18]
    bits = [set(moses._MORGAN.GetFingerprint(parse(text)).GetOnBits()) for text in smiles]

    def tanimoto(first, second):
        return [[len(a & b) / len(a | b) for b in second] for a in first]

    own, pairs = np.array(tanimoto(bits[:7], bits[:7])), np.array(tanimoto(bits[:7], bits[7:]))
    near = compute("snn", smiles[:7], reference_smiles=smiles[7:])
    assert near["snn"] == pytest.approx(pairs.max(axis=1).mean(), abs=1e-12)
    diversity = compute("internal_diversity", smiles[:7])
    assert diversity["internal_diversity"] == pytest.approx(1 - own.mean(), abs=1e-12)
    roots = np.sqrt((own**2).mean(axis=1))
    assert diversity["internal_diversity_2"] == pytest.approx(1 - roots.mean(), abs=1e-12)


def test_cosines_of_fragments_and_scaffolds():
    cut = moses.fragments([parse("CCCCOC(C)=O"), parse("CC.O")])
    assert cut == {"[1*]C(C)=O": 1, "[3*]O[3*]": 1, "[4*]CCCC": 1, "CC": 1, "O": 1}
    one = compute("fragment_similarity", ["CC", "CC", "C"], reference_smiles=["CC", "O"])
    assert one["fragment_similarity"] == pytest.approx(2 / math.sqrt(5 * 2))
    predictions = ["C" + BIPHENYL, BIPHENYL, NAPHTHALENE, "c1ccccc1"]
    reference = [BIPHENYL, "c1ccccc1"]
    result = compute("scaffold_similarity", predictions, reference_smiles=reference)
    assert result["scaffold_similarity"] == pytest.approx(2 / math.sqrt(5))
    for predicted, true, sides in (
        (BIPHENYL, "c1ccccc1", "reference_smiles"),
        ("c1ccccc1", BIPHENYL, "predictions"),
        ("C", "C", "predictions and reference_smiles"),
    ):
        message = f"The molecules of {sides} have no scaffolds of 2 rings or more"
        with pytest.raises(ValueError, match=message):
            compute("scaffold_similarity", [predicted], reference_smiles=[true])


@pytest.mark.parametrize(
    "smiles, passes",
    [
        ("CCO", True),
        ("C1CCCCCC1", True),
        ("C1CCCCCCC1", False),  # a ring of eight
        ("CC(=O)[O-]", False),  # a charge
        ("CCP", False),  # an element
        ("[2H]C", True),
        ("CC=O", False),  # MCF7, an aldehyde
        ("CC(=O)C", True),
        ("CCCl", False),  # MCF4, with its hydrogens explicit
        ("FC(F)(F)C(F)(F)C(F)(F)F", False),  # MCF22, seven fluorines
        # PAINS anil_di_alk_D, which RDKit's own catalogue lets pass.
        ("NC(=O)CC(NC(=O)c1ccccc1)c1ccc(N2CCC(Cc3ccccc3)CC2)c([N+](=O)[O-])c1", False),
        # RDKit's catalogue rejects this one as thiaz_ene_A.
        ("CC(=NN=c1scc(-c2ccccc2)n1C)c1ccc(Cl)c(Cl)c1", False),
    ],
)
def test_filters(smiles, passes):
    assert compute("moses_filters", [smiles])["moses_filters"] == passes


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    first, distance = rng.normal(size=(400, 5)), frechet.frechet_distance
    assert distance(first, first) == pytest.approx(0, abs=1e-9)
    assert distance(first, first + 3) == pytest.approx(45)
    spread = np.trace(np.cov(first, rowvar=False))
    assert distance(first, 3 * first) == pytest.approx(4 * spread + 4 * (first.mean(0) ** 2).sum())
    few = rng.normal(size=(3, 5))  # covariance of rank 2
    assert distance(few, few) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 molecules in each set, got a set of 1"):
        distance(first, first[:1])


@pytest.mark.skipif(not _has_fcd(), reason="fcd-torch is not installed")
def test_features_of_batches_hold_no_more_memory_than_they_are(monkeypatch):
    """ChemNet gives a view of the states of all 349 places."""
    batches = []

    def joined(parts):
        batches.extend(parts)
        return np.vstack(parts)

    monkeypatch.setattr(frechet.np, "concatenate", joined)
    found = frechet.chemnet_features(("CCO", "CCN", "c1ccccc1"))
    assert found.shape == (3, 512) and found.dtype == np.float32
    assert [part.base for part in batches] == [None]


def test_fcd_names_its_extra_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcd_torch", None)
    with pytest.raises(ImportError, match=r"pip install 'cmim-hf\[fcd\]'"):
        compute("fcd", ["C", "CC"], reference_smiles=["C", "CC"])


@pytest.mark.skipif(not _has_fcd(), reason="fcd-torch is not installed")
@pytest.mark.filterwarnings("error")
def test_fcd_of_a_set_to_itself_is_nothing_and_warns_of_nothing():
    rows = SAMPLE.read_text().split()[:40]
    assert compute("fcd", rows, reference_smiles=rows[::-1])["fcd"] == pytest.approx(0, abs=1e-4)
