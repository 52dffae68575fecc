# SPDX-License-Identifier: Apache-2.0
"""From sources of SMILES to packed molecules: files, tables, prepared folders; perhaps labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..atomic_files import check_writable, whole_folder
from ..model.tokenization_cmim import train_tokenizer
from .labelling import LabelledRows, PropertyOptions, label_with_columns, label_with_descriptors
from .packed_molecules import PackedMolecules, is_packed
from .row_encoder import EncodedRows, Rejects, RowEncoder, none_usable
from .smiles_files import Row, read_smiles
from .worker_pool import chunked, encode_in_order

logger = logging.get_logger(__name__)

Sources = Sequence[str | os.PathLike]


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read.

    Attributes:
        max_length: As in `RowEncoder`, like the next.
        canonicalize: Write each molecule as RDKit does first.
        column: As in `read_smiles`, like the next.
        split: Of Hub datasets and folders.
        num_workers: As in `encode_in_order`.
        properties: What to label molecules with.
    """

    max_length: int
    canonicalize: bool
    column: str | None = None
    split: str = "train"
    num_workers: int = 0
    properties: PropertyOptions = PropertyOptions()


def prepare(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    canonicalize: bool,
    num_workers: int = 0,
    progress: bool = True,
) -> tuple[PackedMolecules, Rejects]:
    """Parse and tokenise rows into packed molecules; rows that cannot be used are set aside.

    Args:
        rows: Read once, in order, a bounded number ahead.
        tokenizer: As in `RowEncoder`, like the next two.
        max_length: Most tokens of a molecule.
        canonicalize: Write each molecule as RDKit does first.
        num_workers: As in `encode_in_order`.
        progress: Show a bar.

    Returns:
        The molecules in the order of their rows, and the rejected rows.

    Raises:
        ValueError: No row is usable (with the first three reasons).
        ChildProcessError: A worker ended before its time.

    >>> from cmim_hf import default_tokenizer
    >>> rows = [Row("list", 1, "OCC"), Row("list", 2, "C1CC")]
    >>> molecules, rejects = prepare(
    ...     rows, default_tokenizer(), max_length=64, canonicalize=True, progress=False
    ... )
    >>> len(molecules), molecules.lengths.tolist(), rejects.counts
    (1, [4], {'does not parse': 1})
    """
    encoder = RowEncoder(tokenizer, max_length, canonicalize)
    encoded = _encode(rows, encoder, num_workers, progress)
    molecules = PackedMolecules.from_tokens(encoded.tokens, encoded.lengths, tokenizer)
    return molecules, Rejects(encoded.rejects)


def _encode(
    rows: Iterable[Row], encoder: RowEncoder, num_workers: int = 0, progress: bool = True
) -> EncodedRows:
    parts = [encoder([])]
    with tqdm(desc="Preparing molecules", unit=" rows", disable=not progress) as bar:
        for part in encode_in_order(encoder, chunked(rows), num_workers):
            parts.append(part)
            bar.update(part.number)
    encoded = EncodedRows.concatenate(parts)
    if len(encoded.lengths) == 0:
        raise none_usable(len(encoded.rejects), encoded.rejects)
    return encoded


def prepare_sources(
    sources: Sources, tokenizer: PreTrainedTokenizerBase, options: SourceOptions
) -> tuple[PackedMolecules, Rejects]:
    """Prepare the molecules of several sources, one after the other; the prepared come first.

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
    unpacked = [source for source in sources if source not in packed]
    parts = [_load(folder, tokenizer, options.max_length) for folder in packed]
    properties = options.properties
    scales = [part.property_scale for part in parts if part.property_scale is not None]
    if scales:
        properties = replace(properties, scale=properties.scale or scales[0])
    if scales and properties.descriptors:
        _keep_labels(packed[0], scales[0].names, properties.descriptors, bool(unpacked))
    rejects = Rejects()
    if unpacked:
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


def _load(
    folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> PackedMolecules:
    part = PackedMolecules.load(folder, tokenizer)
    if (longest := part.lengths.max(initial=0)) > max_length:
        raise ValueError(
            f"{folder} holds molecules of up to {longest} tokens, more than max_length = "
            f"{max_length}: raise that, or prepare the molecules again with it."
        )
    return part


def _keep_labels(
    folder: str | os.PathLike, names: Sequence[str], descriptors: Sequence[str], mixed: bool
) -> None:
    """Say what comes of descriptors that are asked for of molecules with labels already."""
    from ..chemistry.descriptors import descriptor_names

    if mixed:
        raise ValueError(
            f"{folder} is labelled already, and other sources are not: prepare those by "
            f"themselves, with --tokenizer {folder} and the same --properties, and name the "
            "folders."
        )
    if lacking := set(descriptor_names(descriptors)) - set(names):
        logger.warning(
            f"{folder} keeps the labels it was prepared with, without "
            f"{', '.join(sorted(lacking)[:5])}."
        )


def _read(
    sources: Sources, tokenizer: PreTrainedTokenizerBase, options: SourceOptions
) -> tuple[PackedMolecules, Rejects]:
    """Prepare sources that are not prepared yet, with labels from their columns."""
    where = {"column": options.column, "split": options.split}
    encoder = RowEncoder(tokenizer, options.max_length, options.canonicalize)
    columns = options.properties.columns
    if columns:
        rows = LabelledRows(sources, columns, **where)
    else:
        rows = chain.from_iterable(read_smiles(source, **where) for source in sources)
    encoded = _encode(rows, encoder, options.num_workers)
    molecules = PackedMolecules.from_tokens(encoded.tokens, encoded.lengths, tokenizer)
    if columns:
        values = rows.values()[encoded.kept]
        molecules = label_with_columns(molecules, values, options.properties)
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
    encoded = _encode(rows, RowEncoder(learned, max_length, canonicalize=False))
    labels = molecules.labels()
    if labels is not None:
        labels = labels.take(encoded.kept)
    packed = PackedMolecules.from_tokens(encoded.tokens, encoded.lengths, learned, labels)
    return packed, learned, Rejects(encoded.rejects)


def prepare_folder(
    sources: Sources,
    output: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase,
    options: SourceOptions,
    *,
    merges: int = 0,
) -> tuple[PackedMolecules, Rejects]:
    """Prepare sources into a new folder: the molecules, their tokenizer and `rejects.tsv`.

    The folder appears whole or not at all.

    Args:
        sources: As in `prepare_sources`, like the next but one and the one after it.
        output: The folder.
        tokenizer: Of the sources that are prepared already, if any.
        options: How sources are read.
        merges: Unless 0, train a tokenizer with so many multi-atom tokens on the molecules.

    Raises:
        FileExistsError: There is such a folder, or file, already.
        ValueError: As in `prepare_sources`.
        OSError: The disk is full, or nothing can be written there.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it, or give another name.")
    check_writable(next(folder for folder in output.absolute().parents if folder.exists()))
    molecules, rejects = prepare_sources(sources, tokenizer, options)
    if merges:
        molecules, tokenizer, too_long = retokenize(molecules, tokenizer, merges=merges)
        rejects += too_long
    with whole_folder(output) as partial:
        molecules.save(partial)
        tokenizer.save_pretrained(partial)
        rejects.write(partial / "rejects.tsv")
    return molecules, rejects


__all__ = [
    "PropertyOptions",
    "SourceOptions",
    "prepare",
    "prepare_folder",
    "prepare_sources",
    "retokenize",
]
