# SPDX-License-Identifier: Apache-2.0
"""A model's property head and the labels it is to be trained on: one scale, or an error."""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import logging

from ..model.configuration_cmim import CMIMConfig
from ..model.modeling_cmim import CMIMModel
from .objectives import Objective

logger = logging.get_logger(__name__)


def match_properties(
    model: CMIMModel, objective: Objective, train_dataset: Any, eval_dataset: Any
) -> None:
    """Give the model the names and the scale of the labels, if there are any and it has a head.

    Data sets are labelled that have a `property_scale`, as
    [`~cmim_hf.data.packed_molecules.PackedMolecules`] have; those for evaluation may be a
    dictionary. Without a head labels are left unused, and that is said.

    Raises:
        ValueError: Labels of other properties than the model's, or standardised by other molecules
            than its own were, or than those for evaluation are; or an objective without a decoder
            for a head that reads decoder states.
    """
    evaluated = eval_dataset if isinstance(eval_dataset, dict) else {"evaluation": eval_dataset}
    labelled = {
        name: dataset.property_scale
        for name, dataset in {"training": train_dataset, **evaluated}.items()
        if getattr(dataset, "property_scale", None) is not None
    }
    if not labelled or not objective.property_weight:
        return
    if not model.config.num_properties:
        logger.warning(
            f"The molecules for {next(iter(labelled))} are labelled, and the model has no property "
            "head (num_properties is 0): the labels are not used."
        )
        return
    scale = next(iter(labelled.values()))
    config, head = model.config, model.property_head
    _check_head(config, objective, scale.names)
    quantiles = torch.from_numpy(scale.quantiles).to(head.quantiles)
    if head.quantiles.any() and not torch.equal(head.quantiles, quantiles):
        raise ValueError(
            "The model's properties were standardised by other molecules than these labels: "
            "prepare the molecules with the scale of the model's (--tokenizer CHECKPOINT)."
        )
    for name, other in labelled.items():
        if other != scale:
            raise ValueError(
                f"The molecules for {name} are labelled with other properties than those for "
                "training, or standardised by others: prepare them with the scale of these "
                "(--tokenizer FOLDER)."
            )
    config.property_names = list(scale.names)
    head.quantiles.copy_(quantiles)


def _check_head(config: CMIMConfig, objective: Objective, names: tuple[str, ...]) -> None:
    kind = config.property_representation
    if not objective.uses_decoder and kind != "latent":
        raise ValueError(
            f"The objective {objective.name} decodes nothing that properties could be read off: "
            f'make the model with property_representation="latent" instead of "{kind}", or set '
            "property_weight to 0."
        )
    if len(names) != config.num_properties or (
        config.property_names is not None and tuple(config.property_names) != names
    ):
        raise ValueError(
            f"The model predicts {config.num_properties} properties "
            f"({', '.join((config.property_names or ['unnamed'])[:3])} ...), the molecules are "
            f"labelled with {len(names)} ({', '.join(names[:3])} ...): label them "
            "with the model's, or train one with num_properties and property_names of theirs."
        )
