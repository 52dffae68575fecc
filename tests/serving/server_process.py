# SPDX-License-Identifier: Apache-2.0
"""`cmim serve` in a process of its own, for tests."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager


class Server:
    """The process and its port."""

    def __init__(self, *options):
        command = [sys.executable, "-m", "cmim_hf.cli", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.told = []
        for line in self.process.stderr:  # the first lines may be of libraries
            self.told.append(line)
            if found := re.search(r"at http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError("".join(self.told))
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        for _ in range(600):
            try:
                assert self.ask("GET", "/v1/health/ready")[0] == 200
                return
            except ConnectionRefusedError:
                time.sleep(0.1)
        raise AssertionError("It does not listen.")

    def _read(self):
        self.told += list(self.process.stderr)

    def ask(self, method, path, body=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def post(self, path, **body):
        status, text = self.ask("POST", path, body)
        return status, json.loads(text)

    def metric(self, line):
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.ask("GET", "/metrics")[1], re.M)
        return float(found[1]) if found else 0.0

    def begin(self, path, body):
        """Send a request and read nothing but that its answer begins."""
        connection = socket.create_connection(("127.0.0.1", self.port), 60)
        text = json.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        connection.sendall((head + text).encode())
        return connection

    def until(self, true, seconds=30):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end
            time.sleep(0.05)

    def end(self, number=signal.SIGTERM, seconds=60):
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(*options):
    server = Server("--checkpoint", "tiny", *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.reader.join()
        server.process.stderr.close()
