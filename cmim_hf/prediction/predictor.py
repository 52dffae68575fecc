# SPDX-License-Identifier: Apache-2.0
"""Predictions for other molecules, with how far to trust each: [`MoleculePredictor`]."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..data.argument_checks import check_choice
from ..data.invalid_rows import (
    ON_INVALID,
    items_in_place,
    progress_bar,
    read_molecules,
    values_in_place,
)
from ..data.row_encoder import EncodedRows, RowEncoder
from ..extras import needed
from .conformal import bound, checked_level, label_bounds

if TYPE_CHECKING:
    import pandas

    from .attribution import AtomContributions
    from .members import Outputs


class MoleculePredictor:
    """Predicts what a model was fine-tuned for, for molecules given as SMILES.

    Molecules are read as in training: rewritten as RDKit does, their parents taken if they were
    (`standardize`), refused where one cannot be parsed.
    Of each prediction it is told how far it can be trusted:

    - an interval, or a set of labels, that holds the truth of at least `level` of molecules like
      those it was calibrated on (split-conformal, see [`~cmim_hf.prediction.conformal`]);
    - the spread of the models of an ensemble, of a forest's trees, or of a Gaussian process;
    - the distance to the training molecules (see [`~cmim_hf.prediction.applicability`]).

    Args:
        folder: What `cmim finetune` wrote.
        checkpoint: The one whose vectors the heads in the folder read, where it is elsewhere now.
        device: As in [`~cmim_hf.MoleculeEmbedder`], like the next two.
        on_invalid: As there.
        progress: As there.

    Attributes:
        targets: The names of what is predicted.
        task: `"regression"`, `"binary"` or `"multiclass"`.
        about: What made it: rows, versions, what it was calibrated on.

    Raises:
        FileNotFoundError: No such folder, or no predictor in it.
        ImportError: A library that it needs is not installed.
        ValueError: A folder that is damaged, was written by a newer version, or whose heads were
            fitted to vectors of another checkpoint.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        checkpoint: str | os.PathLike | None = None,
        device: str | None = None,
        on_invalid: str = "raise",
        progress: bool = True,
    ) -> None:
        """Load the folder."""
        with needed("MoleculePredictor", "predict"):
            from .predictor_files import load_predictor
        check_choice("on_invalid", on_invalid, ON_INVALID)
        self.on_invalid, self.progress = on_invalid, progress
        loaded = load_predictor(folder, checkpoint, device)
        self.about, self._members, self._domain, self._calibration = loaded
        self.task, self.targets = self.about["task"], self.about["targets"]

    def predict(
        self, smiles: Iterable[str], *, level: float = 0.9, on_invalid: str | None = None
    ) -> pandas.DataFrame:
        """Predict for a list, array, series or generator of SMILES, in the order given.

        Returns:
            A row for each molecule, or for each row under `on_invalid="none"`, with gaps where one
            is invalid; under `"skip"` the index has the places in `smiles`. For each target
            `<target>_predicted`, in its unit, the probability of yes, or of several classes the
            likeliest; `<target>_std` where models disagree; of numbers `<target>_low` and
            `<target>_high`; else `<target>_labels`, those that cannot be ruled out at this level,
            with `|` between, or "none", and of several classes the probability of each,
            `<target>_probability_<class>`. In the end `distance_percentile`: 0 is among the
            training molecules, 100 further out than any of them.

        Raises:
            TypeError: One string, or a table, in place of a list.
            ValueError: An invalid molecule and `on_invalid="raise"`, an unknown choice, or a level
                outside (0, 1).
        """
        import pandas

        on_invalid = self.on_invalid if on_invalid is None else on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        checked_level(level)
        encoded = read_molecules(self.encoder(), smiles, on_invalid, self.progress)
        columns = self.predict_encoded(encoded, level, on_invalid)
        return pandas.DataFrame(columns, index=encoded.kept if on_invalid == "skip" else None)

    def atom_contributions(
        self, smiles: Iterable[str], *, on_invalid: str | None = None
    ) -> list[AtomContributions | None]:
        """Which atoms carry the predictions, see [`~cmim_hf.prediction.attribution`].

            smiles, values = predictor.atom_contributions(["OCC"])[0]
            draw_grid([smiles], weights=[values[0]])  # of cmim_hf.chemistry.drawing

        It takes as many predictions as a molecule has atoms. Under `on_invalid="none"` an invalid
        row is None. Errors are those of `predict`.
        """
        on_invalid = self.on_invalid if on_invalid is None else on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        encoded = read_molecules(self.encoder(), smiles, on_invalid, self.progress)
        return items_in_place(self.contributions_of_encoded(encoded), encoded, on_invalid)

    def contributions_of_encoded(self, encoded: EncodedRows) -> list[AtomContributions]:
        """Of the usable rows that `encoder` encoded."""
        from .attribution import atom_contributions

        tokenizer = self._members.tokenizer
        texts = encoded.texts(tokenizer)
        with progress_bar(len(texts), "Hiding atoms", self.progress) as bar:
            found = []
            for text in texts:
                found.append(atom_contributions(self._members, tokenizer, text))
                bar.update()
        return found

    def encoder(self) -> RowEncoder:
        """What turns rows into this model's tokens; it can be sent to other processes."""
        standard = self.about["standardize"]
        return RowEncoder(self._members.tokenizer, self._members.max_length, True, standard)

    def predict_encoded(
        self, encoded: EncodedRows, level: float = 0.9, on_invalid: str = "skip"
    ) -> dict[str, np.ndarray]:
        """The columns of `predict`, of rows that `encoder` encoded; `"none"` gives all of them."""
        columns = self.columns(self.outputs(encoded), level).items()
        return {name: values_in_place(column, encoded, on_invalid) for name, column in columns}

    def outputs(self, encoded: EncodedRows) -> Outputs:
        """What the models say of rows that `encoder` encoded."""
        return self._members(encoded)

    def columns(self, outputs: Outputs, level: float) -> dict[str, np.ndarray]:
        """The columns of `predict` of what the models said."""
        values, spread, vectors = outputs
        columns: dict[str, np.ndarray] = {}
        if self.task == "multiclass":
            columns = self._class_columns(values, spread, level)
        else:
            for place, target in enumerate(self.targets):
                columns[f"{target}_predicted"] = values[:, place]
                if spread is not None:
                    columns[f"{target}_std"] = spread[:, place]
                columns |= self._bounds(target, place, values[:, place], level)
        columns["distance_percentile"] = self._domain.percentiles(vectors)
        return columns

    def _bounds(
        self, target: str, place: int, values: np.ndarray, level: float
    ) -> dict[str, np.ndarray]:
        """The interval of a number, or the labels that cannot be ruled out."""
        predicted, labels = (self._calibration[name][:, place] for name in ("outputs", "labels"))
        if self.task == "regression":
            radius = bound(np.abs(predicted - labels), level)
            return {f"{target}_low": values - radius, f"{target}_high": values + radius}
        chances = np.stack([1 - predicted, predicted], axis=1)
        ruled_in = _label_sets(np.stack([1 - values, values], axis=1), chances, labels, level)
        return {f"{target}_labels": _joined(ruled_in, self.about["classes"])}

    def _class_columns(
        self, values: np.ndarray, spread: np.ndarray | None, level: float
    ) -> dict[str, np.ndarray]:
        (target,), classes = self.targets, self.about["classes"]
        best = values.argmax(axis=1)
        columns = {f"{target}_predicted": np.array(classes, dtype=object)[best]}
        if spread is not None:
            columns[f"{target}_std"] = spread[np.arange(len(best)), best]
        labels = self._calibration["labels"][:, 0]
        ruled_in = _label_sets(values, self._calibration["outputs"], labels, level)
        columns[f"{target}_labels"] = _joined(ruled_in, classes)
        for place, name in enumerate(classes):
            columns[f"{target}_probability_{name}"] = values[:, place]
        return columns


def _label_sets(
    values: np.ndarray, calibration: np.ndarray, labels: np.ndarray, level: float
) -> np.ndarray:
    """(rows, labels), true where a label cannot be ruled out."""
    return 1 - values <= label_bounds(calibration, labels, level)


def _joined(ruled_in: np.ndarray, names: list[str]) -> np.ndarray:
    texts = [
        "|".join(name for name, one in zip(names, row, strict=True) if one) or "none"
        for row in ruled_in
    ]
    return np.array(texts, dtype=object)
