# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint writes is counted as defined, kept, and told on the page of results."""

import json
import math
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from cmim_hf import MoleculeGenerator, list_checkpoints
from cmim_hf.chemistry.smiles import randomize
from cmim_hf.data.smiles_files import read_smiles
from examples.benchmarks.quality import generative, generative_page, report

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
MOLECULES = BENCHMARKS.parent / "data" / "moses_test.smi"

COUNT, AROUND, DRAWS, PAIRS = 30, 8, 5, 4
TINY = list_checkpoints()["tiny"]  # one that fails often enough to be counted


def arguments(folder, **changes):
    settings = generative.Arguments(
        checkpoint=TINY,
        sources=[str(folder / "given.smi")],
        count=COUNT, around=AROUND, draws=DRAWS, pairs=PAIRS, samples=80,
        train=str(folder / "train.smi"),
        moses_train=str(folder / "train.smi"),
        moses_test=str(folder / "given.smi"),
        moses_scaffolds=str(folder / "train.smi"),
        output=str(folder / "out"),
    )  # fmt: skip
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def molecules():
    """Sample molecules, as RDKit writes them."""
    generator = MoleculeGenerator(TINY, progress=False)
    given = [row.text for row in islice(read_smiles(MOLECULES), COUNT)]
    return given, generator.reconstruct(given), generator


@pytest.fixture(scope="module")
def measured(tmp_path_factory, molecules):
    """Folder and results of the command; "trained on": the drawn-around, in other writings."""
    folder = tmp_path_factory.mktemp("generative")
    given, _, _ = molecules
    (folder / "given.smi").write_text("\n".join(given) + "\n")
    other = [randomize(text, seed=1) for text in given[:AROUND]]
    assert not set(other) & set(given)
    (folder / "train.smi").write_text("\n".join(other) + "\n")
    args = arguments(folder)
    flags = [
        word for name, value in vars(args).items() if name != "sources"
        for word in (f"--{name}", value)
    ]  # fmt: skip
    generative.main(["--sources", *args.sources, *map(str, flags)])
    return folder, json.loads((folder / "out" / "generative.json").read_text())


def test_reconstruction_has_wilsons_interval(measured, molecules):
    given, _, generator = molecules
    written = generator.reconstruct(given, attempts=1)
    one = measured[1]["reconstruction"]["given"]
    share = sum(old == new for old, new in zip(given, written, strict=True)) / COUNT
    assert 0.2 < share < 0.8
    assert one["reconstruction"] == pytest.approx(share)
    assert one["invalid"] == written.count(None) and one["molecules"] == COUNT
    z = 1.959964
    centre = (share + z**2 / (2 * COUNT)) / (1 + z**2 / COUNT)
    half = z / (1 + z**2 / COUNT)
    half *= math.sqrt(share * (1 - share) / COUNT + z**2 / (4 * COUNT**2))
    assert one["reconstruction_interval"] == pytest.approx([centre - half, centre + half], abs=1e-6)
    low, high = one["reconstruction_without_stereo_interval"]
    assert low < one["reconstruction_without_stereo"] < high
    nearest = measured[1]["reconstruction_of_candidates"]["given"]
    assert nearest["reconstruction"] > one["reconstruction"]


@pytest.mark.parametrize("unit", generative.UNITS)
def test_shares_around_molecules(measured, molecules, unit):
    given, written, _ = molecules
    results = measured[1]["around"][unit]
    assert [one["radius"] for one in results] == [0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2]
    pairs = list(zip(given[:AROUND], written[:AROUND], strict=True))
    valid = [new for _, new in pairs if new is not None]
    changed = [new for old, new in pairs if new is not None and new != old]
    assert 0 < len(changed) < len(valid)
    still = results[0]
    draws = AROUND * DRAWS
    assert still["draws"] == draws
    assert still["validity"] == pytest.approx(len(valid) / AROUND)
    assert still["uniqueness"] == pytest.approx(1 / DRAWS)
    assert still["new neighbours"] == pytest.approx(len(changed) / draws)
    # The training molecules are the seeds in other writings: what came back exactly is known.
    assert not set(changed) & set(given)
    assert still["novelty"] == pytest.approx(len(changed) / len(valid))
    assert still["effective novelty"] == pytest.approx(len(changed) / draws)
    for one in results:
        shares = [one[name] for name in generative_page.SHARES]
        assert all(0 <= share <= 1 for share in shares if share is not None)
        assert (None in shares) == (one["validity"] == 0)
        assert one["effective novelty"] <= one["new neighbours"] <= one["validity"]
        assert one["first attempt"] <= one["validity"]
    once = [one["first attempt"] for one in results]
    assert once[0] > once[3] > once[-1]


def test_shares_of_no_molecule_are_gaps():
    nothing = generative.neighbours(["C", "CC"], [[None, None], [None, None]], frozenset())
    assert nothing["draws"] == 4 and nothing["validity"] == nothing["effective novelty"] == 0
    assert nothing["uniqueness"] is nothing["novelty"] is nothing["not the seed"] is None
    lines = generative_page.around_lines(
        {"prior": [{"radius": 2.0, "first attempt": 0.0, **nothing}]}
    )
    assert any("| 2.0 | 0.0% | 0.0% | – | – | – | 0.0% | 0.0% |" in line for line in lines)


def test_walks_count_what_lies_between(measured, molecules):
    given, _, generator = molecules
    for method in ("linear", "spherical"):
        ends = given[: 2 * PAIRS]
        paths = generator.interpolate(ends[::2], ends[1::2], generative.STEPS, method=method)
        inner = [[text for text in path[1:-1] if text is not None] for path in paths]
        one = measured[1]["walks"][method]
        valid = sum(map(len, inner)) / (PAIRS * (generative.STEPS - 2))
        assert 0 < one["validity"] < 1
        assert one["validity"] == pytest.approx(valid)
        different = [set(path) for path in inner]
        assert one["different molecules a walk"] == sum(map(len, different)) / PAIRS
        new = [path - set(ends[2 * i : 2 * i + 2]) for i, path in enumerate(different)]
        assert one["of them neither end"] == sum(map(len, new)) / PAIRS


def test_the_page_has_the_table_of_moses(measured):
    folder, results = measured
    page = (folder / "out" / "generative.md").read_text()
    fitted = results["prior"]["fitted prior"]
    assert fitted["validity"] == fitted["valid"] / 80 and fitted["valid"] >= 2
    generator = MoleculeGenerator(TINY, progress=False, seed=0)
    greedy = generator.sample(80, prior="fitted", attempts=1)
    once = (80 - greedy.count(None)) / 80
    assert fitted["first attempt"] == once < fitted["validity"]
    assert len(results["prior"]) == 3
    line = f"| fitted prior | {fitted['valid']} | {once:.4f} | {fitted['validity']:.4f} | – | – |"
    assert line in page
    vae = "| VAE (published) |  | – | 0.9767 | – | 0.9984 | 0.0990 | 0.6257 | 0.9994 | 0.9386"
    assert f"{vae} | 0.8558 | – | 0.9970 | 0.6949 |" in page
    assert f"| {fitted['snn, scaffolds']:.4f} |" in page.split("against scaffolds held out")[1]
    assert "80 samples of each prior, 30,000 in the published rows" in page
    assert "references here are samples" not in page
    assert (folder / "out" / "generative.png").read_bytes().startswith(b"\x89PNG")
    shipped = generative.Arguments(samples=30_000)
    text = "\n".join(generative_page.prior_lines(results["prior"], shipped))
    assert "references here are samples of MOSES" in text
    assert "30,000 in the published rows" not in text


@pytest.mark.slow
def test_what_changed_is_measured_again_and_nothing_else(measured, tmp_path):
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)

    def cells():
        found = tmp_path.glob("out/cells/generative/*.json")
        return {path.name: path.stat().st_mtime_ns for path in found}

    before = cells()
    assert len(before) == 1 + 2 * len(generative.RADII) + 2 + 3
    small = arguments(tmp_path)
    again = generative.measure(small)
    assert cells() == before
    assert again["walks"] == measured[1]["walks"]
    # The same name with other molecules in it.
    (tmp_path / "train.smi").write_text("CCO\nCCN\n")
    changed = generative.measure(small)
    fresh = {name for name in cells() if name not in before}
    assert sum(name.startswith("around") for name in fresh) == 2 * len(generative.RADII)
    assert sum(name.startswith("prior") for name in fresh) == 3
    assert len(fresh) == 2 * len(generative.RADII) + 3
    assert changed["around"]["prior"][0]["novelty"] == 1.0
    # Molecules without rings have no scaffolds to compare with: a gap that says why.
    fitted = changed["prior"]["fitted prior"]
    assert "scaffold_similarity, scaffolds" not in fitted and 0 < fitted["snn, scaffolds"] < 1
    text = "\n".join(generative_page.prior_lines(changed["prior"], small))
    assert "No figure (fitted prior, scaffold_similarity, scaffolds): The molecules of ref" in text


def test_references_that_are_no_molecules_still_end_it(measured, tmp_path):
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "given.smi").write_text("CCO\nC1CC\n")
    with pytest.raises(ValueError, match="row 2, 'C1CC', is no molecule"):
        generative.from_prior(arguments(tmp_path), "fitted")


def test_inputs_that_cannot_be_measured_are_named(tmp_path):
    (tmp_path / "one.smi").write_text("CCO\n")
    one = arguments(tmp_path, sources=[str(tmp_path / "one.smi")])
    with pytest.raises(SystemExit, match=r"two molecules; .*one\.smi holds 1"):
        generative.walk(one, "linear")
    with pytest.raises(SystemExit, match="names in common: a/m.smi, b/m.smi.gz"):
        generative.main(["--output", str(tmp_path), "--sources", "a/m.smi", "b/m.smi.gz"])


def ablation(errors, nll):
    """Runs of three seeds: objective -> probe errors of its latents."""
    return {
        "runs": [
            {
                "study": "objectives", "objective": name, "batch_size": 128, "seed": seed,
                "nll": nll.get(name), "probes": {"a": {"latent": error, "informative": error}},
                "curve": [{"step": step, "nll": 3 / step, "log_prior": -1.0} for step in (1, 2)],
            }
            for name, of_name in errors.items()
            for seed, error in enumerate(of_name)
        ]
    }  # fmt: skip


def test_the_report_tells_of_each_claim_by_its_figures(measured, tmp_path):
    shutil.copy(measured[0] / "out" / "generative.json", tmp_path)
    errors = {
        "cmim": [0.70, 0.71, 0.72],
        "mim": [1.00, 1.02, 1.01],
        "vae": [0.50, 0.51, 0.52],
        "ae": [0.60, 0.71, 0.85],
    }
    costs = {name: 1.1 if name == "cmim" else 1.0 for name in errors}
    (tmp_path / "ablation.json").write_text(json.dumps(ablation(errors, costs)))
    options = ["--results", tmp_path, "--count", 40, "--map", "tsne", "--checkpoint", TINY]
    report.main(list(map(str, options)))
    page = (tmp_path / "report.md").read_text()
    lines = {line.split(": **")[0]: line for line in page.splitlines() if ": **" in line}
    expected = {
        "- The contrastive term makes latents predict better (cMIM against MIM)": "holds here",
        "- cMIM's latents predict better than a VAE's": "does not hold here",
        "- cMIM's latents predict better than an auto-encoder's": "not shown",
        "- cMIM depends less on the batch size than InfoNCE": "not shown",
        "- Embeddings of the trained model": "not shown",
    }
    for claim, verdict in expected.items():
        assert f"**{verdict}**" in lines[claim]
    assert "+29.7%" in lines[next(iter(expected))]  # the mean of 1 - .70/1.00, .71/1.02, .72/1.01
    assert "Not measured yet: `python -m examples.benchmarks.quality.moleculenet`." in page
    assert "quality.ablation`." not in page and "quality.generative`." not in page
    assert "flattened by tsne" in page and "(report_terms.png)" in page
    for name in ("report_terms.png", "report_map.png", "report_reconstructions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_generation_is_summed_up_from_its_figures():
    around = [
        {"radius": 0.0, "effective novelty": 0.1, "validity": 0.9},
        {"radius": 0.5, "effective novelty": 0.4, "validity": 0.7},
        {"radius": 2.0, "effective novelty": 0.2, "validity": 0.3},
    ]
    one = {"reconstruction": 0.5, "reconstruction_interval": [0.4, 0.6], "molecules": 1234}
    text = report.generation_summary(
        {
            "checkpoint": "tiny",
            "reconstruction": {"zinc": one},
            "reconstruction_of_candidates": {"zinc": {**one, "reconstruction": 0.75}},
            "around": {"prior": around},
            "prior": {"fitted prior": {"validity": 0.08}},
        }
    )
    assert text.splitlines() == [
        "Checkpoint tiny.",
        "",
        "- zinc: 50.0% of 1,234 molecules come back exactly (95 % interval 40.0% to 60.0%), 75.0% "
        "where candidates are weighed.",
        "- Effective novelty is highest at radius 0.5 (prior): 40.0%, with 70.0% valid.",
        "- fitted prior: 8.0% of draws are molecules.",
    ]


def test_no_picture_of_terms_without_runs(tmp_path):
    assert not report.draw_terms({"runs": []}, tmp_path / "terms.png")
    assert not (tmp_path / "terms.png").exists()
