# SPDX-License-Identifier: Apache-2.0
"""The command `cmim`: a file for each of its commands, imported without anything heavy.

Such a file has `add_arguments(parser)`, `run(options)`, which may return an exit status, and a
docstring that the help shows, its first line in the list of commands. `options.given` are the words
that were given. `WORDS` names the options that stand for an argument of the package by another
name; `INTERRUPTED` is said after Ctrl-C, where it is not that nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from ..allocator import keep_freed_memory
from ..cpu_threads import wait_politely
from ..version import __version__
from .exit_status import exit_status

COMMANDS = (
    "embed",
    "reconstruct",
    "sample",
    "fit-prior",
    "interpolate",
    "optimize",
    "search",
    "finetune",
    "predict",
    "serve",
    "prepare",
    "split",
    "export",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors of the user's input are one message and exit status 1."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    wait_politely()
    keep_freed_memory()
    to_screen = getattr(options, "output", "-") == "-"
    interrupted = options.interrupted or (
        "interrupted" + ("." if to_screen else "; nothing was written.")
    )
    words = {name: "-" * min(2, len(name)) + name.replace("_", "-") for name in vars(options)}
    options.given = given
    run = partial(options.run, options)
    return exit_status(f"cmim {options.command}", run, interrupted, words | options.words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cmim", description="cMIM for molecules.")
    parser.add_argument("--version", action="version", version=f"cmim-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        module = import_module(f".{name.replace('-', '_')}", __package__)
        summary, _, more = module.__doc__.partition("\n")
        command = commands.add_parser(name, help=summary.rstrip("."), description=more or summary)
        module.add_arguments(command)
        words, interrupted = (getattr(module, name, None) for name in ("WORDS", "INTERRUPTED"))
        command.set_defaults(run=module.run, words=words or {}, interrupted=interrupted)
    return parser
