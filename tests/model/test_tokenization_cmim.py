# SPDX-License-Identifier: Apache-2.0
"""Tests of the SMILES tokenizer: whole atoms, no unknown, exact strings back, plain files."""

import pickle
import random
from itertools import accumulate

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cmim_hf.model.tokenization_cmim import (
    _ATOM,
    SPECIAL_TOKENS,
    CMIMTokenizer,
    _backend,
    default_tokenizer,
    train_tokenizer,
)

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "C[C@H](c1ccccc1Cl)[NH+]1CCC(Br)CC1",
    "O=C(Nc1ccc(Cl)cc1)c1c[nH]c2ccc(Br)cc12",
    "CC(Cl)CCl",
    "CCBr",
    "Clc1ccc2[nH]ccc2c1",
    "F/C=C/c1ccccc1",
    "F/C=C\\c1ccccc1",
    "[O-][N+](=O)c1ccc([N+](=O)[O-])cc1",
    "CC(C)(C)OC(=O)NCc1ccc(C#N)cc1",
    "C%10CCCC%10.C%10CCC%10",
    "CS(=O)(=O)c1ccc(-c2ccncc2)cc1",
    "[Zr+4].CC(=O)OCC",
]
PRINTABLE = "".join(map(chr, range(33, 127)))
PIECES = ["C", "Cl", "Br", "[nH]", "[C@@H]", "[Zr+4]", "c1ccccc1", "%10", "%(100)", *SPECIAL_TOKENS]
HOSTILE = [*SPECIAL_TOKENS, "C<pad>C", "</s></s>", "<unk", "[[nH]]", "CCl" * 7, "@@@", "%%10", "▁C"]


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "default": default_tokenizer(),
        "merges 0": train_tokenizer(SMILES),
        "merges 24": train_tokenizer(SMILES, merges=24),
    }


def restored(tokenizer, texts):
    ids = tokenizer(texts)["input_ids"]
    assert all(row[-1] == 2 and min(row[:-1], default=4) > 3 for row in ids)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def cuts(tokens):
    return set(accumulate(map(len, tokens)))


def test_smiles_is_cut_into_whole_atoms():
    smiles = "C[C@@H](CBr)/C=C\\[nH]%12[13CH3]Cl.[Na+]"
    expected = ["C", "[C@@H]", "(", "C", "Br", ")", "/", "C", "=", "C", "\\", "[nH]", "%12"]
    assert default_tokenizer().tokenize(smiles) == [*expected, "[13CH3]", "Cl", ".", "[Na+]"]


def test_ids_are_fixed_for_specials_characters_and_halogens(tokenizers):
    for tokenizer in tokenizers.values():
        start = tokenizer.convert_ids_to_tokens(range(101))
        assert start == [*SPECIAL_TOKENS, *PRINTABLE, "Cl", "Br", "@@"]
        assert [tokenizer.pad_token_id, tokenizer.bos_token_id] == [0, 1]
        assert [tokenizer.eos_token_id, tokenizer.unk_token_id] == [2, 3]
    assert tokenizers["default"]("C[C@H]Cl")["input_ids"][1:] == [102, 98, 2]
    assert tokenizers["default"]("")["input_ids"] == [2]


def test_atoms_are_ranked_by_frequency_and_rare_ones_fall_apart():
    tokenizer = train_tokenizer(["[K+]", "[Na+][Na+]", "[Na+][K+]", "[Li+]"])
    assert tokenizer.convert_ids_to_tokens(range(101, len(tokenizer))) == ["[Na+]", "[K+]"]
    assert tokenizer.tokenize("[K+][Li+]") == ["[K+]", "[", "L", "i", "+", "]"]
    assert "[Li+]" in train_tokenizer(["[Li+]"], min_frequency=1).get_vocab()


def test_only_other_than_printable_ascii_is_unknown(tokenizers):
    for tokenizer in tokenizers.values():
        assert tokenizer("Cé C")["input_ids"] == [38, 3, 38, 2]


def test_merges_are_runs_of_whole_atoms(tokenizers):
    tokenizer = tokenizers["merges 24"]
    vocabulary = tokenizer.get_vocab()
    runs = [
        token for token in vocabulary if vocabulary[token] > 3 and len(_ATOM.findall(token)) > 1
    ]
    assert len(runs) == 24
    assert {"cc", "(=O)"} <= set(runs)
    for token in runs:
        atoms = _ATOM.findall(token)
        assert len(atoms) <= 12
        assert not set(atoms) & (set(PRINTABLE) - set("BCNOPSFIbcnops*0123456789()=#$-/\\.:~>"))


@pytest.mark.parametrize("text", [*SMILES, "CCl", "CBr", "OCBrCCl", "c1c[nH]cc1CCl", "C%10CC%10"])
def test_merged_tokens_never_cut_an_atom(tokenizers, text):
    vocabulary = tokenizers["merges 24"].get_vocab()
    tokens = tokenizers["merges 24"].tokenize(text)
    pieces = [a if a in vocabulary else list(a) for a in _ATOM.findall(text)]
    pieces = [p for piece in pieces for p in ([piece] if isinstance(piece, str) else piece)]
    assert cuts(tokens) <= cuts(pieces)


def test_runs_stop_at_a_bracket_atom_that_falls_apart():
    assert len(train_tokenizer(["C[Zr+4]O", "C[Hf+4]O", "C[W]O"], merges=8)) == 101
    tokenizer = train_tokenizer(["[Zr+4]CCO"] + ["CCO"] * 9, merges=8)
    assert tokenizer.tokenize("[Zr+4]CCO") == ["[", "Z", "r", "+", "4", "]", "CCO"]


def test_merges_are_numbered_as_learned_after_the_atoms():
    rows = ["CCO"] * 5 + ["N[nH]"] * 4 + ["S%10P"] * 3
    tokenizer = train_tokenizer(rows, merges=5)
    learned = ["CC", "CCO", "N[nH]", "S%10", "S%10P"]
    assert tokenizer.convert_ids_to_tokens(range(101, 108)) == ["[nH]", "%10", *learned]


def test_cut_has_the_fewest_tokens(tokenizers):
    tokenizer = tokenizers["merges 24"]
    vocabulary = [t for t in tokenizer.get_vocab() if t not in SPECIAL_TOKENS]
    rng = random.Random(0)
    for _ in range(100):
        text = "".join(rng.choices(["C", "c", "(", ")", "=", "O", "1", "N", "[nH]", "Cl"], k=30))
        fewest = [0]
        for end in range(1, len(text) + 1):
            ends_here = [t for t in vocabulary if text.endswith(t, 0, end)]
            costs = [
                fewest[end - len(t)] + (100 if t in ("l", "[", "]", "H") else 1) for t in ends_here
            ]
            fewest.append(min(costs))
        assert len(tokenizer.tokenize(text)) == fewest[-1]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(st.text(PRINTABLE, max_size=60), st.lists(st.sampled_from(PIECES)).map("".join))
    )
)
@example(["<pad>", "</s>", "<s><unk>", "[[nH]", "CCl@@@%1%100", ""])
def test_every_printable_string_comes_back(tokenizers, texts):
    for tokenizer in tokenizers.values():
        if texts:
            assert restored(tokenizer, texts) == texts


@pytest.mark.parametrize("length", [1, 255, 256, 257, 5_000, 1_000_000])
def test_strings_of_any_length_come_back(tokenizers, length):
    text = "".join(random.Random(length).choices([*PRINTABLE, *PIECES], k=length))[:length]
    for tokenizer in tokenizers.values():
        assert restored(tokenizer, [text]) == [text]


@pytest.mark.parametrize("name", ["default", "merges 24"])
def test_saved_twice_it_still_reads_special_tokens_as_text(tokenizers, name, tmp_path):
    tokenizer = tokenizers[name]
    texts = [text for text in HOSTILE if text.isascii()]
    expected = tokenizer(texts)["input_ids"]
    folder = tmp_path / "first"
    tokenizer.save_pretrained(folder)
    for again in (tmp_path / "second", tmp_path / "third"):
        loaded = AutoTokenizer.from_pretrained(folder)
        assert type(loaded) is CMIMTokenizer
        assert loaded(texts)["input_ids"] == expected
        assert [loaded(text)["input_ids"] for text in texts] == expected
        assert [loaded.encode(text) for text in texts] == expected
        assert restored(loaded, texts) == texts
        assert loaded.model_max_length == 512
        assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        loaded.save_pretrained(again)
        folder = again


def test_tokenizer_json_alone_can_read_special_tokens_as_text(tokenizers, tmp_path):
    tokenizers["default"].save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.encode_special_tokens = True
    for text in ("<pad>", "C</s>C", "[nH]"):
        ids = backend.encode(text).ids
        assert ids == tokenizers["default"](text)["input_ids"]
        assert backend.decode(ids) == text


def test_batches_pad_right_and_decode_exactly(tokenizers):
    batch = tokenizers["default"](["CCO", "[nH]"], padding=True, return_tensors="pt")
    assert sorted(batch) == ["attention_mask", "input_ids"]
    nh = tokenizers["default"].convert_tokens_to_ids("[nH]")
    assert torch.equal(batch["input_ids"], torch.tensor([[38, 38, 50, 2], [nh, 2, 0, 0]]))
    assert torch.equal(batch["attention_mask"], torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    start = torch.ones(2, 1, dtype=torch.long)
    generated = torch.cat([start, batch["input_ids"]], dim=1)
    decoded = tokenizers["default"].batch_decode(generated, skip_special_tokens=True)
    assert decoded == ["CCO", "[nH]"]


def test_nothing_is_cut_unless_asked_and_a_cut_keeps_the_end():
    tokenizer = default_tokenizer(max_length=8)
    assert tokenizer.model_max_length == 8
    assert len(tokenizer("C" * 20)["input_ids"]) == 21
    assert tokenizer("C" * 20, truncation=True)["input_ids"] == [38] * 7 + [2]


def test_pickle_keeps_the_ids(tokenizers):
    for tokenizer in tokenizers.values():
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy([*SMILES, "<pad>"])["input_ids"] == tokenizer([*SMILES, "<pad>"])["input_ids"]


@pytest.mark.parametrize("merges", [0, 24])
def test_training_does_not_depend_on_order(merges):
    expected = train_tokenizer(SMILES, merges=merges).get_vocab()
    shuffled = random.Random(1).sample(SMILES, len(SMILES))
    assert train_tokenizer(iter(shuffled), merges=merges).get_vocab() == expected


def test_fewer_merges_result_when_pairs_run_out():
    assert len(train_tokenizer(["CCO", "CCO"], merges=1_000)) == 101 + 2


def test_default_vocabulary_is_current_and_covers_common_atoms(tokenizers):
    tokenizer = tokenizers["default"]
    assert 200 <= len(tokenizer) <= 300
    tokens = tokenizer.convert_ids_to_tokens(range(101, len(tokenizer)))
    backend = _backend(["Cl", "Br", "@@", *tokens])
    assert backend.to_str() == tokenizer.backend_tokenizer.to_str()
    common = "[C@] [C@@] [S@] [S@@] [N+] [O-] [nH+] [n+] [2H] [3H] [13C] [Na+] [Mg+2] [Pt] [Se]"
    rings = [f"%{n}" for n in range(10, 30)]
    assert all(tokenizer.tokenize(t) == [t] for t in [*common.split(), *rings, "[B-]", "[Si]"])


@pytest.mark.parametrize(
    ("rows", "arguments", "error", "message"),
    [
        (["C", 3], {}, TypeError, "row 1, got 3: 3 of type int"),
        (["C", "C", "CCO ethanol"], {}, ValueError, "row 2, got 'CCO ethanol'"),
        (["C\tname"], {}, ValueError, "row 0"),
        (["Cé"], {}, ValueError, "printable ASCII"),
        (["C", ""], {}, ValueError, "row 1, got ''"),
        ([], {}, ValueError, "got none from list"),
        ("CCO", {}, TypeError, "a list of SMILES to train on, got the text 'CCO'"),
        (["C"], {"merges": -1}, ValueError, "`merges` to be an integer of at least 0, got -1"),
        (["C"], {"min_frequency": 0}, ValueError, "`min_frequency` to be an integer of at least 1"),
        (
            ["C"],
            {"max_length": 1},
            ValueError,
            "`max_length` to be an integer of at least 2, got 1",
        ),
    ],
)
def test_errors_say_what_came_and_where(rows, arguments, error, message):
    with pytest.raises(error, match=message):
        train_tokenizer(rows, **arguments)
