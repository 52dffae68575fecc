# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from rdkit import Chem

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeEmbedder, list_checkpoints
from cmim_hf.chemistry.smiles import canonicalize, randomize
from cmim_hf.data import invalid_rows
from cmim_hf.data.smiles_files import Row
from cmim_hf.data.token_batches import padded_batches

SIZE = {"informative": 192, "latent": 192, "both": 384}


@pytest.fixture(scope="module")
def embedder():
    return MoleculeEmbedder(progress=False)


@pytest.fixture(scope="module")
def smiles(sample):
    """Molecules of 1 to 100 atoms and more, in no order of length."""
    long = ["C" * 40 + "c1ccccc1", "N[C@@H](C)C(=O)" * 12 + "O", "CC(C)(C)" * 30 + "O"]
    return [row.text for row in sample[:30]] + long + ["C", "[Na+].[Cl-]", "C[N+](C)(C)C"]


def relative(found, expected):
    return (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


def alone(embedder, text, **choices):
    ids = embedder.tokenizer([text], return_tensors="pt")
    with torch.no_grad():
        return embedder.model.get_representation(**ids, **choices)[0].numpy()


@pytest.mark.parametrize("representation", ["informative", "latent", "both"])
def test_each_row_is_what_the_model_gives_for_the_molecule_alone(embedder, smiles, representation):
    found = embedder.embed(smiles, canonicalize=False, representation=representation)
    expected = [alone(embedder, text, representation=representation) for text in smiles]
    assert found.dtype == np.float32 and found.shape == (len(smiles), SIZE[representation])
    assert relative(found, np.array(expected)) <= 1e-5


def test_representations_are_the_models_own(embedder, molecules):
    batch = embedder.tokenizer(molecules, padding=True, return_tensors="pt")
    with torch.no_grad():
        latent = embedder.model.get_latents(**batch).flatten(1)
        informative = embedder.model.get_informative_embeddings(**batch, pooling="max")
    found = embedder.embed(molecules, canonicalize=False, representation="both", pooling="max")
    assert relative(found, torch.cat([informative, latent], 1).numpy()) <= 1e-5


@pytest.mark.parametrize("batch_tokens", [1, 300, 10**6])
def test_order_batch_size_and_company_do_not_matter(embedder, smiles, batch_tokens):
    other = MoleculeEmbedder(batch_tokens=batch_tokens, progress=False)
    expected = embedder.embed(smiles)
    order = np.random.default_rng(0).permutation(len(smiles))
    shuffled = other.embed([smiles[i] for i in order])
    assert relative(shuffled, expected[order]) <= 1e-5
    assert relative(other.embed(smiles[3:7]), expected[3:7]) <= 1e-5


def test_batches_cover_the_rows_within_the_budget(embedder, smiles):
    encoded = embedder.encoder()([Row("list", i, text) for i, text in enumerate(smiles)])
    rows = np.arange(1, len(smiles))
    seen = {}
    for places, ids, mask in padded_batches(encoded, rows, 200, 0):
        assert ids.numel() <= 200 or len(places) == 1
        mask = torch.ones_like(ids) if mask is None else mask
        assert (ids[mask == 0] == 0).all()
        for place, row, real in zip(places, ids, mask, strict=True):
            seen[int(rows[place])] = embedder.tokenizer.decode(row[real == 1][:-1])
    assert seen == {i: canonicalize(text) for i, text in enumerate(smiles) if i}


def test_every_writing_of_a_molecule_has_the_same_vector(embedder, sample):
    molecules = [row.text for row in sample[:500]]
    writings = [randomize(text, seed) for text in molecules for seed in range(10)]
    assert len(set(writings)) > 4500
    vectors = embedder.embed(writings).reshape(500, 10, -1)
    assert (vectors == vectors[:, :1]).all()
    assert relative(vectors[:, 0], embedder.embed(molecules)) <= 1e-5
    kekule_and_hydrogens = ["c1ccccc1O", "C1=CC=CC=C1O", "[H]Oc1ccccc1", "OC1=CC=CC=C1"]
    same = embedder.embed(kekule_and_hydrogens)
    assert (same == same[0]).all()
    apart = embedder.embed(kekule_and_hydrogens, canonicalize=False)
    assert relative(apart[1:2], apart[:1]) > 0.01


BAD = [
    (None, "None of type NoneType is no string"),
    (3.5, "3.5 of type float is no string"),
    (float("nan"), "nan of type float is no string"),
    ("", "the text is empty"),
    (["C"] * 100_000, "of type list is no string"),
    ("C C", "' ' at position 2 is not printable"),
    ("CCé", "'é' at position 3"),
    ("C(C", "extra open parentheses"),
    ("CN(C)(C)(C)C", "Explicit valence for atom # 1 N"),
    ("C" * 2000, "tokens with the end token; at most 512 fit"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_an_invalid_row_follows_the_policy(embedder, text, reason):
    rows = ["CCO", text, "CCN"]
    good = embedder.embed(["CCO", "CCN"])
    with pytest.raises(ValueError, match="Row 1 of the molecules") as raised:
        embedder.embed(rows)
    assert reason in str(raised.value) and "on_invalid" in str(raised.value)
    assert len(str(raised.value)) < 500
    kept = embedder.embed(rows, on_invalid="none")
    assert kept.shape == (3, 192) and np.isnan(kept[1]).all()
    assert relative(kept[[0, 2]], good) <= 1e-5
    assert relative(embedder.embed(rows, on_invalid="skip"), good) <= 1e-5


def test_without_canonicalization_only_the_text_is_checked(embedder):
    rows = [text for text, _ in BAD]
    vectors, indices = embedder.embed(
        rows, on_invalid="skip", canonicalize=False, return_indices=True
    )
    assert indices.tolist() == [7, 8]  # neither is a molecule
    assert vectors.shape == (2, 192) and np.isfinite(vectors).all()


def test_indices_tell_which_molecule_a_row_is(embedder):
    rows = ["", "CCO", "C(", "CCN"]
    for policy, expected in (("skip", [1, 3]), ("none", [0, 1, 2, 3])):
        vectors, indices = embedder.embed(rows, on_invalid=policy, return_indices=True)
        assert indices.tolist() == expected and len(vectors) == len(expected)
    assert embedder.embed(["CCO"], return_indices=True)[1].tolist() == [0]


def test_nothing_in_nothing_out(embedder):
    for representation, size in SIZE.items():
        vectors, indices = embedder.embed([], representation=representation, return_indices=True)
        assert vectors.shape == (0, size) and indices.shape == (0,)
    assert embedder.embed(["", None], on_invalid="skip").shape == (0, 192)


def test_any_collection_of_texts_is_read(embedder):
    rows = ["CCO", "CCN", "CCO"]
    expected = embedder.embed(rows)
    for collection in (
        tuple(rows),
        np.array(rows),
        pd.Series(rows, index=[7, 8, 9]),
        pa.array(rows),
        pa.chunked_array([rows[:1], rows[1:]]),
        (text for text in rows),
    ):
        assert np.array_equal(embedder.embed(collection), expected)


def test_lines_of_a_file_are_molecules(embedder, tmp_path):
    path = tmp_path / "molecules.smi"
    path.write_bytes(b"CCO\r\nC[C@H](F)Cl |&1:1|\n c1ccccc1O\t\n")
    with open(path, newline="") as stream:
        vectors = embedder.embed(stream.readlines())
    assert np.array_equal(vectors, embedder.embed(["CCO", "C[C@H](F)Cl", "c1ccccc1O"]))


@pytest.mark.parametrize(
    "given",
    ["CCO", b"CCO", {"smiles": ["CCO"]}, pd.DataFrame({"smiles": ["CCO"]}), None, np.array("CCO")],
)
def test_what_is_no_list_of_molecules_is_refused(embedder, given):
    with pytest.raises(TypeError, match="Expected a list of SMILES, got"):
        embedder.embed(given)


def test_settings_of_a_call_last_for_the_call(embedder, molecules):
    expected = embedder.embed(molecules)
    assert embedder.embed(molecules, representation="both").shape == (len(molecules), 384)
    assert np.array_equal(embedder.embed(molecules), expected)
    with pytest.raises(TypeError, match="not dtype: make another MoleculeEmbedder"):
        embedder.embed(molecules, dtype="bfloat16")
    half = MoleculeEmbedder(dtype="bfloat16", device="cpu").embed(molecules)
    assert 1e-4 < relative(half, expected) < 0.1
    made_so = MoleculeEmbedder(representation="latent", canonicalize=False, on_invalid="skip")
    assert np.array_equal(
        made_so.embed(molecules + [""]),
        embedder.embed(molecules, representation="latent", canonicalize=False),
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"representation": "mean"}, "choose one of informative, latent, both"),
        ({"pooling": "sum"}, "choose one of mean, last, max"),
        ({"on_invalid": "ignore"}, "choose one of raise, none, skip"),
        ({"dtype": "float"}, None),
        ({"dtype": "int8"}, "dtype is one of float32"),
        ({"dtype": "no such"}, "dtype is one of float32"),
        ({"device": "abacus"}, "There is no device 'abacus' here"),
    ],
)
def test_unknown_choices_are_refused_before_any_work(embedder, choice, message):
    if message is None:
        MoleculeEmbedder(**choice)
        return
    with pytest.raises(ValueError, match=message):
        MoleculeEmbedder(**choice)
    if not {"dtype", "device"} & set(choice):
        with pytest.raises(ValueError, match=message):
            embedder.embed(["CCO"], **choice)


def test_a_budget_below_one_is_refused():
    for wrong in (0, 10.5):
        with pytest.raises(
            ValueError, match=f"`batch_tokens` is a whole number from 1, not {wrong}"
        ):
            MoleculeEmbedder(batch_tokens=wrong)


def test_the_fingerprint_is_of_weights_and_tokenizer(embedder):
    again = MoleculeEmbedder()
    assert again.fingerprint == embedder.fingerprint and len(again.fingerprint) == 64
    other = MoleculeEmbedder()
    with torch.no_grad():
        other.model.lm_head.weight[5, 7] += 1e-6
    assert other.fingerprint != embedder.fingerprint
    assert MoleculeEmbedder(dtype="bfloat16").fingerprint != embedder.fingerprint


def test_numbers_that_are_not_finite_are_no_vectors():
    broken = MoleculeEmbedder()
    with torch.no_grad():
        broken.model.decoder.norm.weight[3] = torch.inf
    with pytest.raises(ValueError, match="not finite: its weights are damaged"):
        broken.embed(["CCO"])
    assert np.isfinite(broken.embed(["CCO"], representation="latent")).all()


def test_a_slow_call_shows_a_bar(embedder, molecules, monkeypatch, capfd):
    embedder.embed(molecules, progress=True)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(invalid_rows, "SECONDS_BEFORE_BAR", 0.0)
    embedder.embed(molecules, progress=True)
    shown = capfd.readouterr().err
    assert "Reading molecules" in shown and "Embedding molecules" in shown
    embedder.embed(molecules, progress=False)
    assert capfd.readouterr().err == ""


def test_without_progress_loading_and_embedding_are_silent(capfd):
    MoleculeEmbedder("tiny", progress=False).embed(["CCO"])
    assert capfd.readouterr() == ("", "")


def test_the_default_is_the_checkpoint_that_ships(embedder):
    assert embedder.checkpoint == DEFAULT_CHECKPOINT and embedder.size == 192


def test_molecules_of_rdkit_are_molecules(molecules):
    embedder = MoleculeEmbedder(progress=False)
    parsed = [Chem.MolFromSmiles(text) for text in molecules]
    assert np.array_equal(embedder.embed(parsed), embedder.embed(molecules))
    with_hydrogens = [Chem.AddHs(parsed[0]), None]
    rows = embedder.embed(with_hydrogens, on_invalid="none")
    assert np.array_equal(rows[0], embedder.embed(molecules[:1])[0]) and np.isnan(rows[1]).all()


def test_checkpoints_that_ship_open_by_their_names(molecules):
    for name, folder in list_checkpoints().items():
        assert MoleculeEmbedder(name).fingerprint == MoleculeEmbedder(folder).fingerprint
