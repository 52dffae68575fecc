# SPDX-License-Identifier: Apache-2.0
"""Makes the Auto classes and pipelines of transformers know cMIM, once transformers is imported.

Importing transformers takes seconds, `cmim --help` should not. So nothing here imports it: what is
loaded already is registered with at once, the rest at the end of the import that loads it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_AUTO = "transformers.models.auto"


def _register_config() -> None:
    from transformers import AutoConfig

    from .model.configuration_cmim import CMIMConfig
    from .model.configuration_cmim_image import CMIMImageConfig

    AutoConfig.register("cmim", CMIMConfig, exist_ok=True)
    AutoConfig.register("cmim_image", CMIMImageConfig, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    from .model.configuration_cmim import CMIMConfig
    from .model.configuration_cmim_image import CMIMImageConfig
    from .model.modeling_cmim import CMIMModel
    from .model.modeling_cmim_image import CMIMImageModel
    from .model.sequence_classification_cmim import CMIMForSequenceClassification

    AutoModel.register(CMIMConfig, CMIMModel, exist_ok=True)
    AutoModel.register(CMIMImageConfig, CMIMImageModel, exist_ok=True)
    AutoModelForSeq2SeqLM.register(CMIMConfig, CMIMModel, exist_ok=True)
    AutoModelForSequenceClassification.register(
        CMIMConfig, CMIMForSequenceClassification, exist_ok=True
    )


def _register_image_processor() -> None:
    # from its module: at the root of transformers 5.10 it wants torchvision
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from .model.configuration_cmim_image import CMIMImageConfig
    from .model.image_processing_cmim import CMIMImageProcessor

    AutoImageProcessor.register(
        CMIMImageConfig, slow_image_processor_class=CMIMImageProcessor, exist_ok=True
    )


def _register_tokenizer() -> None:
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    from .model.configuration_cmim import CMIMConfig
    from .model.molecule_tokenizer_cmim import CMIMMoleculeTokenizer

    AutoTokenizer.register(CMIMConfig, CMIMMoleculeTokenizer, exist_ok=True)


def _register_pipelines() -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    pipelines = import_module(".model.pipelines_cmim", __package__)
    for task, name, auto in (
        ("molecule-embedding", "MoleculeEmbeddingPipeline", AutoModel),
        ("molecule-generation", "MoleculeGenerationPipeline", AutoModel),
        ("molecule-prediction", "MoleculePredictionPipeline", AutoModelForSequenceClassification),
    ):
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=getattr(pipelines, name), pt_model=auto, type="text"
        )


class _AfterImport(MetaPathFinder):
    """Finds modules of transformers and ours as they are, and registers when one is imported.

    They import each other, some in circles, so that it is the end of the outermost import that
    counts: all that it began is complete by then.
    """

    def __init__(self, waiting: dict[str, Callable[[], None]]) -> None:
        self.waiting = waiting
        self.importing = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in ("transformers", __package__) or not self.waiting:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            depth = getattr(self.importing, "depth", 0)
            self.importing.depth = depth + 1
            try:
                execute(module)
            finally:
                self.importing.depth = depth
            if depth == 0:
                self.register()

        spec.loader.exec_module = exec_module
        return spec

    def register(self) -> None:
        for name in [name for name in self.waiting if name in sys.modules]:
            if act := self.waiting.pop(name, None):
                act()


def register_with_transformers() -> None:
    """Register what the Auto classes and pipelines shall know, now or with transformers' import."""
    finder = _AfterImport(
        {
            f"{_AUTO}.configuration_auto": _register_config,
            f"{_AUTO}.image_processing_auto": _register_image_processor,
            f"{_AUTO}.modeling_auto": _register_models,
            f"{_AUTO}.tokenization_auto": _register_tokenizer,
            "transformers.pipelines": _register_pipelines,
        }
    )
    finder.register()
    sys.meta_path.insert(0, finder)
