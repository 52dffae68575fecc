# SPDX-License-Identifier: Apache-2.0
"""Checks of a configuration's fields, for huggingface_hub's strict dataclasses."""

from typing import Any

from huggingface_hub.dataclasses import as_validated_field
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


@as_validated_field
def count(value: int) -> None:
    """A whole number of at least 1."""
    if value < 1:
        raise ValueError(f"must be a whole number of at least 1, got {value}")


@as_validated_field
def not_negative(value: float) -> None:
    """A number of at least 0."""
    if not value >= 0:
        raise ValueError(f"must be a number of at least 0, got {value}")


@as_validated_field
def activation(name: str) -> None:
    """The name of an activation function."""
    if name not in ACT2FN:
        raise ValueError(f"must name an activation of transformers, got {name!r}")


def with_value_errors(cls: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """Raise a ValueError where `strict` refuses a value."""
    checked = cls.__setattr__

    def __setattr__(self: PreTrainedConfig, name: str, value: Any) -> None:
        try:
            checked(self, name, value)
        except StrictDataclassError as error:
            raise ValueError(str(error)) from error

    cls.__setattr__ = __setattr__
    return cls
