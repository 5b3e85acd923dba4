"""The service as HTTP: routes, errors in one sentence, nothing of the inside shown."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from importlib.resources import files
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from recoach.errors import DataError
from recoach.serving import schemas
from recoach.serving.explanations import explanation
from recoach.serving.limits import Guards, Limits
from recoach.serving.schemas import BatchRequest, RecommendRequest, RecommendResponse
from recoach.serving.service import OverloadedError, Service
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

_log = logging.getLogger("recoach.serving")
_FOUND = 20
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)

Text = Annotated[str, Query(max_length=200)]
_PROBLEMS = {
    400: "the body is not UTF-8",
    401: "no valid API key",
    404: "no such user or model",
    408: "the body came too slowly",
    413: "the body is too large",
    422: "a value out of range, or ids that are not in the log",
    503: "too many requests wait",
    504: "no answer in time",
}


def build_app(
    service: Service,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    page: bool = True,
) -> FastAPI:
    """Return the ASGI application.

    Args:
        service: ranks; started and stopped with the application.
        limits: what a request may cost.
        api_key: asked of every caller but those of `/` and `/health`; None lets everybody in.
        page: offer the page at `/` and what it looks things up with, user ids among it.
    """
    bounds = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="Recoach",
        description="Lists from a recommender, before and after fine-tuning.",
        version=metadata.version("recoach"),
        lifespan=lifespan,
        responses={
            status: {"model": schemas.Problem, "description": words}
            for status, words in _PROBLEMS.items()
        },
    )
    app.add_middleware(Guards, limits=bounds, api_key=api_key)
    _handle_errors(app)
    _serve_lists(app, service, bounds)
    if page:
        _serve_page(app, service, bounds)
    return app


def _serve_lists(app: FastAPI, service: Service, limits: Limits) -> None:
    @app.get("/health")
    async def health() -> schemas.Health:
        """Tell that the service answers, and by which weights."""
        return schemas.Health(version=service.shelf.version)

    @app.get("/v1/models")
    async def models() -> schemas.Models:
        """Tell which models can be asked."""
        shelf = service.shelf
        return schemas.Models(
            models=[
                schemas.ModelInfo(
                    name=name,
                    kind=type(model).__name__,
                    served=name == shelf.served,
                    search="approximate" if name in shelf.indexes else "exact",
                )
                for name, model in shelf.models.items()
            ],
            version=shelf.version,
            dataset=shelf.dataset.name,
            users=shelf.dataset.n_users,
            items=shelf.dataset.n_items,
            trouble=service.trouble,
        )

    @app.post("/v1/recommend")
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        """Return the best items of a user, or after a history."""
        return (await _answer(service, [request], limits))[0]

    @app.post("/v1/recommend/batch")
    async def recommend_batch(batch: BatchRequest) -> schemas.BatchResponse:
        """Return several lists; one wrong request refuses all."""
        return schemas.BatchResponse(responses=await _answer(service, batch.requests, limits))


def _serve_page(app: FastAPI, service: Service, limits: Limits) -> None:
    content = files("recoach.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        headers = {"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(content, headers=headers)

    @app.post("/v1/compare")
    async def compare(request: RecommendRequest) -> schemas.Comparison:
        """Return the lists of base and served model for the same wish, and what sets them apart."""
        shelf = service.shelf
        _, ask = _understood(shelf, request)
        async with asyncio.timeout(limits.seconds):
            return await service.compute(lambda: explanation(shelf, ask))

    @app.get("/v1/items")
    async def items(query: Text = "") -> schemas.Found:
        """Return the items whose title or id holds what was typed; the most taken first."""
        shelf = service.shelf
        found = await service.compute(lambda: shelf.find_items(query, _FOUND))
        ids, titles = ([names[item] for item in found] for names in (shelf.item_ids, shelf.titles))
        return schemas.Found(ids=ids, titles=titles)

    @app.get("/v1/users")
    async def users(query: Text = "") -> schemas.Found:
        """Return user ids that begin with what was typed."""
        shelf = service.shelf
        ids = await service.compute(lambda: shelf.find_users(query, _FOUND))
        return schemas.Found(ids=ids, titles=ids)


async def _answer(
    service: Service, requests: Sequence[RecommendRequest], limits: Limits
) -> list[RecommendResponse]:
    """Rank for the requests of one call, all by the same state of the run."""
    shelf = service.shelf
    wishes = [_understood(shelf, request) for request in requests]
    names = list(dict.fromkeys(name for name, _ in wishes))
    async with asyncio.timeout(limits.seconds):
        lists = await asyncio.gather(
            *(
                service.best(shelf, name, [ask for chosen, ask in wishes if chosen == name])
                for name in names
            )
        )
    found = dict(zip(names, map(iter, lists), strict=True))
    return [_response(shelf, name, next(found[name])) for name, _ in wishes]


def _understood(shelf: ModelSnapshot, request: RecommendRequest) -> tuple[str, RecommendQuery]:
    name = request.model or shelf.served
    if name not in shelf.models:
        known = ", ".join(shelf.models)
        raise HTTPException(404, f"no model called {name!r}; there are {known}")
    try:
        ask = shelf.ask(
            user=request.user,
            history=request.history,
            k=request.k,
            exclude_seen=request.exclude_seen,
            candidates=request.candidates,
        )
    except KeyError:
        raise HTTPException(
            404, f"no user {request.user!r} in the log; give new users by their history"
        ) from None
    except DataError as error:
        raise HTTPException(422, str(error)) from None
    return name, ask


def _response(shelf: ModelSnapshot, model: str, best: Recommendation) -> RecommendResponse:
    pairs = zip(best.items.tolist(), best.scores, strict=True)
    return RecommendResponse(
        model=model,
        version=shelf.version,
        items=[
            schemas.Item(
                rank=place, item_id=shelf.item_ids[item], score=score, title=shelf.titles[item]
            )
            for place, (item, score) in enumerate(pairs, start=1)
        ],
    )


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{place}: {first['msg']}"}, 422)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})

    @app.exception_handler(TimeoutError)
    async def late(_: Request, __: TimeoutError) -> JSONResponse:
        return JSONResponse({"detail": "no answer in time; try again"}, 504, {"retry-after": "1"})

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        _log.error("A request failed", exc_info=error)
        return JSONResponse({"detail": "the service failed; its log says why"}, 500)
