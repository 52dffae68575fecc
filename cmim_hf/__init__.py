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
    from .chemistry.smiles import canonicalize as canonicalize
    from .data.image_collator import CMIMImageCollator as CMIMImageCollator
    from .data.image_files import load_images as load_images
    from .embedding.embedder import MoleculeEmbedder as MoleculeEmbedder
    from .embedding.sklearn_featurizer import MoleculeFeaturizer as MoleculeFeaturizer
    from .generation.generator import MoleculeGenerator as MoleculeGenerator
    from .model.configuration_cmim import CMIMConfig as CMIMConfig
    from .model.configuration_cmim_image import CMIMImageConfig as CMIMImageConfig
    from .model.image_processing_cmim import CMIMImageProcessor as CMIMImageProcessor
    from .model.informative_embeddings_cmim import informative_embeddings as informative_embeddings
    from .model.modeling_cmim import CMIMModel as CMIMModel
    from .model.modeling_cmim import CMIMOutput as CMIMOutput
    from .model.modeling_cmim_image import CMIMImageModel as CMIMImageModel
    from .model.modeling_cmim_image import CMIMImageOutput as CMIMImageOutput
    from .model.pipelines_cmim import MoleculeEmbeddingPipeline as MoleculeEmbeddingPipeline
    from .model.pipelines_cmim import MoleculeGenerationPipeline as MoleculeGenerationPipeline
    from .model.pipelines_cmim import MoleculePredictionPipeline as MoleculePredictionPipeline
    from .model.sequence_classification_cmim import (
        CMIMForSequenceClassification as CMIMForSequenceClassification,
    )
    from .model.tokenization_cmim import CMIMTokenizer as CMIMTokenizer
    from .model.tokenization_cmim import default_tokenizer as default_tokenizer
    from .model.tokenization_cmim import train_tokenizer as train_tokenizer
    from .prediction.predictor import MoleculePredictor as MoleculePredictor
    from .training.arguments import CMIMTrainingArguments as CMIMTrainingArguments
    from .training.trainer import CMIMTrainer as CMIMTrainer

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

__all__ = ["DEFAULT_CHECKPOINT", "__version__", "list_checkpoints", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
