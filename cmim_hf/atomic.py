# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a partial name beside `path` to write to; on success it becomes `path`.

    The content is on the disk before the name is. After an error the partial file is removed;
    after a sudden death of the process it stays, as `.<name>.<host>.<process>.<random>.partial`.
    """
    owner = f"{socket.gethostname()}.{os.getpid()}"
    partial = path.with_name(f".{path.name}.{owner}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path) -> None:
    """Remove what `written_whole` left in a folder when processes died.

    What a live process of this host is writing stays, and what another host began within a day.
    """
    for partial in folder.glob(".*.partial"):
        head, process, _, _ = partial.name.rsplit(".", 3)
        if head.endswith(f".{socket.gethostname()}"):
            in_use = _is_alive(int(process))
        else:
            in_use = time.time() - partial.stat().st_mtime < 86400
        if not in_use:
            partial.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives, under another user
    return True
