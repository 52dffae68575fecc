# SPDX-License-Identifier: Apache-2.0
"""`examples/pretrain.py` as users start it: processes, files, kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmim_hf import DEFAULT_CHECKPOINT, CMIMModel, CMIMTokenizer, default_tokenizer
from cmim_hf.data.prepare import SourceOptions, prepare_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
MOLECULES = EXAMPLES / "data" / "moses_test.smi"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "molecules.smi"
    path.write_text("\n".join(MOLECULES.read_text().split()[:240]))
    return path


@pytest.fixture(scope="module")
def pretrain():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import pretrain

        yield lambda *args: pretrain.main(arguments(*args))
        del sys.modules["pretrain"]


def arguments(source, output, *more):
    settings = {
        "train_sources": source, "output_dir": output, "size": "tiny", "validation_size": 16,
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "max_steps": 6,
        "logging_steps": 1, "save_steps": 4, "reconstruction_samples": 8, "use_cpu": "true",
        "canonicalize": "false", "dataloader_pin_memory": "false",
    }  # fmt: skip
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))] + [*more]


def launched(*words, processes=1):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--dynamo_backend", "no"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--num_processes"]
    launcher += [str(processes), *(["--multi_gpu"] if processes > 1 else [])]
    return [*launcher, str(EXAMPLES / "pretrain.py"), *words]


def run(command, **environment):
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**ENVIRONMENT, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def logs(output, name="loss"):
    state = json.loads((Path(output) / "trainer_state.json").read_text())
    return {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}


@pytest.fixture(scope="module")
def uninterrupted(pretrain, source, tmp_path_factory):
    """16 steps over more than one epoch (13 steps), with latent noise."""
    output = tmp_path_factory.mktemp("uninterrupted")
    pretrain(source, output, "--max_steps", "16", "--save_steps", "5")
    return output


def test_tensorboard_has_each_number_of_the_log_by_its_name(pretrain, source, tmp_path):
    """transformers turns the prefix eval_ into eval/, and writes train/ before the rest."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    more = ["--report_to", "tensorboard", "--max_steps", "2", "--eval_strategy", "steps"]
    pretrain(source, tmp_path, *more, "--eval_steps", "2")
    written = {}
    for events in sorted(tmp_path.rglob("events.out.tfevents*")):
        found = accumulator.EventAccumulator(str(events)).Reload()
        for tag in found.Tags()["scalars"]:
            written |= {(tag, event.step): event.value for event in found.Scalars(tag)}
    expected = {}
    for entry in json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]:
        for name in entry.keys() - {"step"}:
            kind, _, rest = name.partition("_")
            tag = f"eval/{rest}" if kind == "eval" else f"train/{name}"
            expected[tag, entry["step"]] = entry[name]
    assert written == pytest.approx(expected)
    for term in ("nll", "loss", "log_contrastive"):
        assert {(f"train/{term}", 1), (f"train/{term}", 2), (f"eval/{term}", 2)} <= written.keys()


def test_a_tracker_that_is_not_installed_is_named(pretrain, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ImportError, match="`report_to` names trackio.*pip install trackio"):
        pretrain(source, tmp_path, "--report_to", "trackio")


def test_a_run_leaves_a_checkpoint_with_its_card(uninterrupted):
    model = CMIMModel.from_pretrained(uninterrupted)
    tokenizer = CMIMTokenizer.from_pretrained(uninterrupted)
    assert model.config.vocab_size == len(tokenizer)
    batch = tokenizer(["CCO", "c1ccccc1"], padding=True, return_tensors="pt")
    assert model.get_informative_embeddings(**batch).shape == (2, model.config.hidden_size)
    losses = logs(uninterrupted)
    assert list(losses) == list(range(1, 17)) and losses[16] < losses[1]
    card = (uninterrupted / "README.md").read_text()
    assert str(MOLECULES.name) not in card and "molecules.smi" in card
    assert "| processes | 1 |" in card and "eval_exact_reconstruction" in card


@pytest.mark.parametrize("last", [5, 15])
def test_a_run_goes_on_as_if_it_had_not_ended(pretrain, uninterrupted, source, tmp_path, last):
    """From a checkpoint in the first epoch, and from one in the second."""
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > last:
            shutil.rmtree(checkpoint)
    more = ("--max_steps", "16", "--save_steps", "5", "--resume_from_checkpoint", "auto")
    pretrain(source, folder, *more)
    assert logs(folder) == pytest.approx(logs(uninterrupted), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("after", [6, 14])
def test_a_killed_run_resumes_as_if_it_had_not_been(uninterrupted, source, tmp_path, after):
    """SIGKILL to the whole group `after` steps in, between checkpoints, in both epochs."""
    words = arguments(source, tmp_path, "--max_steps", "16", "--save_steps", "5")
    progress = tmp_path / "printed"
    with progress.open("w") as stream:
        process = subprocess.Popen(
            launched(*words), stdout=stream, stderr=stream, env=ENVIRONMENT, start_new_session=True
        )
    deadline = time.monotonic() + 200
    while progress.read_text().count("'loss'") < after:
        assert process.poll() is None and time.monotonic() < deadline, progress.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "trainer_state.json").exists()
    run(launched(*words, "--resume_from_checkpoint", "auto"))
    assert logs(tmp_path) == pytest.approx(logs(uninterrupted), abs=1e-6)


def test_two_processes_take_the_steps_of_one(pretrain, source, tmp_path):
    """Without latent noise, half a batch on each of two ranks equals the batch on one."""
    noiseless = (
        "--objective", "cae", "--max_steps", "4", "--save_strategy", "no", "--optimizer", "muon",
        "--properties", "MolLogP", "TPSA", "--property_rows", "120",
    )  # fmt: skip
    half = ("--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "8")
    pretrain(source, tmp_path / "one", *noiseless)
    run(launched(*arguments(source, tmp_path / "two", *noiseless, *half), processes=2))
    assert "| processes | 2 |" in (tmp_path / "two" / "README.md").read_text()
    for name in ("loss", "log_contrastive", "token_accuracy", "nll", "property_error",
                 "eval_loss", "eval_exact_reconstruction", "eval_token_accuracy"):  # fmt: skip
        first, second = logs(tmp_path / "one", name), logs(tmp_path / "two", name)
        assert first and second == pytest.approx(first, abs=2e-5), name
    final = [CMIMModel.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two")]
    for name, tensor in final[0].items():
        assert torch.allclose(tensor, final[1][name], atol=2e-5), name


def test_bad_rows_are_listed_and_do_not_stop_a_run(pretrain, source, tmp_path, capsys):
    table = tmp_path / "molecules.csv"
    good = source.read_text().split()[:80]
    bad = ["C(C", "c1ccccc", "F(F)(F)F", "", "C C"]
    rows = [f'{number},"{text}"' for number, text in enumerate(good[:40] + bad + good[40:])]
    table.write_text("\n".join(["id,smiles", *rows]))
    output = tmp_path / "run"
    pretrain(
        table, output, "--canonicalize", "true", "--max_steps", "1", "--save_strategy", "no",
        "--merges", "20",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "5 rows cannot be used (3 does not parse, 1 empty, 1 not printable)" in printed
    listed = [line.split("\t") for line in (output / "rejects.tsv").read_text().splitlines()[1:]]
    assert [(int(number), text) for _, number, text, _ in listed] == [
        (41 + place, text) for place, text in enumerate(bad)
    ]
    assert all(name == str(table) and reason for name, _, _, reason in listed)
    assert len(CMIMTokenizer.from_pretrained(output)("c1ccccc1")["input_ids"]) < 9  # has merges


def test_a_file_without_a_molecule_stops_with_the_reasons(pretrain, tmp_path):
    (tmp_path / "bad.smi").write_text("C(C\nc1ccccc\n")
    with pytest.raises(ValueError, match="None of the 2 rows is usable.*bad.smi row 1"):
        pretrain(tmp_path / "bad.smi", tmp_path / "run", "--canonicalize", "true")


def test_streaming_mixes_sources_and_reads_while_it_trains(pretrain, source, tmp_path, capsys):
    second = tmp_path / "more.csv"
    second.write_text("\n".join(["SMILES", *source.read_text().split()[:100], "C(C"]))
    pretrain(
        source, tmp_path / "run", "--train_sources", str(source), str(second),
        "--streaming", "true", "--canonicalize", "true", "--max_steps", "2",
    )  # fmt: skip
    assert list(logs(tmp_path / "run")) == [1, 2]
    assert "C(C" in (tmp_path / "run" / "rejects.tsv").read_text()
    assert "1 rows cannot be used (1 does not parse)" in capsys.readouterr().out


@pytest.mark.slow
def test_streaming_on_two_ranks_takes_the_steps_of_one(pretrain, source, tmp_path):
    streaming = (
        "--streaming", "true", "--objective", "cae", "--max_steps", "3", "--save_strategy", "no"
    )  # fmt: skip
    pretrain(source, tmp_path / "one", *streaming)
    half = (*streaming, "--per_device_train_batch_size", "8")
    run(launched(*arguments(source, tmp_path / "two", *half), processes=2))
    one, two = logs(tmp_path / "one"), logs(tmp_path / "two")
    assert list(one) == [1, 2, 3]
    assert two == pytest.approx(one, abs=2e-5)


def test_a_stream_resumes_in_its_second_pass(pretrain, source, tmp_path):
    """208 rows make 13 steps a pass; the checkpoint of step 15 lies in the second."""
    more = ("--streaming", "true", "--max_steps", "17", "--save_steps", "15")
    pretrain(source, tmp_path, *more)
    expected = logs(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-17")
    pretrain(source, tmp_path, *more, "--resume_from_checkpoint", "auto")
    assert logs(tmp_path) == pytest.approx(expected, abs=1e-6) and len(expected) == 17


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model_name_or_path", DEFAULT_CHECKPOINT), "--size cannot be changed"),
        (("--streaming", "true", "--merges", "5"), "--merges learns from all molecules"),
        (("--streaming", "true", "--properties", "rdkit"), "standardised over all molecules"),
        (("--streaming", "true", "--dataloader_num_workers", "2"), "reads in one process"),
        (("--train_sources", "run/molecules/train"), "move the sources out"),
        (
            ("--properties", "rdkit", "--property_columns", "y"),
            "`property_columns` or `properties`",
        ),
        (("--property_rows", "5"), "`property_rows` says how many molecules `properties`"),
    ],
)
def test_settings_that_contradict_each_other_stop_at_once(
    pretrain, source, tmp_path, more, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        pretrain(source, "run", *more)


def test_prepared_molecules_train_without_rdkit_and_datasets(source, tmp_path):
    options = SourceOptions(64, True, properties=("MolLogP", "TPSA"), property_rows=150)
    prepare_folder([source], tmp_path / "prepared", default_tokenizer(64), options)
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys\nsys.modules['rdkit'] = sys.modules['datasets'] = None\n")
    words = arguments(tmp_path / "prepared", tmp_path / "run", "--max_steps", "2")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run([sys.executable, str(EXAMPLES / "pretrain.py"), *words], PYTHONPATH=path)
    assert list(logs(tmp_path / "run")) == [1, 2]
    errors = logs(tmp_path / "run", "property_error")
    assert list(errors) == [1, 2] and all(0 < error < 2 for error in errors.values())
    assert CMIMModel.from_pretrained(tmp_path / "run").config.property_names == ["MolLogP", "TPSA"]


def test_settings_come_from_a_file_and_the_command_line_wins(source, tmp_path):
    """As users start it: by accelerate."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"learning_rate": 0.01, "max_steps": 1, "seed": 5}))
    words = arguments(source, tmp_path / "run", "--seed", "7", "--save_strategy", "no")
    at = words.index("--max_steps")
    del words[at : at + 2]
    run(launched(str(settings), *words))
    card = (tmp_path / "run" / "README.md").read_text()
    for line in ("| learning_rate | 0.01 |", "| steps | 1 |", "| seed | 7 |"):
        assert line in card
