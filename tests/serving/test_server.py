# SPDX-License-Identifier: Apache-2.0
"""`cmim serve` as a process: many clients, faults, signals."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from server_process import serving

from cmim_hf import MoleculeGenerator
from cmim_hf.cli.main import main
from cmim_hf.serving.app import make_app
from cmim_hf.serving.service import Service

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
JSON = [(b"host", b"localhost"), (b"content-type", b"application/json")]
LONG = {"smiles": [ASPIRIN], "budget": 10_000, "stream": True, "seconds": 60}


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


def test_many_clients_good_and_bad_get_their_own_answers(server, sample):
    smiles = [row.text for row in sample[:40]]
    generator = MoleculeGenerator("tiny", progress=False)
    written = dict(zip(smiles, generator.reconstruct(smiles), strict=True))
    codes = dict(zip(smiles, generator.encode(smiles).reshape(40, -1), strict=True))

    def ask(number):
        one, other = smiles[number % 40], smiles[number * 7 % 40]
        kind = number % 5
        if kind == 0:
            status, found = server.post("/v1/reconstruct", smiles=[one, other])
            return status == 200 and found["smiles"] == [written[one], written[other]]
        if kind == 1:
            status, found = server.post("/embedding", sequences=[one])
            return status == 200 and abs(found["embeddings"][0] - codes[one]).max() < 1e-4
        if kind == 2:
            status, found = server.post("/v1/reconstruct", smiles=[one, f"C({number}"])
            return status == 422 and f"C({number}" in found["detail"][0]["msg"]
        if kind == 3:
            body = {"smiles": [one], "radius": 0.3, "n": 2, "seed": 3, "keep": ["C"]}
            status, found = server.post("/v1/sample_around", **body)
            return status == 200 and len(found["smiles"][0]) == 2
        return server.ask("POST", "/hidden", b"{" * number)[0] == 422

    with ThreadPoolExecutor(8) as clients:
        right = list(clients.map(ask, range(100)))
    assert all(right), [number for number, one in enumerate(right) if not one]
    batched = server.metric('cmim_batch_rows_sum{kind="encode"}')
    assert server.metric('cmim_batch_rows_count{kind="encode"}') < batched


def test_a_client_that_leaves_frees_its_work(server):
    before = psutil.Process(server.process.pid).num_threads()
    clients = [server.begin("/v1/optimize", LONG) for _ in range(6)]
    server.until(lambda: server.metric("cmim_running_requests") >= 6)
    assert clients[0].recv(12).startswith(b"HTTP/1.1 200")
    for client in clients:
        client.close()
    waiting = server.begin("/v1/optimize", LONG | {"stream": False})
    server.until(lambda: server.metric("cmim_running_requests") >= 1)
    waiting.close()
    server.until(lambda: server.metric("cmim_running_requests") == 0)
    assert psutil.Process(server.process.pid).num_threads() <= before + 64
    assert server.post("/embedding", sequences=["C"])[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("cmim_hf.serving.app._BODY_SECONDS", 0.2)
    app, sent = make_app(Service("tiny")), []

    async def receive():
        await asyncio.sleep(9)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embedding", "headers": JSON}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408 and b"0.2 s" in sent[1]["body"]


def test_too_much_at_once_is_told_to_come_again_and_health_is_told_all_the_same():
    with serving("--max-requests", "4", "--max-seconds", "4") as server:
        search = server.begin("/v1/optimize", LONG)
        server.until(lambda: server.metric("cmim_running_requests") == 1)
        status, text = server.post("/v1/optimize", **LONG)
        assert status == 503 and "1 optimisations" in text["detail"][0]["msg"]
        assert server.ask("GET", "/v1/health/ready")[0] == 200
        status, text = server.post("/v1/sample", n=1000, keep=["[Xe]"], max_draws=1000)
        assert status == 504 and "longer" in text["detail"][0]["msg"]
        with search, search.makefile("rb") as answer:  # with what it found until then
            assert b'"stopped": "interrupted"' in answer.read()
        server.until(lambda: server.metric("cmim_running_requests") == 0)


def test_sigterm_finishes_what_runs_and_takes_no_more(sample):
    smiles = [row.text for row in sample[:8]]
    outcomes, refused = [], threading.Event()
    with serving() as server:
        expected = server.post("/v1/reconstruct", smiles=smiles)[1]

        def client(number):
            while not refused.is_set():
                try:
                    outcomes.append(server.post("/v1/reconstruct", smiles=smiles))
                except (ConnectionRefusedError, ConnectionResetError):
                    refused.set()

        with ThreadPoolExecutor(9) as clients:
            asked = [clients.submit(client, number) for number in range(8)]
            search = clients.submit(
                server.post, "/v1/optimize", smiles=[ASPIRIN], budget=120, seed=1
            )
            server.until(lambda: len(outcomes) > 20)
            assert server.end() == 0
            for one in asked:
                one.result(60)
        assert all(one == (200, expected) for one in outcomes)
        status, found = search.result()
        assert status == 200 and found["calls"] == 120
        assert server.told[-1] == "Ended.\n"


def test_a_port_that_is_taken_or_a_model_that_is_not_there_is_a_message(server, capsys, tmp_path):
    assert main(["serve", "--port", str(server.port)]) == 1
    assert f"cannot listen to port {server.port}" in capsys.readouterr().err
    for options, words in (
        (["--checkpoint", str(tmp_path / "none")], "There is no checkpoint folder"),
        (["--library", str(tmp_path / "none")], "is no Parquet file"),
        (["--predictor", str(tmp_path / "none")], "holds no predictor"),
        (["--port", "70000"], "not 70000"),
        (["--host", "256.1.1.1"], "'256.1.1.1'"),
        (["--max-rows", "0"], "--max-rows"),
    ):
        checkpoint = [] if "--checkpoint" in options else ["--checkpoint", "tiny"]
        assert main(["serve", "--port", "0", *checkpoint, *options]) == 1
        assert words in capsys.readouterr().err


def test_without_its_extra_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 1
    assert "pip install 'cmim-hf[serve]'" in capsys.readouterr().err
