# SPDX-License-Identifier: Apache-2.0
"""Images: runs train and are measured as said, validation chooses, claims follow from figures."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cmim_hf.data.labelled_images import LabelledImages
from cmim_hf.model.configuration_cmim_image import CMIMImageConfig
from cmim_hf.model.image_processing_cmim import CMIMImageProcessor
from cmim_hf.model.modeling_cmim_image import CMIMImageModel
from examples.benchmarks import evidence
from examples.benchmarks.quality import vision, vision_claims, vision_page, vision_probes
from examples.benchmarks.quality.claims import FAILS, HOLDS, OPEN

SMALL = {"train_images": 200, "held_out": 60, "latent_size": 8, "hidden_size": 16}


def test_a_pilot_is_trained_for_a_quarter_of_the_steps_but_not_for_a_few(data):
    whole, pilot = vision.Run(batch_size=128), replace(vision.candidates("cmim")[0], batch_size=128)
    assert [vision.steps_of(run, 100_000) for run in (whole, pilot)] == [781, 195]
    assert [vision.steps_of(run, 30_000) for run in (whole, pilot)] == [234, 100]
    assert [vision.steps_of(run, 5_750) for run in (whole, pilot)] == [45, 45]
    args, processor = vision.Arguments(**SMALL, budget=6), CMIMImageProcessor(image_size=8)
    pilot = replace(pilot, batch_size=25)  # of 6 x 5 times 200 images
    _, curve = vision.trained(args, pilot, data["unlabelled"], processor)
    assert curve[-1]["step"] == 100


def test_each_seed_draws_training_and_validation_images_and_shares_the_test_images():
    args = vision.Arguments(**SMALL)
    first, again, other = (vision.material(args, "digits", seed) for seed in (0, 0, 1))
    assert [len(first[part]) for part in vision_probes.PARTS] == [200, 60, 360]
    assert not set(first["unlabelled"].rows) & set(first["valid"].rows)
    some = vision.material(replace(args, probe_images=50), "digits", 0)
    assert len(some["train"]) == 50 and set(some["train"].rows) < set(some["unlabelled"].rows)
    for part in ("train", "valid"):
        assert first[part].rows.tolist() == again[part].rows.tolist() != other[part].rows.tolist()
    assert np.array_equal(first["test"].images, other["test"].images)
    all_there = vision.material(replace(args, train_images=5000, held_out=5000), "digits", 0)
    assert [len(all_there[part]) for part in ("train", "valid")] == [1150, 287]


@pytest.fixture(scope="module")
def opened():
    torch.manual_seed(0)
    config = CMIMImageConfig(image_size=8, channels=[8], latent_size=4, hidden_size=16)
    return CMIMImageModel(config).eval(), CMIMImageProcessor(image_size=8)


@pytest.fixture(scope="module")
def data():
    return vision.material(vision.Arguments(**SMALL), "digits", 0)


def test_embeddings_are_the_model_s(opened, data, monkeypatch):
    model, processor = opened
    monkeypatch.setattr(vision_probes, "BATCH", 50)  # the last of 60 is short
    features = vision_probes.embeddings(model, processor, data)
    pixels = processor(data["valid"].images)["pixel_values"]
    for name, parts in features.items():
        with torch.no_grad():
            expected = model.get_representation(pixels, representation=name)
        np.testing.assert_allclose(parts[1], expected.numpy(), atol=1e-5)
        assert [len(part) for part in parts] == [200, 60, 360]


def test_reconstruction_is_a_mean_over_images(opened, data, monkeypatch):
    model, processor = opened
    monkeypatch.setattr(vision_probes, "BATCH", 50)
    found = vision_probes.reconstruction(model, processor, data["valid"])
    errors, bits, stds = [], [], []
    for image in data["valid"].images:
        pixels = processor(image)["pixel_values"]
        with torch.no_grad():
            errors.append(((model.reconstruct(pixels) - pixels) ** 2).mean().item())
            one = model(pixels, labels=model.levels(pixels), sample_latents=False)
        bits.append(one.nll.item() / np.log(2) / 64)
        stds.append(one.latent_log_std.exp().mean().item())
    assert found == pytest.approx(
        {
            "squared_error": np.mean(errors),
            "bits_per_dim": np.mean(bits),
            "posterior_std": np.mean(stds),
        },
        rel=1e-5,
    )


def test_principal_components_are_those_of_the_training_images(data):
    plain = vision_probes.pixels(data)["pixels"]
    assert plain[0].shape == (200, 64) and plain[0].max() == 1.0
    found = vision_probes.pixels(data, 5)["components"]
    mean = plain[0].mean(axis=0)
    _, _, directions = np.linalg.svd(plain[0] - mean, full_matrices=False)
    expected = (plain[2] - mean) @ directions[:5].T
    np.testing.assert_allclose(np.abs(found[2]), np.abs(expected), atol=1e-4)


def test_probes_tell_what_vectors_tell():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, count) for count in (300, 90, 90)]
    noise = [rng.normal(size=(len(part), 3)) for part in labels]
    told = [part + 6 * np.eye(3)[where] for part, where in zip(noise, labels, strict=True)]
    found = vision_probes.probe({"told": told, "noise": noise}, labels, 0)
    assert set(found["probes"]) == set(vision_probes.PROBES)
    for errors in (*found["probes"].values(), *found["valid"].values()):
        assert errors["told"] < 0.1 and 0.45 < errors["noise"] < 0.85  # chance is 2/3


def test_runs_train_their_objective():
    args = vision.Arguments(**SMALL, budget=3)
    names = ("untrained", "cmim", "infonce", "infonce_ae")
    found = {name: vision.train_and_measure(args, "digits", vision.Run(name, 32)) for name in names}
    for name in ("cmim", "infonce_ae"):
        assert found[name]["bits_per_dim"] < found["untrained"]["bits_per_dim"] - 0.3
        assert 0 < found[name]["squared_error"] < 0.1 < found["untrained"]["squared_error"]
    assert "bits_per_dim" not in found["infonce"]
    assert found["untrained"]["curve"] == []
    last = {name: found[name]["curve"][-1] for name in names[1:]}
    assert "nll" in last["infonce_ae"] and "log_contrastive" in last["infonce_ae"]
    assert "nll" not in last["infonce"]
    assert last["infonce_ae"]["log_contrastive"] < -0.5  # other views; the code itself is near 0
    errors = {name: vision_page.probe_error("latent")(run) for name, run in found.items()}
    assert errors["cmim"] < errors["untrained"] - 0.05
    assert set(found["cmim"]["probes"]["MLP"]) == {"latent", "informative", "both"}


def test_validation_chooses_rate_and_scale():
    asked = []

    def compute(runs):
        asked.extend(runs)
        wanted = {"vae": (0.0005, "sums"), "infonce": (0.002, "means")}
        return [
            {
                **asdict(run),
                "valid": {
                    "kNN": {"latent": (run.learning_rate, run.scale) != wanted[run.objective]}
                },
                "probes": {"kNN": {"latent": 0.0}},
            }
            for run in runs
        ]

    first, second = vision.chosen(compute, ["vae", "infonce"])
    assert first == vision.Run("vae", learning_rate=0.0005, scale="sums")
    assert second == vision.Run("infonce", learning_rate=0.002)
    assert len(asked) == 2 * len(vision.RATES) + len(vision.RATES)  # views are never summed
    assert {run.seed for run in asked} == {0}


def runs_of(errors, spread=None, seeds=3, source="a"):
    """Runs of both studies: objective -> error of (latent, informative) and spread over batches."""
    runs = []
    for name, (latent, informative) in errors.items():
        for seed in range(seeds):
            factor = 1 + 0.01 * seed
            scores = {"latent": latent * factor, "informative": informative * factor}
            if name in ("pixels", "pca"):
                scores = {"pixels" if name == "pixels" else "components": latent}
            runs.append(
                {
                    "study": "objectives", "source": source, "objective": name, "seed": seed,
                    "bits_per_dim": 4.0, "squared_error": 0.01, "posterior_std": 0.1,
                    "curve": [{}], "learning_rate": 0.001, "scale": "means",
                    "probe_images": 100, "held_out": 20, "batch_size": 128,
                    "probes": {probe: scores for probe in vision_probes.PROBES},
                }
            )  # fmt: skip
    for name, width in (spread or {}).items():
        for seed in range(seeds):
            for place, size in enumerate((16, 64, 256)):
                error = 0.1 * (1 + width * place * (1 + 0.02 * seed))
                runs.append(
                    {**runs[0], "study": "batch_size", "objective": name, "batch_size": size,
                     "seed": seed, "probes": {p: {"latent": error} for p in vision_probes.PROBES}}
                )  # fmt: skip
    return runs


ERRORS = {
    "pixels": (0.06, 0), "pca": (0.2, 0), "ae": (0.2, 0.1), "vae": (0.2, 0.3), "mim": (0.1, 0.1),
    "cmim": (0.1, 0.05), "infonce": (0.05, 0.05), "infonce_ae": (0.1, 0.05),
}  # fmt: skip


def verdicts(runs):
    return {one.claim: one for one in vision_claims.vision_claims(runs)}


def test_claims_follow_from_the_figures():
    found = verdicts(runs_of(ERRORS))
    expected = {
        "Informative embeddings predict better than latents, of cMIM": HOLDS,
        "Informative embeddings predict better than latents, beyond MIM: of an auto-encoder": HOLDS,
        "Informative embeddings predict better than latents, beyond MIM: of a VAE": FAILS,
        "This is more than a decoder with random weights and of the same width gives": HOLDS,
        "cMIM's latents predict better than those of an auto-encoder": HOLDS,
        "cMIM's latents predict better than those of InfoNCE": FAILS,
        "cMIM's informative embeddings predict better than those of MIM": HOLDS,
        "cMIM's informative embeddings predict better than raw pixels": HOLDS,
        "cMIM depends less on the batch size than InfoNCE": OPEN,  # was not run
        "The contrastive term costs no generative fidelity (cMIM against MIM)": HOLDS,
    }
    assert {claim: found[claim].verdict for claim in expected} == expected
    assert "+50.0%" in found["cMIM's latents predict better than those of an auto-encoder"].figure
    few = verdicts(runs_of(ERRORS, seeds=2))
    assert {one.verdict for one in few.values()} == {OPEN, "by the three lines above"}
    decoders = "Informative embeddings predict better than latents, on average of all decoders"
    assert "3 pairs" in found[decoders].figure  # seeds, not runs
    two_sources = runs_of(ERRORS, seeds=2) + runs_of(ERRORS, seeds=2, source="b")
    assert (
        "4 pairs" in verdicts(two_sources)["cMIM's latents predict better than those of MIM"].figure
    )


@pytest.mark.parametrize(
    ("cmim", "with_reconstruction", "reading"),
    [
        (0.1, 0.9, "No: "),
        (0.1, 0.1, "It may: "),
        (0.9, 0.1, "There is nothing to explain"),
    ],
)
def test_what_reconstruction_explains_of_batch_sizes(cmim, with_reconstruction, reading):
    spread = {"cmim": cmim, "infonce": 0.9, "infonce_ae": with_reconstruction}
    found = verdicts(runs_of(ERRORS, spread))
    steadier = found["cMIM depends less on the batch size than InfoNCE"]
    assert (steadier.verdict == HOLDS) == (cmim < 0.9)
    assert found["Whether reconstruction alone explains it"].figure.startswith(reading)


def test_the_page_shows_accuracies_and_the_bars_are_sorted(tmp_path):
    runs = runs_of(ERRORS, {"cmim": 0.1, "infonce": 0.5})
    page = vision_page.page(runs)
    assert "| pixels | pixels | 94.0 ± 0.0 | 94.0 ± 0.0 | 94.0 ± 0.0 | 94.0 ± 0.0 |" in page
    # 0.1 * (1, 1.01, 1.02): mean 89.9 %, half the interval 4.303 * 0.1 / 3 ** 0.5
    assert "| cmim | latent | 89.9 ± 0.2 |" in page
    assert "| infonce | 0.675 ± 0.022 |" in page  # 2 w / (1 + w) of w = .5, .51, .52
    found = vision_page.bars([run for run in runs if run["study"] == "objectives"])
    means = [mean for _, _, (mean, _, _) in found]
    assert means == sorted(means) and len(found) == 2 + 2 * 6
    assert found[-1][1] in vision_page.COLOURS and found[0][0] == "vae, informative"
    vision_page.draw(runs, tmp_path)
    for study in vision.STUDIES:
        assert (tmp_path / f"vision_{study}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_computes_each_run_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vision, "keep_freed_memory", lambda: None)  # this process goes on
    for name, value in {
        "names_of_objectives": lambda: ["cmim", "infonce"],
        "RATES": (0.003,),
        "BATCHED": ("cmim", "infonce"),
        "BATCH_SIZES": (16, 64),
        "BATCH_RATES": (0.003,),
    }.items():
        monkeypatch.setattr(vision, name, value)
    options = ["--budget", "0.2", "--seeds", "1", "--workers", "1", "--output", str(tmp_path)]
    options += [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    kept = []
    for _ in range(2):
        vision.main(options)
        cells = tmp_path.glob("cells/vision/*.json")
        kept.append({path: path.stat().st_mtime_ns for path in cells})
    # pilots of two scales of cmim and one of infonce; 3 plain and 2 objectives; 2 x 2 batch sizes
    # with one rate to choose from
    assert len(kept[0]) == 3 + 5 + 2 * 4 and kept[0] == kept[1]
    runs = evidence.read("vision", tmp_path)["runs"]
    assert len(runs) == 5 + 4 and {run["source"] for run in runs} == {"digits"}
    assert all(set(run["probes"]["kNN"]) == {"latent"} for run in runs if run["latent_only"])
    page = (tmp_path / "vision.md").read_text()
    assert "## digits: objectives" in page and "![batch_size](vision_batch_size.png)" in page
    assert str(tmp_path) not in page


def test_what_cannot_be_compared_is_refused_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "keep_freed_memory", lambda: None)
    with pytest.raises(SystemExit, match="raw, raw must differ"):
        vision.main(["--sources", "a/raw", "b/raw", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="1,000 training images do not fill a batch of 1,024"):
        vision.main(["--train_images", "1000", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="missing is neither a file"):
        vision.main(["--sources", str(tmp_path / "missing"), "--output", str(tmp_path)])
    bare = LabelledImages(np.zeros((10, 8, 8), np.uint8))
    monkeypatch.setattr(vision_probes, "load_images", lambda source, part: bare)
    with pytest.raises(SystemExit, match="nothing: the images of the part train have no labels"):
        vision.material(vision.Arguments(), "nothing", 0)


def test_cells_are_apart_for_other_images(tmp_path, monkeypatch):
    args = vision.Arguments(output=str(tmp_path))
    computed = []
    for level in (0, 1):
        images = LabelledImages(np.full((10, 8, 8), level, np.uint8), np.zeros(10, int))
        monkeypatch.setattr(
            vision_probes, "load_images", lambda source, part, images=images: images
        )
        cells = vision.cells_of(args, f"{level}/raw")
        computed.append(cells.compute("x", lambda: {"value": len(computed)})["value"])
    assert computed == [0, 1]
    assert len([json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]) == 2
