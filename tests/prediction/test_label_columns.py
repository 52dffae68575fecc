# SPDX-License-Identifier: Apache-2.0
"""What cells are read as, which task they are for, and what is refused."""

import numpy as np
import pytest

from cmim_hf.data.smiles_files import Row
from cmim_hf.prediction.label_columns import read_labels


def labels_of(*columns, task=None):
    rows = [Row("a.csv", number, "C") for number in range(1, len(columns[0]) + 1)]
    return read_labels(rows, {f"y{place}": cells for place, cells in enumerate(columns)}, task)


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["True", " false", "TRUE", ""], [1, 0, 1, None]),
        ([True, False, None], [1, 0, None]),
        (["Yes", "no ", "n/a"], [1, 0, None]),
        (["inactive", "Active"], [0, 1]),
        (["Positive", "NEGATIVE"], [1, 0]),
        (["-1", "1", "1.0"], [0, 1, 1]),
        ([0, 1, None], [0, 1, None]),
        (["yes", "yes"], [1, 1]),
    ],
)
def test_yes_and_no_in_any_writing(cells, read):
    labels = labels_of(cells)
    assert labels.task == "binary" and not labels.classes
    np.testing.assert_equal(labels.values, np.array(read, float)[:, None])


def test_what_was_read_as_what_is_told():
    labels = labels_of(["Yes", "no", "YES", "Yes", "none"], ["-1", "1", "1", "", ""], ["0"] * 5)
    assert labels.notes == [
        "Column 'y0': 'none' is read as no label, 1 times.",
        "Column 'y0': 'no' is read as 0, 'Yes' as 1.",
        "Column 'y1': '-1' is read as 0, '1' as 1.",
    ]
    assert labels.values.tolist()[1] == [0, 1, 0]


@pytest.mark.parametrize("cells", [[1.5, 2], ["0", "1", "3"], ["0", "1", "-1"], [7, 7]])
def test_numbers_stay_as_they_are(cells):
    labels = labels_of(cells, ["0.5"] * len(cells))
    assert labels.task == "regression" and not labels.notes
    assert labels.values[:, 0].tolist() == [float(cell) for cell in cells]


def test_minus_one_stays_in_a_stated_regression():
    assert labels_of(["-1", "1"], task="regression").values.ravel().tolist() == [-1, 1]


def test_words_are_classes_in_the_order_of_their_names():
    labels = labels_of(["solid", "Gas", "liquid", "gas ", "", "Gas"])
    assert labels.task == "multiclass" and labels.classes == ["Gas", "liquid", "solid"]
    np.testing.assert_equal(labels.values.ravel(), [2, 0, 1, 0, np.nan, 0])
    assert labels.notes == ["The classes are Gas, liquid, solid."]


@pytest.mark.parametrize(
    ("cells", "classes", "values"),
    [
        (["0", "2", "1", ""], ["0", "1", "2"], [0, 2, 1, np.nan]),
        (["10", "9", "-3"], ["-3", "9", "10"], [2, 1, 0]),
        (["toxic", "safe"], ["safe", "toxic"], [1, 0]),
        (["3A4", "2D6"], ["2D6", "3A4"], [1, 0]),
        (["yes", "no"], ["no", "yes"], [1, 0]),
    ],
)
def test_stated_classes(cells, classes, values):
    labels = labels_of(cells, task="multiclass")
    assert labels.classes == classes
    np.testing.assert_equal(labels.values.ravel(), values)


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ([["1", "2.5", "high", "3"]], None, "a.csv, row 3: column 'y0' holds 'high'.*row 1 holds"),
        ([["yes", "1", "no"]], None, "row 2: column 'y0' holds '1', which is a number among words"),
        ([["1", "0", "yes"]], "binary", "row 3: column 'y0' holds 'yes'"),
        ([["1", "inf"]], None, "row 2: column 'y0' holds 'inf', which is no finite number"),
        ([["yes", "no", "true"]], None, "yes and no in 2 writings"),
        ([["0,5", "1,25", "0,75"]], None, "'0,5' begins like a number: write numbers with a point"),
        ([["1_5", "2_5", "3_75"]], None, "'1_5' begins like a number"),
        ([[">10 uM", "low", "none", "high"]], None, "'>10 uM' begins like a number"),
        ([["toxic", "safe"]], None, "'safe', 'toxic'.*which is yes.*`task` multiclass"),
        ([["w" * n for n in range(1, 52)]], None, "51 different words.*`task` multiclass"),
        (
            [["0", "1", "2"]],
            None,
            "'0', '1', '2': amounts, or.*`task` regression.*`task` multiclass",
        ),
        ([["0", "1", "2"]], "binary", "`task` binary needs yes and no.*'0', '1', '2'"),
        ([["a", "b", "c"]], "regression", "`task` regression needs numbers.*'a', 'b', 'c'"),
        ([["yes", "no"]], "regression", "`task` regression needs numbers.*'no', 'yes'"),
        ([["0.5", "1"]], "multiclass", "words or whole numbers; column 'y0' holds '0.5', '1'"),
        ([["a", "a"]], "multiclass", "two classes at least"),
        ([["yes", "no"], ["1.5", "2"]], None, "'y0' is yes or no, 'y1' is not.*two runs"),
        ([["3", "4"], ["-1", "1"]], None, "'y1' is yes or no, 'y0' is not"),
        ([["a", "b", "c"], ["1", "2", "3"]], None, "learned of one target, not of 2: 'y0'"),
    ],
)
def test_what_cannot_be_read_is_named(columns, task, message):
    with pytest.raises(ValueError, match=message):
        labels_of(*columns, task=task)
