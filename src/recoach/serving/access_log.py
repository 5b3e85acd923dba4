"""The access log: one line of JSON for each request, under the ID that its response returns."""

import json
import logging
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from recoach.serving.limits import App, Message, Receive, Scope, Send

ACCESS_LOGGER = "recoach.access"
_REQUEST_ID = re.compile(rb"[\w.:+=-]{1,128}", re.ASCII)
_log = logging.getLogger(ACCESS_LOGGER)


class AccessLogMiddleware:
    """Gives each request an ID and logs it when its response ends, also one that failed.

    The ID is the header `X-Request-ID` of the request, if that is up to 128 letters, digits and
    `_.:+=-`, or a new one. The response returns it. A line has time, request_id, method, path
    (without the query), status, milliseconds, and what the route adds to
    `scope["state"]["access_log"]`. No key, body or address is logged.

    Args:
        app: the wrapped application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        sent_id = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex.encode()
        details: dict[str, Any] = {}
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id.decode(), "access_log": details}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": request_id.decode(),
                "method": scope.get("method"),
                "path": scope["path"],
                "status": status or 499,  # the client has gone
                "milliseconds": round(1000 * (time.perf_counter() - start), 1),
            }
            _log.log(
                logging.ERROR if status >= 500 else logging.INFO, "%s", json.dumps(line | details)
            )
