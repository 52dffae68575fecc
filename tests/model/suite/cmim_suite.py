# SPDX-License-Identifier: Apache-2.0
"""cMIM's entry in transformers' own tests of models: what its authors would write for a new one.

Run by `test_transformers_suite.py`, which puts those tests on the path as the package `tests`.
"""

import os
import tempfile
import unittest
from pathlib import Path

import torch
from tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask

from cmim_hf import (
    CMIMConfig,
    CMIMForSequenceClassification,
    CMIMModel,
    CMIMTokenizer,
    default_tokenizer,
)
from tests import test_tokenization_common

NUM_LATENTS = int(os.environ.get("NUM_LATENTS", "1"))


class CMIMModelTester:
    """A tiny model and a batch for it."""

    batch_size, seq_length = 7, 9

    def __init__(self, parent):
        self.parent = parent
        self.is_training = True
        self.encoder_seq_length = self.decoder_seq_length = self.key_length = self.seq_length
        config = self.get_config()
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = config.decoder_layers
        self.num_attention_heads = config.num_attention_heads
        self.vocab_size = config.vocab_size

    def get_config(self):
        return CMIMConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            encoder_layers=2,
            decoder_layers=2,
            num_latents=NUM_LATENTS,
            latent_size=24,
            max_position_embeddings=64,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {
            "input_ids": ids_tensor(shape, self.vocab_size).clamp(min=3),
            "attention_mask": random_attention_mask(shape),
            "decoder_input_ids": ids_tensor(shape, self.vocab_size).clamp(min=3),
        }
        return self.get_config(), inputs


class CMIMModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (CMIMModel,)
    is_encoder_decoder = True

    def setUp(self):
        self.model_tester = CMIMModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["labels"] = inputs["decoder_input_ids"]
        return inputs


class CMIMClassifierTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (CMIMForSequenceClassification,)
    is_encoder_decoder = True

    def setUp(self):
        self.model_tester = CMIMModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        inputs.pop("decoder_input_ids", None)
        if return_labels:
            inputs["labels"] = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
        return inputs


class CMIMTokenizerTest(test_tokenization_common.TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = CMIMTokenizer
    integration_test_input_string = "CC(=O)Oc1ccccc1C(=O)O"

    @classmethod
    def setUpClass(cls):
        fixtures = Path(test_tokenization_common.__file__).with_name("fixtures")
        fixtures.mkdir(exist_ok=True)
        (fixtures / "sample_text.txt").write_text("CCO c1ccccc1 CC(=O)Oc1ccccc1C(=O)O")
        cls.folder = tempfile.TemporaryDirectory()
        default_tokenizer().save_pretrained(cls.folder.name)
        cls.from_pretrained_id = cls.folder.name
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.folder.cleanup()
