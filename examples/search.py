# SPDX-License-Identifier: Apache-2.0
"""Find the molecules of an embedded library that are nearest to some queries, and draw them.

    python examples/search.py --library runs/library \
        --queries "CC(=O)Oc1ccccc1C(=O)O" "c1ccccc1O" --neighbors 5 --picture runs/hits.png

Vectors are compared by their cosine after subtracting the library's mean vector: what all molecules
share says nothing about which are alike. The library is read row group by row group; only the index
has to fit into memory. Needs faiss (`pip install 'cmim-hf[search]'`), whose index factory
chooses between exact search, graphs, lists and compressed vectors.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from tqdm import tqdm
from transformers import HfArgumentParser

from cmim_hf import MoleculeEmbedder
from cmim_hf.atomic_files import write_whole
from cmim_hf.chemistry.smiles import draw_grid, similarity
from cmim_hf.cli.exit_status import run_script
from cmim_hf.data.smiles_files import find_column, read_smiles
from cmim_hf.embedding.tables import EMBEDDING_COLUMN, METADATA_KEY

try:
    import faiss
except ImportError:
    sys.exit("search.py needs faiss: pip install 'cmim-hf[search]'")

Groups = list[ds.ParquetFileFragment]  # the row groups of a library, in order
SETTINGS = ("fingerprint", "representation", "pooling", "canonicalize", "size")
TRAINING_ROWS = 100_000
DRAWN = 20  # RDKit draws no image of thousands of cells


@dataclass
class Arguments:
    """What to look for, and where."""

    library: str = field(metadata={"help": "Folder of Parquet shards with embeddings, or a file."})
    queries: list[str] = field(default_factory=list, metadata={"help": "SMILES to look for."})
    query_file: str | None = field(default=None, metadata={"help": "A file of further queries."})
    neighbors: int = field(
        default=5, metadata={"help": "Hits of a query, by cosine after subtracting the mean."}
    )
    index: str = field(
        default="Flat",
        metadata={
            "help": "A string of faiss.index_factory. Flat is exact; others, as HNSW32 or "
            "IVF1024,Flat, are faster and may miss hits. What an index must learn, it learns from "
            f"the first {TRAINING_ROWS:,} vectors."
        },
    )
    checkpoint: str | None = field(
        default=None, metadata={"help": "The library's checkpoint, if it is elsewhere now."}
    )
    smiles_column: str | None = field(
        default=None, metadata={"help": "Column with the SMILES, if not the one embedded."}
    )
    picture: str = field(
        default="hits.png",
        metadata={"help": f"A .png or .svg of hits: at most {DRAWN} of each of {DRAWN} queries."},
    )
    output: str | None = field(
        default=None, metadata={"help": "A .csv of all hits, with their files and rows (from 0)."}
    )


def open_library(source: str, column: str | None) -> tuple[dict[str, Any], Groups]:
    """How the vectors of a library were made, and its row groups; no vector is read."""
    path = Path(source)
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not shards or not shards[0].is_file():
        what = "no *.parquet in the folder" if path.is_dir() else "no such folder or file:"
        raise FileNotFoundError(f"There is {what} {path}; give a library of embedded molecules.")
    made, groups = {}, []
    for shard in ds.dataset([str(shard) for shard in shards], format="parquet").get_fragments():
        settings = read_settings(shard)
        made = made or settings
        if differing := [key for key in SETTINGS if settings[key] != made[key]]:
            what = "; ".join(f"{key} {made[key]!r} and {settings[key]!r}" for key in differing)
            raise ValueError(
                f"{shards[0]} and {shard.path} were made with different settings ({what}), so that "
                "their vectors cannot be compared; put them into different folders."
            )
        text_columns(shard, column)  # raises, if it has no SMILES, before anything is computed
        groups += shard.split_by_row_group()
    if not any(group.row_groups[0].num_rows for group in groups):
        raise ValueError(f"The library {path} is empty; embed at least one molecule.")
    return made, groups


def read_settings(shard: ds.ParquetFileFragment) -> dict[str, Any]:
    """How the vectors of a shard were made, from the metadata of its schema."""
    schema = shard.physical_schema
    if EMBEDDING_COLUMN not in schema.names:
        raise ValueError(
            f"{shard.path} has no column {EMBEDDING_COLUMN!r}; its columns are "
            f"{', '.join(map(repr, schema.names))}. Embed it first."
        )
    if METADATA_KEY not in (schema.metadata or {}):
        raise ValueError(
            f"{shard.path} does not say how its embeddings were made: no metadata "
            f"{METADATA_KEY.decode()!r} in its schema. Use the file as it was written at first."
        )
    return json.loads(schema.metadata[METADATA_KEY])


def text_columns(shard: ds.ParquetFileFragment, column: str | None) -> dict[str, ds.Expression]:
    """The columns that are shown, as text: the SMILES, and `id` and `name` if there are such."""
    names = shard.physical_schema.names
    embedded = json.loads(shard.physical_schema.metadata[METADATA_KEY]).get("column")
    chosen = {"smiles": find_column(names, column or embedded, shard.path)}
    chosen |= {name.lower(): name for name in names if name.lower() in ("id", "name")}
    return {shown: ds.field(name).cast(pa.string()) for shown, name in chosen.items()}


def load_embedder(made: dict[str, Any], checkpoint: str | None) -> MoleculeEmbedder:
    """What embeds queries as the library was embedded."""
    choices = {key: made[key] for key in ("representation", "pooling", "canonicalize")}
    dtype = made.get("dtype")
    embedder = MoleculeEmbedder(checkpoint or made["checkpoint"], dtype=dtype, **choices)
    if embedder.fingerprint != made["fingerprint"]:
        raise ValueError(
            f"The checkpoint {embedder.checkpoint} has the fingerprint {embedder.fingerprint}, but "
            f"{made['fingerprint']} made the library, so that their vectors cannot be compared. "
            "Give the library's own by --checkpoint, or embed the library again."
        )
    return embedder


def vectors_of(table: pa.Table) -> np.ndarray:
    """(rows, size) float32; NaN where a molecule is invalid."""
    column = table.column(EMBEDDING_COLUMN).combine_chunks()
    return column.values.to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def valid_vectors(groups: Groups, purpose: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each row group, the vectors of valid molecules, and which rows these are (rows,)."""
    for group in tqdm(groups, purpose, unit=" row groups", delay=2, leave=False):
        vectors = vectors_of(group.to_table(columns=[EMBEDDING_COLUMN]))
        valid = np.isfinite(vectors).all(axis=1)
        yield vectors[valid], valid


def survey(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The mean vector (size,) and the invalid rows, numbered from 0 through the library."""
    total, rows, invalid = 0.0, 0, []
    for vectors, valid in valid_vectors(groups, "Averaging"):
        total += vectors.sum(axis=0, dtype=np.float64)
        invalid.append(rows + np.flatnonzero(~valid))
        rows += len(valid)
    invalid = np.concatenate(invalid)
    if len(invalid) == rows:
        raise ValueError(f"All {rows} rows of the library are invalid; embed valid molecules.")
    return total / (rows - len(invalid)), invalid


def unit(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(v - mean) / |v - mean| for each row v; 0 for the mean itself, which has no direction."""
    centred = vectors - mean.astype(np.float32)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)


def build_index(groups: Groups, mean: np.ndarray, description: str) -> faiss.Index:
    """Put the valid vectors, in order, into an index by inner product.

    Of n inverted lists, √n are searched; faiss by itself searches one.
    """
    try:
        index = faiss.index_factory(len(mean), description, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(unit(first_vectors(groups, TRAINING_ROWS), mean))
        for vectors, _ in valid_vectors(groups, "Filling the index"):
            index.add(unit(vectors, mean))
    except RuntimeError as error:
        raise ValueError(
            f"faiss cannot build the index {description!r} of this library: {error}. Flat always "
            "works; faiss.index_factory knows others."
        ) from error
    if (lists := faiss.try_extract_index_ivf(index)) is not None:
        lists.nprobe = math.isqrt(lists.nlist)
    return index


def first_vectors(groups: Groups, count: int) -> np.ndarray:
    """The first `count` valid vectors, or all there are."""
    parts, found = [], 0
    for vectors, _ in valid_vectors(groups, "Training the index"):
        parts.append(vectors[: count - found])
        found += len(parts[-1])
        if found == count:
            break
    return np.concatenate(parts)


def search(index: faiss.Index, invalid: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of the library (queries, count), numbered from 0; -1 where the index finds no more."""
    _, places = index.search(queries, count)
    # Valid rows alone are in the index: invalid[j] - j of them come before row invalid[j].
    skipped = np.searchsorted(invalid - np.arange(len(invalid)), places, side="right")
    return np.where(places < 0, -1, places + skipped)


def fetch(groups: Groups, rows: np.ndarray, column: str | None) -> tuple[pd.DataFrame, np.ndarray]:
    """The molecules in some rows of the library, in ascending order, and their vectors."""
    frames, vectors, start, shard_starts = [], [], 0, {}
    for group in groups:
        shard_start = shard_starts.setdefault(group.path, start)
        end = start + group.row_groups[0].num_rows
        chosen = rows[(rows >= start) & (rows < end)]
        if len(chosen):
            columns = {**text_columns(group, column), EMBEDDING_COLUMN: ds.field(EMBEDDING_COLUMN)}
            table = group.to_table(columns=columns).take(chosen - start)
            vectors.append(vectors_of(table))
            frame = table.drop_columns([EMBEDDING_COLUMN]).to_pandas()
            frames.append(frame.assign(file=group.path, row=chosen - shard_start))
        start = end
    return pd.concat(frames, ignore_index=True).fillna(""), np.concatenate(vectors)


def rank(query: str, cosines: np.ndarray, molecules: pd.DataFrame) -> pd.DataFrame:
    """The hits of a query, best first."""
    order = np.argsort(-cosines, kind="stable")
    hits = molecules.iloc[order].reset_index(drop=True)
    tanimoto = [similarity(query, smiles) for smiles in hits["smiles"]]
    measures = {"rank": hits.index + 1, "cosine": cosines[order], "tanimoto": tanimoto}
    return pd.concat([pd.DataFrame({"query": query, **measures}), hits], axis=1)


def table_text(hits: pd.DataFrame) -> str:
    """The hits of a query as lines, texts to the left, without columns that are empty."""
    hits = hits.loc[:, (hits != "").any()]
    widths = {name: max(map(len, hits[name]), default=0) for name in hits.columns[3:]}
    formats = {name: f"{{:<{width}}}".format for name, width in widths.items()}
    return hits.to_string(index=False, justify="left", float_format="%.3f", formatters=formats)


def draw(queries: list[str], hits: list[pd.DataFrame], path: str) -> None:
    """One row for each query: the query, then its hits."""
    columns = 1 + min(DRAWN, max(map(len, hits)))
    cells = []
    for query, found in zip(queries[:DRAWN], hits, strict=False):
        row = [(query, "query")]
        for hit in found[:DRAWN].itertuples():
            row.append((hit.smiles, f"cosine {hit.cosine:.2f}, Tanimoto {hit.tanimoto:.2f}"))
        cells += row + [(None, "")] * (columns - len(row))
    kind = Path(path).suffix.lower().removeprefix(".")
    smiles, legends = map(list, zip(*cells, strict=True))
    write_whole(path, draw_grid(smiles, legends, columns=columns, image_format=kind))


def run(args: Arguments) -> None:
    """Embed the queries, find their hits, print and draw them."""
    queries = list(args.queries)
    if args.query_file is not None:
        queries += [row.text for row in read_smiles(args.query_file)]
    if not queries or args.neighbors < 1:
        raise ValueError(
            f"There is nothing to look for: {len(queries)} queries with {args.neighbors} neighbors "
            "each. Give --queries or --query_file, and --neighbors of at least 1."
        )
    for path, kinds in ((args.picture, (".png", ".svg")), (args.output, (".csv",))):
        if path is not None and Path(path).suffix.lower() not in kinds:
            raise ValueError(f"{path} must end in {' or '.join(kinds)}.")
    made, groups = open_library(args.library, args.smiles_column)
    vectors = load_embedder(made, args.checkpoint).embed(queries)
    mean, invalid = survey(groups)
    vectors, index = unit(vectors, mean), build_index(groups, mean, args.index)
    rows = search(index, invalid, vectors, args.neighbors)
    fetched = np.unique(rows[rows >= 0])
    molecules, found = fetch(groups, fetched, args.smiles_column)
    found = unit(found, mean)  # an index may keep less of the vectors; cosines are of all
    hits = []
    for query, vector, own in zip(queries, vectors, rows, strict=True):
        chosen = np.searchsorted(fetched, own[own >= 0])
        hits.append(rank(query, found[chosen] @ vector, molecules.iloc[chosen]))

    print(
        f"{index.ntotal:,} molecules of {args.library} ({len(invalid):,} invalid rows left out); "
        f"cosine of {made['representation']} embeddings after subtracting the library's mean."
    )
    for query, own in zip(queries, hits, strict=True):
        print(f"\n{query}\n{table_text(own.drop(columns=['query', 'file', 'row']))}")
    draw(queries, hits, args.picture)
    print(f"\nDrawn to {args.picture}.")
    if args.output is not None:
        write_whole(args.output, pd.concat(hits).to_csv(index=False))


def main() -> None:
    """Run with the arguments of the command line."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    run(args)


if __name__ == "__main__":
    run_script(main)
