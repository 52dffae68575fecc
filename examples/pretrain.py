# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Pretrain a cMIM on SMILES.

    accelerate launch examples/pretrain.py examples/configs/tiny.yaml
    accelerate launch examples/pretrain.py --train_sources moses --output_dir runs/small
    accelerate launch examples/pretrain.py examples/configs/tiny.yaml --resume_from_checkpoint auto
    accelerate launch examples/pretrain.py --train_sources moses --properties rdkit \
        --property_rows 200000 --preparation_workers 8 --optimizer muon --output_dir runs/labelled

Two processes on a machine without a GPU:

    accelerate launch --multi_gpu --num_processes 2 examples/pretrain.py ... --use_cpu true

Another model, data set or objective: `build_trainer` gives the trainer of these options, and says
in thirty lines how it is made.
"""

from __future__ import annotations

from cmim_hf.cpu_threads import wait_politely

wait_politely()  # before torch is imported

from cmim_hf.cli.exit_status import run_script
from cmim_hf.training.pretraining import pretrain
from cmim_hf.training.run_arguments import parse_arguments


def main(argv: list[str] | None = None) -> None:
    """Read the settings, train, and leave a checkpoint with its card."""
    pretrain(*parse_arguments(argv))


if __name__ == "__main__":
    run_script(main, "interrupted; --resume_from_checkpoint auto goes on from what was saved.")
