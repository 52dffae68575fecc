# SPDX-License-Identifier: Apache-2.0
"""The card of a checkpoint that ships: of its run, with all that was measured of it.

    python -m examples.benchmarks.quality.card --config examples/configs/small_more.yaml \
        --run runs/small-more --name small --output model_cards/small.md
    python -m examples.benchmarks.quality.card --run cmim_hf/checkpoints/small \
        --output model_cards/small.md

Takes settings from the run's configuration and from the card that the run left, the curve from its
`trainer_state.json`, and those figures in the results beside this file that are of exactly these
weights; peers' stand beside them with their source. Without `--config` the card that is beside the
weights stays as it is but for those figures. The card goes to `--output` and beside the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from cmim_hf import CMIMModel, MoleculeEmbedder
from cmim_hf.atomic_files import write_whole
from cmim_hf.training.model_card import read_settings, write_model_card
from cmim_hf.training.run_arguments import parse_arguments

from ..evidence import RESULTS, read
from .report import finetune_table, optimization_table, origin, peer_table, score_table

MISSING = "Not measured of these weights yet."
FIGURES, AFTER = "## Measured on molecules it never saw", "## Use and limits"
EXAMPLES = Path(__file__).resolve().parents[2]


@dataclass
class Arguments:
    """Whose card."""

    run: str = field(metadata={"help": "Output folder of the run, or a checkpoint with a card."})
    output: str = field(metadata={"help": "The card to write; a copy goes to that folder."})
    config: str | None = field(
        default=None, metadata={"help": "Settings of the run, as given to pretrain.py."}
    )
    name: str | None = field(default=None, metadata={"help": "Of the checkpoint, for a new card."})
    results: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Gather and write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    if (args.config is None) != (args.name is None):
        raise SystemExit("A new card needs both --config and --name; new figures need neither.")
    measured = figures(Path(args.results), MoleculeEmbedder(args.run).fingerprint)
    written = renewed_card(args, measured) if args.config is None else new_card(args, measured)
    write_whole(args.output, written.read_text(encoding="utf-8"))
    print(f"written: {written}, {args.output}")


def renewed_card(args: Arguments, measured: str) -> Path:
    """The card of a checkpoint with what was measured of it since."""
    path = Path(args.run, "README.md")
    before, _, rest = path.read_text(encoding="utf-8").partition(f"{FIGURES}\n")
    _, heading, after = rest.partition(f"{AFTER}\n")
    if not heading:
        raise SystemExit(f"{path} has no {FIGURES!r} before {AFTER!r}: give --config and --name.")
    write_whole(path, f"{before}{measured}\n\n{heading}{after}")
    return path


def new_card(args: Arguments, measured: str) -> Path:
    """The card of a run."""
    _, data, training = parse_arguments([args.config])
    state = json.loads(Path(args.run, "trainer_state.json").read_text())
    config = Path(args.config).resolve()
    if config.is_relative_to(EXAMPLES.parent):
        config = config.relative_to(EXAMPLES.parent)
    return write_model_card(
        args.run,
        model=CMIMModel.from_pretrained(args.run),
        args=training,
        steps=state["global_step"],
        history=state["log_history"],
        data=data.data_description or ", ".join(data.train_sources),
        name=args.name,
        license=data.license,
        command=f"accelerate launch examples/pretrain.py {config}",
        settings=read_settings(Path(args.run, "README.md")),
        figures=measured,
    )


def figures(folder: Path, weights: str) -> str:
    """What the benchmarks measured of weights with this fingerprint, as Markdown.

    What is of other weights is left out, and that is said.
    """
    parts = [FIGURES]
    frozen = of_weights("moleculenet", folder, weights)
    parts += ["### Frozen embeddings", score_table(frozen) if frozen else MISSING]
    parts += [origin(frozen)] if frozen else []
    parts += ["### Fine-tuning", finetune_table(folder, weights) or MISSING]
    parts += ["### Others on the published divisions", peer_table()]
    parts += ["### Search", optimization_table(folder, weights) or MISSING]
    if of_weights("generative", folder, weights):
        text = (folder / "generative.md").read_text(encoding="utf-8").partition("\n")[2].strip()
        parts.append(text.replace("\n## ", "\n### ").replace("## ", "### ", 1))
    else:
        parts += ["### Generation", MISSING]
    return "\n\n".join(parts)


def of_weights(name: str, folder: Path, weights: str) -> dict[str, Any] | None:
    """A result, if it is there and of these weights."""
    result = read(name, folder) or {}
    return result if result.get("weights") == weights else None


if __name__ == "__main__":
    main()
