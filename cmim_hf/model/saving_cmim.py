# SPDX-License-Identifier: Apache-2.0
"""Loading and saving of all cMIM models: safetensors, with checksums, and the code beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from .checksums_cmim import check_weights, forget_checksums, write_checksums

_OF_THE_HUB = ("repo_id", "commit_message", "private", "create_pr", "revision", "tags", "token")
_OF_BOTH = ("max_shard_size",)


class CMIMSavedModel(PreTrainedModel):
    """A model whose weights are checked when they are loaded."""

    accepts_loss_kwargs = False  # the Trainer, not the model, scales for gradient accumulation

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> CMIMSavedModel:
        """Load a checkpoint; arguments as in [`~transformers.PreTrainedModel.from_pretrained`].

        Weights are read from safetensors only, unless `use_safetensors=False` asks for a pickle.

        Raises:
            ValueError: The weights of a local folder are not those that were saved there.
        """
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        name = pretrained_model_name_or_path
        if name is not None and os.path.isdir(name):
            check_weights(os.path.join(name, kwargs.get("subfolder") or ""))
        return super().from_pretrained(name, *args, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the model, its code and the checksums of its weights.

        Args:
            save_directory: The checkpoint's folder.
            is_main_process: Whether this process is the one that writes.
            push_to_hub: Then upload it, to `repo_id` or a repository named like the folder.
            kwargs: As in [`~transformers.PreTrainedModel.save_pretrained`].
        """
        hub = {name: kwargs.pop(name) for name in _OF_THE_HUB if name in kwargs}
        hub |= {name: kwargs[name] for name in _OF_BOTH if name in kwargs}
        if is_main_process:
            forget_checksums(save_directory)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_checksums(save_directory)
        if push_to_hub:
            name = hub.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self.push_to_hub(name, **hub)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of `torch.nn.Module`; a weight that shares another's memory is not missing."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        for name, source in self.all_tied_weights_keys.items():
            if name in result.missing_keys and source in state_dict and not assign:
                result.missing_keys.remove(name)
        return result
