"""Prometheus metrics of the service, added up over its workers."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from recoach.serving.limits import App, Message, Receive, Scope, Send

REQUESTS = Counter("recoach_requests", "HTTP requests.", ["route", "status"])
SECONDS = Histogram(
    "recoach_request_duration_seconds",
    "Time from a request's head to the end of its response.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LISTS = Counter("recoach_lists", "Lists that were sent.", ["run", "model"])
QUEUE = Gauge(
    "recoach_queue_length", "Lists that wait to be ranked.", ["run"], multiprocess_mode="livesum"
)
QUEUE_SECONDS = Histogram(
    "recoach_queue_duration_seconds",
    "Time from a request for a list to the beginning of its ranking.",
    ["run"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH_SIZE = Histogram(
    "recoach_batch_size", "Lists ranked together.", ["run"], buckets=(1, 2, 4, 8, 16, 32, 64)
)
MODEL_INFO = Gauge(
    "recoach_model_info",
    "1 for the version of a run's weights that is served.",
    ["run", "version"],
    multiprocess_mode="livemax",
)
RELOADS = Counter("recoach_reloads", "Attempts to load a changed run.", ["run", "outcome"])
EXPOSURES = Counter("recoach_exposures", "Lists that were logged or dropped.", ["outcome"])
SHADOW = Counter("recoach_shadow_requests", "Requests passed to the shadow or not.", ["outcome"])

_FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_UNKNOWN_ROUTE: Final = "other"


class MetricsMiddleware:
    """Counts requests and measures their time, by route and status.

    Args:
        app: the wrapped application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE)
            REQUESTS.labels(route, status).inc()
            SECONDS.labels(route).observe(time.perf_counter() - start)


def metrics_text() -> bytes:
    """Return the metrics of all workers in Prometheus' text format."""
    if _FOLDER_VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Let processes that are started in the `with` block add their metrics up."""
    with tempfile.TemporaryDirectory(prefix="recoach-metrics-", ignore_cleanup_errors=True) as path:
        os.environ[_FOLDER_VARIABLE] = path  # read when a worker imports prometheus_client
        try:
            yield
        finally:
            del os.environ[_FOLDER_VARIABLE]
