# SPDX-License-Identifier: Apache-2.0
"""The card of a checkpoint that ships: of its run, with all that was measured of it.

    python examples/benchmarks/card.py --config examples/configs/small_more.yaml \
        --run runs/small-more --name small --output model_cards/small.md

Takes settings from the run's configuration, the curve and the time from its `trainer_state.json`,
and the figures from the results in this folder, which must be of this checkpoint; peers' figures
stand beside them with their source. The card goes to `--output` and beside the weights.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evidence import RESULTS
from report import finetune_table, optimization_table, origin, peer_table, score_table
from transformers import HfArgumentParser

from cmim_hf import CMIMModel
from cmim_hf.model_card import write_model_card

EXAMPLES = Path(__file__).resolve().parents[1]


@dataclass
class Arguments:
    """Whose card."""

    config: str = field(metadata={"help": "Settings of the run, as given to pretrain.py."})
    run: str = field(metadata={"help": "Its output folder."})
    name: str = field(metadata={"help": "Of the checkpoint."})
    output: str = field(metadata={"help": "The card to write; a copy goes to the run's folder."})
    results: str = field(default=str(RESULTS), metadata={"help": "Folder of the results."})


def main() -> None:
    """Gather and write."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    sys.path.insert(0, str(EXAMPLES))
    from pretrain import parse_arguments

    _, data, training = parse_arguments([args.config])
    state = json.loads(Path(args.run, "trainer_state.json").read_text())
    config = Path(args.config).resolve()
    if config.is_relative_to(EXAMPLES.parent):
        config = config.relative_to(EXAMPLES.parent)
    written = write_model_card(
        args.run,
        model=CMIMModel.from_pretrained(args.run),
        args=training,
        steps=state["global_step"],
        history=state["log_history"],
        data=data.data_description or ", ".join(data.train_sources),
        name=args.name,
        license=data.license,
        command=f"accelerate launch examples/pretrain.py {config}",
        figures=figures(Path(args.results), args.name),
    )
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(written.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"written: {written}, {output}")


def figures(folder: Path, name: str) -> str:
    """What the benchmarks measured of the checkpoint, as Markdown.

    Raises:
        SystemExit: a result of another checkpoint, or none.
    """
    frozen = read(folder, "moleculenet", name)
    read(folder, "generative", name)
    generation = (folder / "generative.md").read_text(encoding="utf-8").partition("\n")[2].strip()
    return "\n\n".join(
        [
            "## Measured on molecules it never saw",
            "### Frozen embeddings",
            score_table(frozen),
            origin(frozen),
            "### Fine-tuning",
            finetune_table(folder),
            "### Others on the published divisions",
            peer_table(),
            "### Search",
            optimization_table(folder),
            generation.replace("\n## ", "\n### ").replace("## ", "### ", 1),
        ]
    )


def read(folder: Path, benchmark: str, name: str) -> dict[str, Any]:
    """A result, if it is of this checkpoint."""
    path = folder / f"{benchmark}.json"
    if not path.is_file():
        raise SystemExit(f"There is no {path}: run examples/benchmarks/{benchmark}.py first.")
    result = json.loads(path.read_text())
    if result["checkpoint"] != name:
        raise SystemExit(f"{path} is of {result['checkpoint']}, not of {name}: run it again.")
    return result


if __name__ == "__main__":
    main()
