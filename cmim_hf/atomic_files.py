# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil

_PARTIAL = re.compile(r"(\..+)\.(\d{1,10})\.[0-9a-f]{8}\.partial").fullmatch
_OF_THE_DISK = re.compile(  # of tokenizers, NumPy and torch
    r"\(os error (27|28|112|122)\)|requested and \d+ written"
    r"|inline_container|PytorchStreamWriter"
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_output(
    output: str | os.PathLike, suffixes: Iterable[str], inputs: Iterable[str | os.PathLike] = ()
) -> Path:
    """The path of an output file whose kind is known and whose folder exists.

    A link stays a link, the result is what it points to. Inputs that are no files are passed over.

    Raises:
        ValueError: Its suffix is none of `suffixes`, or it is one of `inputs`.
        FileNotFoundError: Its folder does not exist.
        IsADirectoryError: It is a folder itself.
        PermissionError: Nothing can be written to its folder.
    """
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in one of {', '.join(suffixes)}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    check_writable(path.resolve().parent)
    if path.exists() and any(os.path.exists(other) and path.samefile(other) for other in inputs):
        raise ValueError(f"{path} is the input itself; give another name.")
    return path.resolve()


def check_writable(folder: Path) -> None:
    """Raise PermissionError where nothing can be written to a folder, before any work is done."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"Nothing can be written to the folder {folder}: it is read-only, or belongs to "
            "another user. Give another one, or change its permissions."
        )


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a partial name beside `path` to write to; on success it becomes `path`.

    The content is on the disk before the name is. After an error the partial file is removed;
    after a sudden death of the process it stays, as `.<name>.<host>.<process>.<random>.partial`.
    Raises what `writing` does.
    """
    partial = _partial(path)
    try:
        with writing(path):
            yield partial
            with open(partial, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file by `written_whole`, text as UTF-8, and the folders above it if they are missing.

    A link stays a link, and a pipe or a device, such as /dev/stdout, is written to.
    """
    path = Path(path).resolve()
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as new:
        new.write_bytes(data)


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn libraries' own errors of a full disk into one that names `path`.

    Raises:
        OSError: What was written could not be written whole; some of it may be there.
    """
    try:
        yield
    except Exception as error:
        code, reason = getattr(error, "errno", None), str(error).strip().removesuffix(".")
        if code not in _NO_SPACE and not _OF_THE_DISK.search(reason):
            raise
        reason = os.strerror(code) if code else reason
        raise OSError(
            f"{path} could not be written ({reason}). Is the disk full? Make room, then run this "
            "again."
        ) from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a partial name beside `folder` to make a folder of; on success it becomes `folder`.

    One that was there is replaced then. After an error the partial one is removed; what a sudden
    death leaves beside it, the next call removes. Raises what `writing` does.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(folder.parent)
    partial = _partial(folder)
    try:
        with writing(folder):
            yield partial
        old = _partial(folder)
        if folder.is_dir():
            folder.rename(old)  # where a file of it is open, Windows refuses before all is lost
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partials(folder: Path) -> None:
    """Remove what `written_whole` and `whole_folder` left in a folder when processes died.

    What a live process of this host is writing stays, what another host began within a day, and
    what only ends like one of them.
    """
    for partial in folder.glob(".*.partial"):
        ours = _PARTIAL(partial.name)
        if ours is None:
            continue
        head, process = ours.groups()
        if head.endswith(f".{socket.gethostname()}"):
            in_use = psutil.pid_exists(int(process))
        else:
            in_use = time.time() - partial.stat().st_mtime < 86400
        if not in_use and partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        elif not in_use:
            partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    owner = f"{socket.gethostname()}.{os.getpid()}"
    return path.with_name(f".{path.name}.{owner}.{uuid4().hex[:8]}.partial")
