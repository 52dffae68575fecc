# SPDX-License-Identifier: Apache-2.0
"""Files to train, choose and report by, without leaks."""

import gzip
import json

import pytest
from packed_rows import SAMPLE

from cmim_hf.chemistry.moses import smiles_without_stereo
from cmim_hf.chemistry.smiles import parse
from cmim_hf.data.split import SplitOptions, split_sources

CHAINS = ["C" * size + tail for size in range(1, 21) for tail in ("O", "N", "F")]


def key(smiles):
    return smiles_without_stereo(parse(smiles))


def unzipped(path):
    return gzip.open(path, "rt").read().split()


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "a.smi").write_text("\n".join([*CHAINS, "C1CC", "OCC", "C[C@H](O)F"]) + "\n")
    (tmp_path / "b.smi").write_text("\n".join([*CHAINS[:30], "C[C@@H](O)F", "CBr", "CI"]) + "\n")
    (tmp_path / "x.smi").write_text("NCC\nCC(O)F\n")
    return [tmp_path / "a.smi", tmp_path / "b.smi"]


def test_no_held_out_or_excluded_molecule_is_trained_on(sources, tmp_path):
    out = tmp_path / "out"
    options = SplitOptions(exclude=[tmp_path / "x.smi"], validation=5, test=4)
    counts, rejects = split_sources(sources, out, options)
    train = unzipped(out / "train.smi.gz")
    parts = {
        (name, part): (out / f"{name}.{part}.smi").read_text().split()
        for name in "ab"
        for part in ("validation", "test")
    }
    held_out = [smiles for part in parts.values() for smiles in part]
    assert [len(part) for part in parts.values()] == [5, 4, 5, 4]
    assert len({key(smiles) for smiles in held_out}) == 18
    unseen = {key("CCN"), key("CC(O)F")}
    everything = {key(smiles) for smiles in [*CHAINS, "CBr", "CI"]}
    assert {key(s) for s in train} == everything - {key(s) for s in held_out} - unseen
    assert len(train) == len(set(train)) == len(everything) - 18 - 1
    by_source = [unzipped(out / f"{name}.train.smi.gz") for name in "ab"]
    assert sorted(by_source[0] + by_source[1]) == sorted(train) and "CBr" not in by_source[0]
    assert [(reject.row.number, reject.row.text) for reject in rejects] == [(61, "C1CC")]
    assert "C1CC\tit does not parse: unclosed ring" in (out / "rejects.tsv").read_text()
    assert json.loads((out / "split.json").read_text())["counts"] == counts
    assert counts["a"]["rows"] == 62 and counts["a"]["not excluded"] == 60
    assert counts["b"]["rows"] == 33 and counts["b"]["not excluded"] == 31
    # What version 0.1 drew of the same sources: held-out files stay held out.
    assert parts["a", "test"] == ["C" * 15 + "N", "C" * 17 + "O", "CCCO", "CCCF"]
    assert parts["b", "test"] == ["C" * 8 + "F", "CO", "CI", "C" * 10 + "F"]


def test_large_molecules_are_left_out_of_all_files(sources, tmp_path):
    counts, _ = split_sources(sources, tmp_path, SplitOptions(validation=2, test=1, max_atoms=6))
    written = unzipped(tmp_path / "train.smi.gz") + (tmp_path / "a.test.smi").read_text().split()
    assert max(parse(smiles).GetNumHeavyAtoms() for smiles in written) == 6
    assert counts["a"]["small enough"] == 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 40, "test": 23}, r"a has 61 molecules to hold out, not 63: ask for fewer"),
        ({"test": -1}, "`test` is a whole number from 0, not -1"),
    ],
)
def test_what_cannot_be_held_out_is_told(sources, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        split_sources(sources, tmp_path / "out", SplitOptions(**options))
    with pytest.raises(ValueError, match="Two sources have the same name in a, a"):
        split_sources([sources[0]] * 2, tmp_path / "out", SplitOptions())
    assert not (tmp_path / "out").exists()


def test_shipped_molecules_have_no_duplicates_and_no_overlap():
    train = unzipped(SAMPLE.with_name("moses_train.smi.gz"))
    test = SAMPLE.read_text().split()
    assert (len(train), len(test), len({*train, *test})) == (50_000, 1000, 51_000)


def test_a_stereoisomer_of_what_is_held_out_is_not_trained_on(tmp_path):
    isomers = ["C[C@H](O)F", "C[C@@H](O)F", "N[C@H](O)F", "N[C@@H](O)F"]
    (tmp_path / "a.smi").write_text("\n".join(isomers))
    split_sources([tmp_path / "a.smi"], tmp_path, SplitOptions(validation=1, test=0))
    held_out = (tmp_path / "a.validation.smi").read_text().split()
    train = unzipped(tmp_path / "train.smi.gz")
    assert len(held_out) == 1 and len(train) == 2
    assert len({key(smiles) for smiles in train} | {key(held_out[0])}) == 2
