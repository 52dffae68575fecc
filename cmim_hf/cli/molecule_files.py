# SPDX-License-Identifier: Apache-2.0
"""Tables, lines and pictures of molecules, written whole or not at all."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic_files import write_whole, written_whole

if TYPE_CHECKING:
    import pyarrow as pa

LINE_SUFFIX = ".smi"
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
PICTURE_SUFFIXES = (".svg", ".png")

MOST_DRAWN = 60
"""Molecules of a picture; more would be too small to see, or the file too large to open."""


@contextmanager
def molecule_writer(
    path: Path | None, smiles: str, name: str | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that writes one table after another, in constant memory.

    A `.csv`, `.tsv` or `.parquet` file has all columns; nulls are empty fields in the first two.
    A `.smi` file and standard output (None) have a line for each row with a molecule: its SMILES
    and, behind a tab, its name, from the columns `smiles` and `name`. The file is replaced when the
    block ends without an error. At least one table is to be written, which may have no rows.
    """
    kind = LINE_SUFFIX if path is None else path.suffix.lower()
    begun = None
    with ExitStack() as stack:
        new = None if path is None else stack.enter_context(written_whole(path))
        if kind != ".parquet" and new is not None:
            stream = stack.enter_context(open(new, "w", encoding="utf-8", newline=""))
        else:
            stream = sys.stdout

        def write(table: pa.Table) -> None:
            nonlocal begun
            if kind == ".parquet":
                import pyarrow.parquet as pq

                if begun is None:
                    writer = pq.ParquetWriter(new, table.schema, compression="zstd")
                    begun = stack.enter_context(writer)
                begun.write_table(table)
            elif kind == LINE_SUFFIX:
                names = [None] * table.num_rows if name is None else table[name].to_pylist()
                for molecule, title in zip(table[smiles].to_pylist(), names, strict=True):
                    if molecule is not None:
                        stream.write(f"{molecule}\n" if title is None else f"{molecule}\t{title}\n")
                stream.flush()  # a pipe that was closed is an error here, not at the exit
            else:
                columns = [column.to_pylist() for column in table.columns]
                texts = (text for column in columns for text in column if isinstance(text, str))
                # before Python 3.13 csv leaves a lone \r bare, where readers end the row
                quoting = csv.QUOTE_ALL if any("\r" in text for text in texts) else 0
                mark = "," if kind == ".csv" else "\t"
                rows = csv.writer(stream, delimiter=mark, lineterminator="\n", quoting=quoting)
                rows.writerows([] if begun else [table.column_names])
                rows.writerows(zip(*columns, strict=True))
                begun = True

        yield write


class Picture:
    """A grid of molecules that is drawn at the end; the first of them if they are many.

    `path` is an `.svg` or `.png` file, None draws nothing; `added` counts all cells, drawn or not.
    """

    def __init__(self, path: Path | None, columns: int) -> None:
        """Begin with no cells, of which `columns` stand in a row."""
        self.path, self.added, self._columns = path, 0, columns
        self._cells: list[tuple[str | None, str, Sequence[float] | None]] = []

    @property
    def full(self) -> bool:
        """Whether further cells will not be drawn, so that their legends need no computing."""
        whole_rows = MOST_DRAWN - MOST_DRAWN % self._columns
        return self.path is None or len(self._cells) == whole_rows

    @property
    def drawn(self) -> int:
        """Cells that are drawn."""
        return len(self._cells)

    def add(self, smiles: str | None, legend: str, weights: Sequence[float] | None = None) -> None:
        """Add a cell; None leaves it empty but for its legend. `weights` colour its atoms."""
        self.added += 1
        if not self.full:
            self._cells.append((smiles, legend, weights))

    def save(self) -> None:
        """Write the file, which appears whole or not at all; nothing without a path or a cell."""
        if self.path is None or not self._cells:
            return
        from ..chemistry.drawing import draw_grid

        smiles, legends, weights = zip(*self._cells, strict=True)
        kind = self.path.suffix.lower().removeprefix(".")
        image = draw_grid(
            smiles, legends, weights=weights, columns=self._columns, image_format=kind
        )
        write_whole(self.path, image)
