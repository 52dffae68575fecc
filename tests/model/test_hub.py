# SPDX-License-Identifier: Apache-2.0
"""A checkpoint goes to a Hub and comes back, through HF_ENDPOINT, in processes of their own."""

import os
import subprocess
import sys

import pytest
from hub_stand_in import COMMIT, LARGE, hub

from cmim_hf import list_checkpoints

PUSH = """
import sys
from huggingface_hub import upload_file
from cmim_hf import CMIMModel, CMIMTokenizer
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
"""
PULL = """
import sys
import numpy as np
from cmim_hf import MoleculeEmbedder, MoleculeGenerator
names = sys.argv[1], "someone/molecules"
here, there = (MoleculeEmbedder(name, progress=False) for name in names)
smiles = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1"]
assert np.array_equal(here.embed(smiles), there.embed(smiles))
assert there.fingerprint == here.fingerprint
print(MoleculeGenerator(names[1], progress=False).reconstruct(smiles))
"""


def python(code, server, home, *arguments, token="hf_stand_in"):
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # its protocol is a service of its own
        "HF_TOKEN": token,
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(list_checkpoints()))
def test_what_is_pushed_comes_back(name, tmp_path):
    folder = list_checkpoints()[name]
    with hub() as server:
        pushed = python(PUSH, server, tmp_path / "pusher", folder)
        assert pushed.returncode == 0, pushed.stderr
        files = {path for _, path in server.files}
        assert {
            "config.json", "generation_config.json", "model.safetensors", "README.md",
            "tokenizer.json", "tokenizer_config.json", "modeling_cmim.py",
        } <= files  # fmt: skip
        weights = server.files["someone/molecules", "model.safetensors"]
        assert len(weights) > LARGE and weights in server.objects.values()
        assert ("POST", "/api/validate-yaml") in server.requests
        pulled = python(PULL, server, tmp_path / "puller", folder)
        assert pulled.returncode == 0, pulled.stderr
        revisions = (COMMIT, "main")  # not every transformers asks for the commit first
        weights = [f"/someone/molecules/resolve/{name}/model.safetensors" for name in revisions]
        assert [path for method, path in server.requests if method == "GET" and path in weights]
        refused = python(PUSH, server, tmp_path / "stranger", folder, token="hf_unknown")
        assert refused.returncode == 1 and "401" in refused.stderr


def test_shards_are_pushed_as_shards(tmp_path):
    code = """
import sys
from cmim_hf import CMIMModel
model = CMIMModel.from_pretrained(sys.argv[1])
model.save_pretrained(
    sys.argv[2], push_to_hub=True, repo_id="someone/shards", max_shard_size="500KB"
)
"""
    with hub() as server:
        folder = list_checkpoints()["tiny"]
        pushed = python(code, server, tmp_path / "pusher", folder, str(tmp_path / "saved"))
        assert pushed.returncode == 0, pushed.stderr
        shards = {path for _, path in server.files if path.endswith(".safetensors")}
    assert len(shards) > 2 and shards == {
        p.name for p in (tmp_path / "saved").glob("*.safetensors")
    }
