"""The comparison page and the routes that it uses."""

import asyncio
from typing import Annotated, Final

import numpy as np
from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse

from recoach.data.interactions import IntArray
from recoach.serving import schemas
from recoach.serving.answers import validate
from recoach.serving.explanations import NO_ITEMS, compare_models, hold_out
from recoach.serving.html_pages import read_page
from recoach.serving.limits import Limits
from recoach.serving.schemas import CompareRequest, RequestError
from recoach.serving.service import Service
from recoach.serving.snapshot import ModelSnapshot, RecommendQuery

_MAX_SEARCH_RESULTS: Final = 20

Text = Annotated[str, Query(max_length=512)]


def _query_to_compare(
    snapshot: ModelSnapshot, request: CompareRequest
) -> tuple[RecommendQuery, IntArray]:
    """Return the query of a request and the items that are held out, or raise an HTTP error."""
    _, query = validate(snapshot, request)
    if isinstance(query, RequestError):
        raise HTTPException(query.status, query.detail)
    if query.is_cold and request.user is not None:
        detail = f"No user {request.user!r} in the log. Choose items of a new user instead."
        raise HTTPException(404, detail)
    if query.is_cold:
        raise HTTPException(404, "None of the items is in the catalogue. Choose others.")
    if request.user is None or not request.hold_out:
        return query, NO_ITEMS
    query, held_out = hold_out(snapshot, request.user, query)
    if query.is_cold:
        detail = f"All items of user {request.user!r} are test items. Do not hide them."
        raise HTTPException(422, detail)
    return query, held_out


def add_page_routes(app: FastAPI, service: Service, limits: Limits) -> None:
    """Add the page, the comparison of two models, and the search for items and users."""
    html = read_page("page.html")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html.content, headers=html.headers)

    @app.post("/v1/compare")
    async def compare(request: CompareRequest) -> schemas.Comparison:
        """Return the lists of the base and the default model, and their differences."""
        snapshot = service.snapshot
        query, held_out = _query_to_compare(snapshot, request)
        async with asyncio.timeout(limits.response_timeout_seconds):
            return await service.look_up(lambda: compare_models(snapshot, query, held_out))

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

    @app.get("/v1/users/random")
    async def random_user() -> schemas.SearchResults:
        """Return a random user with a history, and with test items if any user has both."""
        snapshot, generator = service.snapshot, np.random.default_rng()
        async with asyncio.timeout(limits.response_timeout_seconds):
            user = await service.look_up(lambda: snapshot.random_user(generator))
        return schemas.SearchResults(ids=[user], titles=[user])
