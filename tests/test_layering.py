# SPDX-License-Identifier: Apache-2.0
"""The arrows between the wings, each held as an equality."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cmim_hf"
ARROWS = {
    "__init__": {
        "checkpoints",
        "chemistry",
        "data",
        "embedding",
        "generation",
        "model",
        "prediction",
        "registration",
        "training",
        "version",
    },
    "allocator": set(),
    "atomic_files": set(),
    "checkpoints": {"atomic_files", "cpu_kernels", "data", "model"},
    "chemistry": {"model"},
    "cli": {
        "allocator",
        "atomic_files",
        "checkpoints",
        "chemistry",
        "cpu_threads",
        "data",
        "embedding",
        "export",
        "extras",
        "generation",
        "model",
        "optimization",
        "prediction",
        "serving",
        "version",
    },
    "cpu_attention": set(),
    "cpu_kernels": {"cpu_attention", "model"},
    "cpu_threads": set(),
    "data": {"atomic_files", "chemistry", "extras", "model"},
    "embedding": {"allocator", "atomic_files", "checkpoints", "data", "extras", "model", "version"},
    "export": {"atomic_files", "checkpoints", "cpu_kernels", "embedding", "extras", "model"},
    "extras": set(),
    "generation": {"checkpoints", "chemistry", "data", "model", "optimization"},
    "metrics": {"chemistry", "data", "extras"},
    "model": set(),
    "optimization": {"atomic_files", "chemistry", "extras"},
    "prediction": {
        "atomic_files",
        "checkpoints",
        "chemistry",
        "cpu_kernels",
        "data",
        "embedding",
        "extras",
        "model",
        "version",
    },
    "registration": {"model"},
    "serving": {
        "checkpoints",
        "chemistry",
        "data",
        "embedding",
        "generation",
        "optimization",
        "prediction",
        "version",
    },
    "training": {
        "allocator",
        "atomic_files",
        "checkpoints",
        "cpu_kernels",
        "data",
        "extras",
        "model",
        "version",
    },
    "version": set(),
}
# What `save_pretrained` copies beside the weights, and what of ours each imports.
CLOSURE = {
    "checked_fields_cmim": set(),
    "checksums_cmim": set(),
    "configuration_cmim": {"checked_fields_cmim"},
    "configuration_cmim_image": {"checked_fields_cmim"},
    "decoding_cmim": set(),
    "encoder_decoder_cmim": {
        "configuration_cmim",
        "layers_cmim",
        "posterior_cmim",
        "property_head_cmim",
        "saving_cmim",
    },
    "gaussian_cmim": set(),
    "generation_cmim": set(),
    "image_processing_cmim": set(),
    "informative_embeddings_cmim": set(),
    "layers_cmim": set(),
    "modeling_cmim": {
        "configuration_cmim",
        "encoder_decoder_cmim",
        "gaussian_cmim",
        "generation_cmim",
        "informative_embeddings_cmim",
        "posterior_cmim",
        "property_head_cmim",
        "representations_cmim",
    },
    "modeling_cmim_image": {
        "configuration_cmim_image",
        "gaussian_cmim",
        "layers_cmim",
        "pixel_likelihood_cmim",
        "posterior_cmim",
        "representations_cmim",
        "saving_cmim",
    },
    "molecule_tokenizer_cmim": {"parent_molecule_cmim", "smiles_text_cmim"},
    "onnx_cmim": {"informative_embeddings_cmim", "representations_cmim"},
    "parent_molecule_cmim": set(),
    "pipelines_cmim": {
        "decoding_cmim",
        "informative_embeddings_cmim",
        "molecule_tokenizer_cmim",
        "smiles_text_cmim",
    },
    "pixel_likelihood_cmim": set(),
    "posterior_cmim": {"layers_cmim"},
    "property_head_cmim": {"configuration_cmim"},
    "sentence_transformers_cmim": {
        "informative_embeddings_cmim",
        "onnx_cmim",
        "smiles_text_cmim",
    },
    "sequence_classification_cmim": {
        "configuration_cmim",
        "encoder_decoder_cmim",
        "informative_embeddings_cmim",
        "modeling_cmim",
        "parent_molecule_cmim",
    },
    "representations_cmim": set(),
    "saving_cmim": {"checksums_cmim"},
    "smiles_text_cmim": set(),
}
# Beside torch and transformers: prediction works without the package.
LIBRARIES = {
    # as transformers' own configurations
    "checked_fields_cmim": {"huggingface_hub"},
    "configuration_cmim": {"huggingface_hub"},
    "configuration_cmim_image": {"huggingface_hub"},
    "image_processing_cmim": {"numpy", "PIL"},
    "molecule_tokenizer_cmim": {"rdkit"},
    "onnx_cmim": {"onnxruntime"},
    "parent_molecule_cmim": {"rdkit"},
    "sentence_transformers_cmim": {"sentence_transformers", "peft"},
}


def imports(path):
    """(level, module) of our own imports and top-level names of others, anywhere in a file."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            ours.add((node.level, node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others.update(alias.name.split(".")[0] for alias in node.names)
    return ours, others


def wing(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def test_arrows_between_wings():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        depth = len(path.relative_to(PACKAGE).parts)
        ours, _ = imports(path)
        targets = {module.split(".")[0] for level, module in ours if level == depth}
        found.setdefault(wing(path), set()).update(targets - {wing(path)})
    assert found == ARROWS


def test_the_closure_is_flat_and_imports_torch_and_transformers_only():
    files = {path.stem for path in (PACKAGE / "model").glob("*.py")}
    assert files - {"__init__", "tokenization_cmim"} == set(CLOSURE)
    for module, allowed in CLOSURE.items():
        ours, others = imports(PACKAGE / "model" / f"{module}.py")
        assert ours == {(1, name) for name in allowed}, module  # no `from ..`, no `from . import`
        more = others - set(sys.stdlib_module_names) - {"torch", "transformers"}
        assert more <= LIBRARIES.get(module, set()), module


def test_only_chemistry_imports_rdkit():
    users = {wing(path) for path in PACKAGE.rglob("*.py") if "rdkit" in imports(path)[1]}
    assert users == {"chemistry", "model"}  # there for predictions alone, see above


def test_the_package_is_imported_by_relative_names():
    for path in PACKAGE.rglob("*.py"):
        assert "cmim_hf" not in imports(path)[1], path


def test_shipped_folders_hold_no_source():
    assert not list(PACKAGE.glob("checkpoints/*/*.py"))
