"""Micro-batches concurrent requests and hot-reloads the model when the run changes.

One thread ranks, another one looks up what the page asks for. Requests that arrive while lists are
ranked are queued and then ranked as one batch. Every request keeps the snapshot it was validated
against, so a reload changes no pending request.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self, TypeVar

from recoach.errors import RecoachError, RunError
from recoach.serving.metrics import BATCH_SIZE, MODEL_INFO, QUEUE, QUEUE_SECONDS, RELOADS
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

MICRO_BATCH_SIZE = 64
"""Largest number of queries ranked in one batch."""

_log = logging.getLogger("recoach.serving")
Result = TypeVar("Result")


class OverloadedError(RecoachError):
    """The queue is full."""


class _Job(NamedTuple):
    snapshot: ModelSnapshot
    model: str
    query: RecommendQuery
    future: "asyncio.Future[Recommendation]"
    start: float
    """Time of the request, by `time.monotonic`."""


class Service:
    """Ranks for concurrent callers and reloads the run when it changes.

    Use it as `async with service:`; queries are processed only inside that block.

    Args:
        load: reads the run.
        fingerprint: returns a cheap value that changes when the run changes.
        run: name of the run in metrics.
        queue_size: largest number of pending queries.
        max_lookups: largest number of pending look-ups.
        reload_seconds: time between two checks for a change.
    """

    def __init__(
        self,
        load: Callable[[], ModelSnapshot],
        fingerprint: Callable[[], Hashable],
        *,
        run: str = "run",
        queue_size: int = 2048,
        max_lookups: int = 16,
        reload_seconds: float = 2.0,
    ) -> None:
        self._load, self._fingerprint, self._run = load, fingerprint, run
        self._queue_size, self._reload_seconds = queue_size, reload_seconds
        self._max_lookups, self._n_lookups, self._lookup_seconds = max_lookups, 0, 0.0
        self._lookup_lock = asyncio.Lock()
        self._is_ranking = False
        self._loaded_fingerprint = fingerprint()
        self.snapshot = load()
        MODEL_INFO.labels(run, self.snapshot.version).set(1)
        self.reload_error = ""
        """Message of the last reload; empty if it succeeded."""
        self._pending: list[_Job] = []
        self._rank_executor = ThreadPoolExecutor(1, thread_name_prefix="recoach-rank")
        self._lookup_executor = ThreadPoolExecutor(1, thread_name_prefix="recoach-lookup")
        self._load_executor = ThreadPoolExecutor(1, thread_name_prefix="recoach-load")
        self._tasks: list[asyncio.Task[None]] = []
        self._has_pending = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start to process the queue and to check the run for changes."""
        self._tasks = [
            asyncio.create_task(self._process_queue()),
            asyncio.create_task(self._reload_on_change()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and cancel pending requests."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for job in self._pending:
            job.future.cancel()
        self._rank_executor.shutdown()
        self._lookup_executor.shutdown()
        self._load_executor.shutdown()

    async def recommend(
        self, snapshot: ModelSnapshot, model: str, queries: Sequence[RecommendQuery]
    ) -> list[Recommendation]:
        """Return the recommendations of one request, ranked in a batch with other pending ones.

        Raises:
            OverloadedError: the queue is full.
        """
        if len(self._pending) + len(queries) > self._queue_size:
            raise OverloadedError(
                f"The queue of {self._queue_size} requests is full. Try again later."
            )
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        jobs = [_Job(snapshot, model, query, loop.create_future(), start) for query in queries]
        self._pending += jobs
        QUEUE.labels(self._run).set(len(self._pending))
        self._has_pending.set()
        try:
            return list(await asyncio.gather(*(job.future for job in jobs)))
        finally:
            for job in jobs:
                if not job.future.cancel() and not job.future.cancelled():
                    job.future.exception()  # marks it as retrieved: the first one has been raised

    async def look_up(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function of the page, which runs in a thread of its own.

        One look-up runs at a time. While lists are ranked, the thread rests after a look-up as long
        as it took (at most a second), so that lists keep most of the processor.

        Raises:
            OverloadedError: too many look-ups are pending.
        """
        if self._n_lookups >= self._max_lookups:
            raise OverloadedError(
                f"The queue of {self._max_lookups} look-ups is full. Try again later."
            )
        self._n_lookups += 1
        try:
            async with self._lookup_lock:
                if self._is_ranking:
                    await asyncio.sleep(self._lookup_seconds)
                start = time.monotonic()
                finished = await _run_until_done(self._lookup_executor, function)
                self._lookup_seconds = min(1.0, time.monotonic() - start)
                return finished.result()
        finally:
            self._n_lookups -= 1

    async def _process_queue(self) -> None:
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            self._is_ranking = True
            while self._pending:
                jobs = self._pending[:MICRO_BATCH_SIZE]
                self._pending = self._pending[MICRO_BATCH_SIZE:]
                QUEUE.labels(self._run).set(len(self._pending))
                await self._rank([job for job in jobs if not job.future.done()])
            self._is_ranking = False

    async def _rank(self, jobs: Sequence[_Job]) -> None:
        groups: dict[tuple[int, str], list[_Job]] = {}
        for job in jobs:
            groups.setdefault((id(job.snapshot), job.model), []).append(job)
        for (_, model), group in groups.items():
            queries = [job.query for job in group]
            BATCH_SIZE.labels(self._run).observe(len(group))
            now = time.monotonic()
            for job in group:
                QUEUE_SECONDS.labels(self._run).observe(now - job.start)
            finished = await _run_until_done(
                self._rank_executor, partial(group[0].snapshot.recommend, model, queries)
            )
            error = finished.exception()
            for index, job in enumerate(group):
                if job.future.done():
                    continue
                if error is None:
                    job.future.set_result(finished.result()[index])
                else:
                    job.future.set_exception(error)

    async def _reload_on_change(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._reload_seconds)
            fingerprint = await loop.run_in_executor(self._load_executor, self._fingerprint)
            if fingerprint == self._loaded_fingerprint:
                continue
            finished = await _run_until_done(self._load_executor, self._load_again)
            if error := finished.exception():  # half-copied or damaged: keep the old snapshot
                self.reload_error = (
                    f"The run has changed and cannot be read; version {self.snapshot.version} is "
                    "still served. The log of the service has the reason."
                )
                _log.warning("The run has changed and cannot be read: %s", error)
                RELOADS.labels(self._run, "failed").inc()
            else:
                MODEL_INFO.labels(self._run, self.snapshot.version).set(0)
                self.snapshot, self.reload_error = finished.result(), ""
                MODEL_INFO.labels(self._run, self.snapshot.version).set(1)
                RELOADS.labels(self._run, "loaded").inc()
                _log.info("Serving version %s", self.snapshot.version)
            self._loaded_fingerprint = fingerprint

    def _load_again(self) -> ModelSnapshot:
        """Read the run; RunError if a model that is served is no longer there."""
        snapshot = self._load()
        missing = self.snapshot.models.keys() - snapshot.models.keys()
        if missing:
            raise RunError(
                f"the {', '.join(sorted(missing))} model is no longer there. Restore it, or start "
                "the service again to serve the others."
            )
        return snapshot


async def _run_until_done(
    executor: ThreadPoolExecutor, function: Callable[[], Result]
) -> "asyncio.Future[Result]":
    """Run a function in a thread and return its finished future, with a result or an error."""
    future = asyncio.get_running_loop().run_in_executor(executor, function)
    await asyncio.wait([future])
    return future
