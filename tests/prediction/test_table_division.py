# SPDX-License-Identifier: Apache-2.0
"""Parts drawn at random, by scaffold and by time, on tables divided by hand."""

from datetime import date

import pytest

from cmim_hf.chemistry.moses import smiles_without_stereo
from cmim_hf.chemistry.scaffolds import murcko_scaffold
from cmim_hf.chemistry.smiles import parse
from cmim_hf.data.smiles_files import Row
from cmim_hf.prediction.table_division import (
    random_split,
    read_times,
    scaffold_split,
    time_split,
)

TENTHS = (0.8, 0.1, 0.1)


def counts(parts):
    return [list(parts).count(name) for name in ("train", "valid", "test")]


def test_a_tenth_of_the_molecules_each_is_held_out():
    keys = ["C" * number for number in range(1, 26)]
    parts = random_split(keys, TENTHS).tolist()
    assert counts(parts) == [21, 2, 2]
    assert parts == random_split(keys, TENTHS).tolist() != sorted(parts)
    assert counts(random_split(range(100), (0.5, 0.29, 0.21))) == [50, 29, 21]


def test_stereo_and_scaffold_of_molecules():
    def stereo_free(smiles):
        return smiles_without_stereo(parse(smiles))

    assert stereo_free("C[C@H](N)O") == stereo_free("OC(N)C") != stereo_free("CC(N)(C)O")
    assert stereo_free("F/C=C/F") == stereo_free("F/C=C\\F") == stereo_free("C(=CF)F")
    assert murcko_scaffold("C[C@H]1CC[C@@H](O)CC1") == "C1CCCCC1"
    assert murcko_scaffold("CC(=O)c1ccncc1") == "c1ccncc1"  # elements stay: no generic scaffold
    assert murcko_scaffold("CCC(=O)O") == "CCC(=O)O"


def test_whole_scaffolds_go_to_one_part():
    benzenes = [f"{'C' * size}c1ccccc1" for size in range(1, 8)]
    pyridines = ["Cc1ccncc1", "CCc1ccncc1"]
    chains = ["OCC", "CCN"]
    smiles = [chains[0], *pyridines, *benzenes, chains[1]]
    # of 11 rows at .6, .2, .2: valid 2, test 2, train 7
    parts = scaffold_split(smiles, (0.6, 0.2, 0.2))
    found = dict(zip(smiles, parts.tolist(), strict=True))
    assert {found[text] for text in benzenes} == {"train"}
    assert {found[text] for text in pyridines} == {"valid"}
    assert {found[text] for text in chains} == {"test"}
    again = scaffold_split(smiles[::-1], (0.6, 0.2, 0.2))
    assert again.tolist() == parts.tolist()[::-1]
    large = scaffold_split([*benzenes, *chains], (0.5, 0.25, 0.25)).tolist()
    assert large[:7] == ["train"] * 7  # though more than half


def test_the_latest_are_tested_and_ties_stay_together():
    times = [float(year) for year in range(2000, 2020)]
    assert time_split(times, TENTHS).tolist() == ["train"] * 16 + ["valid"] * 2 + ["test"] * 2
    shuffled = times[::3] + times[1::3] + times[2::3]
    parts = dict(zip(shuffled, time_split(shuffled, TENTHS).tolist(), strict=True))
    assert [parts[2016], parts[2017], parts[2018]] == ["valid", "valid", "test"]
    tied = [1.0] * 5 + [2.0] * 3 + [3.0] * 2
    assert time_split(tied, TENTHS).tolist() == ["train"] * 5 + ["valid"] * 3 + ["test"] * 2
    with pytest.raises(ValueError, match="2 different times; three parts need three"):
        time_split([1.0, 2, 2, 1], TENTHS)


def test_times_are_numbers_or_dates():
    def read(*cells):
        return read_times([Row("a.csv", n, "C") for n in range(1, len(cells) + 1)], "when", cells)

    assert read("2021", 2022, " 2020.5") == [2021, 2022, 2020.5]
    dates = read("2021-03-05", "2021-03-05T12:00", date(2021, 3, 6), "2021-04")
    assert [time - dates[0] for time in dates] == [0, 43200, 86400, 27 * 86400]
    assert read("2021-03-05T01:00+01:00") == read("2021-03-05")
    for cells, message in (
        (
            ("2021-03-05", "soon"),
            "a.csv, row 2: `time_column` 'when' holds 'soon', which is no date",
        ),
        (("2021-03-05", "2021"), "row 2: .*'2021', which is no date"),
        (("2021", "2021-03-05"), "row 2: .*which is no number"),
        ((None, "1"), "row 1: .*holds None, which is no number and no date"),
        (("nan",), "row 1: .*'nan'"),
        (("2021_03",), "row 1: .*'2021_03', which is no number and no date"),
        (("05/03/2021",), "row 1: .*05/03/2021.*ISO dates"),
    ):
        with pytest.raises(ValueError, match=message):
            read(*cells)
