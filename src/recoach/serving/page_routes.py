"""The comparison page and the routes that it uses."""

import asyncio
from importlib.resources import files
from typing import Annotated, Final

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse

from recoach.serving import schemas
from recoach.serving.answers import validate
from recoach.serving.api_docs import PAGE_HEADERS
from recoach.serving.explanations import compare_models
from recoach.serving.limits import Limits
from recoach.serving.schemas import RecommendRequest, RequestError
from recoach.serving.service import Service

_MAX_SEARCH_RESULTS: Final = 20
Text = Annotated[str, Query(max_length=512)]


def _nobody(request: RecommendRequest) -> str:
    if request.user is not None:
        return f"No user {request.user!r} in the log. Choose items of a new user instead."
    return "None of the items is in the catalogue. Choose others."


def add_page_routes(app: FastAPI, service: Service, limits: Limits) -> None:
    """Add the page, the comparison of two models, and the search for items and users."""
    content = files("recoach.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(content, headers=PAGE_HEADERS)

    @app.post("/v1/compare")
    async def compare(request: RecommendRequest) -> schemas.Comparison:
        """Return the lists of the base and the default model, and their differences."""
        snapshot = service.snapshot
        _, query = validate(snapshot, request)
        if isinstance(query, RequestError):
            raise HTTPException(query.status, query.detail)
        if query.is_cold:
            raise HTTPException(404, _nobody(request))
        async with asyncio.timeout(limits.response_timeout_seconds):
            return await service.look_up(lambda: compare_models(snapshot, query))

    @app.get("/v1/items")
    async def items(query: Text = "") -> schemas.SearchResults:
        """Return items whose title or ID is or contains the query, most popular first."""
        snapshot = service.snapshot
        async with asyncio.timeout(limits.response_timeout_seconds):
            matches = await service.look_up(lambda: snapshot.find_items(query, _MAX_SEARCH_RESULTS))
        return schemas.SearchResults(
            ids=[snapshot.item_ids[item] for item in matches],
            titles=[snapshot.titles[item] for item in matches],
        )

    @app.get("/v1/users")
    async def users(query: Text = "") -> schemas.SearchResults:
        """Return user IDs that begin with the query."""
        snapshot = service.snapshot
        async with asyncio.timeout(limits.response_timeout_seconds):
            ids = await service.look_up(lambda: snapshot.find_users(query, _MAX_SEARCH_RESULTS))
        return schemas.SearchResults(ids=ids, titles=ids)
