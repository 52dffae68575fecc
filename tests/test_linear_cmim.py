# SPDX-License-Identifier: Apache-2.0
"""The faster products and attention of a CPU give what torch's own give."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers.activations import ACT2FN

from cmim_hf import CMIMConfig, CMIMModel, layers_cmim, linear_cmim
from cmim_hf.attention_cmim import short_attention
from cmim_hf.linear_cmim import CMIMLinear, linear

ROWS = 300  # enough for the faster products
ON_X86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def names_of(work):
    with profile(activities=[ProfilerActivity.CPU]) as record:
        work()
    return {event.key for event in record.key_averages()}


@pytest.fixture
def factors():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS // 4, 4, 24, generator=generator)
    weight = torch.randn(40, 24, generator=generator)
    return x, weight


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_pytorch_tanh", "silu"])
def test_products_and_activations_are_torchs(factors, activation):
    x, weight = factors
    function = None if activation is None else ACT2FN[activation]
    expected = functional.linear(x, weight)
    expected = expected if function is None else function(expected)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, function), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [ROWS, ROWS - 1])  # the gradient of a weight is summed in 4 parts
def test_gradients_are_torchs_first_and_second(factors, rows):
    x, weight = (factor.clone().requires_grad_() for factor in factors)

    def gradients(function):
        product = function(x.flatten(0, 1)[:rows], weight)
        first = torch.autograd.grad(product.pow(3).sum(), (x, weight), create_graph=True)
        second = torch.autograd.grad(first[0].pow(2).sum() + first[1].sum(), (x, weight))
        return [*first, *second]

    for ours, expected in zip(gradients(linear), gradients(functional.linear), strict=True):
        assert (ours - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.skipif(not ON_X86, reason="oneDNN is used on x86 only")
def test_one_dnn_works_where_it_is_faster_and_nowhere_else(factors):
    x, weight = factors
    gelu = ACT2FN["gelu_pytorch_tanh"]
    fused = names_of(lambda: linear(x, weight, gelu))
    assert "mkldnn::_linear_pointwise" in fused and "aten::gelu" not in fused
    for values, factor in ((x[:2], weight), (x.double(), weight.double())):
        assert "mkldnn::_linear_pointwise" not in names_of(lambda v=values, f=factor: linear(v, f))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    trained = weight.clone().requires_grad_()
    assert "aten::gelu" in names_of(lambda: linear(x, trained, gelu))


def test_a_linear_map_is_one_of_torch_with_the_same_weights(factors):
    x, weight = factors
    ours, plain = CMIMLinear(24, 40), nn.Linear(24, 40, bias=False)
    assert isinstance(ours, nn.Linear)
    for module in (ours, plain):
        module.load_state_dict({"weight": weight})
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


def fused_attention(packed, mask, is_causal):
    query, key, value = packed.transpose(1, 3).unbind(2)
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal
    )
    return attended.transpose(1, 2)


@pytest.mark.parametrize("length", [1, 7, 80])
@pytest.mark.parametrize("kind", ["whole", "causal", "padded", "one mask for all"])
def test_attention_of_short_rows_is_torchs(length, kind):
    generator = torch.Generator().manual_seed(0)
    shape = (101, length, 3, 2, 16)  # several blocks of rows, the last one smaller
    packed = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    real = torch.randint(1, length + 1, (101, 1), generator=generator)
    mask = None
    if kind == "padded":
        mask = (torch.arange(length) < real)[:, None, None].expand(-1, 1, length, length)
    elif kind == "one mask for all":
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    results = []
    for attention in (short_attention, fused_attention):
        attended = attention(packed, mask, kind == "causal")
        (gradient,) = torch.autograd.grad(attended.pow(3).sum(), packed)
        results.append((attended, gradient))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_row_without_any_key_stays_finite():
    packed = torch.randn(3, 5, 3, 2, 16, requires_grad=True)
    mask = torch.zeros(3, 1, 5, 5, dtype=torch.bool)
    attended = short_attention(packed, mask, False)
    attended.sum().backward()
    assert attended.isfinite().all() and packed.grad.isfinite().all()


def test_losses_and_gradients_are_those_of_the_plain_model(monkeypatch):
    """Of a training step with padding, against the same without anything of this file."""
    torch.manual_seed(0)
    model = CMIMModel(CMIMConfig.from_size("tiny", vocab_size=64))
    plain = copy.deepcopy(model)
    ids = torch.randint(5, 64, (16, 20))
    mask = (torch.arange(20) < torch.randint(5, 21, (16, 1))).long()
    labels = ids.masked_fill(mask == 0, -100)

    def step(model):
        torch.manual_seed(1)
        model(ids, mask, labels=labels, sample_latents=True).loss.backward()

    assert "_ShortAttention" in names_of(lambda: step(model))
    monkeypatch.setattr(layers_cmim, "LONGEST", 0)
    monkeypatch.setattr(linear_cmim, "_by_onednn", lambda *_: False)
    assert "_ShortAttention" not in names_of(lambda: step(plain))
    for (name, ours), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        scale = expected.grad.norm() + 1e-12
        assert (ours.grad - expected.grad).norm() < 1e-4 * scale, name
