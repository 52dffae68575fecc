# SPDX-License-Identifier: Apache-2.0
"""From the sources a script names to packed molecules: files, tables, prepared folders, labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..model.tokenization_cmim import train_tokenizer
from .labelling import (
    LabelledRows,
    PropertyOptions,
    label_with_columns,
    label_with_descriptors,
)
from .packed_molecules import PackedMolecules, is_packed
from .property_labels import PropertyScale
from .row_encoder import Rejects, RowEncoder, encode_rows
from .smiles_files import Row, read_smiles

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read.

    Attributes:
        max_length: Nothing is cut: a longer molecule is a reject.
        canonicalize: Write each molecule as RDKit does first.
        column: As in `read_smiles`, like the next.
        split: Of Hub datasets and folders.
        num_workers: As in `prepare`.
        properties: What to label molecules with.
    """

    max_length: int
    canonicalize: bool
    column: str | None = None
    split: str = "train"
    num_workers: int = 0
    properties: PropertyOptions = PropertyOptions()


def prepare_sources(
    sources: Sequence[str | os.PathLike],
    tokenizer: PreTrainedTokenizerBase,
    options: SourceOptions,
) -> tuple[PackedMolecules, Rejects]:
    """Prepare the molecules of several sources, one after the other.

    Args:
        sources: What `read_smiles` takes, and folders that `PackedMolecules.save` wrote, which are
            taken as they are, with the labels they have.
        tokenizer: As in `RowEncoder`.
        options: See there.

    Returns:
        The molecules and the rows that cannot be used.

    Raises:
        ValueError: No usable row, a folder prepared with another tokenizer or for longer
            molecules, or labels that cannot be had (see `labelling`).
    """
    packed = [source for source in sources if is_packed(source)]
    parts = [PackedMolecules.load(folder, tokenizer) for folder in packed]
    for folder, part in zip(packed, parts, strict=True):
        if (longest := part.lengths.max(initial=0)) > options.max_length:
            raise ValueError(
                f"{folder} holds molecules of up to {longest} tokens, more than max_length = "
                f"{options.max_length}: raise that, or prepare the molecules again with it."
            )
    properties = options.properties
    if scales := [part.property_scale for part in parts if part.property_scale is not None]:
        properties = replace(properties, scale=properties.scale or scales[0])
        _check_labelled(scales[0], sources, packed, properties)
    rejects = Rejects()
    if unpacked := [source for source in sources if source not in packed]:
        molecules, rejects = _read(unpacked, tokenizer, replace(options, properties=properties))
        parts.append(molecules)
    elif properties.columns and not scales:
        raise ValueError(
            f"{', '.join(map(str, packed))} hold no columns any more: prepare the tables again "
            "with property_columns."
        )
    molecules = PackedMolecules.concatenate(parts)
    if properties.descriptors and not scales:
        molecules = label_with_descriptors(
            molecules, tokenizer, properties, num_workers=options.num_workers
        )
    return molecules, rejects


def _check_labelled(
    scale: PropertyScale,
    sources: Sequence[str | os.PathLike],
    packed: Sequence[str | os.PathLike],
    properties: PropertyOptions,
) -> None:
    """Refuse descriptors that are asked for beside labels that prepared molecules have."""
    if not properties.descriptors:
        return
    from ..chemistry.descriptors import descriptor_names

    if len(packed) < len(sources):
        raise ValueError(
            f"{packed[0]} is labelled already, and other sources are not: prepare those by "
            f"themselves, with --tokenizer {packed[0]} and the same --properties, and name the "
            "folders."
        )
    if lacking := set(descriptor_names(properties.descriptors)) - set(scale.names):
        logger.warning(
            f"{packed[0]} keeps the labels it was prepared with, without "
            f"{', '.join(sorted(lacking)[:5])}."
        )


def _read(
    sources: Sequence[str | os.PathLike],
    tokenizer: PreTrainedTokenizerBase,
    options: SourceOptions,
) -> tuple[PackedMolecules, Rejects]:
    """Prepare sources that are not prepared yet, with labels from their columns."""
    where = {"column": options.column, "split": options.split}
    encoder = RowEncoder(tokenizer, options.max_length, options.canonicalize)
    if options.properties.columns:
        rows = LabelledRows(sources, options.properties.columns, **where)
    else:
        rows = chain.from_iterable(read_smiles(source, **where) for source in sources)
    encoded = encode_rows(rows, encoder, num_workers=options.num_workers)
    molecules = PackedMolecules.from_tokens(encoded.tokens, encoded.lengths, tokenizer)
    if isinstance(rows, LabelledRows):
        molecules = label_with_columns(molecules, rows, encoded.kept, options.properties)
    return molecules, Rejects(encoded.rejects)


def retokenize(
    molecules: PackedMolecules, tokenizer: PreTrainedTokenizerBase, *, merges: int
) -> tuple[PackedMolecules, PreTrainedTokenizerBase, Rejects]:
    """Train a tokenizer with multi-atom tokens on molecules, and pack them with it.

    Args:
        molecules: Packed with `tokenizer`; their labels are kept.
        tokenizer: Their present one; the new one has its `model_max_length`.
        merges: As in `train_tokenizer`.

    Returns:
        The same molecules in the same order, their new tokenizer, and those of rare atoms, which
        it writes in more tokens, that have become too long.
    """
    ids = [example["input_ids"].tolist() for example in molecules]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    max_length = tokenizer.model_max_length
    learned = train_tokenizer(texts, merges=merges, max_length=max_length)
    rows = (Row("molecules", number, text) for number, text in enumerate(texts, 1))
    encoded = encode_rows(rows, RowEncoder(learned, max_length, canonicalize=False))
    labels = molecules.labels()
    if labels is not None:
        labels = labels.take(encoded.kept)
    packed = PackedMolecules.from_tokens(encoded.tokens, encoded.lengths, learned, labels)
    return packed, learned, Rejects(encoded.rejects)


__all__ = ["PropertyOptions", "SourceOptions", "prepare_sources", "retokenize"]
