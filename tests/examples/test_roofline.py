# SPDX-License-Identifier: Apache-2.0
"""The operations that benchmarks count are those that a forward pass does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cmim_hf import CMIMConfig, CMIMModel
from examples.benchmarks.speed.roofline import decoder_flops, encoder_flops

ROWS, LENGTH = 4, 24


@pytest.mark.parametrize("num_latents", [1, 3])
def test_counted_operations_are_those_of_the_model(num_latents):
    config = CMIMConfig.from_size("tiny", vocab_size=100, num_latents=num_latents)
    model = CMIMModel(config).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 100, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as encoding:
        latents = model.get_latents(ids)
    with FlopCounterMode(display=False) as decoding:
        model(decoder_input_ids=ids, latents=latents, use_cache=False)
    assert encoder_flops(config, [LENGTH] * ROWS) == encoding.get_total_flops()
    # the model forms the whole of the causal attention's square, the count its used half
    unused = 2 * config.decoder_layers * config.hidden_size * ROWS * LENGTH * (LENGTH - 1)
    assert decoder_flops(config, [LENGTH] * ROWS) == decoding.get_total_flops() - unused
