# SPDX-License-Identifier: Apache-2.0
"""The examples on their default data, and what ships."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from cmim_hf import DEFAULT_CHECKPOINT, CMIMModel, CMIMTokenizer, list_checkpoints
from cmim_hf.data.collator import CMIMCollator
from cmim_hf.data.prepare import prepare
from cmim_hf.data.smiles_files import read_smiles
from examples.benchmarks.quality import optimization
from examples.benchmarks.speed import decoding, embedding

ROOT = Path(__file__).parents[2]
TINY = list_checkpoints()["tiny"]


def test_the_default_checkpoint_ships_small_and_works(molecules):
    assert list_checkpoints()[Path(DEFAULT_CHECKPOINT).name] == DEFAULT_CHECKPOINT
    size = sum(path.stat().st_size for path in Path(DEFAULT_CHECKPOINT).rglob("*"))
    assert size < 15_000_000
    model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT)
    tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    assert model.dtype == torch.float32 and model.config.vocab_size == len(tokenizer)
    batch = tokenizer(molecules, padding=True, return_tensors="pt")
    embeddings = model.get_informative_embeddings(**batch)
    assert embeddings.shape == (len(molecules), model.config.hidden_size)
    assert embeddings.isfinite().all()


@torch.no_grad()
def test_the_default_checkpoint_knows_molecules_from_shuffled_text():
    """Token by token, held-out molecules cost it far less than the same tokens shuffled."""
    model = CMIMModel.from_pretrained(DEFAULT_CHECKPOINT)
    tokenizer = CMIMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    rows = list(read_smiles(ROOT / "examples" / "data" / "moses_test.smi"))[:100]
    packed, rejects = prepare(rows, tokenizer, max_length=512, canonicalize=True, progress=False)
    assert len(packed) == 100 and not len(rejects)
    collate = CMIMCollator(tokenizer)
    batch = collate([packed[row] for row in range(100)])
    generator = torch.Generator().manual_seed(0)
    shuffled = []
    for row in range(100):
        ids = torch.from_numpy(packed[row]["input_ids"].astype("int64"))
        order = torch.randperm(len(ids) - 1, generator=generator)
        shuffled.append({"input_ids": torch.cat([ids[:-1][order], ids[-1:]]).numpy()})
    losses = []
    for inputs in (batch, collate(shuffled)):
        inputs.pop("keys")
        losses.append(model(**inputs).loss.item())
    assert losses[0] < 1.0 and losses[1] > 3 * losses[0]


def test_generate_looks_at_what_a_checkpoint_writes(tmp_path, run_example):
    picture = tmp_path / "drawn" / "walks.png"
    options = ["--count", 60, "--walks", 12, "--steps", 5, "--picture", picture]
    printed = run_example("generate.py", "--checkpoint", TINY, *options)
    exact = float(re.search(r"Of 60 molecules (\d+\.\d)% come back exactly", printed)[1])
    assert 20 < exact < 80
    assert re.search(r"Of 100 draws around \S+ [1-9]\d? are molecules, ", printed)
    assert re.search(r"of the codes between 12 pairs are molecules", printed)
    likeness = [float(one) for one in printed.split("step by step: ")[1].splitlines()[0].split()]
    assert len(likeness) == 5 and likeness[0] > 0.5 > likeness[-1]
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


@pytest.mark.slow
def test_tiny_overfits_256_molecules(tmp_path):
    """99 % exact greedy reconstruction of molecules it was trained on, through the example."""
    source = tmp_path / "molecules.smi"
    lines = (ROOT / "examples" / "data" / "moses_test.smi").read_text().splitlines()[:256]
    source.write_text("\n".join(lines))
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "pretrain.py"),
         str(ROOT / "examples" / "configs" / "overfit.yaml"), "--train_sources", str(source),
         "--validation_sources", str(source), "--output_dir", str(tmp_path / "run")],
        check=True, timeout=500,
    )  # fmt: skip
    card = (tmp_path / "run" / "README.md").read_text()
    exact = float(re.search(r"eval_exact_reconstruction \| (\S+)", card).group(1))
    assert exact >= 0.99


@pytest.mark.slow
def test_the_embedding_benchmark_measures_each_way(tmp_path):
    options = ["--rows", 400, "--few_rows", 100, "--shard_rows", 300, "--rounds", 1, "--workers", 1]
    options += ["--checkpoints", TINY, "--representations", "latent", "--memory_rows", 500]
    embedding.main([*map(str, options), "--output", str(tmp_path)])
    measured = json.loads((tmp_path / "embedding.json").read_text())
    (row,) = measured["ends"]
    alone = 1 / (1 / row["read, one core"] + 1 / row["embed, one core"])
    assert 0 < row["file to shards, one process"] < 3 * alone
    limit = row["by processes"] / row["share of the limit"]
    assert limit == pytest.approx(measured["threads"] * alone)
    assert 100 < measured["memory"][0]["peak MiB"] < 4000
    assert measured["beside"][0]["molecules/s"] > 100
    assert "| by processes |" in (tmp_path / "embedding.md").read_text()


def test_optimize_searches_draws_and_goes_on(tmp_path, run_example):
    own, table, picture = (tmp_path / name for name in ("own.py", "t.csv", "p.png"))
    own.write_text(
        "from cmim_hf.optimization.scorers import batch_scorer\n"
        "@batch_scorer\ndef size(smiles):\n    return [len(one) for one in smiles]\n"
    )
    options = ["--count", 2, "--budget", 6, "--table", table, "--picture", picture]
    options += ["--min_similarity", 0.1, "--scorers", "qed=2", f"{own}:size=-0.01"]
    assert "molecules improved" in run_example("optimize.py", *options)
    assert picture.read_bytes().startswith(b"\x89PNG")
    scored = table.read_text()
    assert len(scored.splitlines()) == 1 + 2 * 6
    run_example("optimize.py", *options)
    assert table.read_text() == scored  # nothing was scored twice


def test_the_optimization_benchmark_compares_with_random_draws(tmp_path):
    figures, picture = tmp_path / "f.json", tmp_path / "p.png"
    options = ["--checkpoint", TINY, "--count", 2, "--skip", 2, "--budget", 8, "--compare_random"]
    optimization.main([*map(str, options), "--json", str(figures), "--picture", str(picture)])
    measured = json.loads(figures.read_text())
    for strategy in ("evolution", "random"):
        assert measured[strategy]["seeds"] == 2 and measured[strategy]["gain"] >= 0
        assert 1 <= measured[strategy]["calls_per_seed"] <= 8
    assert measured["difference"]["low"] <= measured["difference"]["mean"]
    assert picture.read_bytes().startswith(b"\x89PNG") and "command" in measured


def test_the_optimization_benchmark_keeps_scaffolds(tmp_path):
    figures, table = tmp_path / "f.json", tmp_path / "t.csv"
    options = ["--checkpoint", TINY, "--count", 2, "--budget", 6, "--min_similarity", 0.2,
               "--keep_scaffold", "--goal", 2, "--table", table]  # fmt: skip
    optimization.main([*map(str, options), "--json", str(figures)])
    assert json.loads(figures.read_text())["evolution"]["seeds"] == 2
    for number in (0, 1):
        found = pd.read_csv(table.with_stem(f"t-{number}"))["smiles"]
        scaffold = Chem.MolFromSmiles(MurckoScaffold.MurckoScaffoldSmiles(found[0]))
        assert all(Chem.MolFromSmiles(one).HasSubstructMatch(scaffold) for one in found)


def test_the_decoding_benchmark_compares_tokens_and_time(tmp_path):
    options = ["--checkpoint", TINY, "--rows", 40, "--batch_sizes", 8, 40, "--repeats", 1]
    decoding.main([*map(str, options), "--output", str(tmp_path)])
    measured = json.loads((tmp_path / "decoding.json").read_text())
    assert measured["tokens"] == {"rows": 40, "differing": 0, "differing_untied": 0}
    assert [one["batch_size"] for one in measured["speed"]] == [8, 40]
    for one in measured["speed"]:
        assert 10 < one["tokens_per_molecule"] < 30 and 0 < one["ours_share_of_limit"] < 1
    assert "differ from those of `generate`: 0," in (tmp_path / "decoding.md").read_text()


@pytest.mark.slow
def test_the_throughput_benchmark_times_every_part_and_the_peers(tmp_path):
    command = [
        sys.executable, "-m", "examples.benchmarks.speed.throughput", "--size", "tiny", "--rows",
        64, "--batch_size", 8, "--steps", 1, "--rounds", 1, "--loss_sizes", 64, "--decode_sizes",
        8, "--json", tmp_path / "speed.json",
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, timeout=500, cwd=ROOT)
    measured = json.loads((tmp_path / "speed.json").read_text())
    assert measured["command"].startswith("python -m examples.benchmarks.speed.throughput --size")
    train = measured["train"]
    assert [row["model"] for row in train] == 2 * ["cMIM", "T5", "BART"]
    sizes = [int(row["parameters"].replace(",", "")) for row in train]
    assert max(sizes) <= 1.01 * min(sizes)
    for part in ("train", "embed", "decode"):
        assert all(row["molecules/s"] > 0 for row in measured[part])
        assert 0 < measured[part][0]["share of limit"] < 1
    assert [row["embedding"] for row in measured["embed"]][1:4] == [
        "ChemBERTa-77M shape", "MoLFormer-XL shape", "ECFP4 of RDKit",
    ]  # fmt: skip
    assert {row["loss"] for row in measured["loss"]} >= {"ours, tiles", "CLIP, whole"}
    assert [row["loading processes"] for row in measured["data"]] == ["0", "2"]


def test_the_demo_leaves_a_page_and_a_picture(tmp_path, run_example):
    options = ["--budget", 30, "--drug", "lidocaine", "--output", tmp_path]
    printed = run_example("demo.py", *options)
    exact = int(re.search(r"(\d) of 8 drugs come back exactly", printed)[1])
    assert exact >= 1
    before, after = map(float, re.search(r"QED (0\.\d+) to (0\.\d+) with 30 ", printed).groups())
    assert before == 0.849 and after >= before
    best, *errors = re.search(r"Solubility: (\w+).*off:(.*)\.", printed, re.DOTALL).groups()
    found = dict(re.findall(r"(embeddings|ECFP4|descriptors|labels) by (\d\.\d\d)", errors[0]))
    assert 0.4 < float(found["embeddings"]) < float(found["ECFP4"]) < float(found["labels"])
    assert min(found, key=lambda one: float(found[one])) == best
    assert len(re.findall(r"\(\d+\.\d s\)$", printed, re.MULTILINE)) == 6
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == page.count("<h2>") == 6
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
