# SPDX-License-Identifier: Apache-2.0
"""The arrows between files: each line of `ALLOWED` is a wall."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "cmim_hf"
CLOSURE = {
    "configuration_cmim": set(),
    "latent_cmim": set(),
    "informative_cmim": set(),
    "integrity_cmim": set(),
    "layers_cmim": {"configuration_cmim"},
    "properties_cmim": {"configuration_cmim"},
    "stacks_cmim": {
        "configuration_cmim",
        "integrity_cmim",
        "layers_cmim",
        "properties_cmim",
    },
    "modeling_cmim": {
        "configuration_cmim",
        "latent_cmim",
        "informative_cmim",
        "layers_cmim",
        "properties_cmim",
        "stacks_cmim",
    },
}
CLASSIFIER = {
    "classification_cmim": {
        "configuration_cmim",
        "informative_cmim",
        "modeling_cmim",
        "stacks_cmim",
    },
}  # copied beside fine-tuned weights, with the closure
ALLOWED = {
    **CLOSURE,
    **CLASSIFIER,
    "text_cmim": set(),
    "decoding_cmim": set(),
    "pipelines": {"text_cmim", "decoding_cmim"},
    "sentence_cmim": {"text_cmim"},
    "tokenization_cmim": {"text_cmim"},
    "chem": {"text_cmim"},
    "chem_properties": {"chem"},
    "chem_descriptors": {"chem"},
    "chem_moses": {"chem"},
    "tables": set(),
    "reading": {"tables"},
    "contrastive": set(),
    "objectives": {"latent_cmim", "contrastive"},
    "distributed": set(),
    "property_labels": {"properties_cmim"},
    "packing": {"atomic", "property_labels"},
    "preparation": {"atomic", "packing", "reading", "text_cmim", "chem"},
    "labelling": {
        "chem_descriptors",
        "configuration_cmim",
        "modeling_cmim",
        "packing",
        "preparation",
        "property_labels",
        "reading",
        "tables",
    },
    "source_preparation": {
        "labelling",
        "chem_descriptors",
        "packing",
        "preparation",
        "property_labels",
        "reading",
        "tokenization_cmim",
    },
    "data": {"packing", "preparation", "reading", "chem"},
    "finite": set(),
    "muon": set(),
    "time_limit": set(),
    "property_matching": {"modeling_cmim", "objectives"},
    "training_args": {"finite", "objectives"},
    "model_card": {"atomic", "modeling_cmim", "training_args", "version"},
    "prior": {"modeling_cmim"},
    "likelihood": {"modeling_cmim", "latent_cmim"},
    "inputs": {"chem", "preparation", "reading"},
    "batching": {"preparation"},
    "monitoring": {
        "batching",
        "chem",
        "decoding_cmim",
        "modeling_cmim",
        "preparation",
        "reading",
    },
    "checkpoints": set(),
    "loading": {"checkpoints", "cpu_kernels", "modeling_cmim", "packing", "tokenization_cmim"},
    "embedding": {
        "batching",
        "checkpoints",
        "informative_cmim",
        "inputs",
        "loading",
        "modeling_cmim",
        "preparation",
    },
    "allocator": set(),
    "cpu_kernels": {"layers_cmim"},
    "trainer": {
        "atomic",
        "cpu_kernels",
        "data",
        "distributed",
        "finite",
        "integrity_cmim",
        "model_card",
        "monitoring",
        "muon",
        "objectives",
        "prior",
        "property_matching",
        "time_limit",
        "training_args",
    },
    "interpolation": set(),
    "codec": {
        "batching",
        "chem",
        "decoding_cmim",
        "inputs",
        "modeling_cmim",
        "preparation",
        "tokenization_cmim",
    },
    "scorers": {"chem", "chem_properties"},
    "oracle": {"atomic", "chem", "scorers"},
    "optimization": {"chem", "oracle", "scorers", "search"},
    "generation": {
        "batching",
        "checkpoints",
        "codec",
        "inputs",
        "interpolation",
        "likelihood",
        "loading",
        "optimization",
        "preparation",
        "prior",
        "scorers",
    },
    "featurizer": {"checkpoints", "embedding"},
    "atomic": set(),
    "scripts": set(),
    "embedding_tables": {"embedding", "inputs", "preparation", "reading", "version"},
    "embedding_files": {"atomic", "embedding", "embedding_tables", "preparation", "reading"},
    "library": {"atomic", "embedding", "embedding_tables", "reading"},
    "library_ray": {"embedding", "library", "reading"},
    "molecule_files": {"atomic", "chem"},
    "cli_common": {
        "atomic",
        "chem",
        "generation",
        "inputs",
        "molecule_files",
        "preparation",
        "reading",
    },
    "cli_generation": {
        "cli_common",
        "cli_optimization",
        "embedding_tables",
        "generation",
        "inputs",
        "molecule_files",
        "preparation",
        "reading",
    },
    "cli_optimization": {
        "atomic",
        "cli_common",
        "molecule_files",
        "optimization",
        "reading",
        "scorers",
        "scripts",
    },
    "cli": {
        "allocator",
        "atomic",
        "checkpoints",
        "cli_common",
        "cli_generation",
        "cli_optimization",
        "embedding",
        "embedding_files",
        "informative_cmim",
        "reading",
        "scripts",
        "version",
    },
}
# Copied beside the weights for other libraries; the last of these needs its library, too.
ENTRIES = {
    "text_cmim": set(),
    "decoding_cmim": {"torch", "transformers"},
    "pipelines": {"torch", "transformers", "rdkit"},
    "sentence_cmim": {"torch", "transformers", "sentence_transformers"},
}


def imports(path):
    """Modules of ours and top-level names of others that a file imports, anywhere in it."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            ours.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others.update(alias.name.split(".")[0] for alias in node.names)
    return ours, others


def test_arrows_point_one_way():
    for module, allowed in ALLOWED.items():
        path = PACKAGE / f"{module}.py"
        ours, others = imports(path if path.is_file() else PACKAGE / module / "__init__.py")
        assert ours <= allowed, module
        assert "cmim_hf" not in others, module


def test_the_closure_needs_torch_and_transformers_only():
    for module in CLOSURE | CLASSIFIER:
        _, others = imports(PACKAGE / f"{module}.py")
        assert others - set(sys.stdlib_module_names) <= {"torch", "transformers"}, module


def test_the_entries_of_other_libraries_need_nothing_but_these():
    for module, allowed in ENTRIES.items():
        _, others = imports(PACKAGE / f"{module}.py")
        assert others - set(sys.stdlib_module_names) <= allowed, module


def test_metrics_stand_on_chemistry_alone():
    """Their scripts, which `evaluate` copies elsewhere, are the only files to import us by name."""
    folder = PACKAGE / "metrics"
    beside = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for path in folder.glob("*.py"):
        ours, others = imports(path)
        assert ours <= beside | {"chem", "chem_moses"}, path
        assert "cmim_hf" not in others, path
    for path in folder.glob("*/*.py"):
        ours, others = imports(path)
        assert not ours and "cmim_hf" in others, path


def test_only_the_files_of_chemistry_import_rdkit():
    """And the pipeline of predictions, which works without the package."""
    users = {p.stem for p in PACKAGE.rglob("*.py") if "rdkit" in imports(p)[1]}
    assert users == {"chem", "chem_descriptors", "chem_moses", "chem_properties", "pipelines"}


def test_every_module_has_its_wall():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "version"}
    assert modules <= set(ALLOWED), modules - set(ALLOWED)


def test_importing_the_package_brings_in_no_chemistry_and_no_training():
    heavy = ["rdkit", "datasets", "sklearn", "pandas", "pyarrow", "cmim_hf.trainer"]
    code = (
        "import sys, tokenizers, torch, transformers.generation.utils; "  # brings sklearn, or not
        "brought = set(sys.modules); import cmim_hf; "
        f"print([m for m in {heavy} if m in set(sys.modules) - brought])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
