# SPDX-License-Identifier: Apache-2.0
"""A checkpoint goes to a Hub and comes back, through HF_ENDPOINT, in processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np
from hub_stand_in import COMMIT, LARGE, hub
from test_remote_code import CODE

from cmim_hf import MoleculeEmbedder, list_checkpoints

PUSH = """
import sys
from huggingface_hub import upload_file
from huggingface_hub.errors import HfHubHTTPError
from cmim_hf import CMIMModel, CMIMTokenizer, MoleculeEmbedder
model = CMIMModel.from_pretrained(sys.argv[1])
tokenizer = CMIMTokenizer.from_pretrained(sys.argv[1])
model.push_to_hub("someone/molecules")
tokenizer.push_to_hub("someone/molecules")
# Not ModelCard.push_to_hub, which before huggingface_hub 2.2 heeds no HF_ENDPOINT.
upload_file(
    path_or_fileobj=sys.argv[1] + "/README.md",
    path_in_repo="README.md",
    repo_id="someone/molecules",
)
model.config.save_pretrained(sys.argv[2] + "/config", push_to_hub=True, repo_id="someone/config")
model.save_pretrained(
    sys.argv[2], push_to_hub=True, repo_id="someone/shards", max_shard_size="500KB"
)
names = sys.argv[1], "someone/molecules"
here, there = (MoleculeEmbedder(name, progress=False) for name in names)
assert there.fingerprint == here.fingerprint
try:
    model.push_to_hub("someone/else", token="hf_unknown")
except HfHubHTTPError as error:
    assert "401" in str(error)
else:
    raise SystemExit("a stranger may push")
"""
PULL = """
import json
import sys
sys.modules["cmim_hf"] = None
sys.modules["sentence_transformers"] = None
from transformers import AutoModel, pipeline
pipe = pipeline("molecule-embedding", model="someone/molecules", trust_remote_code=True)
pipe.model.save_pretrained(sys.argv[1])
print("FOUND", json.dumps(pipe("CCO").tolist()))
"""


def python(code, server, home, *arguments):
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # its protocol is a service of its own
        "HF_TOKEN": "hf_stand_in",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_pushed_comes_back_with_and_without_the_package(tmp_path):
    folder = list_checkpoints()["tiny"]
    with hub() as server:
        python(PUSH, server, tmp_path / "pusher", folder, tmp_path / "saved")
        files = {name: set() for name in ("molecules", "config", "shards")}
        for repository, path in server.files:
            files[repository.removeprefix("someone/")].add(path)
        common = {*CODE, "config.json", "modules.json"}
        assert files["config"] == common | {"README.md"}  # which transformers adds
        assert files["molecules"] == {
            *common, "generation_config.json", "model.safetensors", "SHA256SUMS", "README.md",
            "tokenizer.json", "tokenizer_config.json",
        }  # fmt: skip
        assert len([path for path in files["shards"] if path.endswith(".safetensors")]) > 2
        assert files["shards"] - {"README.md"} == {
            p.name for p in (tmp_path / "saved").iterdir() if p.is_file()
        }
        weights = server.files["someone/molecules", "model.safetensors"]
        assert len(weights) > LARGE and weights in server.objects.values()
        assert ("POST", "/api/validate-yaml") in server.requests
        found = python(PULL, server, tmp_path / "puller", tmp_path / "again")
        revisions = (COMMIT, "main")  # not every transformers asks for the commit first
        weights = [f"/someone/molecules/resolve/{name}/model.safetensors" for name in revisions]
        assert [path for method, path in server.requests if method == "GET" and path in weights]
    expected = MoleculeEmbedder(folder, canonicalize=False, progress=False).embed(["CCO"])[0]
    vector = np.array(json.loads(found.split("FOUND")[1]))
    assert np.allclose(vector, expected, rtol=1e-4, atol=1e-5)
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == CODE
