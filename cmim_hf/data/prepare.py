# SPDX-License-Identifier: Apache-2.0
"""From sources of SMILES to packed molecules: files, tables, prepared folders; perhaps labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..atomic_files import check_writable, whole_folder
from ..model.tokenization_cmim import train_tokenizer
from .argument_checks import whole_number
from .labelling import label_with_columns, label_with_descriptors, numbers
from .packed_molecules import PackedMolecules, is_packed
from .property_labels import PropertyScale
from .row_encoder import EncodedRows, Rejects, RowEncoder, check_standardize, none_usable
from .smiles_files import Row, read_batches, read_smiles
from .worker_pool import chunked, encode_in_order

logger = logging.get_logger(__name__)

Sources = Sequence[str | os.PathLike]


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read, and which numbers their molecules are labelled with.

    Attributes:
        max_length: As in `RowEncoder`, like the next two.
        canonicalize: As there.
        standardize: As there.
        column: As in `read_smiles`, like `split`.
        split: As there.
        num_workers: As in `encode_in_order`.
        property_columns: Columns with labels, empty where a molecule has none.
        properties: Or descriptors of RDKit's, or sets of them, to be computed; see
            [`~cmim_hf.chemistry.descriptors.descriptor_names`].
        property_rows: Molecules, chosen at random, for which these are computed; None: all.
        property_scale: Standardise by this, as other molecules were, instead of by these.

    Raises:
        ValueError: Options that contradict each other.
    """

    max_length: int
    canonicalize: bool
    standardize: str = "none"
    column: str | None = None
    split: str = "train"
    num_workers: int = 0
    property_columns: Sequence[str] = ()
    properties: Sequence[str] = ()
    property_rows: int | None = None
    property_scale: PropertyScale | None = None

    def __post_init__(self) -> None:
        """Look for contradictions."""
        check_standardize(self.standardize, self.canonicalize)
        if self.property_columns and self.properties:
            raise ValueError("Give `property_columns` or `properties`, not both.")
        if self.property_rows is None:
            return
        whole_number("property_rows", self.property_rows, 1)
        if not self.properties:
            raise ValueError(
                "`property_rows` says how many molecules `properties` labels: give both."
            )


def prepare(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    canonicalize: bool,
    standardize: str = "none",
    num_workers: int = 0,
    progress: bool = True,
) -> tuple[PackedMolecules, Rejects]:
    """Parse and tokenise rows into packed molecules; rows that cannot be used are set aside.

    `rows` are read once, in order, a bounded number ahead, and the molecules stay in their order.
    See [`RowEncoder`] for the next four arguments, [`~.worker_pool.encode_in_order`] for the
    workers.

    Raises:
        ValueError: No row is usable (with the first three reasons).

    >>> from cmim_hf import default_tokenizer
    >>> rows = [Row("list", 1, "OCC"), Row("list", 2, "C1CC")]
    >>> molecules, rejects = prepare(
    ...     rows, default_tokenizer(), max_length=64, canonicalize=True, progress=False
    ... )
    >>> len(molecules), molecules.lengths.tolist(), rejects.counts
    (1, [4], {'does not parse': 1})
    """
    encoder = RowEncoder(tokenizer, max_length, canonicalize, standardize)
    encoded = _encode(rows, encoder, num_workers, progress)
    molecules = PackedMolecules.from_tokens(
        encoded.tokens, encoded.lengths, tokenizer, standardize=standardize
    )
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

    Sources are what `read_smiles` takes, and folders that `PackedMolecules.save` wrote, which are
    taken as they are, with the labels they have.

    Returns:
        The molecules and the rows that cannot be used.

    Raises:
        ValueError: No usable row, a folder prepared with another tokenizer, for longer molecules
            or to another standard, or labels that cannot be had (see `labelling`).
    """
    packed = [source for source in sources if is_packed(source)]
    unpacked = [source for source in sources if source not in packed]
    parts = [PackedMolecules.load(folder, tokenizer) for folder in packed]
    for folder, part in zip(packed, parts, strict=True):
        if (longest := part.lengths.max(initial=0)) > options.max_length:
            raise ValueError(
                f"{folder} holds molecules of up to {longest} tokens, more than `max_length` = "
                f"{options.max_length}: raise that, or prepare the molecules again with it."
            )
        if options.standardize not in ("none", part.standardize):
            raise ValueError(
                f"{folder} was prepared with `standardize` {part.standardize!r}, and what the rows "
                f"were is not known any more: prepare them again for {options.standardize!r}."
            )
    scale = next((part.property_scale for part in parts if part.property_scale is not None), None)
    if scale is not None:
        options = replace(options, property_scale=options.property_scale or scale)
        if options.properties and unpacked:
            raise ValueError(
                f"{packed[0]} is labelled already, and other sources are not: prepare those by "
                f"themselves, with --tokenizer {packed[0]} and the same `properties`, and name the "
                "folders."
            )
        if options.properties:
            logger.warning(f"{packed[0]} keeps the labels it was prepared with.")
    elif options.property_columns and not unpacked:
        raise ValueError(
            f"{', '.join(map(str, packed))} hold no columns any more: prepare the tables again "
            "with `property_columns`."
        )
    rejects = Rejects()
    if unpacked:
        molecules, rejects = _read(unpacked, tokenizer, options)
        parts.append(molecules)
    molecules = PackedMolecules.concatenate(parts)
    if options.properties and scale is None:
        molecules = label_with_descriptors(
            molecules,
            tokenizer,
            options.properties,
            number=options.property_rows,
            scale=options.property_scale,
            num_workers=options.num_workers,
        )
    return molecules, rejects


def _read(
    sources: Sources, tokenizer: PreTrainedTokenizerBase, options: SourceOptions
) -> tuple[PackedMolecules, Rejects]:
    """Prepare sources that are not prepared yet, with labels from their columns."""
    where = {"column": options.column, "split": options.split}
    standard = options.standardize
    encoder = RowEncoder(tokenizer, options.max_length, options.canonicalize, standard)
    columns = options.property_columns
    values: list[np.ndarray] = []

    def labelled_rows() -> Iterator[Row]:
        for batch in chain.from_iterable(read_batches(source, **where) for source in sources):
            values.append(np.array([numbers(batch, name) for name in columns], np.float32).T)
            yield from batch.rows()

    plain = chain.from_iterable(read_smiles(source, **where) for source in sources)
    encoded = _encode(labelled_rows() if columns else plain, encoder, options.num_workers)
    molecules = PackedMolecules.from_tokens(
        encoded.tokens, encoded.lengths, tokenizer, standardize=standard
    )
    if columns:
        known = np.concatenate(values)[encoded.kept]
        molecules = label_with_columns(molecules, known, columns, options.property_scale)
    return molecules, Rejects(encoded.rejects)


def retokenize(
    molecules: PackedMolecules, tokenizer: PreTrainedTokenizerBase, *, merges: int
) -> tuple[PackedMolecules, PreTrainedTokenizerBase, Rejects]:
    """Train a tokenizer with multi-atom tokens on molecules, and pack them with it.

    Their labels are kept, and so is the present tokenizer's `model_max_length`; `merges` is as in
    `train_tokenizer`.

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
    packed = PackedMolecules.from_tokens(
        encoded.tokens, encoded.lengths, learned, labels, molecules.standardize
    )
    return packed, learned, Rejects(encoded.rejects)


def prepare_folder(
    sources: Sources,
    output: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase,
    options: SourceOptions,
    *,
    merges: int = 0,
) -> tuple[PackedMolecules, Rejects]:
    """Prepare sources into a new folder, which is whole or absent: what `cmim prepare` does.

    It holds the molecules, their tokenizer and `rejects.tsv`.
    With `merges`, a tokenizer with so many multi-atom tokens is trained on the molecules first.

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
