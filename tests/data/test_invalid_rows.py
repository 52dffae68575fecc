# SPDX-License-Identifier: Apache-2.0
"""What a caller may pass as molecules, and what an invalid one is told."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rdkit import Chem

from cmim_hf import MoleculeEmbedder, list_checkpoints
from cmim_hf.data.invalid_rows import texts


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(list_checkpoints()["tiny"], progress=False)


def test_lines_of_a_file_and_cxsmiles_are_molecules(tmp_path, embedder):
    path = tmp_path / "a.smi"
    path.write_bytes(b"CCO\r\n C[C@H](F)Cl |&1:1|\nCCN")
    with open(path, newline="") as lines:
        given = list(lines)
    plain = embedder.embed(["CCO", "C[C@H](F)Cl", "CCN"])
    assert np.array_equal(embedder.embed(given), plain)
    raw = MoleculeEmbedder(
        list_checkpoints()["tiny"], canonicalize=False, progress=False, on_invalid="none"
    )
    assert np.isfinite(raw.embed(given)).all()
    assert np.isnan(raw.embed(["CCO ethanol\n"])).all()  # a name is not cut off in silence


@pytest.mark.parametrize("kind", [list, tuple, iter, pd.Series, pa.array, np.array])
def test_rows_of_any_kind(kind):
    assert texts(kind(["CCO", "CCN\n"])) == ["CCO", "CCN"]


def test_what_is_no_text_stays_and_molecules_are_written():
    assert texts([Chem.MolFromSmiles("OCC"), None, 3.5]) == ["CCO", None, 3.5]


def test_the_reason_is_said_once(embedder):
    with pytest.raises(ValueError, match="cannot be used: it does not parse: ") as raised:
        embedder.embed(["CCO", "C(C"])
    assert str(raised.value).count("parse") == 1 and str(raised.value).count("'C(C'") == 1
    assert "extra open parentheses (around position 2). Fix or remove it" in str(raised.value)
