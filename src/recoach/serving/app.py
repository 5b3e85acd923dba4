"""The HTTP API: the application, its middleware, the routes of lists and error responses."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from recoach.serving import schemas
from recoach.serving.access_log import AccessLogMiddleware
from recoach.serving.answers import answer, described
from recoach.serving.api_docs import add_api_docs
from recoach.serving.limits import HostMiddleware, Limits, LimitsMiddleware
from recoach.serving.metrics import MetricsMiddleware, metrics_text
from recoach.serving.page_routes import add_page_routes
from recoach.serving.routing import Routing
from recoach.serving.schemas import (
    BatchRequest,
    RecommendRequest,
    RecommendResponse,
    RequestError,
)
from recoach.serving.service import OverloadedError

_log = logging.getLogger("recoach.serving")
_ERRORS = {
    400: "The body is not valid UTF-8.",
    401: "The API key is missing or wrong.",
    404: "The model does not exist.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    421: "The service does not answer to this host name.",
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
    app.add_middleware(AccessLogMiddleware)
    _add_error_handlers(app)
    _add_status_routes(app, routing)
    _add_recommend_routes(app, routing, request_limits)
    if page:
        add_page_routes(app, routing.page_service, request_limits)
    add_api_docs(app, has_key=api_key is not None)
    return app


def _add_status_routes(app: FastAPI, routing: Routing) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> schemas.Health:
        """Return the status of the service and the version of its weights."""
        return schemas.Health(version=routing.page_service.snapshot.version)

    @app.head("/live", include_in_schema=False)
    @app.get("/live")
    async def live() -> schemas.Status:
        """Return 200 while the process runs."""
        return schemas.Status(status="ok")

    @app.head("/ready", include_in_schema=False)
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
        requests = {call.state.request_id: request}
        answers = await answer(routing, requests, limits)
        call.state.access_log |= described(answers, requests)
        (only,) = answers.values()
        if isinstance(only, RequestError):
            raise HTTPException(only.status, only.detail)
        tasks.add_task(routing.submit_to_shadow, requests)
        return only

    @app.post("/v1/recommend/batch")
    async def recommend_batch(
        batch: BatchRequest, call: Request, tasks: BackgroundTasks
    ) -> schemas.BatchResponse:
        """Return a list or an error for each request.

        A body that does not follow the schema is refused as a whole, with the place of the error.
        """
        request_id = call.state.request_id
        requests = {f"{request_id}/{index}": item for index, item in enumerate(batch.requests)}
        answers = await answer(routing, requests, limits)
        call.state.access_log |= described(answers, requests)
        tasks.add_task(routing.submit_to_shadow, requests)
        return schemas.BatchResponse(responses=list(answers.values()))


def _place(location: Sequence[str | int]) -> str:
    """Return the place of an error in a request, like `body.requests[3].history`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(call: Request, error: RequestValidationError) -> JSONResponse:
        media_type = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if call.method == "POST" and media_type != "application/json":
            detail = "Send the body as JSON, with the header content-type: application/json."
            return JSONResponse({"detail": detail}, 415)
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        return JSONResponse({"detail": f"{_place(first['loc'])}: {message}"}, 422)

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
