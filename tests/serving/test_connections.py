"""Limits of connections and heads, against a server that answers every request with its path."""

import contextlib
import json
import socket
import subprocess
import sys
import time

import pytest

from recoach.serving.limits import Limits

pytest.importorskip("httptools")

PROGRAM = """
import asyncio, resource, socket, sys
import uvicorn
from recoach.serving.connections import limited_protocol
from recoach.serving.limits import Limits

resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

async def app(scope, receive, send):
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

server_socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
print(server_socket.getsockname()[1], flush=True)
limits = Limits(head_timeout_seconds=float(sys.argv[1]), idle_timeout_seconds=30,
                write_timeout_seconds=float(sys.argv[1]))
config = uvicorn.Config(app, http=limited_protocol(limits), log_level="critical", lifespan="off",
                        timeout_keep_alive=30)
uvicorn.Server(config).run(sockets=[server_socket])
"""


@contextlib.contextmanager
def server(head_timeout):
    """Run a server that may open 128 files and yield its address."""
    command = [sys.executable, "-c", PROGRAM, str(head_timeout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = ("127.0.0.1", int(process.stdout.readline()))
            wait_for(address)
            yield address
        finally:
            process.kill()


def wait_for(address):
    for _ in range(200):
        with contextlib.suppress(OSError):
            if ask(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"):
                return
        time.sleep(0.05)


@pytest.fixture(scope="module")
def quick_server():
    with server(0.5) as address:
        yield address


def ask(address, data, *, timeout=5.0):
    """Return what a server sends for these bytes until it closes or answers."""
    with socket.create_connection(address, timeout=timeout) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        return answer_of(connection)


def answer_of(connection):
    """Return what a server sends until its answer ends or the connection is closed."""
    received = b""
    with contextlib.suppress(OSError):
        while not received.endswith((b"ok", b"}")):
            part = connection.recv(65_536)
            if not part:
                break
            received += part
    return received


def head(*headers):
    return b"\r\n".join([b"GET /x HTTP/1.1", b"host: x", *headers, b"", b""])


@pytest.mark.parametrize(
    "data",
    [
        head(b"a: " + b"x" * 40_000),
        head(b"a: " + b"x" * (48 << 20)),
        head(*(b"a%d: b" % number for number in range(101))),
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /x HTTP/1.1\r\na: " + b"x" * 400_000,  # never ends
    ],
    ids=["one header", "48 MiB", "101 headers", "long path", "no end"],
)
def test_a_large_head_is_refused(quick_server, data):
    answer = ask(quick_server, data)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"The headers are larger than 32,768 bytes or more than 100." in answer


def test_heads_below_the_limits_are_answered(quick_server):
    assert ask(quick_server, head(*(b"a%d: b" % number for number in range(98)))).endswith(b"ok")
    assert ask(quick_server, head(b"a: " + b"x" * 32_000)).endswith(b"ok")


def test_a_connection_takes_several_requests_each_with_its_own_head(quick_server):
    with socket.create_connection(quick_server, timeout=5) as connection:
        for _ in range(3):
            connection.sendall(head(b"a: " + b"x" * 20_000))
            assert answer_of(connection).endswith(b"ok")


def test_a_slow_head_is_refused_and_an_idle_connection_closed(quick_server):
    with (
        socket.create_connection(quick_server, timeout=5) as slow,
        socket.create_connection(quick_server, timeout=5) as idle,
    ):
        slow.sendall(b"GET /x HTTP/1.1\r\nhost")
        assert answer_of(slow).startswith(b"HTTP/1.1 408 ")
        assert idle.recv(65_536) == b""


def test_the_head_of_a_later_request_has_the_same_deadline(quick_server):
    with socket.create_connection(quick_server, timeout=5) as connection:
        connection.sendall(head())
        assert answer_of(connection).endswith(b"ok")
        connection.sendall(b"GET /x HTTP/1.1\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_is_closed(quick_server):
    request = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(quick_server, timeout=5) as stalled:
        stalled.sendall(request)
        time.sleep(1.0)
        assert 0 < n_bytes_until_closed(stalled) < 20_000_000
    with socket.create_connection(quick_server, timeout=5) as reading:
        reading.sendall(request + head(b"connection: close"))
        assert n_bytes_until_closed(reading) > 20_000_000


def n_bytes_until_closed(connection):
    """Return how many bytes a server sends until it closes the connection."""
    size = 0
    with contextlib.suppress(OSError):
        while part := connection.recv(1 << 20):
            size += len(part)
    return size


def test_bytes_that_are_no_request_are_refused(quick_server):
    answer = ask(quick_server, b"\x16\x03\x01 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "detail": "The request is not valid HTTP."
    }


def test_idle_connections_do_not_stop_a_server_with_128_files():
    with server(2.0) as address, contextlib.ExitStack() as stack:
        for _ in range(130):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(address, timeout=5))
        busy = ask(address, head())
        assert busy.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections" in busy
        answers = []
        deadline = time.monotonic() + 8
        while not answers or (answers[-1] != b"ok" and time.monotonic() < deadline):
            time.sleep(0.2)
            answers.append(ask(address, head())[-2:])
        assert answers[-1] == b"ok"  # the idle ones were closed


def test_the_number_of_connections_follows_the_files_that_a_process_may_open(monkeypatch):
    from recoach.serving import connections

    for files, expected in [(128, 64), (70, 8), (65_536, 1024)]:
        monkeypatch.setattr(
            connections.resource, "getrlimit", lambda _, files=files: (files, 2**20)
        )
        assert connections.max_connections(Limits()) == expected
