# SPDX-License-Identifier: Apache-2.0
"""`checks/audit.py` asks a real service, here one of this test that knows a single advisory."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("pip_audit")

AUDIT = Path(__file__).parent / "checks" / "audit.py"
ADVISORY = {
    "id": "TEST-2026-1",
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "numpy", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
            "versions": ["2.0.0"],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    """Answers as the OSV database does."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bad = asked["package"]["name"] == "numpy" and asked["version"] == "2.0.0"
        content = json.dumps({"vulns": [ADVISORY]} if bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def audit(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(text, port=server.server_port):
        (tmp_path / "pins.txt").write_text(text)
        return subprocess.run(
            [sys.executable, str(AUDIT), str(tmp_path / "pins.txt"), "-s", "osv", "--osv-url",
             f"http://127.0.0.1:{port}/v1/query", "--cache-dir", str(tmp_path / "cache")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    yield run
    server.shutdown()
    server.server_close()


def test_a_vulnerable_version_fails(audit):
    result = audit("numpy==2.0.0\ntqdm==4.66.1\n")
    assert result.returncode == 1
    assert "numpy 2.0.0: TEST-2026-1, fixed in 2.1" in result.stdout
    assert "2 of 2 packages audited, 1 vulnerable" in result.stdout


def test_versions_without_advisories_pass(audit):
    result = audit("numpy==2.1.0\n")
    assert result.returncode == 0 and "1 of 1 packages audited, 0 vulnerable" in result.stdout


def test_a_service_out_of_reach_is_said_and_a_bad_file_fails(audit):
    result = audit("numpy==2.0.0\n", port=9)
    assert result.returncode == 0 and result.stdout.startswith("NOT AUDITED: ")
    result = audit("no requirement at all\n")
    assert result.returncode == 1 and "pip-audit failed" in result.stderr
