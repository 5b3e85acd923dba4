"""The OpenAPI description of the service and the page that shows it, which needs no other site."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from recoach.serving.html_pages import read_page
from recoach.serving.limits import PATHS_WITHOUT_KEY

DOCS_PATH: Final = "/docs"
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
    page = read_page("api_docs.html")

    @app.get(DOCS_PATH, response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page.content, headers=page.headers)

    if has_key:
        _require_key(app.openapi())  # FastAPI returns the same object from now on


def _require_key(schema: dict[str, Any]) -> None:
    schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
    schema["security"] = [{name: []} for name in _SCHEMES]
    for path in PATHS_WITHOUT_KEY & schema["paths"].keys():
        for operation in schema["paths"][path].values():
            operation["security"] = []
