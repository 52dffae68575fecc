# SPDX-License-Identifier: Apache-2.0
"""`examples/pretrain.py` as users start it: processes, files, kills."""

import importlib
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

from cmim_hf import DEFAULT_CHECKPOINT, CMIMModel, CMIMTokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
MOLECULES = EXAMPLES / "data" / "moses_test.smi"
ONE = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
TWO = ["--multi_gpu", *ONE]
TWO[TWO.index("1")] = "2"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "molecules.smi"
    path.write_text("\n".join(MOLECULES.read_text().split()[:240]))
    return path


def command(source, output, *arguments, launch=ONE):
    settings = {
        "train_sources": source, "output_dir": output, "size": "tiny", "validation_size": 16,
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "max_steps": 6,
        "logging_steps": 1, "save_steps": 4, "reconstruction_samples": 8, "use_cpu": "true",
        "canonicalize": "false", "dataloader_pin_memory": "false",
    }  # fmt: skip
    pairs = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *launch]
    return [*launcher, "--dynamo_backend", "no", str(EXAMPLES / "pretrain.py"), *pairs, *arguments]


def run(*args, expect=0, **options):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command(*args, **options), capture_output=True, text=True, timeout=300, env=environment
    )
    assert (result.returncode == 0) == (expect == 0), result.stdout + result.stderr
    return result.stdout + result.stderr


def logs(output, name="loss"):
    state = json.loads((Path(output) / "trainer_state.json").read_text())
    return {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}


@pytest.fixture(scope="module")
def uninterrupted(source, tmp_path_factory):
    """16 steps over more than one epoch (13 steps), with latent noise."""
    output = tmp_path_factory.mktemp("uninterrupted")
    printed = run(source, output, "--max_steps", "16", "--save_steps", "5")
    return output, printed


def test_a_run_leaves_a_checkpoint_with_its_card(uninterrupted):
    output, _ = uninterrupted
    model = CMIMModel.from_pretrained(output)
    tokenizer = CMIMTokenizer.from_pretrained(output)
    assert model.config.vocab_size == len(tokenizer)
    batch = tokenizer(["CCO", "c1ccccc1"], padding=True, return_tensors="pt")
    assert model.get_informative_embeddings(**batch).shape == (2, model.config.hidden_size)
    losses = logs(output)
    assert list(losses) == list(range(1, 17)) and losses[16] < losses[1]
    card = (output / "README.md").read_text()
    assert str(MOLECULES.name) not in card and "molecules.smi" in card
    assert "| processes | 1 |" in card and "eval_exact_reconstruction" in card


@pytest.mark.parametrize("after", [6, 14])
def test_a_killed_run_resumes_as_if_it_had_not_been(uninterrupted, source, tmp_path, after):
    """SIGKILL to the whole group `after` steps in, between checkpoints, in both epochs."""
    arguments = (source, tmp_path, "--max_steps", "16", "--save_steps", "5")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    progress = tmp_path / "printed"
    with progress.open("w") as stream:
        process = subprocess.Popen(
            command(*arguments), stdout=stream, stderr=stream, env=environment,
            start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 200
    while progress.read_text().count("'loss'") < after:
        assert process.poll() is None and time.monotonic() < deadline, progress.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "trainer_state.json").exists()
    run(*arguments, "--resume_from_checkpoint", "auto")
    expected, resumed = logs(uninterrupted[0]), logs(tmp_path)
    assert list(resumed) == list(range(1, 17))
    for step in expected:
        assert resumed[step] == pytest.approx(expected[step], abs=1e-6), step


def test_two_processes_take_the_steps_of_one(source, tmp_path):
    """Without latent noise, half a batch on each of two ranks equals the batch on one."""
    noiseless = (
        "--objective", "cae", "--max_steps", "4", "--save_strategy", "no", "--optimizer", "muon",
        "--properties", "MolLogP", "TPSA", "--property_rows", "120",
    )  # fmt: skip
    run(source, tmp_path / "one", *noiseless)
    run(
        source,
        tmp_path / "two",
        *noiseless,
        "--per_device_train_batch_size",
        "8",
        "--per_device_eval_batch_size",
        "8",
        launch=TWO,
    )
    assert "| processes | 2 |" in (tmp_path / "two" / "README.md").read_text()
    one, two = logs(tmp_path / "one"), logs(tmp_path / "two")
    for step in one:
        assert two[step] == pytest.approx(one[step], abs=2e-5), step
    for name in ("log_contrastive", "token_accuracy", "nll", "property_error"):
        first, second = logs(tmp_path / "one", name), logs(tmp_path / "two", name)
        assert second[4] == pytest.approx(first[4], abs=2e-5), name
    final = [CMIMModel.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two")]
    for name, tensor in final[0].items():
        assert torch.allclose(tensor, final[1][name], atol=2e-5), name
    for name in ("eval_loss", "eval_exact_reconstruction", "eval_token_accuracy"):
        first, second = logs(tmp_path / "one", name), logs(tmp_path / "two", name)
        assert second[4] == pytest.approx(first[4], abs=2e-5), name


def test_bad_rows_are_listed_and_do_not_stop_a_run(source, tmp_path):
    table = tmp_path / "molecules.csv"
    good = source.read_text().split()[:80]
    bad = ["C(C", "c1ccccc", "F(F)(F)F", "", "C C"]
    rows = [f'{number},"{text}"' for number, text in enumerate(good[:40] + bad + good[40:])]
    table.write_text("\n".join(["id,smiles", *rows]))
    output = tmp_path / "run"
    printed = run(
        table, output, "--canonicalize", "true", "--max_steps", "2", "--save_strategy", "no",
        "--merges", "20",
    )  # fmt: skip
    assert "5 rows cannot be used (3 does not parse, 1 empty, 1 not printable)" in printed
    listed = [line.split("\t") for line in (output / "rejects.tsv").read_text().splitlines()[1:]]
    assert [(int(number), text) for _, number, text, _ in listed] == [
        (41 + place, text) for place, text in enumerate(bad)
    ]
    assert all(name == str(table) and reason for name, _, _, reason in listed)
    assert len(CMIMTokenizer.from_pretrained(output)("c1ccccc1")["input_ids"]) < 9  # has merges


def test_a_file_without_a_molecule_stops_with_the_reasons(tmp_path):
    (tmp_path / "bad.smi").write_text("C(C\nc1ccccc\n")
    printed = run(tmp_path / "bad.smi", tmp_path / "run", "--canonicalize", "true", expect=1)
    assert "None of the 2 rows is usable" in printed and "bad.smi row 1" in printed


def test_streaming_mixes_sources_and_reads_while_it_trains(source, tmp_path):
    second = tmp_path / "more.csv"
    second.write_text("\n".join(["SMILES", *source.read_text().split()[:100], "C(C"]))
    printed = run(
        source, tmp_path / "run", "--train_sources", str(source), str(second),
        "--streaming", "true", "--canonicalize", "true", "--max_steps", "4",
    )  # fmt: skip
    assert list(logs(tmp_path / "run")) == [1, 2, 3, 4], printed
    assert "C(C" in (tmp_path / "run" / "rejects.tsv").read_text()


def test_streaming_on_two_ranks_takes_the_steps_of_one(source, tmp_path):
    streaming = (
        "--streaming", "true", "--objective", "cae", "--max_steps", "3", "--save_strategy", "no"
    )  # fmt: skip
    run(source, tmp_path / "one", *streaming)
    run(source, tmp_path / "two", *streaming, "--per_device_train_batch_size", "8", launch=TWO)
    one, two = logs(tmp_path / "one"), logs(tmp_path / "two")
    assert list(one) == [1, 2, 3]
    for step in one:
        assert two[step] == pytest.approx(one[step], abs=2e-5), step


def test_a_stream_resumes_in_its_second_pass(source, tmp_path):
    """208 rows make 13 steps a pass; the checkpoint of step 15 lies in the second."""
    arguments = ("--streaming", "true", "--max_steps", "17", "--save_steps", "15")
    run(source, tmp_path, *arguments)
    expected = logs(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-17")
    run(source, tmp_path, *arguments, "--resume_from_checkpoint", "auto")
    assert logs(tmp_path) == pytest.approx(expected, abs=1e-6) and len(expected) == 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model_name_or_path", DEFAULT_CHECKPOINT), "--size cannot be changed"),
        (("--streaming", "true", "--merges", "5"), "--merges learns from all molecules"),
        (("--streaming", "true", "--properties", "rdkit"), "standardised over all molecules"),
        (("--streaming", "true", "--dataloader_num_workers", "2"), "reads in one process"),
        (("--train_sources", "run/molecules/train"), "move the sources out"),
    ],
)
def test_settings_that_contradict_each_other_stop_at_once(
    source, tmp_path, arguments, message, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    script = command(source, "run", *arguments)
    pretrain = importlib.import_module("pretrain")
    with pytest.raises(ValueError, match=message):
        pretrain.main(script[script.index(str(EXAMPLES / "pretrain.py")) + 1 :])


def test_prepared_molecules_train_without_rdkit_and_datasets(source, tmp_path):
    prepared = tmp_path / "prepared"
    subprocess.run(
        [sys.executable, str(EXAMPLES / "prepare.py"), "--sources", str(source), "--output",
         str(prepared), "--properties", "MolLogP", "TPSA", "--property_rows", "150"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys\nsys.modules['rdkit'] = sys.modules['datasets'] = None\n")
    arguments = command(prepared, tmp_path / "run", "--max_steps", "2")
    script = arguments.index(str(EXAMPLES / "pretrain.py"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, *arguments[script:]], capture_output=True, text=True, timeout=200,
        env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list(logs(tmp_path / "run")) == [1, 2]
    errors = logs(tmp_path / "run", "property_error")
    assert list(errors) == [1, 2] and all(0 < error < 2 for error in errors.values())
    assert CMIMModel.from_pretrained(tmp_path / "run").config.property_names == ["MolLogP", "TPSA"]


def test_settings_come_from_a_file_and_the_command_line_wins(source, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"learning_rate": 0.01, "max_steps": 1, "seed": 5}))
    arguments = command(source, tmp_path / "run", "--seed", "7", "--save_strategy", "no")
    script = arguments.index(str(EXAMPLES / "pretrain.py"))
    arguments.insert(script + 1, str(settings))
    at = arguments.index("--max_steps")
    del arguments[at : at + 2]
    subprocess.run(arguments, check=True, capture_output=True, timeout=200)
    card = (tmp_path / "run" / "README.md").read_text()
    for line in ("| learning_rate | 0.01 |", "| steps | 1 |", "| seed | 7 |"):
        assert line in card
    settings.write_text(json.dumps({"learning_rat": 0.01}))
    result = subprocess.run(
        [sys.executable, *arguments[script:]], capture_output=True, text=True, timeout=200
    )
    assert result.returncode != 0 and "unknown settings learning_rat" in result.stderr


def test_a_settings_file_names_one_source_without_a_list(source, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pretrain = importlib.import_module("pretrain")
    file = tmp_path / "run.yaml"
    file.write_text(
        f"train_sources: {source}\nvalidation_sources: {source}\noutput_dir: {tmp_path}\n"
    )
    _, data, _ = pretrain.parse_arguments([str(file)])
    assert (data.train_sources, data.validation_sources) == ([str(source)], [str(source)])
