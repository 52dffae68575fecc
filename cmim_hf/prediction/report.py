# SPDX-License-Identifier: Apache-2.0
"""One page, `report.html`: how good a predictor is on molecules that it never saw."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic_files import write_whole
from .labelled_parts import Part
from .prediction_tasks import as_logits, measure
from .predictor import MoleculePredictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESAMPLES = 200
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BINS = 5
"""Ranges of the distance percentile in which errors are averaged."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
svg {{ max-width: 100%; height: auto }}
pre {{ white-space: pre-wrap; color: #555 }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def write_report(
    path: Path, told: Mapping[str, Any], predictor: MoleculePredictor, test: Part
) -> None:
    """Write the page: a file by itself, with its figures in it.

    Args:
        path: Of the page.
        told: What `metrics.json` holds.
        predictor: What is judged.
        test: Rows that neither trained nor chose nor calibrated it.
    """
    from matplotlib import rc_context

    outputs = predictor.outputs(test.encoded())
    tables = {level: predictor.columns(outputs, level) for level in LEVELS}
    rows = ", ".join(f"{number:,} {name}" for name, number in told["rows"].items())
    body = [
        f"<p>{_shown(told['task'])}: {_shown(', '.join(predictor.targets))}. Rows: {rows}. What "
        "follows is of the test rows, by which nothing was fitted, chosen or calibrated.</p>",
        _metrics(told, predictor, outputs.values, test.labels),
    ]
    for place, target in enumerate(predictor.targets):
        known = ~np.isnan(test.labels[:, place])
        if not known.any():
            body.append(f"<h2>{_shown(target)}</h2><p>No test row has a label.</p>")
            continue
        own = {level: {n: c[known] for n, c in table.items()} for level, table in tables.items()}
        values = outputs.values[known]
        values = values if predictor.task == "multiclass" else values[:, place]
        labels = test.labels[known, place]
        with rc_context({"text.parse_math": False}):  # a $ in a name is a $
            figure = _figure(predictor, target, values, labels, own)
        body.append(f"<h2>{_shown(target)}</h2>{figure}")
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    body.append(f"<pre>{_shown(told['command'])}\n{told['date']}, {versions}</pre>")
    title = _shown(f"Predictions of {', '.join(predictor.targets)}")
    write_whole(path, _PAGE.format(title=title, body="\n".join(body)))


def _metrics(
    told: Mapping[str, Any], predictor: MoleculePredictor, values: np.ndarray, labels: np.ndarray
) -> str:
    """The metrics of the whole, with bootstrap intervals over test rows, and by seed."""
    scores = as_logits(values, predictor.task)

    def of(rows: Any) -> dict[str, float]:
        return measure(scores[rows], labels[rows], predictor.task, predictor.targets)["mean"]

    random, found = np.random.default_rng(0), of(slice(None))
    drawn = [of(random.integers(len(labels), size=len(labels))) for _ in range(RESAMPLES)]
    lines = []
    for name, value in found.items():
        low, high = np.quantile([one[name] for one in drawn if name in one], [0.025, 0.975])
        seeds = told["test"].get(name)
        single = "" if seeds is None else f"{seeds['mean']:.3f}"
        lines.append(f"<tr><td>{name}<td>{value:.3f}<td>{low:.3f} to {high:.3f}<td>{single}</tr>")
    head = "<tr><th>metric<th>predictor<th>95 % interval<th>one model, mean of the seeds</tr>"
    told_by = f"Intervals: {RESAMPLES} resamples of the test rows."
    return f"<table>{head}{''.join(lines)}</table><p>{told_by}</p>"


def _figure(
    predictor: MoleculePredictor,
    target: str,
    values: np.ndarray,
    labels: np.ndarray,
    tables: Mapping[float, Mapping[str, np.ndarray]],
) -> str:
    """Three pictures of a target: predictions, coverage, error by distance; and their words."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    classes = predictor.about["classes"]
    if predictor.task == "regression":
        radius = (tables[0.9][f"{target}_high"] - tables[0.9][f"{target}_low"])[0] / 2
        _parity(first, values, labels, radius, target)
        errors, name = np.abs(values - labels), "mean absolute error"
    elif predictor.task == "binary":
        _roc(first, values, labels)
        errors, name = np.abs(values - labels), "mean 1 - p(true label)"
    else:
        _confusion(first, values, labels, classes)
        errors, name = (
            1 - values[np.arange(len(labels)), labels.astype(int)],
            "mean 1 - p(true class)",
        )
    covered = [_covered(tables[level], target, labels, classes) for level in LEVELS]
    second.plot([0.4, 1], [0.4, 1], color="0.7")
    second.plot(LEVELS, covered, "o-")
    second.set(xlabel="stated level", ylabel="truth is held, share of test rows")
    _by_distance(third, errors, tables[0.9]["distance_percentile"])
    third.set(xlabel="distance to the training molecules, percentile", ylabel=name)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    picture = drawing.getvalue()
    held = covered[LEVELS.index(0.9)]
    words = f"At a stated level of 90 % the truth is held for {held:.1%} of the test rows"
    if predictor.task == "regression":
        words += f", by intervals of ± {radius:.3g}"
    if predictor.task == "regression" and not np.isfinite(radius):
        words = "There are too few validation rows with a label for an interval of 90 %"
    return f"<p>{words}.</p>{picture[picture.index('<svg') :]}"


def _covered(
    table: Mapping[str, np.ndarray], target: str, labels: np.ndarray, classes: list[str]
) -> float:
    if not classes:
        low, high = table[f"{target}_low"], table[f"{target}_high"]
        return float(np.mean((low <= labels) & (labels <= high)))
    sets = [told.split("|") for told in table[f"{target}_labels"]]
    truth = [classes[int(label)] for label in labels]
    return float(np.mean([one in told for one, told in zip(truth, sets, strict=True)]))


def _parity(axes: Axes, values: np.ndarray, labels: np.ndarray, radius: float, target: str) -> None:
    ends = np.array([min(values.min(), labels.min()), max(values.max(), labels.max())])
    axes.plot(ends, ends, color="0.5")
    if np.isfinite(radius):
        axes.fill_between(ends, ends - radius, ends + radius, color="0.9")
    axes.scatter(labels, values, s=8, alpha=0.6, rasterized=True)
    axes.set(xlabel=f"{target}, measured", ylabel="predicted; grey: 90 % interval")


def _roc(axes: Axes, values: np.ndarray, labels: np.ndarray) -> None:
    from sklearn.metrics import roc_curve

    axes.plot([0, 1], [0, 1], color="0.7")
    if len(set(labels)) > 1:
        false, true, _ = roc_curve(labels, values)
        axes.plot(false, true, label="ROC")
    bins = np.clip((values * BINS).astype(int), 0, BINS - 1)
    there = [number for number in range(BINS) if (bins == number).any()]
    told = [values[bins == number].mean() for number in there]
    axes.plot(told, [labels[bins == number].mean() for number in there], "o--", label="calibration")
    axes.set(
        xlabel="false positive rate; predicted probability",
        ylabel="true positive rate; share of yes",
    )
    axes.legend()


def _confusion(axes: Axes, values: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    from sklearn.metrics import ConfusionMatrixDisplay

    ConfusionMatrixDisplay.from_predictions(
        labels.astype(int),
        values.argmax(axis=1),
        labels=range(len(classes)),
        display_labels=classes,
        normalize="true",
        values_format=".2f",
        ax=axes,
        colorbar=False,
        xticks_rotation="vertical",
    )


def _by_distance(axes: Axes, errors: np.ndarray, percentiles: np.ndarray) -> None:
    """Mean errors in ranges of the percentile, with twice their standard error."""
    bins = np.clip((percentiles * BINS / 100).astype(int), 0, BINS - 1)
    for number in range(BINS):
        own = errors[bins == number]
        if len(own):
            half = 2 * own.std() / np.sqrt(len(own))
            axes.errorbar((number + 0.5) * 100 / BINS, own.mean(), half, fmt="o", color="C0")
            where = ((number + 0.5) * 100 / BINS, own.mean())
            axes.annotate(
                f"n={len(own)}", where, (6, 0), textcoords="offset points", fontsize=8, va="center"
            )
    axes.set(xlim=(0, 100), ylim=(0, None))


def _shown(text: str) -> str:
    return html.escape(str(text))
