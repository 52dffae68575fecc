# SPDX-License-Identifier: Apache-2.0
"""The faster products and attention of a CPU give what torch's own give."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.profiler import ProfilerActivity, profile

from cmim_hf import CMIMConfig, CMIMModel
from cmim_hf.cpu_attention import ATTENTION, one_query_attention, short_attention
from cmim_hf.cpu_kernels import linear, slow_down, sped_up, speed_up
from cmim_hf.model.decoding_cmim import ModuleSteps, decode_latents

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


def test_products_are_torchs(factors):
    x, weight = factors
    with torch.no_grad():
        torch.testing.assert_close(
            linear(x, weight), functional.linear(x, weight), rtol=1e-5, atol=1e-5
        )


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
    assert "mkldnn::_linear_pointwise" in names_of(lambda: linear(x, weight))
    for values, factor in ((x[:2], weight), (x.double(), weight.double())):
        assert "mkldnn::_linear_pointwise" not in names_of(lambda v=values, f=factor: linear(v, f))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def packed_short_attention(packed, mask, is_causal):
    return short_attention(*packed.transpose(1, 3).unbind(2), mask, is_causal)


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
    for attention in (packed_short_attention, fused_attention):
        attended = attention(packed, mask, kind == "causal")
        (gradient,) = torch.autograd.grad(attended.pow(3).sum(), packed)
        results.append((attended, gradient))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_row_without_any_key_stays_finite():
    packed = torch.randn(3, 5, 3, 2, 16, requires_grad=True)
    mask = torch.zeros(3, 1, 5, 5, dtype=torch.bool)
    attended = packed_short_attention(packed, mask, False)
    attended.sum().backward()
    assert attended.isfinite().all() and packed.grad.isfinite().all()


@pytest.mark.parametrize("rows", [1, 5, 300])  # one block, and several
def test_attention_of_one_query_is_torchs(rows):
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 700, rows, 2, 16, generator=generator).permute(0, 2, 3, 1, 4)
    query = torch.randn(rows, 2, 1, 16, generator=generator)
    expected = functional.scaled_dot_product_attention(query, keys, values).transpose(1, 2)
    found = one_query_attention(query, keys, values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids = torch.randint(5, 64, (16, 20))
    mask = (torch.arange(20) < torch.randint(5, 21, (16, 1))).long()
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(params=[1, 3])
def models(request):
    """The same model twice: plain and sped up."""
    torch.manual_seed(0)
    config = CMIMConfig.from_size("tiny", vocab_size=64, num_latents=request.param)
    plain = CMIMModel(config).eval()
    faster = copy.deepcopy(plain)
    speed_up(faster)
    return plain, faster


@pytest.mark.parametrize(("is_mixed", "error"), [(False, 1e-4), (True, 0.1)])
def test_losses_and_gradients_are_those_of_the_plain_model(models, batch, is_mixed, error):
    """Of a training step with padding; in mixed precision as near as its eight bits are."""
    plain, faster = models
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def step(model, is_mixed=is_mixed):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            loss = model(**batch, labels=labels, sample_latents=True).loss
        loss.backward()

    assert "_ShortAttention" in names_of(lambda: step(faster))
    assert "_ShortAttention" not in names_of(lambda: step(plain, is_mixed=False))
    for (name, ours), expected in zip(faster.named_parameters(), plain.parameters(), strict=True):
        scale = expected.grad.norm() + 1e-12
        assert (ours.grad - expected.grad).norm() < error * scale, name


@pytest.mark.skipif(not ON_X86, reason="oneDNN is used on x86 only")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_applied_within_the_product_where_no_gradient_is_needed(models, batch, dtype):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no products in bfloat16")
    plain, faster = (model.to(dtype) for model in models)
    with torch.no_grad():
        without = names_of(lambda: faster(**batch))
        ours, expected = (model.get_latents(**batch).double() for model in (faster, plain))
    assert "mkldnn::_linear_pointwise" in without and "aten::gelu" not in without
    assert "aten::gelu" in names_of(lambda: faster(**batch))
    assert (ours - expected).norm() < 4 * torch.finfo(dtype).eps * expected.norm()


def test_a_cache_filled_by_one_is_read_by_the_other(models, batch):
    plain, faster = models
    with torch.no_grad():
        latents = plain.get_latents(**batch)
        expected = plain(decoder_input_ids=batch["input_ids"], latents=latents).logits[:, -1]
        for first, second in ((plain, faster), (faster, plain)):
            begun = first(
                decoder_input_ids=batch["input_ids"][:, :-1], latents=latents, use_cache=True
            )
            found = second(
                decoder_input_ids=batch["input_ids"][:, -1:],
                latents=latents,
                past_key_values=begun.past_key_values,
            ).logits[:, -1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_stands_in_a_modules_place_is_called(models, batch):
    """Hooks set before and after, another module, a pruned weight."""
    plain, _ = models
    called = []
    layer = plain.encoder.layers[0]
    layer.self_attn.qkv_proj.register_forward_hook(lambda *_: called.append("before"))
    layer.feed_forward.down_proj = nn.Sequential(layer.feed_forward.down_proj)
    prune.l1_unstructured(plain.encoder.layers[1].feed_forward.up_proj, "weight", 0.5)
    expected = plain(**batch).logits
    called.clear()
    with sped_up(plain):
        decoder = plain.decoder.layers[0]
        for place in (
            layer.feed_forward.up_proj,
            decoder.self_attn.qkv_proj,
            decoder.feed_forward.activation,
        ):
            place.register_forward_hook(lambda *_: called.append("after"))
        with torch.no_grad():
            found = plain(**batch).logits
    assert called == ["before", "after", "after", "after"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def single():
    """A model of one code, sped up, and codes of it."""
    torch.manual_seed(0)
    model = CMIMModel(CMIMConfig.from_size("tiny", vocab_size=64)).eval()
    speed_up(model)
    return model, torch.randn(20, 1, model.config.latent_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [9, 200, 2 * ROWS])  # by turned weights, both, faster products
@torch.inference_mode()
def test_steps_without_modules_give_the_logits_of_modules(single, rows, dtype):
    """Also of the half that is kept, and behind as many tokens as there was room for at first."""
    model, _ = single
    latents = torch.randn(rows, 1, model.config.latent_size).to(dtype)
    ours, modules = model.decoder.steps(model, latents), ModuleSteps(model, latents)
    assert not isinstance(ours, ModuleSteps)
    for number in range(40):
        last = torch.randint(64, (rows,))
        expected = modules(last)
        assert (ours(last) - expected).norm() < 1e-5 * expected.norm()
        if number == 12:
            kept = torch.arange(0, rows, 2)
            rows = len(kept)
            ours.keep(kept)
            modules.keep(kept)


def test_codes_are_written_to_the_longest_row(single):
    model, latents = single
    model.config.eos_token_id = 64  # never
    assert decode_latents(model, latents).shape == (20, model.config.max_position_embeddings + 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.decoder.layers[1].norm.register_forward_hook(lambda *_: None),
        lambda model: model.lm_head.register_forward_pre_hook(lambda *_: None),
        lambda model: prune.identity(model.decoder.layers[0].self_attn.out_proj, "weight"),
        lambda model: model.decoder.layers[0].feed_forward.register_module(
            "up_proj", nn.Identity()
        ),
        lambda model: model.set_attn_implementation("eager"),
        lambda model: model.decoder.layers[0].dropout.train(),
        lambda model: model.train(),
        lambda model: model.double(),
        lambda model: model.set_submodule("decoder", Wrapper(model.decoder).eval()),
    ],
    ids=[
        *("hook", "hook of the head", "pruned", "another module", "another attention"),
        *("a dropout in training", "training", "double", "wrapped"),
    ],
)
def test_a_decoder_that_is_not_as_it_was_made_writes_by_its_modules(single, change):
    model, latents = single
    assert not isinstance(model.decoder.steps(model, latents), ModuleSteps)
    change(model)
    assert isinstance(model.decoder.steps(model, latents), ModuleSteps)


class Wrapper(nn.Module):
    """Stands in the decoder's place and passes on what it is asked for."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


def test_several_codes_autocast_and_global_hooks_are_the_modules(models, single):
    _, faster = models
    model, latents = single
    if faster.config.num_latents > 1:
        several = torch.randn(2, 3, faster.config.latent_size)
        assert isinstance(faster.decoder.steps(faster, several), ModuleSteps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert isinstance(model.decoder.steps(model, latents), ModuleSteps)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert isinstance(model.decoder.steps(model, latents), ModuleSteps)
    finally:
        handle.remove()


def test_what_transformers_records_is_there_too(models, batch):
    for model in models:
        found = model(**batch, output_hidden_states=True)
        assert len(found.decoder_hidden_states) == 1 + model.config.decoder_layers
        assert found.encoder_hidden_states is not None


def test_a_hook_in_the_decoder_hears_every_token(single):
    model, latents = single
    expected, heard = decode_latents(model, latents, max_length=9), []
    model.decoder.layers[1].feed_forward.register_forward_hook(lambda *_: heard.append(1))
    assert torch.equal(decode_latents(model, latents, max_length=9), expected)
    assert len(heard) == 8


def test_a_model_is_plain_again_afterwards_and_what_it_saves_too(models, tmp_path):
    plain, faster = models
    kinds = [type(module) for module in plain.modules()]
    assert [type(module) for module in faster.modules()] != kinds
    assert faster.config._attn_implementation == ATTENTION
    faster.save_pretrained(tmp_path)
    loaded = CMIMModel.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    with sped_up(faster):
        pass
    assert faster.config._attn_implementation == ATTENTION  # it was before
    slow_down(faster)
    for model in (faster, loaded):
        assert [type(module) for module in model.modules()] == kinds
    assert faster.config._attn_implementation == "sdpa"
