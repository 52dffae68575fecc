# SPDX-License-Identifier: Apache-2.0
"""`cmim serve` under load: rates and latencies of 1 to 32 clients, and what faults do to it.

python -m examples.benchmarks.speed.serving

Rates: clients that ask again as soon as they are answered, each on one connection, so that one
client is "one after the other". Faults: 2,000 requests of 32 clients, a quarter of them bad in
one of six ways, one of forty a search whose client goes away; each answer is compared with that
of the package in this process, or of the server when it was asked alone. Memory is the server's
resident set after each quarter of them, of which the first warms up. In the end it gets SIGTERM
while 32 clients ask. All of it happens on one machine: the clients take their part of its cores,
and what else runs there its own; the server's processor time for a molecule depends on that least.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
from transformers import HfArgumentParser

from cmim_hf import MoleculeGenerator

from ..evidence import DATA, RESULTS, first, table, write

SEARCH = {"smiles": ["CC(C)Cc1ccc(C(C)C(=O)O)cc1"], "budget": 5000, "stream": True}


@dataclass
class Arguments:
    """What to measure."""

    source: str = field(default=str(DATA / "moses_test.smi"), metadata={"help": "Molecules."})
    checkpoint: str = field(default="small", metadata={"help": "Folder, Hub id or name."})
    clients: list[int] = field(default_factory=lambda: [1, 8, 32], metadata={"help": "At once."})
    seconds: float = field(default=10, metadata={"help": "Of each cell of the rates."})
    requests: int = field(default=2000, metadata={"help": "Of the faults."})
    output: str = field(default=str(RESULTS), metadata={"help": "Folder for table and figures."})


class Server:
    """`cmim serve` in a process of its own."""

    def __init__(self, checkpoint: str) -> None:
        """Wait until it is ready."""
        command = [sys.executable, "-m", "cmim_hf.cli", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--checkpoint", checkpoint], stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            if found := re.search(r"at http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise ValueError("The server did not start.")
        self.port = int(found[1])
        Thread(target=lambda: list(self.process.stderr), daemon=True).start()
        while self.process.poll() is None:
            try:
                return self.client().close()
            except ConnectionRefusedError:
                time.sleep(0.1)

    def client(self) -> http.client.HTTPConnection:
        """A connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.connect()
        return connection

    def leave(self) -> None:
        """Ask for a search, and go away."""
        text = json.dumps(SEARCH)
        head = "POST /v1/optimize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
            connection.recv(100)

    @property
    def seconds(self) -> float:
        """Processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


def post(client: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
    """Status and answer."""
    content = body if isinstance(body, bytes) else json.dumps(body)
    client.request("POST", path, content, {"Content-Type": "application/json"})
    response = client.getresponse()
    text = response.read()
    return response.status, json.loads(text) if text[:1] in (b"{", b"[") else text


def rates(server: Server, smiles: Sequence[str], clients: int, seconds: float) -> list[list[Any]]:
    """Rows of the table.

    Kind, clients, requests and molecules a second, the server's processor time for a molecule in
    ms, median and 99th percentile of the time to an answer in ms.
    """
    kinds: dict[str, tuple[str, Callable[[int], Any], int]] = {
        "embeddings of 8": ("/v1/embeddings", lambda i: {"smiles": part(smiles, i, 8)}, 8),
        "reconstruct 1": ("/v1/reconstruct", lambda i: {"smiles": part(smiles, i, 1)}, 1),
        "8 around 1": (
            "/v1/sample_around",
            lambda i: {"smiles": part(smiles, i, 1), "radius": 0.5, "n": 8, "seed": i},
            8,
        ),
    }
    rows = []
    for name, (path, body, molecules) in kinds.items():
        numbers, end = count(), time.perf_counter() + seconds

        def ask(path: str, body: Callable, numbers: Any, end: float) -> list[float]:
            times, client = [], server.client()
            while (start := time.perf_counter()) < end:
                status, _ = post(client, path, body(next(numbers)))
                if status != 200:
                    raise ValueError(f"{path} answered {status}.")
                times.append(time.perf_counter() - start)
            client.close()
            return times

        start, used = time.perf_counter(), server.seconds
        with ThreadPoolExecutor(clients) as threads:
            each = list(threads.map(ask, *zip(*[(path, body, numbers, end)] * clients)))  # noqa: B905
        taken, used = time.perf_counter() - start, server.seconds - used
        times = sorted(one for own in each for one in own)
        middle, late = (1e3 * np.percentile(times, share) for share in (50, 99))
        rate = len(times) / taken
        cost = 1e3 * used / len(times) / molecules
        rows.append([name, clients, rate, rate * molecules, cost, middle, late])
    return rows


def part(smiles: Sequence[str], start: int, number: int) -> list[str]:
    """Some of the molecules, others for each start."""
    return [smiles[(start * number + i) % len(smiles)] for i in range(number)]


class Faults:
    """Requests, good and bad, of which the answer is known."""

    def __init__(self, server: Server, smiles: Sequence[str], checkpoint: str) -> None:
        """Know the answers."""
        self.server, self.smiles = server, smiles
        generator = MoleculeGenerator(checkpoint, progress=False)
        self.written = generator.reconstruct(smiles)
        self.codes = generator.encode(smiles).reshape(len(smiles), -1)
        client = server.client()
        self.around = [post(client, "/v1/sample_around", self.near(i))[1] for i in range(20)]
        client.close()

    def near(self, number: int) -> dict[str, Any]:
        """A request with conditions."""
        how = {"radius": 0.5, "n": 3, "unique": True, "ranges": {"mw": [None, 450]}, "seed": number}
        return {"smiles": [self.smiles[number]], **how}

    def ask(self, number: int) -> str:
        """What became of a request: "right" or in which way it was wrong."""
        try:
            if number % 40 == 7:
                self.server.leave()
                return "client left"
            client = self.server.client()
            try:
                kind, right = self._compare(client, number)
            finally:
                client.close()
            return f"{kind}: right" if right else f"{kind}: WRONG"
        except TimeoutError:
            return "HUNG"

    def _compare(self, client: http.client.HTTPConnection, number: int) -> tuple[str, bool]:
        row = number % len(self.smiles)
        smiles, other = self.smiles[row], self.smiles[number * 7 % len(self.smiles)]
        if number % 4 == 3:
            return "bad", self._refused(client, number // 4 % 6, smiles)
        if number % 4 == 0:
            status, found = post(client, "/embedding", {"sequences": [smiles]})
            near = status == 200 and np.allclose(found["embeddings"][0], self.codes[row], atol=1e-4)
            return "embedding", near
        if number % 4 == 1:
            status, found = post(client, "/v1/reconstruct", {"smiles": [smiles, other]})
            expected = [self.written[row], self.written[number * 7 % len(self.smiles)]]
            return "reconstruct", status == 200 and found["smiles"] == expected
        found = post(client, "/v1/sample_around", self.near(number % 20))
        return "sample_around", found == (200, self.around[number % 20])

    def _refused(self, client: http.client.HTTPConnection, way: int, smiles: str) -> bool:
        path, body, expected = [
            ("/v1/embeddings", {"smiles": [smiles, "C(C"]}, 422),
            ("/v1/embeddings", b'{"smiles": ["C', 422),
            ("/decode", {"hiddens": [[[0.0] * 512]], "mask": [[True]]}, 422),
            ("/v1/latents", {"smiles": ["C"] * 5000}, 422),
            ("/v1/sample_around", {"smiles": [smiles], "keep": ["[Xe]"]}, 422),
            ("/nothing", {}, 404),
        ][way]
        return post(client, path, body)[0] == expected


def ended(server: Server, faults: Faults, clients: int) -> list[list[str]]:
    """SIGTERM while clients ask: rows of the table."""
    outcomes: Counter[str] = Counter()
    stop = Event()

    def ask(start: int) -> None:
        for number in count(start, clients):
            if stop.is_set():
                return
            if number % 40 == 7:
                continue
            try:
                outcomes[faults.ask(number).partition(": ")[2] or "HUNG"] += 1
            except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
                stop.set()

    with ThreadPoolExecutor(clients) as threads:
        asked = [threads.submit(ask, number) for number in range(clients)]
        time.sleep(3)
        start = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(180)
        seconds = time.perf_counter() - start
        for one in asked:
            one.result()
    return [
        *([f"SIGTERM, answers {name}", str(number)] for name, number in outcomes.items()),
        ["SIGTERM, exit status", str(status)],
        ["SIGTERM, seconds to the end", f"{seconds:.1f}"],
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    smiles = first(args.source, 500)
    server = Server(args.checkpoint)
    try:
        rates(server, smiles, max(args.clients), 2)  # warms up
        rows = [row for n in args.clients for row in rates(server, smiles, n, args.seconds)]
        faults = Faults(server, smiles, args.checkpoint)
        many = max(args.clients)
        memory, outcomes = [], Counter()
        for _ in range(4):  # the first warms up
            with ThreadPoolExecutor(many) as threads:
                outcomes += Counter(threads.map(faults.ask, range(args.requests // 4)))
            memory.append(server.megabytes)
        over = [[name, f"{number:,}"] for name, number in sorted(outcomes.items())]
        over.append(
            [
                "memory after each quarter, MB",
                " → ".join(f"{m:.0f}" for m in memory),
            ]
        )
        over += ended(server, faults, many)
    finally:
        server.process.kill()
    first_rates = {row[0]: row[2] for row in rows if row[1] == min(args.clients)}
    shown = []
    for name, clients, rate, molecules, cost, middle, late in sorted(rows, key=lambda row: row[0]):
        ratio = f"{rate / first_rates[name]:.2f}"
        times = [f"{cost:.1f}", f"{middle:.0f}", f"{late:.0f}"]
        shown.append([name, clients, f"{rate:.1f}", f"{molecules:.0f}", ratio, *times])
    header = ["request", "clients", "requests/s", "molecules/s", "times one"]
    header += ["CPU ms/molecule", "median ms", "99 % ms"]
    text = "\n\n".join(
        [
            "# Serving",
            f"`{args.checkpoint}`; clients and server share the cores.",
            table(header, shown),
            f"Of {args.requests:,} requests by {many} clients, good, bad and given up:",
            table(["what", "number"], over),
        ]
    )
    results = {"rates": rows, "faults": over, "median_rss_mb": statistics.median(memory)}
    write("serving", args.output, results, text)


if __name__ == "__main__":
    main()
