# SPDX-License-Identifier: Apache-2.0
"""cMIM: one probabilistic encoder-decoder for embeddings and generation, of molecules and images.

Importing the package imports neither torch nor transformers; each name below is imported when it
is first used. Who imports transformers, before or after, finds the model in its Auto classes and
its pipelines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .checkpoints import DEFAULT_CHECKPOINT, list_checkpoints
from .registration import register_with_transformers
from .version import __version__

if TYPE_CHECKING:
    from .chemistry.smiles import canonicalize
    from .data.image_collator import CMIMImageCollator
    from .data.image_files import load_images
    from .embedding.embedder import MoleculeEmbedder
    from .embedding.sklearn_featurizer import MoleculeFeaturizer
    from .generation.generator import MoleculeGenerator
    from .model.configuration_cmim import CMIMConfig
    from .model.configuration_cmim_image import CMIMImageConfig
    from .model.image_processing_cmim import CMIMImageProcessor
    from .model.informative_embeddings_cmim import informative_embeddings
    from .model.modeling_cmim import CMIMModel, CMIMOutput
    from .model.modeling_cmim_image import CMIMImageModel, CMIMImageOutput
    from .model.pipelines_cmim import (
        MoleculeEmbeddingPipeline,
        MoleculeGenerationPipeline,
        MoleculePredictionPipeline,
    )
    from .model.sequence_classification_cmim import CMIMForSequenceClassification
    from .model.tokenization_cmim import CMIMTokenizer, default_tokenizer, train_tokenizer
    from .prediction.predictor import MoleculePredictor
    from .training.arguments import CMIMTrainingArguments
    from .training.trainer import CMIMTrainer

_WHERE = {
    "CMIMConfig": "model.configuration_cmim",
    "CMIMForSequenceClassification": "model.sequence_classification_cmim",
    "CMIMImageCollator": "data.image_collator",
    "CMIMImageConfig": "model.configuration_cmim_image",
    "CMIMImageModel": "model.modeling_cmim_image",
    "CMIMImageOutput": "model.modeling_cmim_image",
    "CMIMImageProcessor": "model.image_processing_cmim",
    "CMIMModel": "model.modeling_cmim",
    "CMIMOutput": "model.modeling_cmim",
    "CMIMTokenizer": "model.tokenization_cmim",
    "CMIMTrainer": "training.trainer",
    "CMIMTrainingArguments": "training.arguments",
    "MoleculeEmbedder": "embedding.embedder",
    "MoleculeEmbeddingPipeline": "model.pipelines_cmim",
    "MoleculeFeaturizer": "embedding.sklearn_featurizer",
    "MoleculeGenerationPipeline": "model.pipelines_cmim",
    "MoleculeGenerator": "generation.generator",
    "MoleculePredictionPipeline": "model.pipelines_cmim",
    "MoleculePredictor": "prediction.predictor",
    "canonicalize": "chemistry.smiles",
    "default_tokenizer": "model.tokenization_cmim",
    "informative_embeddings": "model.informative_embeddings_cmim",
    "load_images": "data.image_files",
    "train_tokenizer": "model.tokenization_cmim",
}

__all__ = [
    "DEFAULT_CHECKPOINT",
    "CMIMConfig",
    "CMIMForSequenceClassification",
    "CMIMImageCollator",
    "CMIMImageConfig",
    "CMIMImageModel",
    "CMIMImageOutput",
    "CMIMImageProcessor",
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
    "MoleculePredictor",
    "__version__",
    "canonicalize",
    "default_tokenizer",
    "informative_embeddings",
    "list_checkpoints",
    "load_images",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
