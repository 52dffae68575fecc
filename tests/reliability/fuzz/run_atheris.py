# SPDX-License-Identifier: Apache-2.0
"""Fuzz by coverage: atheris, whose libFuzzer keeps what reaches new lines of the package.

    python tests/reliability/fuzz/run_atheris.py --minutes 10 --targets table parquet

The minutes are shared by the targets, each of which runs in a process of its own, so that a crash
within RDKit, pyarrow or tokenizers ends that one. What crashed is kept, a file each.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cmim_hf"], enable_loader_override=False):
    from targets import TARGETS

EXECUTED = re.compile(r"stat::number_of_executed_units: (\d+)")


def main() -> None:
    """Fuzz the targets one after the other; exit status 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=sorted(TARGETS))
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--alone", choices=sorted(TARGETS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    seconds = max(1, round(args.minutes * 60 / len(args.targets)))
    if args.alone:
        fuzz(args.alone, seconds, args.findings)
    found = 0
    for name in args.targets:
        folder = args.findings / name
        words = [sys.executable, __file__, "--alone", name, "--findings", str(args.findings)]
        words += ["--minutes", str(seconds / 60), "--targets", name]
        result = subprocess.run(words, capture_output=True, text=True, errors="replace")
        executed = EXECUTED.search(result.stderr)
        number = executed.group(1) if executed else "unknown"
        crashes = [path for path in folder.iterdir() if path.is_file()]
        print(f"{name}: {number} executions, exit status {result.returncode}", flush=True)
        if result.returncode:
            found += 1
            print(result.stderr[-4000:], *crashes, sep="\n", flush=True)
    sys.exit(bool(found))


def fuzz(name: str, seconds: int, findings: Path) -> None:
    """Fuzz one target from its seeds; ends the process."""
    folder = findings / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=16384"]
    options += ["-timeout=60", "-rss_limit_mb=6000", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
