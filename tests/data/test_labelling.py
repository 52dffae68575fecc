# SPDX-License-Identifier: Apache-2.0
"""Labels of molecules: from columns and from RDKit, kept through packing, splitting and merges."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from packed_rows import SAMPLE, decoded
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors
from scipy.stats import spearmanr

from cmim_hf import CMIMConfig, CMIMModel
from cmim_hf.chemistry.descriptors import PROPERTY_SETS, descriptor_names, descriptor_values
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.labelling import read_property_scale
from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.prepare import (
    SourceOptions,
    prepare_sources,
    retokenize,
)
from cmim_hf.data.property_labels import PropertyScale

SMILES = SAMPLE.read_text().split()[:60]


def options(**settings):
    return SourceOptions(**{"max_length": 128, "canonicalize": False, **settings})


def logp(text):
    return Crippen.MolLogP(Chem.MolFromSmiles(text))


@pytest.fixture
def table(tmp_path):
    """A table whose rows 3, 14, 25 ... cannot be used, with logP and a column with gaps."""
    lines = ["name,SMILES,LogP,assay"]
    for number, text in enumerate(SMILES):
        broken = number % 11 == 2
        assay = "" if number % 3 else f"{number / 7:.3f}"
        lines.append(f"m{number},{'C1CC(' if broken else text},{logp(text)},{assay}")
    path = tmp_path / "assays.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def standardized(molecules, place):
    return np.array([item["property_labels"][place] for item in molecules])


def test_columns_become_the_labels_of_their_own_molecules(table, tokenizer):
    wanted = options(property_columns=("logp", "assay"), canonicalize=True)
    molecules, rejects = prepare_sources([table], tokenizer, wanted)
    assert len(rejects) == 6 and len(molecules) == 54
    texts = decoded(molecules, tokenizer)
    found = standardized(molecules, 0)
    expected = np.array([logp(text) for text in texts])
    assert spearmanr(found, expected).statistic > 0.999
    known = ~np.isnan(standardized(molecules, 1))
    kept = [number for number in range(60) if number % 11 != 2]
    assert known.tolist() == [number % 3 == 0 for number in kept]
    assert molecules.property_scale.names == ("logp", "assay")


def test_labels_survive_the_disk_views_merges_and_other_processes(table, tokenizer, tmp_path):
    wanted = options(property_columns=("assay",), canonicalize=True)
    molecules, _ = prepare_sources([table], tokenizer, wanted)
    expected = dict(zip(decoded(molecules, tokenizer), standardized(molecules, 0), strict=True))

    def check(found, with_tokenizer):
        texts = decoded(found, with_tokenizer)
        labels = standardized(found, 0)
        for text, label in zip(texts, labels, strict=True):
            np.testing.assert_equal(label, expected[text])
        assert 0 < (~np.isnan(labels)).sum() < len(labels)

    others, held_out = molecules.split(20, seed=1)
    check(held_out, tokenizer)
    held_out.save(tmp_path / "held_out")
    about = json.loads((tmp_path / "held_out" / "packed.json").read_text())
    assert about["properties"] == ["assay"] and about["molecules"] == 20
    loaded = PackedMolecules.load(tmp_path / "held_out", tokenizer)
    check(loaded, tokenizer)
    check(pickle.loads(pickle.dumps(loaded)), tokenizer)
    check(pickle.loads(pickle.dumps(others)), tokenizer)
    check(PackedMolecules.concatenate([others, loaded]), tokenizer)
    merged, learned, _ = retokenize(molecules, tokenizer, merges=40)
    assert merged.lengths.sum() < 0.8 * molecules.lengths.sum()
    check(merged, learned)


def test_molecules_without_labels_may_be_mixed_in(table, tokenizer, tmp_path):
    molecules, _ = prepare_sources([table], tokenizer, options(property_columns=("LogP",)))
    molecules.save(tmp_path / "labelled")
    plain = tmp_path / "plain.smi"
    plain.write_text("CCO\nCCN\n")
    mixed, _ = prepare_sources([tmp_path / "labelled", plain], tokenizer, options())
    batch = CMIMCollator(tokenizer)([mixed[0], mixed[len(mixed) - 1]])
    assert batch["property_labels"].shape == (2, 1)
    assert batch["property_labels"].isnan().tolist() == [[False], [True]]
    more = tmp_path / "more.csv"
    more.write_text("smiles,logp\nCCO,1\nCCN,2\nCCC,\n")
    second, _ = prepare_sources(
        [more],
        tokenizer,
        options(
            property_columns=("LogP",), property_scale=read_property_scale(tmp_path / "labelled")
        ),
    )
    both = PackedMolecules.concatenate([molecules, second])
    assert both.property_scale == molecules.property_scale
    own_scale, _ = prepare_sources([more], tokenizer, options(property_columns=("LogP",)))
    with pytest.raises(ValueError, match="standardised by different molecules"):
        PackedMolecules.concatenate([molecules, own_scale])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("name", None, r"row 1: column 'name' holds 'm0', which is no finite number"),
        ("nothing", None, r"no column 'nothing'; its columns are .* by `property_columns`"),
        ("assay", ["7"] * 60, "'assay' is 7 for all"),
        ("assay", [" NA "] * 60, "'assay' has no value at all"),
        ("assay", ["1", "1_5"] * 30, "row 2: column 'assay' holds '1_5', which is no finite"),
        ("assay", ["1", "inf"] * 30, "row 2: column 'assay' holds 'inf', which is no finite"),
    ],
)
def test_a_column_that_cannot_be_learned_is_named(table, tokenizer, column, values, message):
    if values is not None:
        lines = table.read_text().split()
        rows = [line.rpartition(",")[0] for line in lines[1:]]
        table.write_text("\n".join([lines[0], *map(",".join, zip(rows, values, strict=True))]))
    with pytest.raises(ValueError, match=message):
        prepare_sources([table], tokenizer, options(property_columns=(column,)))


def test_numbers_of_a_parquet_table_need_no_text(tokenizer, tmp_path):
    columns = {"smiles": SMILES, "yes": [n % 2 == 0 for n in range(60)], "n": list(range(60))}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    molecules, _ = prepare_sources(
        [tmp_path / "t.parquet"], tokenizer, options(property_columns=("yes", "n"))
    )
    yes, number = standardized(molecules, 0), standardized(molecules, 1)
    assert set(np.sign(yes[::2])) == {1.0} and set(np.sign(yes[1::2])) == {-1.0}
    assert (np.diff(number) > 0).all()


def test_descriptors_are_rdkits_own(tmp_path, tokenizer):
    names = descriptor_names(["rdkit"])
    assert len(names) == len(PROPERTY_SETS["rdkit"]) == 118
    values = descriptor_values(names, [*SMILES[:5], "C1CC"])
    assert np.isnan(values[5]).all()
    for row, text in enumerate(SMILES[:5]):
        expected = Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(text))
        np.testing.assert_allclose(values[row], [expected[name] for name in names], rtol=1e-6)
    assert np.isnan(descriptor_values(["SPS", "MolWt"], ["[H+]"])).tolist() == [[True, False]]
    with pytest.raises(ValueError, match="MolWeight: neither a set of properties"):
        descriptor_names(["rdkit", "MolWeight"])


def test_a_sample_is_labelled_the_same_with_workers(tmp_path, tokenizer, caplog):
    source = tmp_path / "source.smi"
    source.write_text("\n".join(SMILES))
    wanted = {"properties": ("MolLogP", "TPSA", "NumRadicalElectrons"), "property_rows": 25}
    molecules, _ = prepare_sources([source], tokenizer, options(**wanted))
    assert molecules.property_scale.names == ("MolLogP", "TPSA")  # no radical among them
    labelled = ~np.isnan(standardized(molecules, 0))
    assert labelled.sum() == 25
    texts = np.array(decoded(molecules, tokenizer))[labelled]
    found = standardized(molecules, 0)[labelled]
    assert spearmanr(found, [logp(text) for text in texts]).statistic > 0.999
    again, _ = prepare_sources([source], tokenizer, options(num_workers=1, **wanted))
    assert np.array_equal(again.labels().codes, molecules.labels().codes)
    assert np.array_equal(again.labels().places, molecules.labels().places)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"property_columns": ("a",), "properties": ("TPSA",)}, "not both"),
        ({"properties": ("TPSA",), "property_rows": 0}, "whole number from 1, not 0"),
        ({"property_rows": 5}, "give both"),
    ],
)
def test_options_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        options(**settings)


def test_prepared_molecules_have_the_labels_they_were_given(table, tokenizer, tmp_path):
    molecules, _ = prepare_sources([table], tokenizer, options(property_columns=("LogP",)))
    molecules.save(tmp_path / "labelled")
    kept, _ = prepare_sources([tmp_path / "labelled"], tokenizer, options(properties=("TPSA",)))
    assert kept.property_scale.names == ("LogP",)
    both = [tmp_path / "labelled", table]
    with pytest.raises(ValueError, match="is labelled already, and other sources are not"):
        prepare_sources(both, tokenizer, options(properties=("TPSA",)))
    scale = kept.property_scale
    again, _ = prepare_sources(
        [table], tokenizer, options(property_columns=("logp",), property_scale=scale)
    )
    assert again.property_scale == scale
    molecules.save(tmp_path / "damaged")
    (tmp_path / "damaged" / "label_places.npy").unlink()
    with pytest.raises(FileNotFoundError, match="damaged holds .* label_places.npy is missing"):
        PackedMolecules.load(tmp_path / "damaged")
    plain, _ = prepare_sources([table], tokenizer, options())
    plain.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="hold no columns any more"):
        prepare_sources([tmp_path / "plain"], tokenizer, options(property_columns=("LogP",)))


def test_a_checkpoint_tells_the_scale_of_its_properties(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    scale = PropertyScale.fit(("a", "b"), values)
    config = CMIMConfig.from_size("tiny", num_properties=2, property_names=["a", "b"])
    model = CMIMModel(config)
    model.property_head.quantiles.copy_(model.property_head.quantiles.new_tensor(scale.quantiles))
    model.save_pretrained(tmp_path)
    assert read_property_scale(tmp_path) == scale
    model.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    assert len(list((tmp_path / "shards").glob("model-*"))) > 1
    assert read_property_scale(tmp_path / "shards") == scale
    CMIMModel(config).save_pretrained(tmp_path / "unset")
    assert read_property_scale(tmp_path / "unset") is None
    assert read_property_scale(tmp_path.parent) is None
