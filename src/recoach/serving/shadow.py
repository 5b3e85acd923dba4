"""Shadow mode: another run ranks the requests too, in a process of its own, and is only logged."""

import asyncio
import logging
import os
import queue
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import NamedTuple

from recoach.errors import DataError
from recoach.serving.exposures import Exposure, ExposureLog
from recoach.serving.metrics import SHADOW
from recoach.serving.processes import Target, start_process, stop_processes, wait_for_start
from recoach.serving.schemas import RecommendRequest
from recoach.serving.service import Service

_QUEUE_SIZE = 1000
_POLL_SECONDS = 0.2
_LOWEST_PRIORITY = 19
_log = logging.getLogger("recoach.serving")


class ShadowJob(NamedTuple):
    """A request that has been answered."""

    impression_id: str
    request: RecommendRequest
    history_hash: str | None


class ShadowQueue:
    """Requests on their way to the shadow; several processes write, the shadow reads."""

    def __init__(self) -> None:
        self._queue: Queue[ShadowJob] = get_context("spawn").Queue(_QUEUE_SIZE)

    def submit(self, job: ShadowJob) -> None:
        """Queue a request that has been answered, or drop it if the queue is full."""
        self._queue.cancel_join_thread()  # what is queued does not keep the process from ending
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            SHADOW.labels("dropped").inc()
        else:
            SHADOW.labels("submitted").inc()

    def get(self) -> ShadowJob | None:
        """Return the next request; None if there is none for a moment."""
        try:
            return self._queue.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return None


@contextmanager
def shadow_process(target: Target) -> Iterator[None]:
    """Run a shadow beside the service in the `with` block.

    Raises:
        RunError: it cannot start.
    """
    child = start_process(target)
    try:
        wait_for_start(child)
        yield
    finally:
        stop_processes([child])


def run_shadow(run: str, service: Service, log: ExposureLog, jobs: ShadowQueue) -> None:
    """Rank requests with the shadow's run and log the lists, until SIGTERM arrives.

    The process gets the lowest priority, so that it computes when the service does not.

    Args:
        run: name of the run in the log.
        service: ranks for the shadow.
        log: receives the lists.
        jobs: the requests.
    """
    if hasattr(os, "nice"):
        os.nice(_LOWEST_PRIORITY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one stops it
    asyncio.run(_rank_until_stopped(run, service, log, jobs))
    log.close()


async def _rank_until_stopped(
    run: str, service: Service, log: ExposureLog, jobs: ShadowQueue
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(stop.set))
    n_failed = 0
    async with service:
        while not stop.is_set():
            job = await loop.run_in_executor(None, jobs.get)
            if job is None:
                continue
            try:
                log.write(await _rank(run, service, job))
            except (KeyError, DataError):
                n_failed += 1
    if n_failed:
        _log.warning("%s could not rank %d requests: unknown users, items or models", run, n_failed)


async def _rank(run: str, service: Service, job: ShadowJob) -> Exposure:
    """Return the list of the shadow for a request.

    Raises:
        KeyError: its run has no such user or model.
        DataError: its run has none of the items.
    """
    request, snapshot = job.request, service.snapshot
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
    (ranking,) = await service.recommend(snapshot, model, [query])
    return Exposure(
        impression_id=job.impression_id,
        timestamp=time.time_ns() // 1_000_000,
        user_id=request.user,
        history_hash=job.history_hash,
        run=run,
        model=model,
        version=snapshot.version,
        policy="top-k",
        item_ids=[snapshot.item_ids[item] for item in ranking.items],
        scores=ranking.scores,
        propensities=[1.0] * len(ranking.items),
    )
