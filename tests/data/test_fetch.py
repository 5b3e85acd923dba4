"""Downloads against a server of our own that can cut off, refuse and lie."""

import gzip
import hashlib
import http.client
import http.server
import socket
import ssl
import struct
import threading

import pytest

from recoach.data import fetch as module
from recoach.data.fetch import fetch
from recoach.errors import DataError

CONTENT = gzip.compress(b"\n".join(b'{"user_id": "%d"}' % i for i in range(5000)), mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Shelf:
    """What the server gives, and what it was asked."""

    def __init__(self):
        self.content, self.cut, self.seal, self.asked = CONTENT, None, '"one"', []
        self.reset: threading.Event | None = None  # set: break the connection off


@pytest.fixture
def shelf():
    shelf = Shelf()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Range")
            shelf.asked.append(given)
            if "gone" in self.path:
                self.send_error(404)
                return
            same = self.headers.get("If-Range") == shelf.seal
            start = int(given.removeprefix("bytes=").removesuffix("-")) if given and same else 0
            if start >= len(shelf.content):
                self.send_error(416)
                return
            body = shelf.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", shelf.seal)
            self.end_headers()
            self.wfile.write(body[: shelf.cut])
            if shelf.reset is not None and shelf.reset.wait(10):
                linger = struct.pack("ii", 1, 0)  # closing resets instead of saying goodbye
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                socket.close(self.connection.detach())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    shelf.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield shelf
    server.shutdown()
    thread.join()
    server.server_close()


def get(shelf, target, name="log.jsonl.gz", **options):
    seen = []
    found = fetch(f"{shelf.url}/{name}", target, lambda *row: seen.append(row), **options)
    return found, seen


def test_a_file_comes_whole_with_progress_and_its_checksum(shelf, tmp_path):
    found, seen = get(shelf, tmp_path / "a" / "log.gz")
    assert (tmp_path / "a" / "log.gz").read_bytes() == CONTENT
    assert found == SHA256
    assert (tmp_path / "a" / "log.gz.sha256").read_text() == f"{SHA256}  log.gz\n"
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["log.gz", "log.gz.sha256"]


def test_a_file_that_is_there_is_checked_and_not_fetched_again(shelf, tmp_path):
    target = tmp_path / "log.gz"
    get(shelf, target)
    get(shelf, target)
    assert shelf.asked == [None]
    target.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DataError, match=r"log\.gz\.sha256 says"):
        get(shelf, target)


def test_an_interrupted_download_goes_on_where_it_was(shelf, tmp_path):
    shelf.cut = 1000
    with pytest.raises(DataError, match="the same command again"):
        get(shelf, tmp_path / "log.gz")
    assert not (tmp_path / "log.gz").exists()
    shelf.cut = None
    found, seen = get(shelf, tmp_path / "log.gz")
    assert shelf.asked == [None, "bytes=1000-"]
    assert seen[0] == (1000, len(CONTENT))
    assert found == SHA256


def test_a_connection_that_is_reset_is_the_network_s_fault_and_goes_on(
    shelf, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_CHUNK", 500)
    shelf.cut, shelf.reset = 1000, threading.Event()

    def break_off(there, total):
        if there == 1000:
            shelf.reset.set()

    with pytest.raises(DataError, match=r"cannot be reached .*reset.* the same command again"):
        fetch(f"{shelf.url}/log.gz", tmp_path / "log.gz", break_off)
    shelf.cut, shelf.reset = None, None
    assert get(shelf, tmp_path / "log.gz")[0] == SHA256
    assert shelf.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        OSError(113, "No route to host"),
    ],
)
def test_whatever_breaks_while_reading_is_no_full_disk(error, shelf, tmp_path, monkeypatch):
    def read(self, amount=None):
        raise error

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    with pytest.raises(DataError, match="cannot be reached"):
        get(shelf, tmp_path / "log.gz")


def test_a_full_disk_is_no_broken_network(shelf, tmp_path):
    def progress(there, total):
        if there:
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot be written \(No space left .* make room"):
        fetch(f"{shelf.url}/log.gz", tmp_path / "log.gz", progress)


def test_a_file_that_has_changed_meanwhile_is_begun_anew(shelf, tmp_path):
    shelf.cut = 1000
    with pytest.raises(DataError):
        get(shelf, tmp_path / "log.gz")
    shelf.cut, shelf.seal = None, '"two"'
    shelf.content = gzip.compress(b"other" * 1000, mtime=0)
    get(shelf, tmp_path / "log.gz")
    assert (tmp_path / "log.gz").read_bytes() == shelf.content


def test_what_was_complete_but_not_renamed_is_taken(shelf, tmp_path):
    (tmp_path / ".log.gz.part").write_bytes(CONTENT)
    (tmp_path / ".log.gz.part.json").write_text('{"seal": "\\"one\\""}')
    assert get(shelf, tmp_path / "log.gz")[0] == SHA256


def test_a_damaged_file_is_thrown_away(shelf, tmp_path):
    shelf.content = CONTENT[:-20] + bytes(20)
    with pytest.raises(DataError, match="damaged"):
        get(shelf, tmp_path / "log.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_somebody_knows_is_held_against_it(shelf, tmp_path):
    with pytest.raises(DataError, match="--sha256 says 00ff"):
        get(shelf, tmp_path / "log.gz", sha256="00ff")
    assert get(shelf, tmp_path / "log.gz", sha256=SHA256.upper())[0] == SHA256


def test_a_name_the_server_does_not_know(shelf, tmp_path):
    with pytest.raises(DataError, match="answers 404"):
        get(shelf, tmp_path / "log.gz", "gone.gz")


def test_without_a_network_the_way_out_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot be reached .* put it at"):
        fetch("http://127.0.0.1:1/log.gz", tmp_path / "log.gz", lambda *_: None)
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("http://no.such.host.invalid/log.gz", tmp_path / "log.gz", lambda *_: None)


def test_a_place_that_cannot_be_written(shelf, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        get(shelf, tmp_path / "file" / "log.gz")


def test_the_command_fetches_the_papers_categories(shelf, tmp_path, monkeypatch, capsys):
    from recoach.cli import data

    monkeypatch.setattr(data, "AMAZON_2023", shelf.url)
    data.fetch("amazon-2023", output=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.gz")) == [
        "Baby_Products.jsonl.gz",
        "Industrial_and_Scientific.jsonl.gz",
        "Video_Games.jsonl.gz",
    ]
    assert capsys.readouterr().out.count(SHA256) == 3
    assert module.AMAZON_2023.startswith("https://mcauleylab.ucsd.edu/")
