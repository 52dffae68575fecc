# SPDX-License-Identifier: Apache-2.0
"""Where labels of molecules come from: columns of their tables, or RDKit's descriptors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..model.configuration_cmim import CMIMConfig
from ..model.modeling_cmim import CMIMModel
from .packed_molecules import PackedMolecules, is_packed
from .property_labels import PropertyScale
from .smiles_files import Batch
from .tables import find_column
from .worker_pool import chunked, encode_in_order

logger = logging.get_logger(__name__)

_MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none", "-")


def read_property_scale(folder: str | os.PathLike) -> PropertyScale | None:
    """The scale of the labels in a folder of prepared molecules, or of a checkpoint; if any.

    Anything else, such as the folder of a tokenizer, has none.
    """
    if is_packed(folder):
        return PackedMolecules.load(folder).property_scale
    try:
        content, _ = CMIMConfig.get_config_dict(folder)
    except OSError:
        return None
    if content.get("model_type") != CMIMConfig.model_type or not content.get("property_names"):
        return None
    model = CMIMModel.from_pretrained(folder, dtype=torch.float32)
    quantiles = model.property_head.quantiles.numpy()
    return PropertyScale(tuple(model.config.property_names), quantiles) if quantiles.any() else None


def is_missing(cell: object) -> bool:
    """Whether a cell is empty, or says that there is nothing: na, n/a, nan, null, none, -."""
    return cell is None or str(cell).strip().lower() in _MISSING_WORDS


def number(cell: Any) -> float:
    """What a cell says, as `float` reads it but for its underscores: 1_5 is not 15.

    Raises:
        TypeError: It is neither text nor a number.
        ValueError: It is no number.
    """
    if "_" in str(cell):
        raise ValueError(f"{cell!r} is no number.")
    return float(cell)


def numbers(batch: Batch, column: str, argument: str = "property_columns") -> list[float]:
    """The numbers in a column, NaN where a cell is empty or says that there is none.

    `column` is its name, case aside, `argument` what an error calls the argument that names it.

    Raises:
        ValueError: There is no such column, or a cell holds no finite number.
    """
    name = find_column(batch.columns.column_names, column, batch.source, argument)
    values = []
    for row, cell in enumerate(batch.columns.column(name).to_pylist(), batch.start):
        try:
            values.append(np.nan if is_missing(cell) else number(cell))
        except (TypeError, ValueError):
            values.append(np.inf)
        if np.isinf(values[-1]):
            raise ValueError(
                f"{batch.source}, row {row}: column {name!r} holds {cell!r}, which is no finite "
                "number. Leave a cell empty where there is none."
            )
    return values


def label_with_columns(
    molecules: PackedMolecules,
    values: np.ndarray,
    columns: Sequence[str],
    scale: PropertyScale | None = None,
) -> PackedMolecules:
    """Label molecules with numbers from the columns of their tables.

    `values` are (molecules, columns), NaN where missing; `scale` is that of other molecules, with
    the same names in the same order, else that of these.
    """
    scale = scale or PropertyScale.fit(columns, values)
    if [name.lower() for name in scale.names] != [name.lower() for name in columns]:
        raise ValueError(
            f"The scale to standardise by is of {', '.join(scale.names[:5])} ..., the labels are "
            f"{', '.join(columns[:5])}: name the same ones, in the same order, or a folder that "
            "holds a tokenizer alone."
        )
    labelled = np.flatnonzero(~np.isnan(values).all(axis=1))
    return molecules.labelled(labelled, values[labelled], scale)


def label_with_descriptors(
    molecules: PackedMolecules,
    tokenizer: PreTrainedTokenizerBase,
    descriptors: Sequence[str],
    *,
    number: int | None = None,
    scale: PropertyScale | None = None,
    num_workers: int = 0,
) -> PackedMolecules:
    """Label molecules with what RDKit computes of them.

    A descriptor that is the same for all molecules is left out, and named. `number` are labelled,
    chosen at random, or all; `scale` is that of other molecules, else that of these. See
    [`~cmim_hf.chemistry.descriptors.descriptor_names`] and `encode_in_order` for the rest.

    Raises:
        ValueError: A descriptor is unknown, or one of the scale is not asked for.
    """
    from ..chemistry.descriptors import descriptor_names, descriptor_values

    names = descriptor_names(descriptors)
    if scale is not None:
        if missing := set(scale.names) - set(names):
            raise ValueError(
                f"The scale to standardise by is also of {', '.join(sorted(missing)[:5])}: ask for "
                "the properties that the other molecules were labelled with."
            )
        names = scale.names
    rows = np.arange(len(molecules))
    if number is not None and number < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, number, replace=False))
    ids = (molecules[row]["input_ids"].tolist() for row in rows.tolist())
    texts = (tokenizer.decode(each, skip_special_tokens=True) for each in ids)
    blocks = []
    with tqdm(desc="Computing properties", unit=" molecules", total=len(rows)) as bar:
        encode = partial(descriptor_values, names)
        for block in encode_in_order(encode, chunked(texts), num_workers):
            blocks.append(block)
            bar.update(len(block))
    values = np.concatenate(blocks)
    if scale is None:
        varies = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in values.T])
        if not varies.all():
            same = ", ".join(np.array(names)[~varies])
            logger.warning(f"Left out, the same for all {len(rows)} molecules: {same}.")
        values = values[:, varies]
        scale = PropertyScale.fit(np.array(names)[varies].tolist(), values)
    return molecules.labelled(rows, values, scale)
