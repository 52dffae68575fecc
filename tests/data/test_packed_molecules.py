# SPDX-License-Identifier: Apache-2.0
"""Prepared molecules: what is kept, what is set aside, what is on disk."""

import csv
import json
import pickle

import numpy as np
import pytest
from packed_rows import decoded, pack, rows_of

from cmim_hf.data.packed_molecules import PackedMolecules
from cmim_hf.data.prepare import prepare
from cmim_hf.model.tokenization_cmim import train_tokenizer


def items_equal(first, second):
    pairs = zip(first, second, strict=True)
    return all(a["row"] == b["row"] and (a["input_ids"] == b["input_ids"]).all() for a, b in pairs)


def test_prepare_canonicalizes_and_keeps_order(tokenizer):
    molecules = pack(rows_of("OCC", "C1=CC=CC=C1", "[Cl-].[Na+]"), tokenizer, canonicalize=True)
    assert decoded(molecules, tokenizer) == ["CCO", "c1ccccc1", "[Cl-].[Na+]"]
    assert molecules[0]["input_ids"].tolist() == tokenizer("CCO")["input_ids"]
    assert molecules[-1]["input_ids"][-1] == tokenizer.eos_token_id
    assert molecules[0]["input_ids"].dtype == np.uint16
    assert [item["row"] for item in molecules] == [0, 1, 2]
    assert molecules.lengths.tolist() == [4, 9, len(molecules[2]["input_ids"])]
    with pytest.raises(IndexError):
        molecules[3]


def test_prepare_without_canonicalisation_keeps_the_writing(tokenizer):
    texts = ["OCC", "C1CC", "</s>", "<pad>C"]
    assert decoded(pack(rows_of(*texts), tokenizer), tokenizer) == texts


def test_rejects_are_counted_and_written(tokenizer, tmp_path):
    rows = rows_of("CCO", "C1CC", "", "C C", "C" * 8, "C" * 7, "Cé\n\t", None, "CC1")
    molecules, rejects = prepare(
        rows, tokenizer, max_length=8, canonicalize=True, progress=False, num_workers=0
    )
    assert decoded(molecules, tokenizer) == ["CCO", "C" * 7]
    assert rejects.counts == {
        "does not parse": 2,
        "not printable": 2,
        "empty": 1,
        "too long": 1,
        "not text": 1,
    }
    assert [item.row.number for item in rejects] == [2, 3, 4, 5, 7, 8, 9]
    path = tmp_path / "rejects.tsv"
    rejects.write(path)
    with open(path, encoding="utf-8", newline="") as stream:
        table = list(csv.reader(stream, delimiter="\t"))
    assert table[0] == ["source", "row", "text", "reason"]
    assert [line[1] for line in table[1:]] == ["2", "3", "4", "5", "7", "8", "9"]
    assert table[4] == ["list", "5", "C" * 8, "9 tokens with the end token; at most 8 fit"]
    assert table[5][2] == "Cé\n\t"
    assert "unclosed ring" in table[1][3]


def test_prepare_with_nothing_usable(tokenizer):
    with pytest.raises(ValueError, match=r"None of the 4 rows is usable.*list row 1: .*row 3: "):
        pack(rows_of("", "C C", "C" * 200, ""), tokenizer)
    with pytest.raises(ValueError, match="rows to prepare are empty"):
        pack([], tokenizer)
    with pytest.raises(ValueError, match="`max_length` is a whole number from 2"):
        pack(rows_of("C"), tokenizer, max_length=1)


def test_prepare_by_processes_gives_the_same(sample, tokenizer):
    rows = [*sample, *rows_of("C1CC"), *sample[::-1], *sample * 4]  # more chunks than wait at once
    alone, rejects_alone = prepare(
        rows, tokenizer, max_length=40, canonicalize=True, progress=False
    )
    spawned, rejects_spawned = prepare(
        rows, tokenizer, max_length=40, canonicalize=True, progress=False, num_workers=2
    )
    assert 600 < len(rejects_alone) < 5400
    assert rejects_spawned == rejects_alone
    assert items_equal(spawned, alone)


def test_save_load_and_pickle(packed, tokenizer, tmp_path):
    packed.save(tmp_path / "a" / "packed")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["packed"]
    loaded = PackedMolecules.load(tmp_path / "a" / "packed", tokenizer)
    assert items_equal(loaded, packed)
    assert len(pickle.dumps(loaded)) < 2000  # the path, not the arrays
    for one in (loaded, packed):
        assert items_equal(pickle.loads(pickle.dumps(one)), packed)
    with pytest.raises(FileExistsError, match="exists; remove it"):
        packed.save(tmp_path / "a" / "packed")


def test_save_of_views_and_concatenations(packed, sample, tokenizer, tmp_path):
    other = pack(sample[300:400], tokenizer)
    both = PackedMolecules.concatenate([packed, other])
    assert decoded(both, tokenizer) == [row.text for row in sample[:400]]
    assert [item["row"] for item in both] == list(range(400))
    train, held = both.split(50, seed=3)
    joined = PackedMolecules.concatenate([held, other, train])
    expected = [*decoded(held, tokenizer), *decoded(other, tokenizer), *decoded(train, tokenizer)]
    assert decoded(joined, tokenizer) == expected
    assert len({item["row"] for item in joined}) == 500
    for name, molecules in [("both", both), ("held", held), ("joined", joined)]:
        molecules.save(tmp_path / name)
        loaded = PackedMolecules.load(tmp_path / name)
        assert decoded(loaded, tokenizer) == decoded(molecules, tokenizer)
        assert loaded.lengths.tolist() == molecules.lengths.tolist()


def test_load_refuses_what_does_not_fit(packed, tokenizer, tmp_path):
    folder = tmp_path / "packed"
    packed.save(folder)
    other = train_tokenizer(["CCO", "c1ccccc1O"] * 3)
    with pytest.raises(ValueError, match=r"prepared with another tokenizer \(\d+ entries"):
        PackedMolecules.load(folder, other)
    with pytest.raises(ValueError, match="from 2 tokenizers"):
        PackedMolecules.concatenate([packed, pack(rows_of("CCO"), other)])
    about = json.loads((folder / "packed.json").read_text())
    (folder / "packed.json").write_text(json.dumps(about | {"format_version": 99}))
    with pytest.raises(ValueError, match="cannot be read: its format version, 99, is unknown"):
        PackedMolecules.load(folder)
    (folder / "packed.json").write_text(json.dumps(about | {"molecules": 7}))
    with pytest.raises(ValueError, match="its arrays are not those"):
        PackedMolecules.load(folder)
    (folder / "packed.json").write_text(json.dumps(about))
    data = (folder / "tokens.npy").read_bytes()
    (folder / "tokens.npy").write_bytes(data[:-50])
    with pytest.raises(ValueError, match="cannot be read"):
        PackedMolecules.load(folder)
    (folder / "tokens.npy").write_bytes(data)
    (folder / "offsets.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"offsets\.npy is missing"):
        PackedMolecules.load(folder)


def test_failed_save_leaves_nothing(packed, tokenizer, tmp_path):
    packed.save(tmp_path / "a")
    loaded = PackedMolecules.load(tmp_path / "a")
    (tmp_path / "a" / "tokens.npy").unlink()
    moved = pickle.dumps(loaded)
    with pytest.raises(FileNotFoundError):
        pickle.loads(moved)
    broken = PackedMolecules.from_tokens(np.arange(4), np.array([2, 2]), tokenizer)
    broken.tokenizer_hash = object()
    with pytest.raises(TypeError):
        broken.save(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_tokenizer_hash_survives_saving_and_padding(packed, tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    again(["C", "CCO"], padding=True, truncation=True, max_length=3)
    packed.save(tmp_path / "packed")
    assert len(PackedMolecules.load(tmp_path / "packed", again)) == len(packed)


def test_split_is_a_deterministic_partition(packed):
    train, held = packed.split(60, seed=1)
    rows = [[item["row"] for item in part] for part in (train, held)]
    assert (len(train), len(held)) == (240, 60)
    assert sorted(rows[0] + rows[1]) == list(range(300))
    assert [item["row"] for item in packed.split(60, seed=1)[1]] == rows[1]
    assert [item["row"] for item in packed.split(60, seed=2)[1]] != rows[1]
    assert held.lengths.tolist() == packed.lengths[rows[1]].tolist()
    for size in (0, 300):
        with pytest.raises(ValueError, match=f"Cannot hold {size} of 300"):
            packed.split(size, seed=1)
