# SPDX-License-Identifier: Apache-2.0
"""Work that other processes share, chunk after chunk; nothing here imports torch."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any, TypeVar

from .argument_checks import whole_number

CHUNK_ROWS = 512
_WAITING = 4  # chunks of each worker that are read ahead

Item = TypeVar("Item")
Encoded = TypeVar("Encoded")

_worker_encoder: Callable[[list], Any] | None = None  # set in the workers only


def chunked(rows: Iterable[Item], number: int = CHUNK_ROWS) -> Iterator[list[Item]]:
    """Cut rows into lists of so many, the last one shorter: `encode_in_order` likes `CHUNK_ROWS`.

    >>> [len(chunk) for chunk in chunked(range(1100))]
    [512, 512, 76]
    """
    remaining = iter(rows)
    while chunk := list(islice(remaining, number)):
        yield chunk


def encode_in_order(
    encoder: Callable[[list[Item]], Encoded], chunks: Iterable[list[Item]], num_workers: int
) -> Iterator[Encoded]:
    """Encode chunk after chunk, in order; `chunks` is read a bounded number ahead.

    Args:
        encoder: Works in this process, or a copy of it in each worker: a `RowEncoder`, say.
        chunks: Lists of a few hundred rows.
        num_workers: Processes that work beside this one; 0 works in this one. They are spawned, so
            a script calls this below `if __name__ == "__main__":`. The result is the same.

    Raises:
        ChildProcessError: A worker ended before its time.
        ValueError: A negative number of workers.
    """
    if whole_number("num_workers", num_workers, 0) == 0:
        yield from map(encoder, chunks)
        return
    context = multiprocessing.get_context("spawn")
    pending: deque[Future] = deque()
    try:
        with ExitStack() as stack:
            # One pool each: a pool that starts a process while another of its own dies may fail in
            # a thread of its own, with a traceback of Python's.
            workers = []
            for _ in range(num_workers):
                workers.append(ProcessPoolExecutor(1, context, _set_encoder, (encoder,)))
                stack.callback(workers[-1].shutdown, cancel_futures=True)
            for worker, chunk in zip(cycle(workers), chunks, strict=False):
                pending.append(worker.submit(_encode, chunk))
                if len(pending) > _WAITING * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"One of the {num_workers} processes that share the work ended before its time. If it "
            "was killed, perhaps for want of memory, run this again with fewer workers. A script "
            'that starts workers keeps what it runs below `if __name__ == "__main__":`.'
        ) from error


def _set_encoder(encoder: Callable[[list], Any]) -> None:
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker_encoder = encoder


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its processes to end."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode(rows: list) -> Any:
    return _worker_encoder(rows)
