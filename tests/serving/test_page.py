# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: what is typed and clicked becomes molecules, errors become words."""

import shutil

import numpy as np
import pytest
from rdkit import Chem
from server_process import serving

from cmim_hf import MoleculeEmbedder
from cmim_hf.cli.main import main
from cmim_hf.prediction.labelled_parts import Part
from cmim_hf.prediction.members import Heads, save_heads
from cmim_hf.prediction.predictor_files import save_calibrated
from cmim_hf.serving.service import Service

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def library(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "in.smi").write_text("\n".join(row.text for row in sample[:100]))
    path = str(folder / "out.parquet")
    assert main(["embed", str(folder / "in.smi"), "--checkpoint", "tiny", "-o", path]) == 0
    return path


@pytest.fixture(scope="module")
def predictor(sample, tmp_path_factory):
    """A folder as fine-tuning writes it, that counts atoms."""
    folder, rows = tmp_path_factory.mktemp("predictor"), sample[:120]
    embedder = MoleculeEmbedder("tiny", representation="both", progress=False)
    encoded = embedder.encoder()(rows)
    tokens = [ids.tolist() for ids in np.split(encoded.tokens, np.cumsum(encoded.lengths))[:-1]]
    labels = np.array([[Chem.MolFromSmiles(row.text).GetNumHeavyAtoms()] for row in rows], float)
    part = Part(rows, tokens, labels, [row.text for row in rows])
    parts = {"train": part.take(range(80)), "valid": part.take(range(80, 120))}
    heads = Heads.fit(embedder, "ridge", "regression", 0, parts, ["atoms"])
    about = {
        "task": "regression",
        "targets": ["atoms"],
        "classes": [],
        "heads": save_heads(folder, heads.estimators),
        "checkpoint": "tiny",
        "weights": embedder.fingerprint,
        "representation": "both",
        "standardize": "none",
    }
    save_calibrated(folder, about, heads, parts["train"], parts["valid"])
    return str(folder)


@pytest.fixture(scope="module")
def server(library, predictor):
    with serving("--library", library, "--predictor", predictor) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    problems, elsewhere = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda one: problems.append(one.text) if "refused" in one.text else None)
    page.on("request", lambda one: elsewhere.append(one.url))
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("#properties dd", state="attached")
    yield page
    page.close()
    assert not problems
    here = (f"http://127.0.0.1:{server.port}/", "data:", "blob:")
    assert all(url.startswith(here) for url in elsewhere)


def ask(page, tab):
    page.click(f"#tab-{tab}")
    page.click(f"#{tab} button[type=submit]")
    page.locator(f"#{tab} button[type=submit]:enabled").wait_for()


def shown(page):
    return page.locator("#found .card code").all_text_contents()


def drawn(page):
    """Whether each picture was loaded."""
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('#found img').forEach(one => one.loading = 'eager')")
    page.wait_for_load_state("networkidle")
    return page.evaluate(
        "[...document.querySelectorAll('#drawing, #found img')].every(one => one.naturalWidth > 0)"
    )


def test_molecules_around_one_hold_what_is_asked(page):
    page.fill("#smiles", ASPIRIN)
    page.click("#around summary")
    page.fill("#around input[name=keep]", "c1ccccc1")
    page.locator("#around .high").first.fill("400")
    page.locator("#radius").fill("0.5")
    page.locator("#n").fill("6")
    assert page.locator("output[for=radius]").text_content() == "0.5"
    ask(page, "around")
    found = shown(page)
    benzene = Chem.MolFromSmiles("c1ccccc1")
    assert len(set(found)) == 6 and drawn(page)
    assert all(Chem.MolFromSmiles(one).HasSubstructMatch(benzene) for one in found)
    assert "6 of 6 molecules found" in page.locator("#status").text_content()
    with page.expect_download() as download:
        page.click("#csv")
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "smiles,similarity" and [row.split(",")[0] for row in lines[1:]] == found
    with page.expect_download() as download:
        page.click("#sdf")
    records = Chem.SDMolSupplier(str(download.value.path()))
    assert [Chem.MolToSmiles(one) for one in records] == found
    page.locator("#found .card button").first.click()
    sync_api.expect(page.locator("#smiles")).to_have_value(found[0])


def test_an_optimisation_draws_its_curve_and_can_be_stopped(page):
    page.fill("#smiles", ASPIRIN)
    page.click("#tab-optimize")
    page.fill("#optimize input[name=budget]", "60")
    ask(page, "optimize")
    assert "60 molecules scored" in page.locator("#status").text_content()
    assert page.locator("#curve path").get_attribute("d").count("H") > 1
    scores = [text.split()[1] for text in page.locator("#found .told").all_text_contents()]
    assert len(scores) >= 10 and scores == sorted(scores, reverse=True)
    page.fill("#optimize input[name=budget]", "5000")
    page.click("#optimize button[type=submit]")
    status = sync_api.expect(page.locator("#status"))
    status.to_contain_text("of 5000", timeout=60_000)
    page.click("#stop")
    status.to_contain_text("Stopped.")


def test_the_molecule_itself_its_neighbours_and_its_prediction(page, sample):
    page.fill("#smiles", sample[5].text)
    ask(page, "reconstruct")
    assert len(page.locator("#found .card").all()) == 2
    ask(page, "neighbors")
    assert shown(page)[0] == sample[5].text and len(shown(page)) == 12 and drawn(page)
    assert "cosine 1" in page.locator("#found .told").first.text_content()
    ask(page, "predict")
    cells = page.locator("#found td").all_text_contents()
    low, high = map(float, cells[2].split(" to "))
    assert cells[0] == "atoms" and low < float(cells[1]) < high
    assert "training molecules" in page.locator("#status").text_content()


def test_errors_are_words(page, server):
    page.fill("#smiles", "C1CC")
    page.click("#given button")
    page.wait_for_selector("#given-error:visible")
    assert "unclosed ring" in page.locator("#given-error").text_content()
    ask(page, "around")
    assert page.locator("#error").text_content() == "Give a molecule first, on the left."
    page.fill("#smiles", "CCO")
    page.click("#around summary")
    page.fill("#around input[name=keep]", "c1ccccc1")
    ask(page, "around")
    assert "no match of the pattern" in page.locator("#error").text_content()
    page.fill("#around input[name=keep]", "<b>(")
    ask(page, "around")
    assert "<b>(" in page.locator("#error").text_content()


def test_every_field_has_a_name_and_tabs_go_by_keys(page):
    assert page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')]"
        ".filter(one => !one.labels.length).map(one => one.outerHTML)"
    ) == []  # fmt: skip
    page.focus("#tab-around")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-optimize").get_attribute("aria-selected") == "true"
    assert page.locator("#optimize").is_visible() and page.locator("#around").is_hidden()


def test_the_list_of_the_api_has_every_path(page):
    page.click("text=HTTP API")
    page.wait_for_selector("article")
    titles = page.locator("article h2").all_text_contents()
    assert {"POST /embedding", "POST /v1/optimize", "GET /v1/health/ready"} < set(titles)
    assert "scaled_radius" in page.locator("article").all_text_contents()[3]


def test_what_is_not_loaded_is_not_offered(page):
    assert page.locator("#tab-neighbors").is_visible() and page.locator("#tab-predict").is_visible()
    page.route("**/v1/info", lambda route: route.fulfill(json=without(route.fetch().json())))
    page.reload()
    page.wait_for_selector("#properties dd", state="attached")
    assert page.locator("#tab-neighbors").is_hidden() and page.locator("#tab-predict").is_hidden()


def without(info):
    return info | {"library": None, "predictor": None}


def test_a_predictor_answers_as_the_package_does(predictor, sample):
    from fastapi.testclient import TestClient

    from cmim_hf import MoleculePredictor
    from cmim_hf.serving.app import make_app

    smiles = [row.text for row in sample[:3]]
    expected = MoleculePredictor(predictor, progress=False).predict(smiles)
    with TestClient(make_app(Service("tiny", predictor=predictor))) as client:
        body = {"smiles": [*smiles, "C(C"], "on_invalid": "none"}
        *found, last = client.post("/v1/predict", json=body).json()["predictions"]
        assert last is None
        for one, other in zip(found, expected.to_dict("records"), strict=True):
            assert one == pytest.approx(other, rel=1e-4)
        body = {"smiles": smiles[:1], "level": 0.99}  # wider than what it was calibrated on
        (row,) = client.post("/v1/predict", json=body).json()["predictions"]
        assert row["atoms_low"] is None
