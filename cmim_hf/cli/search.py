# SPDX-License-Identifier: Apache-2.0
"""Nearest molecules of an embedded library.

Print the molecules of a library whose vectors are nearest to those of some queries, by cosine after
the mean vector of the library is subtracted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .molecule_files import Picture, molecule_writer
from .options import checked_outputs
from .seeds import given_rows

if TYPE_CHECKING:
    import pandas as pd

DRAWN = 9  # hits of a query that a picture shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to look for, where, and what to write."""
    parser.add_argument(
        "--library",
        required=True,
        help="a folder of Parquet files with embeddings, or one such file, of `cmim embed` or of "
        "examples/embed_library.py",
    )
    parser.add_argument("--queries", metavar="SMILES", nargs="+", default=[], help="look for these")
    parser.add_argument("--query-file", help="a file of further molecules to look for")
    parser.add_argument(
        "--neighbors", type=int, default=5, help="hits of each query (default: %(default)s)"
    )
    parser.add_argument(
        "--index",
        default="Flat",
        help="Flat compares with every vector (the default); other strings of faiss.index_factory, "
        "as HNSW32 or IVF1024,Flat, are faster and may miss hits (pip install 'cmim-hf[search]')",
    )
    parser.add_argument("--checkpoint", help="the library's, if it is elsewhere now")
    parser.add_argument(
        "--column", help="the library's column with SMILES, if not the one that was embedded"
    )
    parser.add_argument(
        "-o",
        "--output",
        help="write the hits to a .csv, .tsv or .parquet file, with their files and rows (from 0); "
        "to a .smi file or - (standard output) as lines: hit, tab, query",
    )
    parser.add_argument(
        "--picture",
        help=f"draw the hits, too: an .svg or .png file, at most {DRAWN} of a query and 60 cells",
    )


def run(options: argparse.Namespace) -> None:
    """Embed the queries, find their hits, print, write and draw them."""
    import pandas as pd
    import pyarrow as pa

    from ..data.invalid_rows import invalid_row
    from ..data.smiles_files import read_smiles
    from ..embedding.nearest import EmbeddedLibrary

    queries = given_rows("--queries", options.queries)
    if options.query_file is not None:
        queries += read_smiles(options.query_file)
    if not queries or options.neighbors < 1:
        raise ValueError(
            f"There is nothing to look for: {len(queries)} queries with {options.neighbors} "
            "neighbors each. Give --queries or --query-file, and --neighbors of at least 1."
        )
    output, picture = checked_outputs(options, [])
    library = EmbeddedLibrary(options.library, index=options.index, column=options.column)
    embedder = library.embedder(options.checkpoint)
    encoded = embedder.encoder()(queries)
    if encoded.rejects:
        raise invalid_row(encoded.rejects[0], may_choose=False)
    found = library.nearest(embedder.embed_encoded(encoded), options.neighbors)
    hits = [_compared(query.text, table) for query, table in zip(queries, found, strict=True)]
    if options.output is None:
        print(
            f"{library.rows - library.invalid_rows:,} molecules of {options.library} "
            f"({library.invalid_rows:,} invalid rows left out); cosine of {embedder.representation}"
            " embeddings after subtracting the library's mean."
        )
        for query, table in zip(queries, hits, strict=True):
            print(f"\n{query.text}\n{_lines(table.drop(columns=['query', 'file', 'row']))}")
    else:
        with molecule_writer(output, "smiles", name="query") as write:
            write(pa.Table.from_pandas(pd.concat(hits), preserve_index=False))
    if picture.path is not None:
        _draw([query.text for query in queries], hits, picture.path)


def _compared(query: str, hits: pd.DataFrame) -> pd.DataFrame:
    """The hits of a query with ranks, from 1, and Tanimoto similarities, NaN of no molecule."""
    import numpy as np

    from ..chemistry.smiles import similarities

    hits.insert(0, "query", query)
    hits.insert(1, "rank", hits.index + 1)
    hits.insert(3, "tanimoto", np.array(similarities(query, hits["smiles"]), float))
    return hits


def _lines(hits: pd.DataFrame) -> str:
    """The hits as lines, texts to the left, without columns that are empty."""
    hits = hits.dropna(axis="columns", how="all")
    hits = hits.fillna(dict.fromkeys(hits.select_dtypes(exclude="number"), ""))
    texts = hits.select_dtypes(exclude="number")
    widths = {name: max(map(len, hits[name]), default=0) for name in texts}
    formats = {name: f"{{:<{width}}}".format for name, width in widths.items()}
    how = {"justify": "left", "float_format": "%.3f", "na_rep": ""}
    return hits.to_string(index=False, formatters=formats, **how)


def _draw(queries: list[str], hits: list[pd.DataFrame], path: Path) -> None:
    """One row for each query: the query, then its hits."""
    columns = 1 + min(DRAWN, max(map(len, hits)))
    picture = Picture(path, columns)
    for query, table in zip(queries, hits, strict=True):
        picture.add(query, "query")
        for hit in table[:DRAWN].itertuples():
            drawn = hit.smiles if hit.tanimoto >= 0 else None
            picture.add(drawn, f"cosine {hit.cosine:.2f}, Tanimoto {hit.tanimoto:.2f}")
        for _ in range(columns - 1 - len(table)):
            picture.add(None, "")
    picture.save()
