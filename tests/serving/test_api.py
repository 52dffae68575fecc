# SPDX-License-Identifier: Apache-2.0
"""Both APIs, in one process: each answer is that of the package, each fault a message."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from rdkit import Chem

from cmim_hf import MoleculeEmbedder, MoleculeGenerator
from cmim_hf.chemistry.properties import penalized_logp, qed
from cmim_hf.chemistry.smiles import canonicalize, similarity
from cmim_hf.cli.main import main
from cmim_hf.serving.app import LOOPBACK, make_app
from cmim_hf.serving.service import Limits, Service

ASPIRIN, IBUPROFEN = "CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccc(C(C)C(=O)O)cc1"


@pytest.fixture(scope="module")
def library(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    smiles = [row.text for row in sample[:200]]
    (folder / "moses.smi").write_text("\n".join(smiles))
    path = folder / "moses.parquet"
    assert main(["embed", str(folder / "moses.smi"), "--checkpoint", "tiny", "-o", str(path)]) == 0
    return path, smiles


@pytest.fixture(scope="module")
def client(library):
    limits = Limits(rows=100, characters=300, scored=400, seconds=60)
    app = make_app(Service("tiny", library=library[0], limits=limits))
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def generator():
    return MoleculeGenerator("tiny", progress=False)


@pytest.fixture
def post(client):
    def post(path, **body):
        response = client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def refused(client):
    def refused(path, status=422, **body):
        response = client.post(path, json=body)
        assert response.status_code == status, response.text
        (detail, *_) = response.json()["detail"]
        return " ".join(map(str, detail["loc"])) + ": " + detail["msg"]

    return refused


def test_a_client_of_molmim_finds_all_it_knows(client, generator):
    """What such clients do, one call after the other, with a width that is read, not known."""
    assert client.get("/v1/health/ready").json() == {"status": "ready"}
    seeds = [ASPIRIN, IBUPROFEN]

    hidden = client.post("/hidden", json={"sequences": seeds}).json()
    codes, mask = np.array(hidden["hiddens"]), np.array(hidden["mask"])
    width = codes.shape[2]
    assert codes.shape == (2, 1, width) and mask.shape == (2, 1) and mask.all()
    np.testing.assert_allclose(codes, generator.encode(seeds), atol=1e-5)

    vectors = client.post("/embedding", json={"sequences": seeds}).json()["embeddings"]
    np.testing.assert_allclose(vectors, codes[:, 0], atol=1e-5)

    decoded = client.post("/decode", json=hidden).json()["generated"]
    assert decoded == generator.reconstruct(seeds)
    # an optimiser of its own: noise is added to what was read, and decoded again
    moved = codes + np.random.default_rng(0).normal(0, 0.3, codes.shape)
    body = {"hiddens": moved.tolist(), "mask": mask.tolist()}
    assert client.post("/decode", json=body).json()["generated"] == generator.decode(moved)

    body = {"sequences": seeds, "beam_size": 2, "num_molecules": 3, "scaled_radius": 0.3}
    drawn = client.post("/sampling", json=body).json()["generated"]
    assert len(drawn) == 2 and all(1 <= len(group) <= 3 for group in drawn)
    assert all(one == canonicalize(one) for group in drawn for one in group)

    body = {"smi": ASPIRIN, "num_molecules": 4, "particles": 8, "iterations": 3}
    found = client.post("/generate", json={**body, "min_similarity": 0.2}).json()["generated"]
    assert 1 <= len(found) <= 4
    assert [one["score"] for one in found] == [qed(one["smiles"]) for one in found]
    assert sorted((one["score"] for one in found), reverse=True) == [one["score"] for one in found]
    assert all(similarity(ASPIRIN, one["smiles"]) >= 0.2 for one in found)
    assert ASPIRIN not in [one["smiles"] for one in found]

    body |= {"property_name": "plogP", "minimize": True, "min_similarity": 0}
    found = client.post("/generate", json=body).json()["generated"]
    scores = [one["score"] for one in found]
    assert scores == sorted(scores) == [penalized_logp(one["smiles"]) for one in found]

    body = {"smi": ASPIRIN, "algorithm": "none", "scaled_radius": 0.2}
    found = client.post("/generate", json=body).json()["generated"]
    assert found and all(one["score"] == qed(one["smiles"]) for one in found)


def test_candidates_are_those_of_the_package(post, refused, generator, sample):
    smiles = [row.text for row in sample[-30:]]
    expected = generator.reconstruct(smiles, candidates=5)
    assert expected != generator.reconstruct(smiles)
    assert post("/v1/reconstruct", smiles=smiles, candidates=5)["smiles"] == expected
    latents = post("/v1/latents", smiles=smiles)["latents"]
    assert post("/v1/decode", latents=latents, candidates=5)["smiles"] == expected
    body = {"sequences": smiles, "beam_size": 5, "num_molecules": 1, "scaled_radius": 0.0}
    told = refused("/v1/sample", n=1, candidates=2, temperature=1.0)
    assert "`candidates` (2) are the most probable texts" in told
    assert post("/sampling", **body)["generated"] == [[one] if one else [] for one in expected]


def test_what_the_molmim_api_refuses(refused):
    assert refused("/embedding") == "body sequences: Field required"
    assert "at least 1 item" in refused("/embedding", sequences=[])
    assert "Row 1 of sequences (counted from 0), 'C(C'" in refused(
        "/hidden", sequences=["C", "C(C"]
    )
    told = refused("/decode", hiddens=[[[0.0] * 512]], mask=[[True]])
    assert "1 × 512; codes of this model are 1 × 96" in told and "/hidden" in told
    assert "`mask` is 1 × 1" in refused("/decode", hiddens=[[[0.0] * 96]], mask=[[False]])
    assert "mask" in refused("/decode", hiddens=[[[0.0] * 96]], mask=[])
    assert refused("/sampling", sequences=["C"], num_molecules=11).startswith("body num_molecules")
    assert refused("/sampling", sequences=["C"], scaled_radius=2.1).startswith("body scaled_radius")
    assert "QED" in refused("/generate", smi="C", property_name="logD")
    assert "particles × iterations" in refused("/generate", smi="C", particles=100, iterations=5)


def test_own_answers_are_those_of_the_package(post, generator, sample):
    smiles = [row.text for row in sample[:7]]
    embedder = MoleculeEmbedder("tiny", progress=False)
    for representation, pooling in (("informative", "max"), ("both", "mean")):
        found = post(
            "/v1/embeddings", smiles=smiles, representation=representation, pooling=pooling
        )
        expected = embedder.embed(smiles, representation=representation, pooling=pooling)
        np.testing.assert_allclose(found["embeddings"], expected, atol=1e-5)
        assert found["size"] == expected.shape[1]
    latents = post("/v1/latents", smiles=smiles)["latents"]
    np.testing.assert_allclose(latents, generator.encode(smiles), atol=1e-5)
    decoded = generator.decode(np.array(latents))
    assert post("/v1/decode", latents=latents)["smiles"] == decoded
    found = post("/v1/reconstruct", smiles=smiles)
    assert found["smiles"] == generator.reconstruct(smiles)
    pairs = zip(smiles, found["smiles"], strict=True)
    assert found["similarity"] == [one and similarity(given, one) for given, one in pairs]
    found = post("/v1/interpolate", first=ASPIRIN, second=IBUPROFEN, steps=4, method="spherical")
    expected = generator.interpolate(ASPIRIN, IBUPROFEN, 4, method="spherical")
    assert found["smiles"] == expected


def test_invalid_rows_may_be_null(post, refused):
    rows = ["CCO", "C(C", ""]
    for path, field in (
        ("/v1/embeddings", "embeddings"),
        ("/v1/latents", "latents"),
        ("/v1/reconstruct", "smiles"),
        ("/v1/properties", "molecules"),
    ):
        found = post(path, smiles=rows, on_invalid="none")[field]
        assert [one is None for one in found] == [False, True, True], path
        assert "`on_invalid`" in refused(path, smiles=rows)


def test_draws_are_those_of_their_seed_whatever_they_are_batched_with(client, post):
    how = {"n": 4, "seed": 5, "attempts": 3}
    around = {"smiles": [ASPIRIN], "radius": 0.5, **how}
    kept = {**around, "keep": ["c1ccccc1"], "ranges": {"mw": [None, 350]}, "unique": True}
    asked = [
        ("/v1/sample", {**how, "attempts": 16}),
        ("/v1/sample", {**how, "temperature": 1.0}),
        ("/v1/sample_around", around),
        ("/v1/sample_around", kept),
        ("/v1/optimize", {"smiles": [ASPIRIN], "budget": 30, "seed": 5, "table": True}),
    ]
    alone = [post(path, **body) for path, body in asked]
    with ThreadPoolExecutor(10) as threads:
        together = list(threads.map(lambda one: post(one[0], **one[1]), asked * 2))
    assert together == alone * 2
    assert None not in alone[3]["smiles"][0]
    assert any(alone[0]["smiles"])
    other = post("/v1/sample", n=4)
    assert post("/v1/sample", n=4, seed=other["seed"]) == other
    (found,), (near,) = alone[3]["smiles"], alone[3]["similarity"]
    assert near == [similarity(ASPIRIN, one) for one in found]
    benzene = Chem.MolFromSmarts("c1ccccc1")
    assert all(Chem.MolFromSmiles(one).HasSubstructMatch(benzene) for one in found)


def test_an_optimisation_tells_its_way(client, post):
    body = {"smiles": [ASPIRIN], "budget": 60, "seed": 1, "table": True, "min_similarity": 0.2}
    whole = post("/v1/optimize", **body)
    lines = client.post("/v1/optimize", json={**body, "stream": True}).text.splitlines()
    *way, last = map(json.loads, lines)
    assert last == whole
    scored = [one["scored"] for one in way]
    best = [one["best"] for one in way]
    assert scored[0] == 1 and scored[-1] == 60 == len(whole["table"]) and scored == sorted(scored)
    assert best == sorted(best) and best[-1] == qed(way[-1]["smiles"]) == whole["best"][0]["score"]
    short = post("/v1/optimize", **{**body, "budget": 400, "seconds": 0.01})
    assert short["best"][0]["stopped"] == "interrupted" and short["calls"] < 400
    pytest.importorskip("moocore")
    both = {"qed": 1, "sa_score": -1}
    assert post("/v1/optimize", **body | {"pareto": True, "scorer": both})["front"]


def test_what_the_own_api_refuses(client, refused):
    how = {"smiles": [ASPIRIN]}
    assert refused("/v1/optimize", **how, scorer={"x.py:f": 1}, budget=9).startswith(
        "body: There is no scorer"
    )
    assert "no property 'mww'" in refused("/v1/sample", ranges={"mww": [0, 1]})
    assert "no match of the pattern" in refused("/v1/sample_around", **how, keep=["CCBr"])
    assert "neither SMILES" in refused("/v1/sample", forbid=["C1CC("])
    assert "Extra inputs" in refused("/v1/latents", **how, file="/etc/passwd")
    assert "101 molecules; this server takes 100" in refused("/v1/latents", smiles=["C"] * 101)
    assert "stands for 120 molecules" in refused("/v1/sample_around", smiles=["C"] * 2, n=60)
    assert "needs a temperature above 0" in refused("/v1/sample", top_k=3)
    assert "301 characters" in refused("/v1/latents", smiles=["C" * 301])
    assert "500 molecules to be scored" in refused("/v1/optimize", **how, budget=500)
    assert "population" in refused("/v1/optimize", **how, budget=9, population=10**12)
    assert "population" in refused("/v1/optimize", smiles=["C"] * 9, budget=9, population=99)
    told = refused("/v1/optimize", smiles=["C(C"], stream=True)
    assert "Row 0 of smiles" in told
    assert "(rows, 1, 96), got (1, 1, 1)" in refused("/v1/decode", latents=[[[0.0]]])
    assert "different shapes" in refused("/v1/decode", latents=[[[0.0]], [[0.0, 1.0]]])
    assert "`dim`" in refused("/v1/embeddings", **how, dim=4)  # of tiny there are no axes
    assert "by the mean" in refused("/v1/embeddings", **how, dim=4, pooling="max")
    assert "--predictor" in refused("/v1/predict", **how)
    for body, words in (
        (b'{"smiles": ["C"', "JSON decode error"),
        (b'{"latents": [[[NaN]]]}', "finite"),
        (b'{"latents": [[[1e999]]]}', "finite"),
        (b"\xff\xfe\x00", "error parsing"),
        (b'{"latents": ' + b"[" * 20_000, ""),
        (b"", "required"),
    ):
        headers = {"content-type": "application/json"}
        response = client.post("/v1/decode", content=body, headers=headers)
        assert response.status_code in (400, 422) and words in response.text, body[:30]
        assert len(response.text) < 1000
    assert client.post("/v1/decode", content=b"x" * 10_000_000).status_code == 413
    assert client.get("/v1/decode").status_code == 405
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_neighbours_are_those_of_the_library(post, library):
    smiles = library[1]
    (found,) = post("/v1/neighbors", smiles=[smiles[3]], neighbors=5)["neighbors"]
    assert found[0]["row"] == 3 and found[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert len(found) == 5 and found[0]["similarity"] == 1
    assert {one["smiles"] for one in found} <= set(smiles)


def test_blanks_around_a_molecule_are_left_out_everywhere(client, post):
    assert post("/v1/neighbors", smiles=["CCO "]) == post("/v1/neighbors", smiles=["CCO"])
    for one in ("CCO ", "CCO"):
        assert client.get("/v1/draw", params={"smiles": one}).status_code == 200
        assert client.post("/v1/sdf", json={"rows": [{"smiles": one}]}).status_code == 200


def test_pictures_and_structures(client, post):
    drawn = client.get("/v1/draw", params={"smiles": ASPIRIN, "width": 200})
    assert drawn.headers["content-type"] == "image/svg+xml" and "width='200px'" in drawn.text
    assert client.get("/v1/draw", params={"smiles": "C("}).status_code == 422
    more = {"name": "a\n\nb", "<odd>": "$$$$", "__computedProps": ">  <x>", "": 1}
    rows = [{"smiles": ASPIRIN, "score": 0.5, **more}, {"smiles": "CCO", "score": None}]
    text = client.post("/v1/sdf", json={"rows": rows}).text
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text)
    first, second = supplier
    assert Chem.MolToSmiles(first) == ASPIRIN and Chem.MolToSmiles(second) == "CCO"
    assert first.GetProp("score") == "0.5" and first.GetProp("name") == "a b"
    assert first.GetProp("odd").strip() == "$$$$" and first.GetProp("unnamed") == "1"
    assert first.GetProp("computedProps").strip() == ">  <x>".replace("  ", " ")
    assert not second.HasProp("score")
    (row,) = post("/v1/properties", smiles=["[H][H]"], properties=["SPS", "mw"])["molecules"]
    assert row["SPS"] is None and row["mw"] > 2
    (row,) = post("/v1/properties", smiles=["OCC"], properties=["mw", "hbd"])["molecules"]
    assert row == {"smiles": "CCO", "mw": pytest.approx(46.07, abs=0.01), "hbd": 1}


def test_what_is_known_of_the_server(client):
    info = client.get("/v1/info").json()
    assert info["latent_size"] == 96 and info["limits"]["rows"] == 100
    assert info["library"] == {"molecules": 200} and "qed" in info["scorers"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embedding", "/hidden", "/decode", "/sampling", "/generate"} < set(paths)
    for page in ("/", "/api"):
        response = client.get(page)
        assert response.status_code == 200 and "http" not in response.text.replace("http-equiv", "")
        assert "default-src 'self'" in response.headers["content-security-policy"]
    metrics = client.get("/metrics").text
    assert 'cmim_requests_total{path="/decode",status="422"}' in metrics
    assert 'cmim_batch_rows_count{kind="decode"}' not in metrics  # no one told it
    assert "cmim_running_requests 0.0" in metrics


def test_pages_of_the_web_do_not_reach_a_loopback_server():
    app = make_app(Service("tiny"), hosts=LOOPBACK)
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get("/v1/health/ready").status_code == 200
        headers = {"host": "evil.example"}
        assert client.get("/v1/health/ready", headers=headers).status_code == 400


def test_limits_that_let_nothing_through_are_errors():
    with pytest.raises(ValueError, match="`rows`"):
        Limits(rows=0)
    with pytest.raises(ValueError, match="`seconds`"):
        Limits(seconds=float("nan"))
