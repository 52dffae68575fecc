# SPDX-License-Identifier: Apache-2.0
"""Bars that lie, and panels of a page."""

import pytest
from matplotlib.colors import to_rgba

from examples.benchmarks.pictures import kinds_shown, lying_bars, panels

COLOURS = {"ours": "tab:blue", "peers": "tab:orange", "absent": "0.7"}
NAN = float("nan")


def test_bars_lie_with_their_names_kinds_and_intervals():
    bars = [("worse", "peers", (0.9, NAN, NAN)), ("better", "ours", (0.5, 0.4, 0.6))]
    _, (plot, *spare) = panels(1)
    lying_bars(plot, bars, COLOURS)
    assert [label.get_text() for label in plot.get_yticklabels()] == ["worse", "better"]
    assert [bar.get_width() for bar in plot.patches] == [0.9, 0.5]
    assert [bar.get_facecolor() for bar in plot.patches] == [
        to_rgba("tab:orange"), to_rgba("tab:blue")
    ]  # fmt: skip
    ends = plot.containers[0].lines[2][0].get_segments()
    assert ends[1][:, 0] == pytest.approx([0.4, 0.6]) and ends[0][:, 0].tolist() == [0.9, 0.9]
    assert [patch.get_label() for patch in kinds_shown(bars, COLOURS)] == ["ours", "peers"]
    assert [one.axison for one in spare] == [False]
