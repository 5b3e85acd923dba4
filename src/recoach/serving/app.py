"""The HTTP API: routes, error responses and the comparison page."""

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from importlib.resources import files
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from recoach.errors import DataError
from recoach.serving import schemas
from recoach.serving.api_docs import add_api_docs
from recoach.serving.explanations import compare_models
from recoach.serving.limits import HostMiddleware, Limits, LimitsMiddleware
from recoach.serving.metrics import LISTS, MetricsMiddleware, metrics_text
from recoach.serving.routing import Routing, Shown
from recoach.serving.schemas import BatchRequest, RecommendRequest, RecommendResponse
from recoach.serving.service import OverloadedError, Service
from recoach.serving.snapshot import ModelSnapshot, RecommendQuery

_log = logging.getLogger("recoach.serving")
_MAX_SEARCH_RESULTS = 20
_REQUEST_ID = re.compile(r"[\w.:+=-]{1,128}", re.ASCII)
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

Text = Annotated[str, Query(max_length=512)]
_ERRORS = {
    400: "The body is not valid UTF-8.",
    401: "The API key is missing or wrong.",
    404: "The user or the model does not exist.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    422: "A value is out of range, or no ID is in the catalogue.",
    503: "The queue is full.",
    504: "The response took too long.",
}


def build_app(
    routing: Routing,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    page: bool = True,
    allowed_hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Return the ASGI application.

    Args:
        routing: computes the recommendations; started and stopped with the application.
        limits: largest size and longest times of a request.
        api_key: required on every path except `/`, `/docs`, `/health`, `/live` and `/ready`; None
            accepts every caller.
        page: serve the comparison page at `/` and the routes it uses, which list user IDs.
        allowed_hosts: values of the header Host that are answered, "*" for all.
    """
    request_limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with routing:
            yield

    app = FastAPI(
        title="Recoach",
        description="Recommendations from a base model and its fine-tuned version.",
        version=metadata.version("recoach"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={
            status: {"model": schemas.ErrorResponse, "description": description}
            for status, description in _ERRORS.items()
        },
    )
    app.add_middleware(LimitsMiddleware, limits=request_limits, api_key=api_key)
    app.add_middleware(HostMiddleware, allowed_hosts=allowed_hosts)
    app.add_middleware(MetricsMiddleware)
    _add_error_handlers(app)
    _add_status_routes(app, routing)
    _add_recommend_routes(app, routing, request_limits)
    if page:
        _add_page_routes(app, routing.page_service, request_limits)
    add_api_docs(app, has_key=api_key is not None)
    return app


def _add_status_routes(app: FastAPI, routing: Routing) -> None:
    @app.get("/health")
    async def health() -> schemas.Health:
        """Return the status of the service and the version of its weights."""
        return schemas.Health(version=routing.page_service.snapshot.version)

    @app.get("/live")
    async def live() -> schemas.Status:
        """Return 200 while the process runs."""
        return schemas.Status(status="ok")

    @app.get("/ready")
    async def ready(response: Response) -> schemas.Status:
        """Return 200 while the service takes requests, 503 when it is about to stop."""
        if routing.is_draining:
            response.status_code = 503
            return schemas.Status(status="draining")
        return schemas.Status(status="ok")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(metrics_text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> schemas.Models:
        """Return the models of all runs, and the dataset of the first run."""
        snapshot = routing.page_service.snapshot
        return schemas.Models(
            models=[
                schemas.ModelInfo(
                    run=run,
                    name=name,
                    kind=type(model).__name__,
                    served=name == snapshot.default_model,
                    search="approximate" if name in snapshot.faiss_indexes else "exact",
                    version=snapshot.version,
                )
                for run, service in routing.services.items()
                for snapshot in [service.snapshot]
                for name, model in snapshot.models.items()
            ],
            version=snapshot.version,
            dataset=snapshot.dataset.name,
            users=snapshot.dataset.n_users,
            items=snapshot.dataset.n_items,
            trouble=" ".join(filter(None, (s.reload_error for s in routing.services.values()))),
        )


def _add_recommend_routes(app: FastAPI, routing: Routing, limits: Limits) -> None:
    @app.post("/v1/recommend")
    async def recommend(
        request: RecommendRequest, call: Request, tasks: BackgroundTasks
    ) -> RecommendResponse:
        """Return the best items for a user of the log or for a history."""
        request_id = _request_id(call)
        responses = await _recommend(routing, {request_id: request}, limits)
        tasks.add_task(routing.submit_to_shadow, {request_id: request})
        return responses[0]

    @app.post("/v1/recommend/batch")
    async def recommend_batch(
        batch: BatchRequest, call: Request, tasks: BackgroundTasks
    ) -> schemas.BatchResponse:
        """Return one list for each request; one invalid request rejects the whole batch."""
        request_id = _request_id(call)
        requests = {f"{request_id}/{index}": item for index, item in enumerate(batch.requests)}
        responses = await _recommend(routing, requests, limits)
        tasks.add_task(routing.submit_to_shadow, requests)
        return schemas.BatchResponse(responses=responses)


def _add_page_routes(app: FastAPI, service: Service, limits: Limits) -> None:
    content = files("recoach.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        headers = {"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(content, headers=headers)

    @app.post("/v1/compare")
    async def compare(request: RecommendRequest) -> schemas.Comparison:
        """Return the lists of the base and the default model, and their differences."""
        snapshot = service.snapshot
        _, query = _validate(snapshot, request)
        async with asyncio.timeout(limits.response_timeout_seconds):
            return await service.look_up(lambda: compare_models(snapshot, query))

    @app.get("/v1/items")
    async def items(query: Text = "") -> schemas.SearchResults:
        """Return items whose title or ID contains the query, most popular first."""
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


def _request_id(call: Request) -> str:
    """Return the `X-Request-ID` of a call, or a new one."""
    sent = call.headers.get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


async def _recommend(
    routing: Routing, requests: Mapping[str, RecommendRequest], limits: Limits
) -> list[RecommendResponse]:
    """Return the responses to the requests of one call, by ID; those of a run from one snapshot."""
    snapshots = {run: service.snapshot for run, service in routing.services.items()}
    queries: dict[tuple[str, str], dict[str, RecommendQuery]] = {}
    for impression_id, request in requests.items():
        run = routing.run_of(request)
        model, query = _validate(snapshots[run], request)
        queries.setdefault((run, model), {})[impression_id] = query
    async with asyncio.timeout(limits.response_timeout_seconds):
        groups = await asyncio.gather(
            *(
                routing.recommend(run, model, snapshots[run], group)
                for (run, model), group in queries.items()
            )
        )
    shown = {one.impression_id: one for group in groups for one in group}
    for impression_id, request in requests.items():
        LISTS.labels(shown[impression_id].run, shown[impression_id].model).inc()
        routing.log(request, shown[impression_id])
    return [_response(shown[impression_id]) for impression_id in requests]


def _validate(snapshot: ModelSnapshot, request: RecommendRequest) -> tuple[str, RecommendQuery]:
    """Return the name of the model and the query of a request, or raise an HTTP error."""
    name = request.model or snapshot.default_model
    if name not in snapshot.models:
        names = ", ".join(snapshot.models)
        raise HTTPException(404, f"No model called {name!r}. Choose one of {names}.")
    try:
        query = snapshot.build_query(
            user=request.user,
            history=request.history,
            k=request.k,
            exclude_seen=request.exclude_seen,
            candidates=request.candidates,
        )
    except KeyError:
        raise HTTPException(
            404, f"No user {request.user!r} in the log. Send the history of a new user instead."
        ) from None
    except DataError as error:
        raise HTTPException(422, str(error)) from None
    return name, query


def _response(shown: Shown) -> RecommendResponse:
    snapshot, recommendation = shown.snapshot, shown.served.recommendation
    scored_items = zip(recommendation.items.tolist(), recommendation.scores, strict=True)
    return RecommendResponse(
        impression_id=shown.impression_id,
        run=shown.run,
        model=shown.model,
        version=snapshot.version,
        items=[
            schemas.Item(
                rank=rank,
                item_id=snapshot.item_ids[item],
                score=score,
                title=snapshot.titles[item],
            )
            for rank, (item, score) in enumerate(scored_items, start=1)
        ],
    )


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{location}: {first['msg']}"}, 422)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})

    @app.exception_handler(TimeoutError)
    async def timed_out(_: Request, __: TimeoutError) -> JSONResponse:
        detail = "The response took too long. Try again."
        return JSONResponse({"detail": detail}, 504, {"retry-after": "1"})

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        _log.error("A request failed", exc_info=error)
        return JSONResponse({"detail": "Internal error. See the log of the service."}, 500)
