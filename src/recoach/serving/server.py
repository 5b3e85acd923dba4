"""The server of one process, which drains before it stops, and a supervisor of several of them."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final, NamedTuple

import torch
import uvicorn

from recoach.errors import RecoachError, RunError
from recoach.serving.limits import App, Message, Receive, Scope, Send
from recoach.serving.routing import Routing

STOP_SECONDS: Final = 15
"""Longest time for running requests to finish after the drain."""

_RESTART_SECONDS: Final = 1.0
_log = logging.getLogger("recoach.serving")


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on answering for some seconds after SIGTERM before it stops.

    During the drain `routing.is_draining` is true, so that /ready answers 503 and load balancers
    send their requests elsewhere; each response closes its connection. Then no connection is
    accepted, and running requests have `STOP_SECONDS` to finish. SIGINT stops without a drain.

    Args:
        app: the ASGI application.
        routing: is told that the drain has begun.
        drain_seconds: duration of the drain.
    """

    def __init__(self, app: App, routing: Routing, drain_seconds: float) -> None:
        config = uvicorn.Config(
            _closing_when_draining(app, routing),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=65_536,
        )
        super().__init__(config)
        self._routing, self._drain_seconds = routing, drain_seconds
        self._stop_time: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at SIGTERM; stop at SIGINT."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._stop_time is None:
            self._stop_time = time.monotonic() + self._drain_seconds
            self._routing.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server stops now; called ten times a second."""
        if self._stop_time is not None and time.monotonic() >= self._stop_time:
            self.should_exit = True
        return await super().on_tick(counter)


def _closing_when_draining(app: App, routing: Routing) -> App:
    """Return an application that asks clients to close their connections during the drain."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and routing.is_draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await app(scope, receive, send_closing)

    return closing


class _Started(NamedTuple):
    """What a worker tells the supervisor about its start."""

    description: str
    error: str


Target = Callable[[socket.socket, Callable[[str], None]], None]
"""A function that serves at a socket and, when its models are read, calls its second argument with
a description of what it serves. It is called in a process of its own, so it must be picklable."""


def run_workers(
    target: Target, server_socket: socket.socket, n_workers: int, report: Callable[[str], None]
) -> None:
    """Run workers that share a socket until this process is interrupted; restart those that end.

    Args:
        target: the work of each worker.
        server_socket: a listening socket.
        n_workers: number of processes.
        report: is called with the description of the first worker when all of them have started.

    Raises:
        RunError: a worker cannot start.
    """
    threads = max(1, (os.cpu_count() or 1) // n_workers)

    def start() -> tuple[BaseProcess, Connection]:
        receiver, sender = get_context("spawn").Pipe(duplex=False)
        arguments = (target, server_socket, sender, threads)
        process = get_context("spawn").Process(target=_work, args=arguments)
        process.start()
        sender.close()
        return process, receiver

    workers = []
    try:
        workers = [start() for _ in range(n_workers)]
        descriptions = [_wait_for_start(receiver) for _, receiver in workers]
        report(descriptions[0])
        while True:
            connection.wait([process.sentinel for process, _ in workers])
            time.sleep(_RESTART_SECONDS)
            for index, (process, _) in enumerate(workers):
                if not process.is_alive():
                    _log.error(
                        "Worker %d ended with code %s; starting another one",
                        process.pid,
                        process.exitcode,
                    )
                    workers[index] = start()
    finally:
        _stop([process for process, _ in workers])


def _wait_for_start(receiver: Connection) -> str:
    try:
        started: _Started = receiver.recv()
    except EOFError:
        raise RunError("A worker ended while it started. See the messages above.") from None
    if started.error:
        raise RunError(started.error)
    return started.description


def _stop(processes: list[BaseProcess]) -> None:
    """Let workers drain and stop; kill those that do not within the time that they are given."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _work(target: Target, server_socket: socket.socket, sender: Connection, threads: int) -> None:
    """Serve in a worker until it gets a signal or its supervisor ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))  # until the server handles them
    threading.Thread(target=_stop_with_supervisor, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    try:
        target(server_socket, lambda description: sender.send(_Started(description, "")))
    except RecoachError as error:
        sender.send(_Started("", str(error)))


def _stop_with_supervisor() -> None:
    supervisor = parent_process()
    if supervisor is not None:
        connection.wait([supervisor.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
