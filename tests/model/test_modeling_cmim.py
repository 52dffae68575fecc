# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, GenerationConfig

from cmim_hf import CMIMConfig, CMIMModel
from cmim_hf.model.configuration_cmim import SIZES


def labels_of(batch):
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)


def relative(first, second):
    return ((first - second).norm() / second.norm()).item()


def left_padded(batch):
    mask = batch["attention_mask"]
    shifts = mask.shape[1] - mask.sum(dim=1)
    roll = [
        {key: value[row].roll(int(shift)) for key, value in batch.items()}
        for row, shift in enumerate(shifts)
    ]
    return {key: torch.stack([row[key] for row in roll]) for key in batch}


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [("tiny", 0.4e6, 0.5e6), ("small", 2.8e6, 3.3e6), ("base", 27e6, 33e6), ("large", 62e6, 69e6)],
)
def test_sizes_have_the_stated_number_of_parameters(size, low, high):
    with torch.device("meta"):
        parameters = CMIMModel(CMIMConfig.from_size(size)).num_parameters()
    assert low < parameters < high


@pytest.mark.parametrize(("num_latents", "posterior"), [(1, "learned"), (3, "sampled")])
def test_forward_has_the_documented_shapes(make_model, batch, num_latents, posterior):
    model = make_model(num_latents=num_latents, posterior=posterior, latent_size=24)
    output = model(**batch, labels=labels_of(batch))
    rows, length = batch["input_ids"].shape
    assert output.latents.shape == (rows, num_latents, 24)
    assert output.latent_mean.shape == output.latent_log_std.shape == output.latents.shape
    assert output.logits.shape == (rows, length, model.config.vocab_size)
    assert output.last_hidden_state.shape == (rows, length, model.config.hidden_size)
    assert output.nll.shape == (rows,)
    tokens = batch["attention_mask"].sum()
    assert output.loss.item() == pytest.approx((output.nll.sum() / tokens).item(), rel=1e-6)
    stopped = model(**batch, decode=False)
    assert stopped.logits is None
    assert torch.equal(stopped.latents, output.latents)


def test_nll_is_the_log_probability_of_the_target(model, batch):
    labels = labels_of(batch)
    output = model(**batch, labels=labels)
    log_probs = output.logits.double().log_softmax(-1)
    for row in range(len(labels)):
        expected = -sum(
            log_probs[row, position, token].item()
            for position, token in enumerate(labels[row].tolist())
            if token != -100
        )
        assert output.nll[row].item() == pytest.approx(expected, rel=1e-5)


def test_the_decoder_sees_only_the_past(model, batch):
    changed = batch["input_ids"].clone()
    changed[:, 3] = 90
    latents = model.get_latents(**batch)
    before = model(latents=latents, decoder_input_ids=batch["input_ids"]).logits
    after = model(latents=latents, decoder_input_ids=changed).logits
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-2


@pytest.mark.parametrize(("num_latents", "implementation"), [(1, "sdpa"), (3, "eager")])
def test_vectors_do_not_depend_on_batch_or_padding(
    make_model, tokenizer, molecules, num_latents, implementation
):
    model = make_model(num_latents=num_latents)
    model.set_attn_implementation(implementation)
    long = "C" * 199
    assert len(tokenizer(long)["input_ids"]) == 200
    for row, smiles in enumerate(molecules):
        alone = tokenizer([smiles], return_tensors="pt")
        among = tokenizer(molecules, padding=True, return_tensors="pt")
        beside = tokenizer([long, smiles], padding=True, return_tensors="pt")
        for method in (model.get_latents, model.get_informative_embeddings):
            one = method(**alone)[0]
            assert relative(method(**among)[row], one) <= 1e-5
            assert relative(method(**beside)[1], one) <= 1e-5
            assert relative(method(**left_padded(beside))[1], one) <= 1e-5
    first, second = model.get_latents(**among)[:2]
    assert relative(first, second) > 1e-2


@pytest.mark.parametrize("num_latents", [1, 3])
def test_attention_implementations_agree(make_model, batch, num_latents):
    model = make_model(num_latents=num_latents)
    labels = labels_of(batch)
    model.set_attn_implementation("eager")
    eager = model(**batch, labels=labels)
    for implementation in ("sdpa", "flex_attention"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            other = model(**batch, labels=labels)
        assert relative(other.nll, eager.nll) < 1e-5
        assert relative(other.latents, eager.latents) < 1e-5


def test_attentions_and_hidden_states_on_request(make_model, batch):
    model = make_model(num_latents=3)
    model.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    rows, length = batch["input_ids"].shape
    heads = model.config.num_attention_heads
    assert [a.shape for a in output.decoder_attentions] == [(rows, heads, length, length)] * 2
    assert [a.shape for a in output.cross_attentions] == [(rows, heads, length, 3)] * 2
    assert len(output.decoder_hidden_states) == len(output.encoder_hidden_states) == 3
    assert torch.equal(output.decoder_hidden_states[-1], output.last_hidden_state)


@pytest.mark.parametrize(("num_latents", "posterior"), [(1, "learned"), (3, "sampled")])
def test_every_parameter_gets_a_gradient(make_model, batch, num_latents, posterior):
    model = make_model(num_latents=num_latents, posterior=posterior).train()
    model(**batch, labels=labels_of(batch)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients(make_model, batch):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(num_latents=2).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.decoder.layers[0].gradient_checkpointing
        model(**batch, labels=labels_of(batch), sample_latents=False).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-7), name


@pytest.mark.parametrize(("num_latents", "training"), [(1, True), (3, False)])
def test_compiles_without_a_graph_break(make_model, batch, num_latents, training):
    model = make_model(num_latents=num_latents).train(training)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    labels = labels_of(batch)
    output = compiled(**batch, labels=labels, sample_latents=False)
    expected = model(**batch, labels=labels, sample_latents=False)
    assert relative(output.nll, expected.nll) < 1e-6
    compiled(**batch, labels=labels)  # with latent noise where training


def test_shapes_are_known_without_data(tokenizer):
    with torch.device("meta"):
        model = CMIMModel(CMIMConfig.from_size("tiny", vocab_size=len(tokenizer)))
        ids = torch.ones(2, 7, dtype=torch.long)
        output = model(ids)
    assert output.logits.shape == (2, 7, len(tokenizer)) and output.logits.device.type == "meta"


def test_save_and_load_give_equal_outputs(make_model, batch, tmp_path):
    model = make_model(num_latents=2, posterior="sampled")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    expected = model(**batch, labels=labels_of(batch))
    for loader in (CMIMModel, AutoModel, AutoModelForSeq2SeqLM):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is CMIMModel and not loaded.training
        output = loaded(**batch, labels=labels_of(batch))
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.latents, expected.latents)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is CMIMConfig and config.posterior == "sampled"


def test_loads_with_device_map_and_dtype(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    expected = model.get_latents(**batch)
    mapped = CMIMModel.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(mapped.get_latents(**batch).cpu(), expected)
    wide = CMIMModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert wide.get_latents(**batch).dtype == torch.float64
    assert relative(wide.get_latents(**batch).float(), expected) < 1e-5
    half = CMIMModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    latents = half.get_latents(**batch)
    assert latents.dtype == torch.float32
    assert relative(latents, expected) < 0.1


def test_latents_are_float32_under_autocast(make_model, batch):
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch, labels=labels_of(batch), sample_latents=True)
    for value in (output.latents, output.latent_mean, output.latent_log_std, output.nll):
        assert value.dtype == torch.float32


def test_token_embeddings_stay_tied_and_can_grow(model, batch, tmp_path):
    assert model.lm_head.weight is model.embed_tokens.weight
    before = model(**batch).logits
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 5)
    assert model.config.vocab_size == size + 5
    assert model.lm_head.weight is model.embed_tokens.weight
    after = model(**batch).logits
    assert after.shape[-1] == size + 5
    assert torch.allclose(after[..., :size], before, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(CMIMModel.from_pretrained(tmp_path)(**batch).logits, after)


def test_tied_weights_are_not_missing_where_their_source_is_given(model):
    state = {name: value + 1 for name, value in model.state_dict().items()}
    del state["lm_head.weight"]  # as in what is saved
    assert not model.load_state_dict(state, strict=False).missing_keys
    assert torch.equal(model.lm_head.weight, state["embed_tokens.weight"])
    del state["embed_tokens.weight"]
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert sorted(missing) == ["embed_tokens.weight", "lm_head.weight"]


@pytest.mark.parametrize("num_latents", [1, 3])
def test_generate_agrees_with_teacher_forcing_and_without_cache(make_model, batch, num_latents):
    model = make_model(num_latents=num_latents)
    latents = model.get_latents(**batch)
    written = model.generate(**batch, max_new_tokens=12)
    assert torch.equal(written, model.generate(latents=latents, max_new_tokens=12))
    assert torch.equal(written, model.generate(**batch, max_new_tokens=12, use_cache=False))
    static = model.generate(**batch, max_new_tokens=12, cache_implementation="static")
    assert torch.equal(written, static)
    logits = model(latents=latents, decoder_input_ids=written[:, :-1]).logits
    ended = (written[:, 1:] == 2).cumsum(dim=1) - (written[:, 1:] == 2).long() > 0
    assert torch.equal(logits.argmax(-1)[~ended], written[:, 1:][~ended])
    assert len({tuple(row.tolist()) for row in written}) > 1


def test_beams_and_sampling(make_model, batch):
    model = make_model(num_latents=3)
    settings = {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2}
    beams = model.generate(**batch, **settings)
    assert beams.shape[0] == 2 * len(batch["input_ids"])
    assert torch.equal(beams, model.generate(**batch, **settings, use_cache=False))
    torch.manual_seed(0)
    first = model.generate(**batch, max_new_tokens=8, do_sample=True)
    second = model.generate(**batch, max_new_tokens=8, do_sample=True)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, model.generate(**batch, max_new_tokens=8, do_sample=True))


def test_generate_goes_to_the_longest_length_unless_told(make_model, batch):
    model = make_model(max_position_embeddings=40)
    with torch.no_grad():
        model.embed_tokens.weight[2].zero_()  # the end token never wins
        model.decoder.norm.bias.fill_(0.5)
    assert model.generate(**batch).shape[1] == 41
    assert model.generate(**batch, max_length=9).shape[1] == 9
    config = GenerationConfig(max_new_tokens=4, decoder_start_token_id=1, eos_token_id=2)
    assert model.generate(**batch, generation_config=config).shape[1] == 5


def test_the_learned_std_stays_above_its_floor_with_a_gradient(make_model, batch):
    model = make_model(min_log_std=-1.5)
    with torch.no_grad():
        model.posterior.log_std_proj.bias.fill_(-8.0)
        model.posterior.log_std_proj.weight.mul_(0.01)
    log_std = model(**batch, decode=False).latent_log_std
    assert log_std.min() >= -1.5 and log_std.max() < -1.49
    log_std.sum().backward()
    assert model.posterior.log_std_proj.bias.grad.abs().min() > 0


def test_the_sampled_std_is_drawn_per_molecule_in_training_only(make_model, batch):
    model = make_model(posterior="sampled", min_log_std=-2.0)
    log_std = model(**batch, decode=False).latent_log_std
    assert torch.equal(log_std, torch.full_like(log_std, -1.0))
    model.train()
    torch.manual_seed(0)
    draws = torch.cat([model(**batch, decode=False).latent_log_std for _ in range(200)])
    assert torch.equal(draws, draws[:, :1, :1].expand_as(draws))
    drawn = draws[:, 0, 0]
    assert -2.0 <= drawn.min() < -1.95 and -0.05 < drawn.max() <= 0.0
    assert drawn.mean().item() == pytest.approx(-1.0, abs=4 * 2 / math.sqrt(12 * len(drawn)))


def test_latents_are_drawn_in_training_or_on_request(model, batch):
    mean = model.get_latents(**batch)
    torch.manual_seed(0)
    draws = torch.stack([model.get_latents(**batch, sample=True) for _ in range(400)])
    std = model(**batch, decode=False).latent_log_std.exp()
    error = (draws.mean(0) - mean) / (std / math.sqrt(400))
    assert error.abs().max() < 5 and error.std().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(model.train()(**batch, sample_latents=False, decode=False).latents, mean)
    assert not torch.equal(model(**batch, decode=False).latents, mean)


def test_a_row_that_is_too_long_is_named(make_model, tokenizer):
    model = make_model(max_position_embeddings=16)
    batch = tokenizer(["CCO", "C" * 30, "CN"], padding=True, return_tensors="pt")
    message = "input_ids row 1 has 31 tokens.*max_position_embeddings = 16"
    for call in (model, model.get_latents, model.get_informative_embeddings, model.generate):
        with pytest.raises(ValueError, match=message):
            call(**batch)
    with pytest.raises(ValueError, match="input_ids row 0 has 31 tokens"):
        model(batch["input_ids"][1:])
    padded = tokenizer(["CCO"], padding="max_length", max_length=40, return_tensors="pt")
    alone = tokenizer(["CCO"], return_tensors="pt")
    assert relative(model.get_latents(**padded), model.get_latents(**alone)) < 1e-5


def test_wrong_calls_say_what_was_expected(model, batch):
    with pytest.raises(ValueError, match=r"\(batch, 1, 96\), got \(2, 96\)"):
        model.generate(latents=torch.zeros(2, 96))
    with pytest.raises(ValueError, match=r"\(batch, 1, 96\), got \(2, 2, 96\)"):
        model(latents=torch.zeros(2, 2, 96), labels=batch["input_ids"][:2])
    with pytest.raises(ValueError, match="either input_ids"):
        model.generate()
    with pytest.raises(ValueError, match="either input_ids"):
        model.generate(**batch, latents=torch.zeros(8, 1, 96))
    with pytest.raises(ValueError, match="Pass input_ids"):
        model(attention_mask=batch["attention_mask"])
    with pytest.raises(ValueError, match="nothing to score"):
        model(latents=torch.zeros(2, 1, 96))
    with pytest.raises(ValueError, match="must have the decoder's batch and length"):
        model(**batch, labels=labels_of(batch)[:, :3], decoder_input_ids=batch["input_ids"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 50, "num_attention_heads": 4}, "multiple of twice"),
        ({"posterior": "gaussian"}, "'posterior' expected one of"),
        ({"min_log_std": 0.0}, "must be a negative number"),
        ({"num_latents": 0}, "a whole number of at least 1, got 0"),
    ],
)
def test_wrong_configurations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CMIMConfig(**settings)


def test_unknown_size_lists_the_sizes():
    with pytest.raises(ValueError, match=", ".join(SIZES)):
        CMIMConfig.from_size("huge")


def test_the_model_does_not_scale_the_loss_for_accumulation():
    assert CMIMModel.accepts_loss_kwargs is False
