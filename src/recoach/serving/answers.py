"""Answers to requests for lists."""

import asyncio
from collections.abc import Mapping
from typing import Any

from recoach.errors import DataError
from recoach.serving.limits import Limits
from recoach.serving.metrics import LISTS
from recoach.serving.routing import Routing, Shown
from recoach.serving.schemas import Item, RecommendRequest, RecommendResponse, RequestError
from recoach.serving.snapshot import ModelSnapshot, RecommendQuery

Answer = RecommendResponse | RequestError


async def answer(
    routing: Routing, requests: Mapping[str, RecommendRequest], limits: Limits
) -> dict[str, Answer]:
    """Return a list or an error for each request of one call, by impression ID, in their order.

    All lists of a run come from one snapshot.

    Raises:
        OverloadedError: the queue of a run is full.
        TimeoutError: the lists took too long.
    """
    snapshots = {run: service.snapshot for run, service in routing.services.items()}
    answers: dict[str, Answer] = {}
    queries: dict[tuple[str, str], dict[str, RecommendQuery]] = {}
    for impression_id, request in requests.items():
        run = routing.run_of(request)
        model, query = validate(snapshots[run], request)
        if isinstance(query, RequestError):
            answers[impression_id] = query
        else:
            queries.setdefault((run, model), {})[impression_id] = query
    async with asyncio.timeout(limits.response_timeout_seconds):
        groups = await asyncio.gather(
            *(
                routing.recommend(run, model, snapshots[run], group)
                for (run, model), group in queries.items()
            )
        )
    for shown in (shown for group in groups for shown in group):
        LISTS.labels(shown.run, shown.model).inc()
        routing.log(requests[shown.impression_id], shown)
        answers[shown.impression_id] = _response(shown)
    return {impression_id: answers[impression_id] for impression_id in requests}


def validate(
    snapshot: ModelSnapshot, request: RecommendRequest
) -> tuple[str, RecommendQuery | RequestError]:
    """Return the name of the model of a request, and its query or what is wrong with it."""
    name = request.model or snapshot.default_model
    if name not in snapshot.models:
        names = ", ".join(snapshot.models)
        detail = f"No model called {name!r}. Choose one of {names}."
        return name, RequestError(status=404, detail=detail)
    try:
        return name, snapshot.build_query(
            user=request.user,
            history=request.history,
            k=request.k,
            exclude_seen=request.exclude_seen,
            candidates=request.candidates,
        )
    except DataError as error:
        return name, RequestError(status=422, detail=str(error))


def described(answers: Mapping[str, Answer], requests: Mapping[str, RecommendRequest]) -> Any:  # noqa: ANN401 - JSON
    """Return what the access log tells of the answers of one call."""
    lists = [one for one in answers.values() if isinstance(one, RecommendResponse)]
    return {
        "lists": len(lists),
        "errors": len(answers) - len(lists),
        "k": sum(request.k for request in requests.values()),
        "run": sorted({one.run for one in lists}),
        "model": sorted({one.model for one in lists}),
        "version": sorted({one.version for one in lists}),
        "cold": sum(one.cold for one in lists),
    }


def _response(shown: Shown) -> RecommendResponse:
    snapshot, recommendation = shown.snapshot, shown.served.recommendation
    scored_items = zip(recommendation.items.tolist(), recommendation.scores, strict=True)
    return RecommendResponse(
        impression_id=shown.impression_id,
        run=shown.run,
        model=shown.model,
        version=snapshot.version,
        cold=shown.query.is_cold,
        skipped=list(shown.query.skipped),
        items=[
            Item(
                rank=rank,
                item_id=snapshot.item_ids[item],
                score=score,
                title=snapshot.titles[item],
            )
            for rank, (item, score) in enumerate(scored_items, start=1)
        ],
    )
