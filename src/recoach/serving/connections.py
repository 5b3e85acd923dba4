"""Limits of connections and of the heads of requests, which apply before a request exists."""

import asyncio
import json
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recoach.serving.limits import Limits

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_RESERVED_FILES = 64
"""Descriptors that connections leave for models, logs and the event loop."""


def max_connections(limits: Limits) -> int:
    """Return how many connections a process accepts: those of the limits or of its descriptors."""
    if resource is None:
        return limits.max_connections
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft_limit == resource.RLIM_INFINITY:
        return limits.max_connections
    return max(8, min(limits.max_connections, soft_limit - _RESERVED_FILES))


def limited_protocol(limits: Limits) -> Any:  # noqa: ANN401 - uvicorn calls it like a class
    """Return the protocol of a connection for `uvicorn.Config(http=...)`."""
    return partial(LimitedProtocol, limits, max_connections(limits))


class LimitedProtocol(HttpToolsProtocol):
    """An HTTP connection that refuses large and slow heads, and connections above a number.

    A head is the request line with the headers. Answers are 431 for a head that is too large, 408
    for one that takes too long, 503 above the number of connections; each closes the connection. A
    connection on which no request begins is closed without an answer after the same time.
    """

    def __init__(self, limits: Limits, n_allowed: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._limits, self._n_allowed = limits, n_allowed
        self._head_bytes = 0
        self._is_reading_head = True
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it if there are too many."""
        if len(self.connections) >= self._n_allowed:
            self.transport = transport
            self._refuse(503, "The service has too many connections. Try again later.")
            return
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._clear_deadline()
        self._clear_write_deadline()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read; close the connection if it does not."""
        super().pause_writing()
        self._clear_write_deadline()
        seconds = self._limits.write_timeout_seconds
        self._write_deadline = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._clear_write_deadline()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        if self._is_reading_head:
            self._head_bytes += len(data)
            self._set_deadline()
        super().data_received(data)
        if self._is_reading_head and self._head_bytes > self._limits.max_head_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._n_parsed = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request line has been read."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has been read."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head has been read."""
        self._is_reading_head, self._head_bytes = False, 0
        self._clear_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has been read; the next head can begin."""
        self._is_reading_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a head that cannot be read, or that is too large."""
        if self._is_too_large():
            self._refuse_head()
        else:
            self._refuse(400, "The request is not valid HTTP.")

    def _count(self, size: int) -> None:
        self._n_parsed += size
        if self._is_too_large():
            raise ValueError("the head is too large")  # the parser stops and reports an error

    def _is_too_large(self) -> bool:
        n_headers = len(self.headers or ())
        limits = self._limits
        return self._n_parsed > limits.max_head_bytes or n_headers > limits.max_headers

    def _refuse_head(self) -> None:
        size, count = self._limits.max_head_bytes, self._limits.max_headers
        self._refuse(431, f"The headers are larger than {size:,} bytes or more than {count}.")

    def _set_deadline(self) -> None:
        if self._deadline is None:
            seconds = self._limits.head_timeout_seconds
            self._deadline = self.loop.call_later(seconds, self._time_out)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _clear_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _time_out(self) -> None:
        if self._head_bytes:
            seconds = self._limits.head_timeout_seconds
            self._refuse(408, f"The headers took longer than {seconds:g} s. Send them faster.")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with an error and close the connection."""
        self._clear_deadline()
        if self.transport.is_closing():
            return
        body = json.dumps({"detail": detail}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n"
        )
        head += "retry-after: 1\r\n\r\n" if status == 503 else "\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
