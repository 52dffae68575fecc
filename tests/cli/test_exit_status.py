# SPDX-License-Identifier: Apache-2.0
"""How a script ends."""

import subprocess
import sys

import pytest

from cmim_hf.cli.exit_status import exit_status, run_script


def raising(error):
    def main():
        raise error

    return main


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/script.py"])


@pytest.mark.parametrize(
    "error", [ValueError("x is 1"), OSError("x is 1"), FloatingPointError("x is 1")]
)
def test_what_a_user_can_fix_is_a_message(error, capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(raising(error))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "script.py: x is 1\n"


def test_with_more_words_the_traceback_is_shown_too(capsys, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    with pytest.raises(SystemExit):
        run_script(raising(ValueError("x is 1")))
    assert "Traceback" in capsys.readouterr().err


def test_arguments_are_called_as_the_program_calls_them(capsys):
    def run():
        raise ValueError("`n` and `top_k` are whole numbers, not `k`")

    assert exit_status("cmim", run, "", {"n": "-n", "top_k": "--top-k"}) == 1
    assert capsys.readouterr().err == "cmim: -n and --top-k are whole numbers, not `k`\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 / 0)


def test_an_interruption_says_what_to_do(capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(raising(KeyboardInterrupt()), "interrupted; go on.")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "script.py: interrupted; go on.\n"


def test_a_reader_that_leaves_ends_it_without_a_word():
    code = """
from cmim_hf.cli.exit_status import exit_status, run_script
def main():
    while True:
        print("line", flush=True)
run_script(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr.read() == ""
    process.stderr.close()
