# SPDX-License-Identifier: Apache-2.0
"""Prepared and streamed molecules: their parents on request, and what the folder says."""

import json
from functools import partial

import pytest
from packed_rows import decoded, pack, rows_of

from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.prepare import SourceOptions, prepare_folder, prepare_sources
from cmim_hf.data.streamed_molecules import StreamedMolecules

SALTS = ["CC(=O)[O-].[Na+]", "C[NH2+]CC.[Cl-]"]
PARENTS = ["CC(=O)O", "CCNC"]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "salts.smi").write_text("\n".join(SALTS) + "\n")
    return tmp_path / "salts.smi"


def options(standardize="parent", **settings):
    return SourceOptions(max_length=64, canonicalize=True, standardize=standardize, **settings)


def test_a_folder_of_parents_says_so_and_its_molecules_remember(source, tokenizer, tmp_path):
    folder = tmp_path / "packed"
    molecules, _ = prepare_folder([source], folder, tokenizer, options(), merges=5)
    assert json.loads((folder / "packed.json").read_text())["standardize"] == "parent"
    again = PackedMolecules.load(folder)
    assert molecules.standardize == again.standardize == "parent"
    parts = again.split(1, seed=0)
    assert {part.standardize for part in parts} == {"parent"}
    parts[0].save(tmp_path / "part")
    assert PackedMolecules.load(tmp_path / "part").standardize == "parent"
    about = json.loads((folder / "packed.json").read_text())
    del about["standardize"]  # as written when there was no choice
    (folder / "packed.json").write_text(json.dumps(about))
    assert PackedMolecules.load(folder).standardize == "none"


@pytest.mark.parametrize("workers", [0, 1])
def test_sources_are_read_as_parents(source, tokenizer, workers):
    molecules, _ = prepare_sources([source], tokenizer, options(num_workers=workers))
    assert decoded(molecules, tokenizer) == PARENTS
    labelled, _ = prepare_sources([source], tokenizer, options(properties=["MolWt", "TPSA"]))
    assert decoded(labelled, tokenizer) == PARENTS and labelled.standardize == "parent"
    plain, _ = prepare_sources([source], tokenizer, options("none"))
    assert decoded(plain, tokenizer) == ["CC(=O)[O-].[Na+]", "CC[NH2+]C.[Cl-]"]


def test_salts_and_parents_are_not_mixed(source, tokenizer, tmp_path):
    folder = tmp_path / "packed"
    prepare_sources([source], tokenizer, options("none"))[0].save(folder)
    for sources in ([folder], [folder, source]):
        with pytest.raises(ValueError, match="packed was prepared with `standardize` 'none'"):
            prepare_sources(sources, tokenizer, options())
    prepare_sources([source], tokenizer, options())[0].save(tmp_path / "parents")
    with pytest.raises(ValueError, match=r"different `standardize` \(none and parent\)"):
        prepare_sources([tmp_path / "parents", source], tokenizer, options("none"))
    alone, _ = prepare_sources([tmp_path / "parents"], tokenizer, options("none"))
    assert decoded(alone, tokenizer) == PARENTS


def test_streams_are_of_parents_too(tokenizer):
    settings = {"max_length": 64, "canonicalize": True, "batch_size": 2}
    sources = [partial(rows_of, *SALTS)]
    streamed = StreamedMolecules(sources, tokenizer, standardize="parent", **settings)
    by_row = sorted(streamed.one_pass(0), key=lambda item: item["row"])
    assert decoded(by_row, tokenizer) == PARENTS


def test_parents_need_parsing(tokenizer):
    with pytest.raises(ValueError, match="`standardize` is 'parent'.*`canonicalize`"):
        SourceOptions(max_length=64, canonicalize=False, standardize="parent")
    with pytest.raises(ValueError, match="Unknown `standardize` 'x'"):
        options("x")
    with pytest.raises(ValueError, match="`standardize` is 'parent'"):
        pack(rows_of("CCO"), tokenizer, standardize="parent", canonicalize=False)
