"""The OpenAPI description of the service and the page that shows it, which needs no other site."""

from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from recoach.serving.limits import PATHS_WITHOUT_KEY

DOCS_PATH: Final = "/docs"
PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Headers of HTML pages: nothing is loaded from another site, and no other site embeds them."""
_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def add_api_docs(app: FastAPI, *, has_key: bool) -> None:
    """Add the page of the API, and the ways to send the key to the OpenAPI description.

    Args:
        app: the application, which has all its routes.
        has_key: whether requests need a key.
    """
    content = files("recoach.serving").joinpath("api_docs.html").read_text(encoding="utf-8")

    @app.get(DOCS_PATH, response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(content, headers=PAGE_HEADERS)

    if has_key:
        _require_key(app.openapi())  # FastAPI returns the same object from now on


def _require_key(schema: dict[str, Any]) -> None:
    schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
    schema["security"] = [{name: []} for name in _SCHEMES]
    for path in PATHS_WITHOUT_KEY & schema["paths"].keys():
        for operation in schema["paths"][path].values():
            operation["security"] = []
