# SPDX-License-Identifier: Apache-2.0
"""The cards that ship: what they have to say, and that they are made from figures."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cmim_hf import MoleculeEmbedder, list_checkpoints
from examples.benchmarks.quality import card as card_page

ROOT = Path(__file__).parents[2]
VERSIONS = {"torch": "2.13.0"}
WEIGHTS = MoleculeEmbedder(list_checkpoints()["tiny"]).fingerprint
ORIGIN = {
    "command": "python measure.py",
    "date": "2026-11-24",
    "versions": VERSIONS,
    "weights": WEIGHTS,
}


@pytest.mark.parametrize("name", sorted(list_checkpoints()))
def test_the_card_of_a_checkpoint_is_the_one_in_its_folder(name):
    card = ModelCard.load(ROOT / "model_cards" / f"{name}.md")
    assert card.content == Path(list_checkpoints()[name], "README.md").read_text()
    assert card.data.library_name == "transformers" and card.data.license
    assert card.data.pipeline_tag == "feature-extraction"
    for heading in ("## Training", "## Measured", "## Use and limits", "## Citation"):
        assert heading in card.text


@pytest.fixture
def finished(tmp_path):
    """A finished run of the tiny checkpoint and results of it."""
    run, results = tmp_path / "run", tmp_path / "results"
    shutil.copytree(list_checkpoints()["tiny"], run)
    history = [
        {"step": 50, "loss": 2.0},
        {"step": 50, "eval_loss": 1.5, "eval_nll": 0.5, "eval_exact_reconstruction": 0.25},
        {"step": 100, "eval_loss": 1.2, "eval_nll": 0.25, "eval_exact_reconstruction": 0.75},
        {"step": 100, "train_runtime": 600.0},
    ]
    card = (run / "README.md").read_text()
    (run / "README.md").write_text(card.replace("| processes | 1 |", "| processes | 8 |"))
    state = {"global_step": 100, "log_history": history}
    (run / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "config.yaml").write_text(
        "train_sources: [a.smi]\nsize: tiny\nlicense: mit\ndata_description: Made up alkanes.\n"
        f"output_dir: {run}\nper_device_train_batch_size: 8\n"
    )
    results.mkdir()
    scores = [
        {"task": "esol", "division": "published", "features": "latent", "head": "svm",
         "seed": seed, "valid": 1.0, "test": 0.5 + 0.1 * seed}
        for seed in range(3)
    ]  # fmt: skip
    about = {"measure": "RMSE", "binary": False, "test_in_train": "1.0%"}
    frozen = {**ORIGIN, "checkpoint": "small", "tasks": {"esol": about}, "scores": scores}
    (results / "moleculenet.json").write_text(json.dumps(frozen))
    (results / "generative.json").write_text(json.dumps({**ORIGIN, "checkpoint": "small"}))
    (results / "generative.md").write_text("# Generation\n\n## Reconstruction\n\n98 of 100.\n")
    one = {"seeds": 4, "calls_per_seed": 50, "seed_score": 0.75, "best_score": 0.91, "success": 0.5}
    (results / "optimize-qed.json").write_text(json.dumps({**ORIGIN, "evolution": one}))
    return tmp_path


def make_card(folder):
    run_card(folder, "--config", str(folder / "config.yaml"), "--name", "small")


def run_card(folder, *options):
    places = {"run": "run", "output": "cards/small.md", "results": "results"}
    flags = [word for name, at in places.items() for word in (f"--{name}", str(folder / at))]
    card_page.main([*options, *flags])


def test_the_card_holds_the_run_and_every_figure(finished):
    make_card(finished)
    card = ModelCard.load(finished / "cards" / "small.md")
    assert card.content == (finished / "run" / "README.md").read_text()
    assert card.data.license == "mit"
    for text in (
        "# small\n",
        "Made up alkanes.",
        "| processes | 8 |",  # as the run itself told
        "| molecules presented | 230400 |",
        "| training time | 10 minutes since its last start |",
        "| hardware | ",
        "| 50 | 0.5 | – | 0.25 | – |",
        "| 100 | 0.25 | – | 0.75 | – |",
        "| latent | published | 0.600 ± 0.248 |",  # t(0.975, 2) * 0.1 / sqrt(3)
        "| SMI-TED 289M, frozen | 1.668 | 0.705 |",
        "| qed | tiny | evolution | 4 | 50 | 0.750 | 0.910 | 50.0% |",
        "### Reconstruction\n\n98 of 100.",
        f"`python measure.py`, 2026-11-24, torch 2.13.0; weights {WEIGHTS[:12]}.",
        "### Fine-tuning\n\nNot measured of these weights yet.",
    ):
        assert text in card.content, text


def test_new_figures_leave_the_rest_of_a_card_alone(finished):
    make_card(finished)
    before = (finished / "cards" / "small.md").read_text()
    result = json.loads((finished / "results" / "optimize-qed.json").read_text())
    result["evolution"]["best_score"] = 0.9375
    (finished / "results" / "optimize-qed.json").write_text(json.dumps(result))
    run_card(finished)
    card = (finished / "cards" / "small.md").read_text()
    assert card == before.replace("| 0.750 | 0.910 |", "| 0.750 | 0.938 |") != before
    assert card == (finished / "run" / "README.md").read_text()


def test_a_card_without_a_place_for_figures_is_not_touched(finished):
    (finished / "run" / "README.md").write_text("# A card\n")
    with pytest.raises(SystemExit, match="give --config and --name"):
        run_card(finished)
    assert (finished / "run" / "README.md").read_text() == "# A card\n"


def test_figures_of_other_weights_are_left_out(finished):
    for file in (finished / "results").glob("*.json"):
        result = json.loads(file.read_text())
        file.write_text(json.dumps({**result, "weights": "0" * 64}))
    make_card(finished)
    card = (finished / "cards" / "small.md").read_text()
    for heading in ("Frozen embeddings", "Fine-tuning", "Search", "Generation"):
        assert f"### {heading}\n\nNot measured of these weights yet." in card
    assert "98 of 100" not in card and "0.910" not in card


def test_fine_tuned_networks_of_these_weights_stand_in_the_card(finished):
    scores = [
        {"task": "esol", "way": "ours fine-tuned", "seed": seed, "test": test}
        for seed, test in enumerate((0.5, 0.6))
    ]
    scores.append({"task": "esol", "way": "ours fine-tuned, mean of the seeds", "test": 0.52})
    scores.append({"task": "esol", "way": "chemprop", "seed": 0, "test": 0.7})
    any_result = json.loads((finished / "results" / "optimize-qed.json").read_text())
    result = {**any_result, "measures": {"esol": "RMSE, log mol/L"}, "scores": scores}
    (finished / "results" / "peers_prediction.json").write_text(json.dumps(result))
    make_card(finished)
    card = (finished / "cards" / "small.md").read_text()
    assert "90 % of the rows each | RMSE, log mol/L | 2 | 0.550 ± 0.635 |" in card
    assert "mean of their predictions | RMSE, log mol/L | 2 | 0.520 |" in card
    assert "0.700" not in card
