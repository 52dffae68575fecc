# SPDX-License-Identifier: Apache-2.0
"""Shorter vectors: what axes are, where they are found, and who takes `dim`."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmim_hf import DEFAULT_CHECKPOINT, MoleculeEmbedder, list_checkpoints
from cmim_hf.cli.main import main
from cmim_hf.embedding.nearest import EmbeddedLibrary
from cmim_hf.embedding.principal_axes import PrincipalAxes
from cmim_hf.embedding.sklearn_featurizer import MoleculeFeaturizer

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1"]


@pytest.fixture(scope="module")
def small():
    return MoleculeEmbedder(progress=False)


def test_axes_are_the_eigenvectors_of_the_covariance():
    vectors = np.random.default_rng(0).normal(3.0, 1.0, (500, 6)) * [1, 5, 2, 0.1, 9, 3]
    axes = PrincipalAxes.fit(vectors)
    covariance = np.cov(vectors.T)
    variances = np.einsum("ij,jk,ik->i", axes.axes, covariance, axes.axes)
    assert variances == pytest.approx(np.linalg.eigvalsh(covariance)[::-1], rel=1e-4)
    assert axes.axes @ axes.axes.T == pytest.approx(np.eye(6), abs=1e-6)
    assert axes.kept == pytest.approx(np.cumsum(variances) / variances.sum(), rel=1e-5)
    whole = axes.project(vectors, 6)
    assert whole @ whole.T == pytest.approx(vectors @ vectors.T, rel=1e-4)
    assert np.array_equal(axes.project(vectors, 2), whole[:, :2])


def test_axes_are_read_once_for_all_calls(monkeypatch):
    """Written with a spy: what it costs is the only thing that could be seen otherwise."""
    embedder, read = MoleculeEmbedder(progress=False), []
    load = PrincipalAxes.load
    monkeypatch.setattr(PrincipalAxes, "load", lambda path: read.append(path) or load(path))
    assert embedder.embed(["CCO"], dim=8).shape == embedder.embed(["CCN"], dim=8).shape == (1, 8)
    assert len(read) == 1


def test_vectors_of_the_model_that_ships_are_shortened(small, tmp_path):
    whole = small.embed(SMILES)
    short = MoleculeEmbedder(dim=64, progress=False)
    expected = whole @ small.axes.axes[:64].T
    assert short.size == 64 and short.embed(SMILES) == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(small.embed(SMILES, dim=64), short.embed(SMILES))
    assert small.size == 192 and small.axes.kept[63] == pytest.approx(0.896, abs=1e-3)
    turned = small.embed(SMILES, dim=192)
    assert turned @ turned.T == pytest.approx(whole @ whole.T, rel=1e-4)
    featurizer = MoleculeFeaturizer(dim=3)
    assert featurizer.fit_transform(SMILES) == pytest.approx(expected[:, :3], abs=1e-5)
    assert len(featurizer.get_feature_names_out()) == 3


def test_a_library_of_shorter_vectors_is_searched_with_such(small, tmp_path):
    source, output = tmp_path / "some.smi", tmp_path / "some.parquet"
    source.write_text("\n".join(SMILES))
    assert main(["embed", str(source), "-o", str(output), "--dim", "16"]) == 0
    table = pq.read_table(output)
    found = np.stack(table["embedding"].to_numpy())
    assert found == pytest.approx(small.embed(SMILES, dim=16), abs=1e-5)
    assert json.loads(table.schema.metadata[b"cmim"])["dim"] == 16
    library = EmbeddedLibrary(output)
    (near,) = library.nearest(library.embedder().embed(["OCC"]), 1)
    assert near["smiles"].tolist() == ["CCO"]


def test_a_checkpoint_of_ones_own_gets_axes(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(list_checkpoints()["tiny"], folder)
    with pytest.raises(ValueError, match="no axes.safetensors beside the weights .*fit_axes"):
        MoleculeEmbedder(folder, dim=8)
    embedder = MoleculeEmbedder(folder, representation="latent", progress=False)
    chains = ["C" * n + end for n in range(1, 21) for end in ("O", "N", "F", "Cl", "C=O", "C#N")]
    axes = embedder.fit_axes([*chains, "no molecule"])
    assert axes.axes.shape == (96, 96)
    axes.save(folder / PrincipalAxes.FILE)
    whole = embedder.embed(SMILES, representation="informative")
    short = MoleculeEmbedder(folder, dim=8, progress=False).embed(SMILES)
    assert short == pytest.approx(whole @ axes.axes[:8].T, abs=1e-5)
    featurizer = MoleculeFeaturizer(folder, dim=8).fit(SMILES)
    library = tmp_path / "library.parquet"
    (tmp_path / "some.smi").write_text("\n".join(SMILES))
    command = ["embed", str(tmp_path / "some.smi"), "-o", str(library)]
    assert main([*command, "--checkpoint", str(folder), "--dim", "8"]) == 0
    PrincipalAxes(axes.axes[::-1], axes.kept, axes.anchor).save(folder / PrincipalAxes.FILE)
    with pytest.raises(ValueError, match="axes must be those of fit"):
        featurizer.transform(SMILES)
    with pytest.raises(ValueError, match="their vectors cannot be compared"):
        EmbeddedLibrary(library).embedder()
    with pytest.raises(ValueError, match=r"more molecules than numbers; got \(4, 96\)"):
        embedder.fit_axes(SMILES)
    shutil.copy(f"{DEFAULT_CHECKPOINT}/{PrincipalAxes.FILE}", folder)
    with pytest.raises(
        ValueError, match=r"from .*mine itself.* there are \(96,\) numbers, not \(192,\)"
    ):
        MoleculeEmbedder(folder, dim=8)
    other = PrincipalAxes(axes.axes, axes.kept, axes.anchor * 1.2)
    other.save(folder / PrincipalAxes.FILE)
    with pytest.raises(ValueError, match="from .*mine itself.* differ by 17%.*fit_axes"):
        MoleculeEmbedder(folder, dim=8)
    (folder / PrincipalAxes.FILE).write_bytes(b"x")
    with pytest.raises(ValueError, match="principal axes .* cannot be read"):
        MoleculeEmbedder(folder, dim=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` is a whole number from 1, not 0"),
        ({"dim": 2.5}, "`dim` is a whole number from 1, not 2.5"),
        ({"dim": 193}, "`dim` is at most 192, the size of a vector; got 193"),
        ({"dim": 8, "representation": "both"}, "not both, mean"),
        ({"dim": 8, "pooling": "max"}, "not informative, max"),
    ],
)
def test_lengths_that_there_are_not(small, options, message):
    with pytest.raises(ValueError, match=message):
        small.embed(SMILES, **options)
