# SPDX-License-Identifier: Apache-2.0
"""The balanced loss against one written out by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from cmim_hf import CMIMConfig, CMIMForSequenceClassification
from cmim_hf.prediction.class_weights import balanced_weights, weighted_loss


@pytest.mark.parametrize("lora", [False, True])
def test_the_balanced_loss_of_nine_to_one(tokenizer, tmp_path, lora):
    torch.manual_seed(0)
    config = CMIMConfig.from_size("tiny", vocab_size=len(tokenizer), num_labels=1)
    config.problem_type = "multi_label_classification"
    model = CMIMForSequenceClassification(config).eval()
    if lora:
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(task_type="SEQ_CLS", target_modules=["v_proj"])
        model = get_peft_model(model, settings).eval()
    labels = np.array([[0.0]] * 9 + [[1.0]])
    texts = ["C" * length for length in range(1, 11)]
    examples = [
        {"input_ids": tokenizer(text)["input_ids"], "labels": label}
        for text, label in zip(texts, labels.tolist(), strict=True)
    ]
    batch = DataCollatorWithPadding(tokenizer)(examples)
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        compute_loss_func=partial(weighted_loss, weights=balanced_weights(labels, 2)),
    )
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
        unweighted = model(**batch).loss
    chance = 1 / (1 + np.exp(-outputs["logits"].double().numpy()[:, 0]))
    entropy = -np.log(np.where(labels[:, 0] == 1, chance, 1 - chance))
    # nine of weight 10 / (2 * 9), one of 10 / (2 * 1)
    by_hand = (entropy[:9].sum() * 10 / 18 + entropy[9] * 10 / 2) / 10
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert unweighted.item() == pytest.approx(entropy.mean(), rel=1e-5)
    assert abs(loss.item() - unweighted.item()) > 1e-4


def test_each_target_has_its_weights_and_gaps_count_for_nothing():
    nan = np.nan
    labels = np.array([[0, 1], [0, nan], [0, 1], [1, nan]], float)
    weights = balanced_weights(labels, 2)
    assert weights.numpy() == pytest.approx(np.array([[4 / 6, 2], [1, 1]]))
    logits = torch.tensor([[0.3, -1.0], [0.1, 5.0], [-2.0, 0.5], [1.5, -5.0]]).double()
    total = 0.0
    for row in range(4):
        for target in range(2):
            if not np.isnan(labels[row, target]):
                sign = 2 * labels[row, target] - 1
                entropy = np.log1p(np.exp(-sign * logits[row, target].item()))
                total += weights[target, int(labels[row, target])].item() * entropy
    found = weighted_loss({"logits": logits}, torch.from_numpy(labels), weights=weights)
    assert found.item() == pytest.approx(total / 6, rel=1e-6)
    none = {"logits": logits[:0]}
    assert weighted_loss(none, torch.zeros(0, 2), weights=weights).item() == 0


def test_classes_of_several_and_missing_ones():
    labels = np.array([[0], [0], [0], [2], [np.nan]], float)
    weights = balanced_weights(labels, 3)  # class 1 does not occur
    assert weights.numpy() == pytest.approx(np.array([[4 / 6, 1, 2]]))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    chance = logits.softmax(dim=1).numpy()
    by_hand = -(4 / 6 * np.log(chance[:3, 0]).sum() + 2 * np.log(chance[3, 2])) / 4
    numbers = torch.tensor([[0], [0], [0], [2], [-100]])
    found = weighted_loss({"logits": logits}, numbers, weights=weights)
    assert found.item() == pytest.approx(by_hand, rel=1e-6)
