# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a partial name beside `path` to write to; on success it becomes `path`.

    The content is on the disk before the name is. After an error the partial file is removed;
    after a sudden death of the process it stays, as `.<name>.<random>.partial`.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path) -> None:
    """Remove what `written_whole` left in a folder when a process died; nobody may be writing."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
