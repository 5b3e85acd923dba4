"""Answers for many at once: wishes that wait together are ranked together, runs change below.

One thread ranks. While it works, new wishes gather; it then takes all of them in one go. A wish is
bound to the shelf it met, so that a reload neither loses nor mixes answers.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self, TypeVar

from recoach.errors import RecoachError
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

AT_ONCE = 64
"""Wishes ranked together."""

_log = logging.getLogger("recoach.serving")
Result = TypeVar("Result")


class OverloadedError(RecoachError):
    """More wishes wait than the service may hold."""


class _Job(NamedTuple):
    shelf: ModelSnapshot
    model: str
    ask: RecommendQuery
    answer: "asyncio.Future[Recommendation]"


class Service:
    """Ranks for concurrent callers and follows the run it serves.

    Use it as `async with service:`; outside, nothing is answered.

    Args:
        load: reads the run anew.
        stamp: tells, cheaply, whether the run has changed: another value means yes.
        queue: wishes that may wait.
        reload_seconds: how often to look for a change.
    """

    def __init__(
        self,
        load: Callable[[], ModelSnapshot],
        stamp: Callable[[], Hashable],
        *,
        queue: int = 2048,
        reload_seconds: float = 2.0,
    ) -> None:
        self._load, self._stamp = load, stamp
        self._queue, self._reload_seconds = queue, reload_seconds
        self._seen = stamp()
        self.shelf = load()
        self.trouble = ""
        """Why the newest state of the run is not served; empty where it is."""
        self._waiting: list[_Job] = []
        self._ranker = ThreadPoolExecutor(1, thread_name_prefix="recoach-rank")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="recoach-load")
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start to answer and to watch the run."""
        self._tasks = [asyncio.create_task(self._answer()), asyncio.create_task(self._watch())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; who still waits is told so."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for job in self._waiting:
            job.answer.cancel()
        self._ranker.shutdown()
        self._loader.shutdown()

    async def best(
        self, shelf: ModelSnapshot, model: str, asks: Sequence[RecommendQuery]
    ) -> list[Recommendation]:
        """Answer wishes that belong to one request, together with whatever else waits.

        Raises:
            OverloadedError: too many wait already.
        """
        if len(self._waiting) + len(asks) > self._queue:
            raise OverloadedError(f"more than {self._queue} lists are waited for; try again later")
        loop = asyncio.get_running_loop()
        jobs = [_Job(shelf, model, ask, loop.create_future()) for ask in asks]
        self._waiting += jobs
        self._wake.set()
        try:
            return list(await asyncio.gather(*(job.answer for job in jobs)))
        finally:
            for job in jobs:
                if not job.answer.cancel() and not job.answer.cancelled():
                    job.answer.exception()  # looked at: the first one has been raised

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run other work of a request on the thread that ranks."""
        return await asyncio.get_running_loop().run_in_executor(self._ranker, work)

    async def _answer(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                jobs, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._rank([job for job in jobs if not job.answer.done()])

    async def _rank(self, jobs: Sequence[_Job]) -> None:
        groups: dict[tuple[int, str], list[_Job]] = {}
        for job in jobs:
            groups.setdefault((id(job.shelf), job.model), []).append(job)
        for (_, model), group in groups.items():
            asks = [job.ask for job in group]
            done = await _done(self._ranker, partial(group[0].shelf.best, model, asks))
            error = done.exception()
            for place, job in enumerate(group):
                if job.answer.done():
                    continue
                if error is None:
                    job.answer.set_result(done.result()[place])
                else:
                    job.answer.set_exception(error)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._reload_seconds)
            stamp = await loop.run_in_executor(self._loader, self._stamp)
            if stamp == self._seen:
                continue
            done = await _done(self._loader, self._load)
            if error := done.exception():  # half-copied or damaged: the old one goes on
                self.trouble = str(error)
                _log.warning("The run has changed and cannot be read: %s", error)
            else:
                self.shelf, self.trouble = done.result(), ""
                _log.info("Serving version %s", self.shelf.version)
            self._seen = stamp


async def _done(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> "asyncio.Future[Result]":
    """Return the outcome of work on a thread, be it a result or an error to hand on."""
    outcome = asyncio.get_running_loop().run_in_executor(pool, work)
    await asyncio.wait([outcome])
    return outcome
