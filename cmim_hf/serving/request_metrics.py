# SPDX-License-Identifier: Apache-2.0
"""What `/metrics` tells Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Scope

from .calls import Calls
from .service import Service

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)


class RequestMetrics:
    """Counters of one application."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Make them, in a registry of their own."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "cmim_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "cmim_request_seconds",
            "From a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "cmim_batch_rows",
            "Molecules or codes of a batch, by what is computed.",
            ["kind"],
            buckets=_ROWS,
            registry=self._registry,
        )

    def watch(self, calls: Calls, service: Service) -> None:
        """Also tell what is in work and what waits."""
        running = Gauge("cmim_running_requests", "Requests in work.", registry=self._registry)
        running.set_function(lambda: sum(calls.running.values()))
        waiting = Gauge("cmim_waiting_rows", "Rows that wait.", registry=self._registry)
        waiting.set_function(lambda: service.batcher.waiting)

    def batch(self, kind: str, rows: int) -> None:
        """Count a batch."""
        self._rows.labels(kind).observe(rows)

    @contextmanager
    def request(self, scope: Scope, status: Callable[[], int]) -> Iterator[None]:
        """Count and time a request by the route that it found."""
        start = time.perf_counter()
        try:
            yield
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._requests.labels(path, status()).inc()
            self._seconds.labels(path).observe(time.perf_counter() - start)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self._registry)
