# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of growing costs counts, fits and writes; no test looks at how fast it is."""

import json
import math
import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cmim_hf import DEFAULT_CHECKPOINT, CMIMConfig
from cmim_hf.training.contrastive import contrastive_log_prob
from examples.benchmarks.speed import scaling, scaling_points
from examples.benchmarks.speed.scaling_fit import exponent, exponent_rows, measure, point_rows
from examples.benchmarks.speed.scaling_points import Point, contrastive_flops, training_flops
from examples.benchmarks.speed.scaling_processes import Job, Ranks, shared_ways
from examples.benchmarks.speed.throughput_training import Setting, random_text


def hand_count(batch, length, vocab_size):
    """Operations of a training step of `tiny`: 96 wide, 256 between, 2 and 2 layers, 1 code of 96.

    Each token passes four projections and a feed-forward block in each layer, the keys and values
    of the posterior and its one query, and the logits; it attends to all in the encoder, and to
    half in the decoder. Each row passes the posterior's output and two heads; the decoder's memory,
    and of it values and output in each layer.
    """
    layer = 4 * 96 * 96 + 2 * 96 * 256
    token = 4 * layer + 2 * 96 * 96 + 2 * 96 + 96 * vocab_size
    attention = 2 * 2 * 96 * length + 2 * 2 * 96 * (length + 1) / 2
    row = (1 + 2) * 96 * 96 + (1 + 2 * 2) * 96 * 96
    return 6 * batch * (length * (token + attention) + row) + 6 * batch**2 * 96


def points(works, calls):
    def visit(place):
        calls.append(place)
        return 1.0 + place

    def limit():
        calls.append("limit")
        return 50.0

    return [
        Point(work, at, flops, lambda place=place: visit(place), limit)
        for place, (work, at, flops) in enumerate(works)
    ]


def test_the_exponent_of_a_power_law_is_found():
    rows = [1000, 4000, 16000, 64000]
    assert exponent(rows, [3e-5 * n**1.7 for n in rows]) == pytest.approx(1.7)
    assert exponent(rows, [0.5 * n for n in rows]) == pytest.approx(1)
    assert exponent(rows, [0.1 + 1e-4 * n for n in rows]) < 0.99  # what is constant flattens it
    assert math.isnan(exponent([1000], [1.0]))


def test_training_is_counted_as_by_hand():
    config = CMIMConfig.from_size("tiny", vocab_size=100)
    for batch, length in ((256, 10), (8, 320)):
        assert training_flops(config, batch, length) == hand_count(batch, length, 100)
    # of equally many tokens: more attention, fewer rows, fewer pairs
    assert training_flops(config, 8, 320) / training_flops(config, 256, 10) == pytest.approx(
        8 * (320 * 372480 + 320**2 * 576 + 73728 + 8 * 96)
        / (256 * (10 * 372480 + 10**2 * 576 + 73728 + 256 * 96))
    )  # fmt: skip


def test_the_contrastive_term_is_counted_as_what_it_needs():
    codes = torch.randn(12, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        contrastive_log_prob(codes, temperature=0.1).mean().backward()
    pairs = 2 * 12 * 12 * 8
    assert counted.get_total_flops() == 2 * pairs  # it knows no product in place
    assert contrastive_flops(12, 8) == pairs + 2 * pairs


def test_each_round_asks_the_limit_and_visits_all_points_in_another_order():
    calls = []
    found = points([("a", 1, 10.0), ("a", 2, 20.0), ("b", 1, 5.0), ("b", 4, 80.0)], calls)
    seconds, shares = measure(found, rounds=5)
    rounds = [calls[start : start + 5] for start in range(0, 25, 5)]
    assert all(one[0] == "limit" and sorted(one[1:]) == [0, 1, 2, 3] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1 and len(calls) == 25
    assert seconds.tolist() == 5 * [[1.0, 2.0, 3.0, 4.0]]
    assert shares[0] == pytest.approx([10 / 50, 10 / 50, 5 / 150, 20 / 50])


def test_rows_compare_the_median_with_the_first_of_the_same_work():
    found = points([("a", 1, 10.0), ("a", 4, 40.0), ("b", 1, 5.0), ("b", 4, 80.0)], [])
    seconds = np.array([[1.0, 2.0, 3.0, 24.0], [1.0, 3.0, 3.0, 24.0], [9.0, 8.0, 3.0, 24.0]])
    rows = point_rows(found, seconds, np.ones((3, 4)), "rows")
    assert [row["rows"] for row in rows] == [1, 4, 1, 4]
    assert [row["seconds"] for row in rows] == [1.0, 3.0, 3.0, 24.0]
    assert [row["predicted"] for row in rows] == [1.0, 4.0, 1.0, 16.0]
    assert [row["measured / predicted"] for row in rows] == [1.0, 0.75, 1.0, 0.5]
    assert [row["(max - min) / median"] for row in rows] == [8.0, 2.0, 0.0, 0.0]
    first, second = exponent_rows(found, seconds)
    assert (first["predicted"], second["predicted"]) == pytest.approx((1.0, 2.0))
    assert first["exponent"] == pytest.approx(math.log(3, 4))
    assert first["from"] < first["exponent"] < first["to"]
    assert second["from"] == pytest.approx(1.5) == second["to"]  # the rounds agree: 8 = 4 ** 1.5


def test_random_text_has_the_lengths_asked_for_and_repeats_nothing(tokenizer):
    lengths = np.random.default_rng(0).integers(6, 40, 2000)
    texts = random_text(lengths)
    assert len(set(texts)) == 2000
    assert [len(ids) for ids in tokenizer(texts)["input_ids"]] == lengths.tolist()
    assert len(set(random_text([3] * 25))) == 25
    with pytest.raises(ValueError, match="26 rows of 3 tokens"):
        random_text([3] * 26)


def test_rows_of_a_source_count_once(tmp_path):
    source = tmp_path / "molecules.smi"
    source.write_text("CC\nCO\nCC\nCN\n")
    assert scaling.molecules(str(source), 3) == ["CC", "CO", "CN"]
    with pytest.raises(SystemExit, match="3 distinct rows; 4 are asked for"):
        scaling.molecules(str(source), 4)


def run(*options):
    scaling.main(list(map(str, options)))


def test_cores_are_shared_out_and_no_way_is_taken_twice():
    assert shared_ways([2], cores=2) == [(1, 1), (1, 2), (2, 1)]
    assert shared_ways([1, 2, 4], cores=8) == [(1, 1), (1, 8), (2, 4), (4, 2)]
    assert shared_ways([2, 4], cores=1) == [(1, 1), (2, 1), (4, 1)]


@pytest.mark.slow
def test_the_benchmark_writes_every_curve_with_its_prediction(monkeypatch, tmp_path, tokenizer):
    limit = 1e15  # operations a second, which no share of it reaches 1 with
    monkeypatch.setattr(scaling_points, "gemm_rate", lambda *_: limit)
    monkeypatch.setattr(scaling_points, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(scaling.os, "cpu_count", lambda: 1)
    run(
        "--batch_sizes", 2, 4, "--lengths", 10, 20, "--sizes", "tiny", "small",
        "--rows", 8, 32, "--tokens", 80, "--shared_batch", 4, "--shared_rows", 16, "--rounds", 1,
        "--device", "cpu", "--json", tmp_path / "new" / "s.json",
    )  # fmt: skip
    assert not multiprocessing.active_children()
    measured = json.loads((tmp_path / "new" / "s.json").read_text())
    every = ["training", "embedding", "decoding", "contrastive term"]
    works = {"batch": every, "length": every[:3], "size": every, "rows": ["embedding"]}
    for part, expected in works.items():
        axis = scaling.AXES[part]
        rows = measured[part]["points"]
        assert sorted(row["work"] for row in rows) == sorted(2 * expected)
        for fit in measured[part]["exponents"]:
            first, second = (row for row in rows if row["work"] == fit["work"])
            assert first["predicted"] == first["times the first"] == 1 and first["seconds"] > 0
            times = second["seconds"] / first["seconds"]
            assert second["times the first"] == pytest.approx(times)
            assert second["measured / predicted"] == pytest.approx(times / second["predicted"])
            done = [row["seconds"] * row["share of limit"] * limit for row in (first, second)]
            assert done[1] / done[0] == pytest.approx(second["predicted"])
            doublings = math.log2(second[axis] / first[axis])
            assert fit["exponent"] * doublings == pytest.approx(math.log2(times))
            assert fit["predicted"] * doublings == pytest.approx(math.log2(second["predicted"]))
    batch, length = (measured[part]["points"] for part in ("batch", "length"))
    vocab_size = len(tokenizer)
    trained = hand_count(4, 40, vocab_size) / hand_count(2, 40, vocab_size)
    assert [row["predicted"] for row in batch] == [1, trained, 1, 2, 1, 2, 1, 4]
    trained = hand_count(4, 20, vocab_size) / hand_count(8, 10, vocab_size)
    assert length[1]["predicted"] == trained
    assert 1.9 < length[-1]["predicted"] < 2.1  # of as many codes, twice the tokens
    assert [row["rows"] for row in measured["rows"]["points"]] == [8, 32]
    assert measured["size"]["parameters"]["small"] > 5 * measured["size"]["parameters"]["tiny"]
    ways = measured["processes"]["ways"]
    assert [(row["work"], row["processes"], row["threads of each"]) for row in ways] == [
        (work, processes, 1) for work in ("training", "embedding") for processes in (1, 2)
    ]
    for one, two in (ways[:2], ways[2:]):
        assert one["molecules/s"] > 0 and one["times 1 process, 1 thread"] == 1
        times = two["molecules/s"] / one["molecules/s"]
        assert two["times 1 process, 1 thread"] == pytest.approx(times)
        assert two["times 1 process, all threads"] == pytest.approx(times)
    page = (tmp_path / "new" / "s.md").read_text()
    assert "](s.png)" in page and all(f"\n## {part}\n" in page for part in scaling.PARTS)
    assert (tmp_path / "new" / "s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options, said",
    [
        (["--what", "rows", "height"], "not height"),
        (["--tokens", 100], "no molecule of 320 tokens"),
        (["--shared_batch", 5], "cannot be shared"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(options, said):
    with pytest.raises(SystemExit, match=said):
        run(*options)


def job(tokenizer, smiles):
    config = CMIMConfig.from_size("tiny", vocab_size=len(tokenizer))
    setting = Setting(config, tokenizer, torch.device("cpu"), 6, 3, bf16=False, compile=False)
    return Job(setting, DEFAULT_CHECKPOINT, smiles)


@pytest.mark.slow
def test_processes_share_the_batch_and_the_rows(tokenizer):
    with Ranks(job(tokenizer, ["CC", "CO", "CN"]), 2, 1) as ranks:
        trained, _ = ranks.visit("training")
        embedded, _ = ranks.visit("embedding")
    assert trained == 3 * 6 and embedded == 3
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_dies_is_noticed_and_the_others_end(tokenizer):
    shared = job(tokenizer, ["CC", "not a molecule"])
    with pytest.raises(RuntimeError, match="A process has died"), Ranks(shared, 2, 1) as ranks:
        ranks.visit("embedding")
    assert not multiprocessing.active_children()
