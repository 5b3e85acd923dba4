"""The HTTP server of one process, which drains before it stops."""

import signal
import time
from types import FrameType
from typing import Final

import uvicorn

from recoach.serving.connections import limited_protocol
from recoach.serving.limits import App, Limits, Message, Receive, Scope, Send
from recoach.serving.routing import Routing

STOP_SECONDS: Final = 15
"""Longest time for running requests to finish after the drain."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on answering for some seconds after SIGTERM before it stops.

    During the drain `routing.is_draining` is true, so that /ready answers 503 and load balancers
    send their requests elsewhere; each response closes its connection. Then no connection is
    accepted, and running requests have `STOP_SECONDS` to finish. SIGINT stops without a drain.

    Args:
        app: the ASGI application.
        routing: is told that the drain has begun.
        drain_seconds: duration of the drain.
        limits: of connections and heads.
    """

    def __init__(
        self, app: App, routing: Routing, drain_seconds: float, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        config = uvicorn.Config(
            _closing_when_draining(app, routing),
            log_level="warning",
            access_log=False,
            server_header=False,
            http=limited_protocol(limits),
            ws="none",
            timeout_keep_alive=limits.idle_timeout_seconds,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        super().__init__(config)
        self._routing, self._drain_seconds = routing, drain_seconds
        self._stop_time: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at SIGTERM; stop at SIGINT."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._stop_time is None:
            self._stop_time = time.monotonic() + self._drain_seconds
            self._routing.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server stops now; called ten times a second."""
        if self._stop_time is not None and time.monotonic() >= self._stop_time:
            self.should_exit = True
        return await super().on_tick(counter)


def _closing_when_draining(app: App, routing: Routing) -> App:
    """Return an application that asks clients to close their connections during the drain."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and routing.is_draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await app(scope, receive, send_closing)

    return closing
