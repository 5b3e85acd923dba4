"""Which run answers a request, what is shown of its ranking, and what is logged of it."""

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple, Self

from recoach.serving.exploration import ServedList, ServedPolicy
from recoach.serving.exposures import Exposure, ExposureLog
from recoach.serving.schemas import RecommendRequest
from recoach.serving.service import Service
from recoach.serving.shadow import ShadowJob, ShadowQueue
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery
from recoach.serving.split import Split, history_hash


class Shown(NamedTuple):
    """A list that answers a request."""

    impression_id: str
    """ID of the request; within a batch `ID/POSITION`, counted from 0."""
    run: str
    """Name of the run that answers."""
    model: str
    """Name of the model; "popularity" for a cold query."""
    snapshot: ModelSnapshot
    query: RecommendQuery
    served: ServedList


class Routing:
    """Chooses the run of each request, by user, and logs what was shown.

    Use it as `async with routing:`, which starts the services of all runs.

    Args:
        services: name of each run -> its service; the first one is used by the page.
        split: assigns users to runs; None gives the first run all of them.
        salt: of the hashes of histories.
        policy: chooses what is shown; None for the best items.
        exposures: receives each list that is shown; None logs nothing.
        shadow: receives each request after its answer; None if there is no shadow.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        split: Split | None = None,
        salt: str = "recoach",
        policy: ServedPolicy | None = None,
        exposures: ExposureLog | None = None,
        shadow: ShadowQueue | None = None,
    ) -> None:
        self.services = services
        self.policy = policy or ServedPolicy()
        self.exposures = exposures
        self.shadow = shadow
        self.is_draining = False
        """Whether the process is about to stop: it answers, but should get no more requests."""
        self._split = split or Split({next(iter(services)): 1.0}, salt)
        self._salt = salt
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the services of all runs."""
        if self.exposures is not None:
            self._stack.callback(self.exposures.close)
        for service in self.services.values():
            await self._stack.enter_async_context(service)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the services and write what is queued for the log."""
        await self._stack.aclose()

    @property
    def page_service(self) -> Service:
        """The service of the first run, which the page shows."""
        return next(iter(self.services.values()))

    def run_of(self, request: RecommendRequest) -> str:
        """Return the name of the run that answers a request.

        The same user, or the same history, always gets the same run.
        """
        if request.user is not None:
            return self._split.arm_of(f"user:{request.user}")
        return self._split.arm_of(f"history:{self._history_hash(request)}")

    async def recommend(
        self, run: str, model: str, snapshot: ModelSnapshot, queries: Mapping[str, RecommendQuery]
    ) -> list[Shown]:
        """Return the lists of one model of a run for queries by impression ID.

        Raises:
            OverloadedError: the queue of the run is full.
        """
        ranked_queries = [self.policy.ranked_query(query) for query in queries.values()]
        rankings = await self.services[run].recommend(snapshot, model, ranked_queries)
        shown = []
        for (impression_id, query), ranking in zip(queries.items(), rankings, strict=True):
            if query.is_cold:
                best = Recommendation(ranking.items[: query.k], ranking.scores[: query.k])
                served = ServedList(best, [1.0] * len(best.items))
            else:
                served = self.policy.choose(ranking, query.k, seed=impression_id)
            name = "popularity" if query.is_cold else model
            shown.append(Shown(impression_id, run, name, snapshot, query, served))
        return shown

    def log(self, request: RecommendRequest, shown: Shown) -> None:
        """Log a list that is about to be sent."""
        if self.exposures is None:
            return
        snapshot, (ranking, propensities) = shown.snapshot, shown.served
        self.exposures.write(
            Exposure(
                impression_id=shown.impression_id,
                timestamp=time.time_ns() // 1_000_000,
                user_id=request.user,
                history_hash=self._history_hash(request),
                run=shown.run,
                model=shown.model,
                version=snapshot.version,
                policy=self.policy.name,
                item_ids=[snapshot.item_ids[item] for item in ranking.items],
                scores=ranking.scores,
                propensities=propensities,
            )
        )

    def submit_to_shadow(self, requests: Mapping[str, RecommendRequest]) -> None:
        """Let the shadow rank requests that have been answered, by ID, if there is a shadow."""
        if self.shadow is not None:
            for impression_id, request in requests.items():
                self.shadow.submit(ShadowJob(impression_id, request, self._history_hash(request)))

    def _history_hash(self, request: RecommendRequest) -> str | None:
        return None if request.history is None else history_hash(self._salt, request.history)
