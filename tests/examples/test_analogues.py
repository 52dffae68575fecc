# SPDX-License-Identifier: Apache-2.0
"""Makers of analogues are counted alike, whether or not ANNalog is installed."""

import json
import sys

import pytest

from cmim_hf import MoleculeGenerator, list_checkpoints
from cmim_hf.chemistry.smiles import similarity
from examples.benchmarks.quality import analogues

TINY = list_checkpoints()["tiny"]


def test_a_maker_is_counted_by_what_it_wrote():
    groups = [["CCO", "CCN", "CCN", None], ["CCCl", "CCBr", "CCF", "CCI"]]
    found = analogues.measure(
        lambda: lambda seeds, draws: groups, ["CCO", "CCCl"], 4, frozenset({"CCBr"})
    )
    assert found["validity"] == 7 / 8 and found["uniqueness"] == 6 / 7
    assert found["novelty"] == 5 / 6 and found["not the seed"] == 4 / 6
    assert found["new neighbours"] == 4 / 8 and found["effective novelty"] == 3 / 8
    near = [similarity("CCO", "CCN"), *(similarity("CCCl", f"CC{x}") for x in ("Br", "F", "I"))]
    assert found["similarity"] == pytest.approx(sum(near) / 4) and found["s / 1,000"] > 0


def test_a_maker_of_nothing_has_gaps():
    found = analogues.measure(lambda: lambda seeds, draws: [[None, None]], ["CCO"], 2, frozenset())
    assert found["validity"] == found["effective novelty"] == 0
    assert found["similarity"] is found["uniqueness"] is None


def test_the_page_without_annalog(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "annalog", None)
    source, train = tmp_path / "held_out.smi", tmp_path / "train.smi"
    source.write_text("CC(C)Cc1ccccc1\nOCC1CCCCC1\n")
    generator = MoleculeGenerator(TINY, seed=0, progress=False)
    given = ["CC(C)Cc1ccccc1", "OCC1CCCCC1"]
    expected = generator.sample_around(given, 0.5, 6)
    train.write_text("\n".join({text for text in expected[0] if text}) + "\n")
    analogues.main(
        ["--checkpoint", TINY, "--source", str(source), "--train", str(train)]
        + ["--draws", "6", "--radii", "0.5", "--output", str(tmp_path)]
    )
    printed = capsys.readouterr().out
    assert "Without ANNalog: pip install" in printed
    makers = json.loads((tmp_path / "analogues.json").read_text())["makers"]
    assert list(makers) == ["sample_around, radius 0.5", "sample_around, radius 0.5, greedy"]
    found, greedy = makers.values()
    assert found["draws"] == greedy["draws"] == 12 and greedy["validity"] < found["validity"]
    assert found["validity"] == sum(text is not None for group in expected for text in group) / 12
    new = {text for text in expected[1] if text} - set(expected[0]) - {given[1]}
    assert found["effective novelty"] == len(new) / 12
    page = (tmp_path / "analogues.md").read_text()
    assert "effective novelty" in page and "ANNalog, beam" not in page


def test_annalog_gives_as_many_as_asked_for():
    pytest.importorskip("annalog")
    pytest.importorskip("partialsmiles")
    given = ["CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CCOc1ccccc1"]
    for decoder in analogues.DECODERS:
        groups = analogues.annalog(decoder)(given, 4)
        assert [len(group) for group in groups] == [4, 4]
        assert sum(text is not None for group in groups for text in group) >= 6
