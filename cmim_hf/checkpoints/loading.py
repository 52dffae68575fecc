# SPDX-License-Identifier: Apache-2.0
"""Open a checkpoint for use: the model and its tokenizer, or an error that says what is wrong."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers.utils import logging

from ..checkpoints import checkpoint_path, list_checkpoints
from ..cpu_kernels import speed_up
from ..data.packed_molecules import tokenizer_fingerprint
from ..model.configuration_cmim import CMIMConfig
from ..model.modeling_cmim import CMIMModel
from ..model.onnx_cmim import CMIMOnnxModel
from ..model.tokenization_cmim import CMIMTokenizer

HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
"""What `from_pretrained` may be told of the Hub."""


def load_checkpoint(
    checkpoint: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    **hub: Any,
) -> tuple[CMIMModel, CMIMTokenizer]:
    """Load model and tokenizer; the model in `eval()`, on its device, in its dtype.

    On a CPU it computes by the faster means of [`~cmim_hf.cpu_kernels.speed_up`].

    Args:
        checkpoint: A folder, a Hub id, or the name of a checkpoint that ships (`"small"`).
        device: Where the model works; by default the accelerator if there is one, else the CPU.
        dtype: Of the weights; by default that of the checkpoint, but float32 on a CPU, where
            bfloat16 may be hundreds of times slower.
        hub: Where the checkpoint is fetched from, as `from_pretrained` takes it: those of `HUB`.

    Raises:
        TypeError: Another argument.
        FileNotFoundError: No such folder, or no checkpoint in it.
        ValueError: Another kind of model, weights that are damaged, incomplete or of other shapes
            than `config.json` says, a tokenizer that cannot be read or has more tokens than the
            model.

    >>> from cmim_hf.checkpoints.loading import load_checkpoint
    >>> model, tokenizer = load_checkpoint("small", device="cpu")
    >>> batch = tokenizer(["CCO", "c1ccccc1"], padding=True, return_tensors="pt")
    >>> model.get_latents(**batch).shape
    torch.Size([2, 1, 192])
    """
    name = _checked_name(checkpoint, hub)
    device = default_device() if device is None else torch_device(device)
    if dtype is None:
        chosen = torch.float32 if device.type == "cpu" else "auto"
    else:
        chosen = floating_dtype(dtype)
    with _opening(name, hub), _without_progress_bars():
        model, report = CMIMModel.from_pretrained(
            name,
            dtype=chosen,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **hub,
        )
    _check_report(name, report)
    tokenizer = _load_tokenizer(name, model.config, hub)
    model = model.to(device).eval()
    speed_up(model)
    return model, tokenizer


def load_tokenizer(checkpoint: str | os.PathLike) -> CMIMTokenizer:
    """The tokenizer of a checkpoint, as [`load_checkpoint`] takes one; its weights are not read.

    Raises:
        FileNotFoundError: No such folder, or no checkpoint in it.
        ValueError: Another kind of model, or a tokenizer that cannot be read.
    """
    name = _checked_name(checkpoint, {})
    with _opening(name, {}):
        return _load_tokenizer(name, CMIMConfig.from_pretrained(name), {})


def load_exported(
    checkpoint: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    **hub: Any,
) -> tuple[CMIMOnnxModel, CMIMTokenizer]:
    """Load the graphs that `cmim export` wrote, and the tokenizer.

    Args:
        checkpoint: As of [`load_checkpoint`], like `hub`.
        device: The CPU, or None.
        dtype: float32, or None; int8 weights are a choice of the export.
        hub: See there.

    Raises:
        TypeError: Another argument.
        FileNotFoundError: No such folder, or no graphs in it.
        ImportError: onnxruntime is not installed.
        ValueError: Another device or dtype, another kind of model, or files that are damaged.
    """
    name = _checked_name(checkpoint, hub)
    if device is not None and torch_device(device).type != "cpu":
        raise ValueError(f"The `backend` onnx works on the CPU, not on the `device` {device}.")
    if dtype is not None and floating_dtype(dtype) != torch.float32:
        raise ValueError(f"The `backend` onnx computes in float32, not in the `dtype` {dtype}.")
    with _opening(name, hub):
        config = CMIMConfig.from_pretrained(name, **hub)
        model = CMIMOnnxModel.from_pretrained(name, config, **hub)
    return model, _load_tokenizer(name, config, hub)


def default_device() -> torch.device:
    """The accelerator of this machine if there is one, else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def torch_device(device: str | torch.device) -> torch.device:
    """The device of a name such as `"cuda:1"`.

    Raises:
        ValueError: This machine has none such.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"There is no device {str(device)!r} here: {str(error).splitlines()[0]} "
            f"The default would be {str(default_device())!r}."
        ) from error


def floating_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype of a name such as `"bfloat16"`.

    Raises:
        ValueError: It is none that the model computes in.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(
            f"dtype is one of float32, bfloat16, float16 and float64, not {str(dtype)!r}."
        )
    return found


def weights_fingerprint(model: CMIMModel | CMIMOnnxModel, tokenizer: CMIMTokenizer) -> str:
    """SHA-256, in hexadecimal digits, of parameters as loaded, their names and the tokenizer.

    Buffers, such as the fitted prior, do not count: embeddings do not depend on them. Of graphs it
    is that of their files.
    """
    digest = hashlib.sha256(tokenizer_fingerprint(tokenizer).encode())
    if isinstance(model, CMIMOnnxModel):
        for file in model.files:
            digest.update(file.read_bytes())
        return digest.hexdigest()
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in sorted(model.state_dict().items()):
        if name in buffers:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(content.numpy()))
    return digest.hexdigest()


def _checked_name(checkpoint: str | os.PathLike, hub: dict[str, Any]) -> str:
    if unknown := sorted(set(hub) - set(HUB)):
        raise TypeError(f"Unknown argument {unknown[0]!r}; the Hub's are {', '.join(HUB)}.")
    name = checkpoint_path(checkpoint)
    _check_folder(name)
    return name


@contextmanager
def _opening(name: str, hub: dict[str, Any]) -> Iterator[None]:
    """Check that it is a cMIM checkpoint; say what is wrong with a name or with damaged files."""
    try:
        kind = CMIMConfig.get_config_dict(name, **hub)[0].get("model_type")
        if kind != CMIMConfig.model_type:
            raise ValueError(
                f"{name} holds a model of type {kind!r}; a cMIM checkpoint is expected."
            )
        yield
    except (OSError, HFValidationError) as error:
        if os.path.exists(name):
            raise
        raise FileNotFoundError(
            f"There is no checkpoint {name!r}: no folder of that name in {Path.cwd()}, none that "
            f"ships ({', '.join(list_checkpoints())}), and as the id of one on the Hub it cannot "
            f"be fetched ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, TypeError, AttributeError, LookupError, RecursionError) as error:
        weights = isinstance(error, SafetensorError)
        what = "weights are" if weights else "config.json, or another of its JSON files, is"
        raise ValueError(
            f"The checkpoint {name} cannot be opened ({type(error).__name__}: {error}): its {what} "
            "damaged or cut short. Copy it again."
        ) from error


def _load_tokenizer(name: str, config: CMIMConfig, hub: dict[str, Any]) -> CMIMTokenizer:
    try:
        tokenizer = CMIMTokenizer.from_pretrained(name, **hub)
    except Exception as error:  # the reader of tokenizer.json raises plain Exception
        raise ValueError(
            f"The tokenizer of {name} cannot be read ({error}): its tokenizer.json or "
            "tokenizer_config.json is missing or damaged. Copy the checkpoint again."
        ) from error
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens, the model knows "
            f"{config.vocab_size}: they do not belong together. Copy the checkpoint again."
        )
    return tokenizer


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_report(name: str, report: dict[str, Any]) -> None:
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"The weights of {name} are incomplete: {', '.join(missing[:3])} and "
            f"{max(0, len(missing) - 3)} more are missing. Copy or train the checkpoint again."
        )
    for parameter, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"The weights of {name} do not fit its config.json: {parameter} is {tuple(found)}, "
            f"expected {tuple(expected)}. Copy the checkpoint again."
        )


def _check_folder(name: str) -> None:
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"The folder {name} holds no checkpoint: no config.json in it.")
    elif path.is_absolute() or name.startswith(".") or len(path.parts) > 2 or path.exists():
        raise FileNotFoundError(
            f"There is no checkpoint folder {name} (relative paths start at {Path.cwd()}); give "
            "the folder that save_pretrained wrote, or a Hub id."
        )
