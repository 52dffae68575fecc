# SPDX-License-Identifier: Apache-2.0
"""Molecules for the tests of the data files."""

from pathlib import Path

from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import Row

SAMPLE = Path(__file__).parents[1] / "examples" / "data" / "moses_test.smi"


def rows_of(*texts):
    return [Row("list", number, text) for number, text in enumerate(texts, 1)]


def pack(rows, tokenizer, **arguments):
    settings = {"max_length": 128, "canonicalize": False, "progress": False} | arguments
    return prepare(rows, tokenizer, **settings)[0]


def decoded(molecules, tokenizer):
    return [tokenizer.decode(item["input_ids"], skip_special_tokens=True) for item in molecules]
