# SPDX-License-Identifier: Apache-2.0
import csv
import inspect
import signal
import struct
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmim_hf import MoleculeGenerator
from cmim_hf.chemistry.smiles import canonicalize, similarity
from cmim_hf.cli.interpolate import drawn_walk
from cmim_hf.cli.main import main
from cmim_hf.optimization.latent_search import optimize

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
NEAR = ["--radius", "2.0", "--unit", "aggregate", "--seed", "3"]


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator(progress=False)


@pytest.fixture(scope="module")
def molecules(sample):
    return [row.text for row in sample[:40]]


@pytest.fixture(scope="module")
def reconstructed(generator, molecules):
    return generator.reconstruct(molecules, attempts=1)


def read(path, delimiter=","):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def text_of(value):
    return "" if value is None else str(value)


@pytest.mark.parametrize("kind", [".tsv", ".parquet", ".smi"])
def test_reconstruct_keeps_the_columns(kind, molecules, reconstructed, tmp_path, capsys):
    source, output = tmp_path / "in.csv", tmp_path / f"out{kind}"
    names = [f'{i}, "x"\tand y' if i % 2 else f"{i}\rx" for i in range(len(molecules))]
    with open(source, "w", newline="") as stream:
        rows = csv.writer(stream, quoting=csv.QUOTE_ALL)
        rows.writerows([("name", "SMILES"), *zip(names, molecules, strict=True)])
    assert main(["reconstruct", str(source), "-o", str(output), "--attempts", "1"]) == 0
    exact = [one == canonicalize(two) for one, two in zip(reconstructed, molecules, strict=True)]
    valid = [one for one in reconstructed if one is not None]
    report = capsys.readouterr().err
    assert f"Reconstructed 40 of 40 rows: {sum(exact) / 40:.1%} exactly" in report
    assert f"{len(valid) / 40:.1%} as a valid molecule" in report
    assert 0 < sum(exact) < len(valid) < 40  # all cases occur
    expected = {
        "name": names,
        "SMILES": molecules,
        "reconstruction": reconstructed,
        "exact": exact,
    }
    if kind == ".parquet":
        assert pq.read_table(output).to_pydict() == expected
    elif kind == ".smi":
        pairs = zip(reconstructed, molecules, strict=True)
        assert output.read_text() == "".join(f"{a}\t{b}\n" for a, b in pairs if a is not None)
    else:
        found = read(output, "," if kind == ".csv" else "\t")
        rows = zip(*expected.values(), strict=True)
        assert found == [dict(zip(expected, map(text_of, row), strict=True)) for row in rows]


def test_candidates_bring_more_of_them_back(generator, molecules, reconstructed, tmp_path, capsys):
    source, output = tmp_path / "in.smi", tmp_path / "out.csv"
    source.write_text("\n".join(molecules))
    command = ["reconstruct", str(source), "-o", str(output), "--candidates", "5"]
    assert main(command) == 0
    found = [row["reconstruction"] for row in read(output)]
    assert found == generator.reconstruct(molecules, candidates=5)
    given = [canonicalize(one) for one in molecules]
    greedy, nearest = (
        sum(a == b for a, b in zip(given, written, strict=True))
        for written in (reconstructed, found)
    )
    assert greedy < nearest
    assert f"Reconstructed 40 of 40 rows: {nearest / 40:.1%} exactly" in capsys.readouterr().err
    walk = ["interpolate", *molecules[:2], "--steps", "4", "--candidates", "5", "-o", str(output)]
    assert main(walk) == 0
    (path,) = generator.interpolate(molecules[:1], molecules[1:2], 4, candidates=5)
    assert [row["smiles"] for row in read(output)] == path
    around = ["sample", "-n", "4", "--around", molecules[0], "--radius", "0.5", "--seed", "1"]
    assert main([*around, "--candidates", "5", "-o", str(output)]) == 0
    drawn = MoleculeGenerator(seed=1).sample_around(molecules[0], 0.5, 4, candidates=5)
    assert [row["smiles"] for row in read(output)] == drawn
    draw = ["sample", "-n", "1", "--temperature", "1", "--candidates", "2", "-o", str(output)]
    assert main(draw) == 1
    assert "--candidates (2) are the most probable texts" in capsys.readouterr().err


def test_many_batches_make_one_file(molecules, reconstructed, tmp_path, monkeypatch):
    monkeypatch.setattr("cmim_hf.cli.options.BATCH_ROWS", 7)
    source = tmp_path / "in.smi"
    source.write_text("\n".join(molecules))
    for name in ("out.csv", "out.parquet"):
        command = ["reconstruct", str(source), "--attempts", "1"]
        assert main([*command, "-o", str(tmp_path / name)]) == 0
    assert [row["reconstruction"] for row in read(tmp_path / "out.csv")] == [
        text_of(one) for one in reconstructed
    ]
    assert pq.read_table(tmp_path / "out.parquet")["reconstruction"].to_pylist() == reconstructed


def test_invalid_rows_follow_the_policy(molecules, reconstructed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cmim_hf.cli.options.BATCH_ROWS", 3)
    source, output = tmp_path / "bad.smi", tmp_path / "out.parquet"
    rows = [*molecules[:4], "C(C", molecules[5]]
    source.write_text("\n".join(rows))
    command = ["reconstruct", str(source), "-o", str(output), "--attempts", "1"]
    assert main(command) == 1
    assert f"cmim reconstruct: Row 5 of {source}, 'C(C'" in capsys.readouterr().err
    assert not output.exists()
    assert main([*command, "--on-invalid", "none"]) == 0
    report = capsys.readouterr().err
    assert "Reconstructed 5 of 6 rows" in report and "Invalid: 1 does not parse." in report
    assert f"  {source} row 5, 'C(C': it does not parse" in report
    table = pq.read_table(output)
    expected = [*reconstructed[:4], None, reconstructed[5]]
    assert table["smiles"].to_pylist() == rows
    assert table["reconstruction"].to_pylist() == expected
    assert table["exact"].to_pylist()[4] is None
    errors = table["reconstruction_error"].to_pylist()
    assert errors.pop(4).startswith("it does not parse: ") and errors == [None] * 5
    assert main([*command, "--on-invalid", "skip"]) == 0
    table = pq.read_table(output)
    assert table.column_names == ["smiles", "name", "reconstruction", "exact"]
    assert table["smiles"].to_pylist() == [*rows[:4], rows[5]]
    assert table["reconstruction"].to_pylist() == [*expected[:4], expected[5]]


def test_a_column_of_the_result_is_not_overwritten(tmp_path, capsys):
    source = tmp_path / "in.csv"
    source.write_text(f"smiles,exact\n{ASPIRIN},yes\n")
    assert main(["reconstruct", str(source), "-o", str(tmp_path / "out.csv")]) == 1
    assert "has a column 'exact' already" in capsys.readouterr().err


def test_pictures_hold_sixty_molecules_at_most(molecules, tmp_path, capsys):
    source = tmp_path / "in.smi"
    source.write_text("\n".join(molecules))
    command = ["reconstruct", str(source), "-o", str(tmp_path / "out.csv"), "--picture"]
    assert main([*command, str(tmp_path / "grid.png")]) == 0
    assert "grid.png shows the first 60 of 80 molecules" in capsys.readouterr().err
    png = (tmp_path / "grid.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == (4 * 260, 15 * 200)
    source.write_text("\n".join(molecules[:3]))
    assert main([*command, str(tmp_path / "grid.svg")]) == 0
    assert "shows the first" not in capsys.readouterr().err
    assert "width='1040px' height='400px'" in (tmp_path / "grid.svg").read_text()


def test_salts_are_read_as_their_parents_on_request(tmp_path, capsys):
    salt, acid, parent = "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]", ASPIRIN, ["--standardize", "parent"]
    drawn, walk, best = (tmp_path / f"{name}.csv" for name in ("drawn", "walk", "best"))

    def rows(command, output, *more):
        assert main([*command, "-o", str(output), *more]) == 0
        return read(output)

    def without(table, column):
        return [{k: v for k, v in row.items() if k != column} for row in table]

    def command(seed):
        return ["sample", "-n", "20", "--around", seed, *NEAR]

    found, expected = rows(command(salt), drawn, *parent), rows(command(acid), drawn)
    assert without(found, "seed") == without(expected, "seed")
    assert {row["seed"] for row in found} == {salt} and rows(command(salt), drawn) != found
    path = rows(["interpolate", salt, "CCN.Cl", "--steps", "3"], walk, *parent)
    assert path == rows(["interpolate", acid, "CCN", "--steps", "3"], walk)
    scored = ["--scorer", "qed", "--budget", "5"]
    found = rows(["optimize", salt, *scored], best, *parent)
    assert found[0]["seed_smiles"] == canonicalize(acid)
    assert found == rows(["optimize", acid, *scored], best)
    assert main(["sample", "-n", "2", *parent, "-o", str(drawn)]) == 1
    assert "--standardize belongs to --around" in capsys.readouterr().err


def test_sample_around_writes_seed_and_similarity(tmp_path, capsys):
    output = tmp_path / "out.csv"
    command = ["sample", "-n", "40", "--around", ASPIRIN, "COc1ccc(CC#N)cc1Br", *NEAR]
    command += ["--attempts", "1"]
    assert main([*command, "-o", str(output)]) == 0
    generator = MoleculeGenerator(seed=3)
    groups = {
        seed: generator.sample_around(seed, 2.0, 40, unit="aggregate", attempts=1)
        for seed in (ASPIRIN, "COc1ccc(CC#N)cc1Br")
    }
    drawn = [(one, seed) for seed, group in groups.items() for one in group]
    valid = [(one, seed, similarity(seed, one)) for one, seed in drawn if one is not None]
    assert len({seed for _, seed, _ in valid}) == 2 and len(valid) < 80
    found = [(r["smiles"], r["seed"], float(r["similarity"])) for r in read(output)]
    assert found == valid
    distinct = {one for one, _, _ in valid}
    assert 1 < len(distinct) < len(valid)
    report = capsys.readouterr().err
    assert f"Drew 80 codes: {len(valid)} ({len(valid) / 80:.1%}) are valid" in report
    assert f"{len(distinct)} of them distinct. Wrote {len(valid)} rows." in report
    assert " of them not at the first attempt" in report

    assert main([*command, "-o", str(output), "--unique"]) == 0
    once = [row["smiles"] for row in read(output)]
    assert len(once) == len(distinct) == len(set(once)) and set(once) == distinct
    assert main([*command, "-o", str(output), "--keep-invalid"]) == 0
    assert [(row["smiles"], row["seed"]) for row in read(output)] == [
        (text_of(one), seed) for one, seed in drawn
    ]
    assert all((row["smiles"] == "") == (row["similarity"] == "") for row in read(output))


def test_sample_from_the_priors(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cmim_hf.cli.sample.BATCH_ROWS", 32)
    output = tmp_path / "out.parquet"
    generator = MoleculeGenerator(seed=5)
    hot = {"temperature": 0.5, "top_k": 2}
    drawn = [one for n in (32, 32, 16) for one in generator.sample(n, prior="fitted", **hot)]
    assert main(["sample", "-n", "80", "--prior", "fitted", "--seed", "5", "--top-k", "2",
                 "--temperature", "0.5", "--keep-invalid", "-o", str(output)]) == 0  # fmt: skip
    assert pq.read_table(output).to_pydict() == {"smiles": drawn}
    assert "Drew 80 codes: " in capsys.readouterr().err
    hot = MoleculeGenerator(seed=5).sample(4, temperature=9.0, attempts=1)
    assert hot == [None] * 4
    assert main(["sample", "-n", "4", "--temperature", "9", "--seed", "5", "-o", str(output),
                 "--attempts", "1", "--picture", str(tmp_path / "grid.svg")]) == 0  # fmt: skip
    assert pq.read_table(output).num_rows == 0 and not (tmp_path / "grid.svg").exists()
    report = capsys.readouterr().err
    assert "0 (0.0%) are valid" in report and "Try --prior fitted" in report
    assert "nothing to draw" in report


def test_a_prior_is_fitted_and_drawn_from(molecules, tmp_path, capsys):
    source, prior, output = (tmp_path / name for name in ("in.smi", "p.safetensors", "out.csv"))
    source.write_text("\n".join([*molecules, "C(C"]) + "\n")
    assert main(["fit-prior", str(source), "-o", str(prior)]) == 1
    assert "Row 41 of" in capsys.readouterr().err and not prior.exists()
    assert main(["fit-prior", str(source), "-o", str(prior), "--on-invalid", "skip", "--most", "30",
                 "--bandwidth", "0.2", "--seed", "1"]) == 0  # fmt: skip
    report = capsys.readouterr().err
    assert "Fitted a prior to 40 of 41 rows" in report and "30 codes in 3" in report
    assert "Invalid: 1 does not parse" in report
    expected = MoleculeGenerator(seed=1).fit_prior(molecules, most=30, bandwidth=0.2)
    drawn = MoleculeGenerator(seed=2).sample(20, prior=expected)
    command = ["sample", "-n", "20", "--prior", str(prior), "--seed", "2", "-o", str(output)]
    assert main(command) == 0
    assert [row["smiles"] for row in read(output)] == [one for one in drawn if one is not None]
    content = prior.read_bytes()
    prior.write_bytes(content[:1000])
    assert main(command) == 1
    assert f"cmim sample: The prior of codes {prior} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ([], "Try --prior fitted, or --around a molecule with a small --radius, or a lower"),
        (["--prior", "fitted"], "Try --around a molecule with a small --radius, or a lower"),
        (["--around", "C", "--radius", "1"], "Try a smaller --radius, or a lower --temperature."),
        (["--around", "C", "--radius", "0"], "Try a lower --temperature."),
    ],
)
def test_advice_after_no_molecule_names_what_was_not_done(given, advice, tmp_path, capsys):
    command = ["sample", "-n", "2", "--temperature", "9", "--seed", "5", "--attempts", "1", *given]
    assert main([*command, "-o", str(tmp_path / "out.csv")]) == 0
    assert advice in capsys.readouterr().err


def test_a_file_called_as_a_molecule_does_not_hide_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CCO").write_text("CCN\n")
    for given, seed in (
        (["CCO"], "CCO"),
        (["CCO", "--file-type", ".smi"], "CCN"),
        (["./CCO", "--file-type", ".smi"], "CCN"),
    ):
        command = ["optimize", *given, "--scorer", "qed", "--budget", "1"]
        assert main([*command, "-o", "best.csv"]) == 0
        assert [row["seed_smiles"] for row in read(tmp_path / "best.csv")] == [seed]
    assert main(["optimize", "./CCO", "--scorer", "qed", "-o", "best.csv"]) == 1
    assert "Rename it, or say the type by --file-type." in capsys.readouterr().err


MEND = "extra open parentheses (around position 2). Fix or remove it"
IN_ITS_WORDS = [
    (["sample", "-n", "2", "--around", "C", "C(C", "--radius", "1"],
     "Row 2 of --around, 'C(C', cannot be used: it does not parse: " + MEND + ".\n"),
    (["interpolate", "C", "C(C"],
     "Row 2 of the two ends, 'C(C', cannot be used: it does not parse: " + MEND + ".\n"),
    (["interpolate", "--pairs", "in.csv"], MEND + ".\n"),
    (["interpolate", "--pairs", "in.csv", "--columns", "first,other"], "right one by --columns.\n"),
    (["interpolate", "--pairs", "in.csv", "--columns", "other,first"], "right one by --columns.\n"),
    (["interpolate", "--pairs", "in.xyz"], "behind. Rename it, or say the type by"),
    (["reconstruct", "in.csv", "--column", "other"], "right one by --column.\n"),
    (["reconstruct", "in.csv", "--column", "second"],
     MEND + ", or choose what becomes of such rows by --on-invalid.\n"),
    (["reconstruct", "in.csv", "--file-type", "xyz"], "cmim reconstruct: --file-type is one of"),
    (["optimize", "C(C", "--scorer", "qed"],
     MEND + ", or choose what becomes of such rows by --on-invalid.\n"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), IN_ITS_WORDS)
def test_errors_name_options_that_the_command_has(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("in.csv", "in.xyz"):
        (tmp_path / name).write_text("first,second\nC,CC\nCO,C(C\n")
    assert main([*arguments, "-o", "out.csv"]) == 1
    shown = capsys.readouterr().err
    assert message in shown and "argument" not in shown and "on_invalid" not in shown


def test_lines_go_to_standard_output_alone(tmp_path, capsys):
    command = ["sample", "-n", "10", "--around", ASPIRIN, *NEAR, "-o"]
    assert main([*command, "-"]) == 0
    lines = capsys.readouterr().out
    assert main([*command, str(tmp_path / "out.smi")]) == 0
    assert lines == (tmp_path / "out.smi").read_text()
    expected = MoleculeGenerator(seed=3).sample_around(ASPIRIN, 2.0, 10, unit="aggregate")
    assert lines == "".join(f"{one}\t{ASPIRIN}\n" for one in expected if one is not None) != ""


def test_a_closed_pipe_ends_quietly(tmp_path):
    source = tmp_path / "in.smi"
    source.write_text(f"{ASPIRIN}\n" * 10)
    process = subprocess.Popen(
        [sys.executable, "-m", "cmim_hf.cli", "reconstruct", str(source), "-o", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.wait(timeout=120) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


def test_interpolate_two_molecules(generator, reconstructed, tmp_path, capsys):
    first, second = [one for one in reconstructed if one is not None][:2]
    output = tmp_path / "out.csv"
    assert main(["interpolate", first, second, "--steps", "12", "--method", "spherical",
                 "-o", str(output), "--picture", str(tmp_path / "row.svg")]) == 0  # fmt: skip
    path = generator.interpolate(first, second, 12, method="spherical")
    found = read(output)
    assert [row["smiles"] for row in found] == [text_of(one) for one in path]
    assert [(row["pair"], row["step"]) for row in found] == [("1", str(s)) for s in range(1, 13)]
    for row, one in zip(found, path, strict=True):
        for end, column in ((first, "similarity_first"), (second, "similarity_second")):
            assert row[column] == ("" if one is None else str(similarity(end, one)))
    valid = sum(one is not None for one in path)
    assert 0 < valid <= 12 and f"{valid / 12:.1%} of 12 are valid" in capsys.readouterr().err
    drawn = drawn_walk(first, second, path)
    assert [one for one, _ in drawn] == list(dict.fromkeys([first, *filter(None, path), second]))
    assert (drawn[0][1], drawn[-1][1]) == ("first", "second")
    wide, high = min(len(drawn), 10), -(-len(drawn) // 10)
    size = f"width='{260 * wide}px' height='{200 * high}px'"
    assert size in (tmp_path / "row.svg").read_text()


def test_interpolate_a_table_of_pairs(generator, molecules, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cmim_hf.cli.interpolate.BATCH_ROWS", 8)
    source, output = tmp_path / "pairs.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"A": molecules[:5], "B": molecules[5:10]}), source)
    command = ["interpolate", "--pairs", str(source), "--columns", "a,b", "--steps", "3"]
    assert main([*command, "-o", str(output)]) == 0
    found = pq.read_table(output).to_pydict()
    paths = generator.interpolate(molecules[:5], molecules[5:10], 3)
    assert found["smiles"] == [one for path in paths for one in path]
    assert found["pair"] == [n for n in range(1, 6) for _ in range(3)]
    pq.write_table(pa.table({"A": molecules[:5], "B": [*molecules[:3], None, "C"]}), source)
    assert main([*command, "-o", str(output)]) == 1
    assert f"Row 4 of {source}, '', cannot be used" in capsys.readouterr().err
    assert pq.read_table(output).to_pydict() == found


def test_blanks_and_extensions_of_given_molecules_are_left_out(generator, tmp_path, capsys):
    pairs, output = tmp_path / "pairs.csv", tmp_path / "out.csv"
    pairs.write_text("first,second\nCCO ,C[C@H](F)Cl |&1:1|\n")
    assert main(["interpolate", "--pairs", str(pairs), "--steps", "2", "-o", str(output)]) == 0
    (path,) = generator.interpolate(["CCO"], ["C[C@H](F)Cl"], 2)
    assert [row["smiles"] for row in read(output)] == path
    command = ["optimize", "CCO ", "--scorer", "qed", "--budget", "2", "-o", str(output)]
    assert main(command) == 0 and read(output)[0]["seed_smiles"] == "CCO"


def test_optimize_writes_the_best_of_each_seed(molecules, tmp_path, capsys):
    seeds, own = tmp_path / "seeds.csv", tmp_path / "my=own.py"
    seeds.write_text(f"id,mol\n1,{molecules[3]}\n2,C(C\n")
    own.write_text("def length(smiles):\n    return len(smiles)\n")
    output, table = tmp_path / "best.csv", tmp_path / "all.csv"
    command = ["optimize", molecules[0], str(seeds), "--column", "mol", "--scorer", "qed",
               "--scorer", "similarity=0.5", "--scorer", f"{own}:length=-1e-3", "--budget", "15",
               "--min-similarity", "0.1", "--table", str(table), "-o", str(output)]  # fmt: skip
    assert main(command) == 1
    assert f"Row 2 of {seeds}, 'C(C'" in capsys.readouterr().err and not table.exists()
    command += ["--on-invalid", "skip"]
    assert main([*command, "--picture", str(tmp_path / "best.svg")]) == 0
    report = capsys.readouterr().err
    assert "Invalid: 1 does not parse." in report and " scored, 0 of them in an" in report
    assert "width='1040px' height='200px'" in (tmp_path / "best.svg").read_text()
    scored = read(table)
    for row in scored:
        value = float(row["qed"]) + 0.5 * float(row["similarity"]) - 1e-3 * len(row["smiles"])
        assert float(row["score"]) == pytest.approx(value, abs=1e-9)
        assert float(row["similarity"]) >= 0.1
    best = read(output)
    assert [row["seed_smiles"] for row in best] == [
        canonicalize(molecules[0]),
        canonicalize(molecules[3]),
    ]
    for row in best:
        rivals = [float(one["score"]) for one in scored if one["seed"] == row["seed"]]
        assert float(row["score"]) == pytest.approx(max(rivals)) and 1 < len(rivals) <= 15
    before = (output.read_text(), table.read_text())
    assert main(command) == 0
    assert (output.read_text(), table.read_text()) == before
    assert main([*command, "--strategy", "random"]) == 1
    assert "strategy" in capsys.readouterr().err


def test_optimize_writes_the_best_of_a_shared_budget_or_a_front(molecules, tmp_path):
    output, table = tmp_path / "best.csv", tmp_path / "all.csv"
    command = ["optimize", *molecules[:3], "--scorer", "qed", "--scorer", "logp=-1", "--budget",
               "30", "--shared-budget", "--table", str(table), "-o", str(output)]  # fmt: skip
    assert main(command) == 0
    scored, best = read(table), read(output)
    assert len(scored) == len(best) == 30
    scores = [float(row["score"]) for row in scored]
    assert [float(row["score"]) for row in best] == sorted(scores, reverse=True)
    table.unlink()
    assert main([*command, "--pareto", "--picture", str(tmp_path / "front.svg")]) == 0
    values = {row["smiles"]: (float(row["qed"]), -float(row["logp"])) for row in read(table)}
    front = {
        one
        for one, (a, b) in values.items()
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in values.values())
    }
    assert {row["smiles"] for row in read(output)} == front and (tmp_path / "front.svg").exists()


def test_failures_of_the_scorer_are_said(molecules, tmp_path, capsys):
    picky = tmp_path / "picky.py"
    picky.write_text(
        "def picky(smiles):\n"
        "    if len(smiles) % 2:\n        raise KeyError('odd')\n    return 1.0\n"
        "def broken(smiles):\n    return None\n"
    )
    command = ["optimize", molecules[0], "--budget", "40", "-o", str(tmp_path / "best.csv")]
    assert main([*command, "--scorer", f"{picky}:picky"]) == 0
    report = capsys.readouterr().err
    assert "The scorer failed in " in report and "raised KeyError: 'odd'" in report
    (tmp_path / "best.csv").unlink()
    assert main([*command, "--scorer", f"{picky}:broken"]) == 1
    assert "The scorer failed for each of its first 20 molecules" in capsys.readouterr().err
    assert not (tmp_path / "best.csv").exists()


def test_interrupted_optimization_writes_what_it_found(molecules, tmp_path):
    slow, table, best = (tmp_path / name for name in ("slow.py", "all.csv", "best.csv"))
    slow.write_text("import time\ndef score(s):\n    time.sleep(0.1)\n    return len(s)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "cmim_hf.cli", "optimize", molecules[0], "--scorer",
         f"{slow}:score", "--budget", "5000", "--table", str(table), "-o", str(best)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (table.exists() and len(table.read_text().splitlines()) > 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, report = process.communicate(timeout=60)
    assert process.returncode == 130, report
    assert f"Interrupted; {best} holds the best so far. The same command goes on." in report
    (row,) = read(best)
    assert row["stopped"] == "interrupted"
    assert float(row["score"]) == max(float(one["score"]) for one in read(table))


BAD = [
    (["sample", "-n", "5", "-o", "out.docx"], "must end in one of .smi, .csv, .tsv, .parquet"),
    (["sample", "-n", "5", "-o", "no/out.csv"], "There is no folder no"),
    (["sample", "-n", "5", "-o", "folder.csv"], "is a folder"),
    (["sample", "-n", "5", "-o", "o.csv", "--picture", "a.gif"], "must end in one of .svg, .png"),
    (["sample", "-n", "0", "-o", "o.csv"], "-n is a whole number from 1, not 0"),
    (["sample", "-n", "5", "-o", "o.csv", "--around", "C"], "--around needs --radius"),
    (["sample", "-n", "5", "-o", "o.csv", "--radius", "1"], "belong to --around"),
    (["sample", "-n", "5", "-o", "o.csv", "--around", "C", "--radius", "-1"], "radius is a "),
    (["sample", "-n", "5", "-o", "o.csv", "--around", "C", "C(C", "--radius", "1"], "'C(C'"),
    (["sample", "-n", "5", "-o", "o.csv", "--around", "C", "--prior", "fitted", "--radius", "1"],
     "exclude each other"),
    (["sample", "-n", "5", "-o", "o.smi", "--keep-invalid"], "needs a table"),
    (["sample", "-n", "5", "-o", "o.csv", "--prior", "own"], "Unknown --prior 'own'; choose one"),
    (["sample", "-n", "5", "-o", "o.csv", "--prior", "p.safetensors"], "is no file p.safetensors"),
    (["fit-prior", "in.csv", "-o", "p.safetensors"], "at least two molecules, got 1"),
    (["fit-prior", "in.csv", "-o", "p.npy"], "p.npy must end in one of .safetensors"),
    (["fit-prior", "in.csv", "-o", "p.safetensors", "--bandwidth", "2"], "--bandwidth is a number"),
    (["reconstruct", "in.csv", "-o", "in.csv"], "is the input itself"),
    (["reconstruct", "nothing.csv", "-o", "o.csv"], "There is no file nothing.csv"),
    (["interpolate", "C", "-o", "o.csv"], "Give two SMILES, or --pairs FILE"),
    (["interpolate", "C", "CC", "--steps", "1", "-o", "o.csv"], "from 2, not 1"),
    (["interpolate", "--pairs", "in.csv", "--columns", "a", "-o", "o.csv"], "names two columns"),
    (["optimize", "C", "--scorer", "nice", "-o", "o.csv"], "There is no scorer 'nice'"),
    (["optimize", "C", "--scorer", "qed=much", "-o", "o.csv"], "is no number: 'much'"),
    (["optimize", "C", "--scorer", "qed", "--scorer", "qed=2", "-o", "o.csv"], "given twice"),
    (["optimize", "C", "--scorer", "os:nothing", "-o", "o.csv"], "os has no 'nothing'"),
    (["optimize", "C", "--scorer", "qed", "--budget", "0", "-o", "o.csv"], "budget"),
    (["optimize", "C", "--scorer", "qed", "--table", "o.csv", "-o", "o.csv"], "one file"),
    (["optimize", "in.csv", "--scorer", "qed", "--table", "in.csv", "-o", "o.csv"], "input itself"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_no_output(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    (tmp_path / "folder.csv").mkdir()
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"cmim {arguments[0]}: ") and message in shown
    assert shown.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "folder.csv"}
    assert (tmp_path / "in.csv").read_text() == "smiles\nCCO\n"


def test_help_states_the_defaults_of_the_library(capsys):
    defaults = inspect.signature(optimize).parameters
    with pytest.raises(SystemExit):
        main(["optimize", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("budget", "min_similarity", "seed", "step"):
        option = shown.split(f" --{name.replace('_', '-')} {name.upper()} ")[-1]
        assert option.split("(default: ")[1].startswith(f"{defaults[name].default})"), name
    assert defaults["strategy"].default == "evolution"
