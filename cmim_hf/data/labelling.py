# SPDX-License-Identifier: Apache-2.0
"""Where labels of molecules come from: columns of their tables, or RDKit's descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..model.configuration_cmim import CMIMConfig
from ..model.modeling_cmim import CMIMModel
from .packed_molecules import PackedMolecules, is_packed
from .property_labels import PropertyScale
from .row_encoder import chunked, encode_in_order
from .smiles_files import Row, read_batches
from .tables import find_column

logger = logging.get_logger(__name__)

_MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none", "-")


@dataclass(frozen=True)
class PropertyOptions:
    """Which numbers molecules are labelled with.

    Attributes:
        columns: Columns of the source files, empty where a molecule has no value.
        descriptors: Descriptors of RDKit's, or sets of them, to be computed; see
            `chem_descriptors`. Either these or columns.
        rows: Molecules, chosen at random, for which descriptors are computed; None: all.
        scale: Standardise by this, as other molecules were, instead of by these molecules.
    """

    columns: tuple[str, ...] = ()
    descriptors: tuple[str, ...] = ()
    rows: int | None = None
    scale: PropertyScale | None = None

    def __post_init__(self) -> None:
        """ValueError where both kinds are asked for, or `rows` is below 1."""
        if self.columns and self.descriptors:
            raise ValueError("Give property_columns or properties, not both.")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"property_rows must be at least 1, got {self.rows}.")
        if self.rows is not None and not self.descriptors:
            raise ValueError(
                "property_rows says how many molecules `properties` labels: give both."
            )


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


class LabelledRows:
    """The rows of sources, as `read_smiles` yields them, with the numbers in some columns.

    Args:
        sources: Tables with these columns.
        columns: Their names, case aside.
        column: The column with SMILES.
        split: Of Hub datasets.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike],
        columns: Sequence[str],
        *,
        column: str | None,
        split: str,
    ) -> None:
        """Keep the arguments; opens nothing."""
        self._sources = sources
        self._columns = columns
        self._options = {"column": column, "split": split}
        self._blocks = [np.empty((0, len(columns)), np.float32)]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows, once.

        Raises:
            ValueError: A source without one of the columns, or with text in it.
        """
        for source in self._sources:
            for batch in read_batches(source, **self._options):
                names = batch.columns.column_names
                values = []
                for column in self._columns:
                    name = find_column(names, column, batch.source, "property_columns")
                    cells = batch.columns.column(name).to_pylist()
                    values.append(_numbers(cells, name, batch.source, batch.start))
                self._blocks.append(np.stack(values, axis=1))
                for number, text in enumerate(batch.smiles, batch.start):
                    yield Row(batch.source, number, text)

    def values(self) -> np.ndarray:
        """The numbers of the rows yielded so far (rows, columns), float32, NaN where missing."""
        return np.concatenate(self._blocks)


def _numbers(values: list, name: str, where: str, start: int) -> np.ndarray:
    numbers = np.full(len(values), np.nan, np.float32)
    for place, value in enumerate(values):
        if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING_WORDS):
            continue
        try:
            numbers[place] = float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"{where}, row {start + place}: column {name!r} holds {value!r}, which is no "
                "number. Properties are numbers; leave a cell empty where there is none."
            ) from None
    return numbers


def label_with_columns(
    molecules: PackedMolecules, rows: LabelledRows, kept: np.ndarray, options: PropertyOptions
) -> PackedMolecules:
    """Label molecules with the columns of the rows that they came from.

    Args:
        molecules: Of the usable ones of `rows`.
        rows: Read to their end.
        kept: (molecules,), the place of each among all rows.
        options: With the columns.
    """
    values = rows.values()[kept]
    labelled = np.flatnonzero(~np.isnan(values).all(axis=1))
    scale = options.scale or PropertyScale.fit(options.columns, values)
    if [name.lower() for name in scale.names] != [name.lower() for name in options.columns]:
        raise ValueError(
            f"The scale to standardise by is of {', '.join(scale.names[:5])} ..., the labels are "
            f"{', '.join(options.columns[:5])}: name the same ones, in the same order, or a "
            "folder that holds a tokenizer alone."
        )
    return molecules.labelled(labelled, values[labelled], scale)


def label_with_descriptors(
    molecules: PackedMolecules,
    tokenizer: PreTrainedTokenizerBase,
    options: PropertyOptions,
    *,
    num_workers: int = 0,
    seed: int = 0,
) -> PackedMolecules:
    """Compute descriptors of molecules, or of a random sample of them, as their labels.

    Args:
        molecules: Without labels.
        tokenizer: What they were prepared with.
        options: With the descriptors and, perhaps, the number of rows.
        num_workers: As in `prepare`.
        seed: Of the choice of rows.

    Raises:
        ValueError: The molecules have labels already, or a descriptor is unknown. Those that are
            the same for all molecules are left out, and named.
    """
    from ..chemistry.descriptors import DescriptorTable, descriptor_names

    if molecules.property_scale is not None:
        raise ValueError(
            "These molecules were prepared with labels already "
            f"({', '.join(molecules.property_scale.names[:3])} ...): leave out --properties."
        )
    names = descriptor_names(options.descriptors)
    if options.scale is not None:
        if missing := set(options.scale.names) - set(names):
            raise ValueError(
                f"The scale to standardise by is also of {', '.join(sorted(missing)[:5])}: ask for "
                "the properties that the other molecules were labelled with."
            )
        names = options.scale.names
    rows = np.arange(len(molecules))
    if options.rows is not None and options.rows < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, options.rows, replace=False))
    blocks = []
    with tqdm(desc="Computing properties", unit=" molecules", total=len(rows)) as bar:
        texts = _texts(molecules, rows, tokenizer)
        for block in encode_in_order(DescriptorTable(names), chunked(texts), num_workers):
            blocks.append(block)
            bar.update(len(block))
    values = np.concatenate(blocks)
    if options.scale is not None:
        return molecules.labelled(rows, values, options.scale)
    varied = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in values.T])
    if not varied.all():
        same = [name for name, varies in zip(names, varied, strict=True) if not varies]
        logger.warning(f"Left out, the same for all {len(rows)} molecules: {', '.join(same)}.")
    names = [name for name, varies in zip(names, varied, strict=True) if varies]
    return molecules.labelled(rows, values[:, varied], PropertyScale.fit(names, values[:, varied]))


def _texts(
    molecules: PackedMolecules, rows: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    for row in rows:
        yield tokenizer.decode(molecules[int(row)]["input_ids"].tolist(), skip_special_tokens=True)


__all__ = [
    "LabelledRows",
    "PropertyOptions",
    "label_with_columns",
    "label_with_descriptors",
    "read_property_scale",
]
