"""Processes that a service starts: workers, which are started again when they end, and a shadow."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final, NamedTuple

import torch

from recoach.errors import RecoachError, RunError

_RESTART_SECONDS: Final = 1.0
_log = logging.getLogger("recoach.serving")

Target = Callable[[Callable[[str], None]], None]
"""A picklable function that works until a signal arrives. When its models are read, it calls its
argument with a description of what it serves."""


class _Started(NamedTuple):
    """What a process tells the one that started it."""

    description: str
    error: str


class Child(NamedTuple):
    """A process and the connection over which it reports its start."""

    process: BaseProcess
    receiver: Connection


def start_process(target: Target, threads: int = 1) -> Child:
    """Start a process.

    Args:
        target: the work of the process.
        threads: number of threads of its matrix products, unless OMP_NUM_THREADS is set.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(target, sender, threads))
    process.start()
    sender.close()
    return Child(process, receiver)


def wait_for_start(child: Child) -> str:
    """Return what a process says that it serves, when its models are read.

    Raises:
        RunError: it cannot start.
    """
    try:
        started: _Started = child.receiver.recv()
    except EOFError:
        raise RunError("A process ended while it started. See the messages above.") from None
    if started.error:
        raise RunError(started.error)
    return started.description


def stop_processes(children: Iterable[Child]) -> None:
    """Send SIGTERM to processes and wait until they have ended."""
    stopped = list(children)
    for child in stopped:
        child.process.terminate()
    for child in stopped:
        child.process.join()


def run_workers(target: Target, n_workers: int, report: Callable[[str], None]) -> None:
    """Run workers until this process is interrupted, and start those again that end.

    Args:
        target: the work of each worker.
        n_workers: number of processes; each gets an equal part of the cores.
        report: is called with the description of the first worker when all of them have started.

    Raises:
        RunError: a worker cannot start.
    """
    threads = max(1, (os.cpu_count() or 1) // n_workers)
    workers: list[Child] = []
    try:
        workers.extend(start_process(target, threads) for _ in range(n_workers))
        descriptions = [wait_for_start(worker) for worker in workers]
        report(descriptions[0])
        while True:
            connection.wait([worker.process.sentinel for worker in workers])
            time.sleep(_RESTART_SECONDS)
            for index, (process, _) in enumerate(workers):
                if not process.is_alive():
                    message = "Worker %d ended with code %s; starting another one"
                    _log.error(message, process.pid, process.exitcode)
                    workers[index] = start_process(target, threads)
    finally:
        stop_processes(workers)


def _work(target: Target, sender: Connection, threads: int) -> None:
    """Run the work of a process that ends when the one that started it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))  # until the target handles them
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    try:
        target(lambda description: sender.send(_Started(description, "")))
    except RecoachError as error:
        sender.send(_Started("", str(error)))


def _stop_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
