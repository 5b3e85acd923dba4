"""Shadow mode: a second run ranks the requests too, and its lists are only logged."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

from recoach.errors import DataError
from recoach.serving.exposures import Exposure, ExposureLog
from recoach.serving.schemas import RecommendRequest
from recoach.serving.service import OverloadedError, Service

_POLL_SECONDS = 0.005


class ShadowJob(NamedTuple):
    """A request that has been answered."""

    impression_id: str
    request: RecommendRequest
    history_hash: str | None


class Shadow:
    """Ranks answered requests with another run while no request waits for an answer.

    Args:
        run: name of the run in the log.
        service: ranks for the shadow only.
        log: receives the lists; propensity 1 is that of the shadow's own policy.
        is_idle: whether no request waits for an answer.
        queue_size: largest number of requests that wait for the shadow; more are dropped.
    """

    def __init__(
        self,
        run: str,
        service: Service,
        log: ExposureLog,
        is_idle: Callable[[], bool],
        *,
        queue_size: int = 256,
    ) -> None:
        self.run, self.service, self.log = run, service, log
        self._is_idle = is_idle
        self._queue: asyncio.Queue[ShadowJob] = asyncio.Queue(queue_size)
        self._task: asyncio.Task[None] | None = None
        self.ranked = 0
        self.dropped = 0
        """Requests dropped because the queue was full."""
        self.failed = 0
        """Requests whose user or items the shadow's run does not know."""

    async def __aenter__(self) -> Self:
        """Start to rank what is submitted."""
        await self.service.__aenter__()
        self._task = asyncio.create_task(self._rank_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; what still waits is not ranked."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.service.__aexit__()
        self.log.close()

    def submit(self, job: ShadowJob) -> None:
        """Queue a request that has been answered, or drop it if the queue is full."""
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            self.dropped += 1

    async def _rank_all(self) -> None:
        while True:
            job = await self._queue.get()
            while not self._is_idle():
                await asyncio.sleep(_POLL_SECONDS)
            try:
                exposure = await self._rank(job)
            except (KeyError, DataError, OverloadedError):
                self.failed += 1
            else:
                self.log.write(exposure)
                self.ranked += 1

    async def _rank(self, job: ShadowJob) -> Exposure:
        request, snapshot = job.request, self.service.snapshot
        model = request.model or snapshot.default_model
        if model not in snapshot.models:
            raise KeyError(model)
        query = snapshot.build_query(
            user=request.user,
            history=request.history,
            k=request.k,
            exclude_seen=request.exclude_seen,
            candidates=request.candidates,
        )
        (ranking,) = await self.service.recommend(snapshot, model, [query])
        return Exposure(
            impression_id=job.impression_id,
            timestamp=time.time_ns() // 1_000_000,
            user_id=request.user,
            history_hash=job.history_hash,
            run=self.run,
            model=model,
            version=snapshot.version,
            policy="top-k",
            item_ids=[snapshot.item_ids[item] for item in ranking.items],
            scores=ranking.scores,
            propensities=[1.0] * len(ranking.items),
        )
