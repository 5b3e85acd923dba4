"""What stands between the network and the service: size, time, key."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = ("/", "/health")
"""What needs no key: the page asks for it, a load balancer has none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost."""

    body_bytes: int = 1_048_576
    body_seconds: float = 10.0
    """For the body to arrive."""
    seconds: float = 10.0
    """For the answer."""


class Guards:
    """Refuses, before anything is parsed, what is too large, too slow or has no key.

    Args:
        app: what is guarded.
        limits: sizes and times.
        api_key: what callers must show as `X-API-Key` or `Authorization: Bearer`; None lets
            everybody in.
    """

    def __init__(self, app: App, limits: Limits, api_key: str | None) -> None:
        self._app, self._limits = app, limits
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or refuse it; anything but HTTP passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._has_key(scope):
            await _refuse(send, 401, "a valid API key is needed, as X-API-Key or as a bearer token")
            return
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._body(receive)
        except TimeoutError:
            await _refuse(send, 408, f"the body took over {self._limits.body_seconds:g} s")
            return
        if body is None:
            await _refuse(send, 413, f"the body is over {self._limits.body_bytes:,} bytes")
            return
        await self._app(scope, _replayed(body, receive), send)

    def _has_key(self, scope: Scope) -> bool:
        if self._key is None or scope["path"] in _OPEN:
            return True
        headers = dict(scope["headers"])
        shown = headers.get(b"x-api-key", b"")
        if not shown:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            shown = token.strip() if scheme.lower() == b"bearer" else b""
        return hmac.compare_digest(shown, self._key)

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the whole body, None where it is too large; nothing beyond the limit is kept."""
        parts, size = [], 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size > self._limits.body_bytes:
                return None
            parts.append(part)
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives a body that was read already, then goes on as before."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
