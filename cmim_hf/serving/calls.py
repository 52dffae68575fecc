# SPDX-License-Identifier: Apache-2.0
"""From an HTTP request to work in a thread, and back: deadlines, clients that leave, errors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from .batching import Call, CallEnded
from .service import Limits

logger = logging.getLogger(__name__)

JSON = "application/json"
Work = Callable[[Call], Any]
"""What answers a request. It may call `Call.check` now and then."""

CLIENT_LEFT = 499
"""Status in the metrics of a request that nobody waited for, as nginx has it."""

_SECONDS_TO_END = 2.0
_TOO_LONG = "The request took longer than this server allows; ask for less."


class Calls:
    """Answers requests in threads, so many at once as the limits say.

    Args:
        limits: Of the server.
    """

    def __init__(self, limits: Limits) -> None:
        """Make the threads."""
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.requests, thread_name_prefix="call")
        self.running = {"short": 0, "long": 0}

    def close(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown()

    async def answer(
        self,
        request: Request,
        work: Work,
        words: Mapping[str, str],
        *,
        long: bool = False,
        media_type: str = JSON,
    ) -> Response:
        """The response of what `work` gives, or of its error.

        Args:
            request: Its body is read. If its client leaves, the work is given up.
            work: See there.
            words: What the request calls arguments of the package.
            long: It is an optimisation, of which fewer may run.
            media_type: If it is not JSON, `work` gives text.
        """
        if (busy := self._busy(long)) is not None:
            return busy
        call = Call()

        def written() -> str:
            content = work(call)
            return json.dumps(content, allow_nan=False) if media_type == JSON else content

        future = self._start(call, written, long)
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait(
                {future, left},
                timeout=self._limits.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if left.done() and not future.done():
                return Response(status_code=CLIENT_LEFT)
            if not future.done():  # a search gives what it has found
                call.end()
                await asyncio.wait({future}, timeout=_SECONDS_TO_END)
            if not future.done():
                return problem(504, _TOO_LONG)
            return _response(future, words, media_type)
        finally:
            call.end()
            left.cancel()

    async def stream(
        self,
        request: Request,
        work: Callable[[Call, Callable[[Any], None]], Any],
        words: Mapping[str, str],
    ) -> Response:
        """Lines of JSON as `work` emits them, the last of them what it gives.

        An error before the first line is a response of its own, a later one a line
        `{"error": "..."}`.
        """
        if (busy := self._busy(True)) is not None:
            return busy
        call, loop = Call(), asyncio.get_running_loop()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def emit(content: Any) -> None:
            line = json.dumps(content, allow_nan=False) + "\n"
            loop.call_soon_threadsafe(lines.put_nowait, line)

        future = self._start(call, lambda: emit(work(call, emit)), True)
        deadline = loop.call_later(self._limits.seconds, call.end)
        left = asyncio.ensure_future(_left(request))
        left.add_done_callback(lambda _: call.end())

        def ended(future: asyncio.Future) -> None:
            lines.put_nowait(None)
            deadline.cancel()
            left.cancel()

        future.add_done_callback(ended)
        first = await lines.get()
        if first is None:
            return _response(future, words)

        async def written() -> AsyncIterator[str]:
            line = first
            while line is not None:
                yield line
                line = await lines.get()
            if future.exception() is not None:
                _, message = _failure(future.exception(), words)
                yield json.dumps({"error": message}) + "\n"

        return StreamingResponse(written(), media_type="application/x-ndjson")

    def _busy(self, long: bool) -> Response | None:
        most = self._limits.requests
        if sum(self.running.values()) >= most:
            return problem(503, f"{most} requests are in work; ask again.", retry=1)
        most = max(1, most // 4)
        if long and self.running["long"] >= most:
            return problem(503, f"{most} optimisations are in work; ask again.", retry=10)
        return None

    def _start(self, call: Call, work: Callable[[], Any], long: bool) -> asyncio.Future:
        kind = "long" if long else "short"
        self.running[kind] += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)

        def done(future: asyncio.Future) -> None:
            self.running[kind] -= 1
            error = future.exception()  # taken, so that asyncio does not tell of it
            if error is not None and not isinstance(
                error, CallEnded | ValueError | TypeError | ImportError
            ):
                logger.error("A request failed.", exc_info=error)

        future.add_done_callback(done)
        return future


def problem(status: int, message: str, retry: int | None = None) -> Response:
    """An error in the form that FastAPI gives those of validation."""
    detail = [
        {"type": "error" if status != 422 else "value_error", "loc": ["body"], "msg": message}
    ]
    headers = None if retry is None else {"Retry-After": str(retry)}
    return JSONResponse({"detail": detail}, status, headers)


async def _left(request: Request) -> None:
    """Wait until the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(future: asyncio.Future, words: Mapping[str, str], media_type: str = JSON) -> Response:
    if future.exception() is None:
        return Response(future.result(), media_type=media_type)
    return problem(*_failure(future.exception(), words))


def _failure(error: BaseException, words: Mapping[str, str]) -> tuple[int, str]:
    """Status and message of what a work raised, in the words of the request."""
    if isinstance(error, CallEnded):
        return 504, _TOO_LONG
    if not isinstance(error, ValueError | TypeError | ImportError):
        return 500, f"The server failed ({type(error).__name__}); its log says more."
    message = str(error)
    for argument, word in words.items():
        message = message.replace(f"`{argument}`", f"`{word}`")
    return 422, message
