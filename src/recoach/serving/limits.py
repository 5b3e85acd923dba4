"""ASGI middleware that checks the API key, the body size and the upload time of every request."""

import asyncio
import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PORT = re.compile(r":\d*$")
PATHS_WITHOUT_KEY = frozenset(("/", "/docs", "/health", "/live", "/ready"))
"""The two pages have an input field for the key; load balancers call the others without one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest sizes and longest times of requests and connections, in one process."""

    max_connections: int = 1024
    """Fewer if the process may open fewer than 64 files more."""
    max_head_bytes: int = 32_768
    """Of the request line and the headers."""
    max_headers: int = 100
    head_timeout_seconds: float = 10.0
    """For receiving the headers, from the opening of the connection or from their first byte."""
    idle_timeout_seconds: int = 30
    """Between the requests of a connection."""
    max_body_bytes: int = 1_048_576
    body_timeout_seconds: float = 10.0
    """For receiving the body."""
    response_timeout_seconds: float = 10.0
    """For computing the response."""
    write_timeout_seconds: float = 30.0
    """For a client that has stopped to read its response to go on."""


class HostMiddleware:
    """Refuses requests that are addressed to another host name, by the header Host.

    Args:
        app: the wrapped application.
        allowed_hosts: names without a port; "*" allows all.
    """

    def __init__(self, app: App, allowed_hosts: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] == "http" and "*" not in self._allowed:
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            if _PORT.sub("", host) not in self._allowed:
                await _reject(
                    send, 421, "The service does not answer to this Host. Allow it: --allowed-host."
                )
                return
        await self._app(scope, receive, send)


class LimitsMiddleware:
    """Rejects requests without a valid key, with a large body or a slow upload before parsing them.

    Args:
        app: the wrapped application.
        limits: sizes and times.
        api_key: the key that callers send as `X-API-Key` or `Authorization: Bearer`; None accepts
            every caller.
    """

    def __init__(self, app: App, limits: Limits, api_key: str | None) -> None:
        self._app, self._limits = app, limits
        self._api_key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or reject it; messages other than HTTP are passed on unchecked."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._has_valid_key(scope):
            await _reject(send, 401, "No valid API key. Send it as X-API-Key or as a bearer token.")
            return
        try:
            async with asyncio.timeout(self._limits.body_timeout_seconds):
                body = await self._read_body(receive)
        except TimeoutError:
            seconds = self._limits.body_timeout_seconds
            await _reject(send, 408, f"The body took longer than {seconds:g} s. Send it faster.")
            return
        if body is None:
            size = self._limits.max_body_bytes
            await _reject(
                send, 413, f"The body is larger than {size:,} bytes. Split it into more requests."
            )
            return
        await self._app(scope, _replay_body(body, receive), send)

    def _has_valid_key(self, scope: Scope) -> bool:
        if self._api_key is None or scope["path"] in PATHS_WITHOUT_KEY:
            return True
        headers = dict(scope["headers"])
        sent_key = headers.get(b"x-api-key", b"")
        if not sent_key:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            sent_key = token.strip() if scheme.lower() == b"bearer" else b""
        return hmac.compare_digest(sent_key, self._api_key)

    async def _read_body(self, receive: Receive) -> bytes | None:
        """Return the whole body, or None if it exceeds the limit; the excess is not stored."""
        chunks, size = [], 0
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limits.max_body_bytes:
                return None
            chunks.append(chunk)
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return b"".join(chunks)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first returns the body already read, then calls the original."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _reject(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
