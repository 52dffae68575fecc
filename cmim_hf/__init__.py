# SPDX-License-Identifier: Apache-2.0
"""cMIM for molecules: one probabilistic encoder-decoder for embeddings and generation.

Importing the package registers the model with transformers' Auto classes and its pipelines, and
does nothing else.
What needs rdkit or the training stack is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .checkpoints import DEFAULT_CHECKPOINT, list_checkpoints
from .model.configuration_cmim import CMIMConfig
from .model.informative_embeddings_cmim import informative_embeddings
from .model.modeling_cmim import CMIMModel, CMIMOutput
from .model.pipelines_cmim import (
    MoleculeEmbeddingPipeline,
    MoleculeGenerationPipeline,
    MoleculePredictionPipeline,
)
from .model.sequence_classification_cmim import CMIMForSequenceClassification
from .model.tokenization_cmim import CMIMTokenizer, default_tokenizer, train_tokenizer
from .version import __version__

if TYPE_CHECKING:
    from .embedding.embedder import MoleculeEmbedder
    from .embedding.sklearn_featurizer import MoleculeFeaturizer
    from .generation.generator import MoleculeGenerator
    from .training.arguments import CMIMTrainingArguments
    from .training.trainer import CMIMTrainer

AutoConfig.register("cmim", CMIMConfig, exist_ok=True)
AutoModel.register(CMIMConfig, CMIMModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(CMIMConfig, CMIMModel, exist_ok=True)
AutoModelForSequenceClassification.register(
    CMIMConfig, CMIMForSequenceClassification, exist_ok=True
)
for _task, _pipeline, _auto in (
    ("molecule-embedding", MoleculeEmbeddingPipeline, AutoModel),
    ("molecule-generation", MoleculeGenerationPipeline, AutoModel),
    ("molecule-prediction", MoleculePredictionPipeline, AutoModelForSequenceClassification),
):
    PIPELINE_REGISTRY.register_pipeline(
        _task, pipeline_class=_pipeline, pt_model=_auto, type="text"
    )

_LAZY = {
    "CMIMTrainer": ".training.trainer",
    "CMIMTrainingArguments": ".training.arguments",
    "MoleculeEmbedder": ".embedding.embedder",
    "MoleculeFeaturizer": ".embedding.sklearn_featurizer",
    "MoleculeGenerator": ".generation.generator",
}

__all__ = [
    "DEFAULT_CHECKPOINT",
    "CMIMConfig",
    "CMIMForSequenceClassification",
    "CMIMModel",
    "CMIMOutput",
    "CMIMTokenizer",
    "CMIMTrainer",
    "CMIMTrainingArguments",
    "MoleculeEmbedder",
    "MoleculeEmbeddingPipeline",
    "MoleculeFeaturizer",
    "MoleculeGenerationPipeline",
    "MoleculeGenerator",
    "MoleculePredictionPipeline",
    "__version__",
    "default_tokenizer",
    "informative_embeddings",
    "list_checkpoints",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
