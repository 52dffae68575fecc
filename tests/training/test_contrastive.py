# SPDX-License-Identifier: Apache-2.0
"""Contrastive terms against loops over the formulas, closed forms and each other."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cmim_hf.training import contrastive
from cmim_hf.training.contrastive import contrastive_log_prob, info_nce_loss, mean_cosine

KEYS = torch.tensor([4, 7, 4, 1, 7, 4, 9])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only wait for each other at these sizes where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[1024, 2], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(contrastive, "_TILE", request.param)


def codes(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def close(actual, expected, atol=1e-12):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=atol)


def cosine(first, second):
    first, second = np.ravel(first), np.ravel(second)
    return first @ second / math.sqrt((first @ first) * (second @ second))


def contrastive_by_loops(latents, offset, batch, temperature, keys):
    values = []
    for i in range(offset, offset + batch):
        terms = [
            math.exp(cosine(latents[i], latents[j]) / temperature)
            for j in range(len(latents))
            if keys[j] != keys[i]
        ]
        own = math.exp(1 / temperature)
        values.append(math.log(own / (own + sum(terms) / len(terms))) if terms else 0.0)
    return values


def info_nce_by_loops(first, second, offset, batch, temperature, keys):
    values = []
    for i in range(offset, offset + batch):
        value = 0.0
        for one, other in ((first, second), (second, first)):
            own = math.exp(cosine(one[i], other[i]) / temperature)
            rest = sum(
                math.exp(cosine(one[i], other[j]) / temperature)
                for j in range(len(first))
                if keys[j] != keys[i]
            )
            value -= 0.5 * math.log(own / (own + rest))
        values.append(value)
    return values


@pytest.mark.parametrize("keys", [None, KEYS], ids=["unique", "keys"])
@pytest.mark.usefixtures("tiles")
def test_contrastive_against_loops(keys):
    latents = codes(7, 2, 3)
    numbers = range(7) if keys is None else keys.tolist()
    for offset, batch in ((0, 7), (2, 3), (6, 1)):
        value = contrastive_log_prob(
            latents[offset : offset + batch],
            latents,
            temperature=0.4,
            offset=offset,
            keys=keys,
        )
        close(value, contrastive_by_loops(latents.numpy(), offset, batch, 0.4, numbers))


@pytest.mark.parametrize("keys", [None, KEYS], ids=["unique", "keys"])
def test_info_nce_against_loops(keys):
    first, second = codes(7, 2, 3), codes(7, 2, 3, seed=1)
    numbers = range(7) if keys is None else keys.tolist()
    for offset, batch in ((0, 7), (2, 3)):
        rows = slice(offset, offset + batch)
        value = info_nce_loss(
            first[rows], second[rows], first, second, temperature=0.4, offset=offset, keys=keys
        )
        close(value, info_nce_by_loops(first.numpy(), second.numpy(), offset, batch, 0.4, numbers))
    close(
        info_nce_loss(first, second, temperature=0.4, keys=keys),
        info_nce_loss(first, second, first, second, temperature=0.4, keys=keys).detach(),
    )


@pytest.mark.usefixtures("tiles")
def test_gradients_of_anchors_and_of_all_rows():
    def log_prob(anchors, latents):
        return contrastive_log_prob(anchors, latents, temperature=0.6, offset=2, keys=KEYS)

    def info_nce(first, second, all_first, all_second):
        return info_nce_loss(
            first, second, all_first, all_second, temperature=0.6, offset=2, keys=KEYS
        )

    inputs = [codes(rows, 2, 2, seed=rows + s).requires_grad_() for rows in (3, 7) for s in (0, 9)]
    assert torch.autograd.gradcheck(log_prob, (inputs[0], inputs[2]), atol=1e-8)
    assert torch.autograd.gradcheck(info_nce, tuple(inputs), atol=1e-8)


@pytest.mark.usefixtures("tiles")
def test_contrastive_closed_forms():
    value = contrastive_log_prob
    same, orthogonal = torch.ones(5, 3).double(), 3.0 * torch.eye(5).double()
    close(value(same, temperature=0.1), [-math.log(2)] * 5)
    close(value(orthogonal, temperature=0.5), [-math.log1p(math.exp(-2))] * 5)
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]]).double()
    close(value(opposite, temperature=1.0), [-math.log1p(math.exp(-2))] * 2)
    latents = codes(4, 3)
    twice, keys = latents.repeat(2, 1), torch.arange(4).repeat(2)
    once = value(latents, temperature=0.3)
    close(value(twice, temperature=0.3, keys=keys), once.repeat(2))


def test_info_nce_closed_form():
    same = torch.ones(5, 3).double()
    close(info_nce_loss(same, same, temperature=0.1), [math.log(5)] * 5)
    keys = torch.tensor([0, 0, 0, 1, 2])
    close(info_nce_loss(same, same, temperature=0.1, keys=keys), np.log([3, 3, 3, 5, 5]))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    "latents",
    [
        torch.zeros(4, 3),
        torch.full((4, 3), 1e30),
        1e-30 * torch.eye(4),
        torch.eye(4),
        -torch.ones(1, 2),
    ],
    ids=["zero", "huge", "tiny", "orthogonal", "one"],
)
@pytest.mark.parametrize("temperature", [1e-10, 1e4])
def test_extreme_inputs_stay_finite(latents, temperature):
    latents = latents.clone().requires_grad_()
    value = contrastive_log_prob(latents, temperature=temperature)
    value.sum().backward()
    assert value.isfinite().all() and latents.grad.isfinite().all()
    second = torch.flip(latents.detach(), [0]).requires_grad_()
    loss = info_nce_loss(latents, second, temperature=temperature)
    loss.sum().backward()
    assert loss.isfinite().all() and second.grad.isfinite().all()


@pytest.mark.usefixtures("tiles")
def test_duplicates_stay_finite_where_rounding_lifts_cosines_over_one():
    latents = codes(32, 7, dtype=torch.float32).repeat(2, 1)
    units = latents / latents.norm(dim=1, keepdim=True)
    assert (units @ units.T).max() > 1
    assert contrastive_log_prob(latents, temperature=1e-10).isfinite().all()


@pytest.mark.parametrize("scale", [1e-9, 1e30])
def test_value_does_not_depend_on_the_length_of_codes(scale):
    latents = codes(5, 3, dtype=torch.float32)
    scaled = (scale * latents).requires_grad_()
    latents.requires_grad_()
    values = [contrastive_log_prob(leaf, temperature=0.5) for leaf in (scaled, latents)]
    assert values[1].min() < -0.1
    close(values[0], values[1].detach(), 1e-6)
    for value in values:
        value.sum().backward()
    torch.testing.assert_close(scaled.grad * scale, latents.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("tiles")
def test_without_negatives_value_and_gradient_are_zero():
    for batch, keys in ((1, None), (3, torch.tensor([5, 5, 5]))):
        latents = codes(batch, 4).requires_grad_()
        value = contrastive_log_prob(latents, temperature=0.1, keys=keys)
        close(value, [0.0] * batch, 0.0)
        value.sum().backward()
        close(latents.grad, np.zeros((batch, 4)), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_tiles_equal_one_on_a_large_batch(dtype, monkeypatch):
    latents = 0.1 * (codes(1100, 128, dtype=dtype) + 1.0)
    results = []
    for tile in (2048, 256):
        monkeypatch.setattr(contrastive, "_TILE", tile)
        leaf = latents.clone().requires_grad_()
        value = contrastive_log_prob(leaf, temperature=0.5)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
    atol = 1e-6 if dtype == torch.float32 else 1e-14
    for whole, tiled in zip(*results, strict=True):
        assert whole.abs().max() > 1e-2
        torch.testing.assert_close(tiled, whole, rtol=0, atol=atol)


MEASURE_MEMORY = """
import sys, torch
from cmim_hf.training import contrastive
from cmim_hf.training.contrastive import contrastive_log_prob

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

def step(batch, size):
    latents = torch.randn(batch, size, requires_grad=True)
    before = peak()
    contrastive_log_prob(latents, temperature=0.1).sum().backward()
    return peak() - before

torch.set_num_threads(1)
batch, size = map(int, sys.argv[1:])
step(64, size)
print(step(batch, size))
"""


def extra_mebibytes(batch, size):
    """Peak memory of one forward and backward pass in a fresh process, beside the codes."""
    command = [sys.executable, "-c", MEASURE_MEMORY, str(batch), str(size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.size = max(self.size, made.numel())
        return made


def test_the_matrix_is_never_held(monkeypatch):
    monkeypatch.setattr(contrastive, "_TILE", 16)
    latents = codes(200, 8).requires_grad_()
    with Largest() as seen:
        contrastive_log_prob(latents, temperature=0.1).sum().backward()
    assert seen.size == 200 * 8


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.slow
def test_a_batch_of_32768_stays_under_512_mebibytes():
    assert extra_mebibytes(32768, 512) < 512


def test_the_backward_pass_under_autocast_is_not_lowered():
    latents = codes(6, 4, dtype=torch.float32).requires_grad_()
    value = contrastive_log_prob(latents, temperature=0.1).sum()
    (plain,) = torch.autograd.grad(value, latents, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (lowered,) = torch.autograd.grad(value, latents)
    close(lowered, plain, 0.0)


def test_mean_cosine_is_the_mean_over_pairs():
    latents = codes(6, 2, 2).numpy()
    pairs = [cosine(latents[i], latents[j]) for i in range(6) for j in range(6) if i != j]
    close(mean_cosine(torch.from_numpy(latents)), np.mean(pairs))
    assert mean_cosine(torch.ones(1, 3)).isnan()
