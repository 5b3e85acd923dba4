"""Downloads from a local server that can truncate, refuse and change its file."""

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


class ServerState:
    """What the server sends, and the ranges that were requested."""

    def __init__(self):
        self.content, self.stop_after, self.etag, self.ranges = CONTENT, None, '"one"', []
        self.reset: threading.Event | None = None  # resets the connection once it is set


@pytest.fixture
def server():
    state = ServerState()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested = self.headers.get("Range")
            state.ranges.append(requested)
            if "gone" in self.path:
                self.send_error(404)
                return
            resumes = requested and self.headers.get("If-Range") == state.etag
            start = int(requested.removeprefix("bytes=").removesuffix("-")) if resumes else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(body[: state.stop_after])
            if state.reset is not None and state.reset.wait(10):
                linger = struct.pack("ii", 1, 0)  # close() sends a reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                socket.close(self.connection.detach())

        def log_message(self, *arguments):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    yield state
    http_server.shutdown()
    thread.join()
    http_server.server_close()


def get(server, target, name="log.jsonl.gz", **options):
    calls = []
    checksum = fetch(f"{server.url}/{name}", target, lambda *call: calls.append(call), **options)
    return checksum, calls


def test_a_download_reports_progress_and_writes_its_checksum(server, tmp_path):
    checksum, calls = get(server, tmp_path / "a" / "log.gz")
    assert (tmp_path / "a" / "log.gz").read_bytes() == CONTENT
    assert checksum == SHA256
    assert (tmp_path / "a" / "log.gz.sha256").read_text() == f"{SHA256}  log.gz\n"
    assert calls[0] == (0, len(CONTENT))
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["log.gz", "log.gz.sha256"]


def test_an_existing_file_is_checked_and_not_downloaded_again(server, tmp_path):
    target = tmp_path / "log.gz"
    get(server, target)
    get(server, target)
    assert server.ranges == [None]
    target.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DataError, match=r"according to log\.gz\.sha256"):
        get(server, target)


def test_an_interrupted_download_resumes(server, tmp_path):
    server.stop_after = 1000
    with pytest.raises(DataError, match="Repeat the command"):
        get(server, tmp_path / "log.gz")
    assert not (tmp_path / "log.gz").exists()
    server.stop_after = None
    checksum, calls = get(server, tmp_path / "log.gz")
    assert server.ranges == [None, "bytes=1000-"]
    assert calls[0] == (1000, len(CONTENT))
    assert checksum == SHA256


def test_a_reset_connection_is_a_network_error_and_the_download_resumes(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_CHUNK_SIZE", 500)
    server.stop_after, server.reset = 1000, threading.Event()

    def reset_after_1000(size, total):
        if size == 1000:
            server.reset.set()

    with pytest.raises(DataError, match=r"cannot be reached .*reset.* Repeat the command"):
        fetch(f"{server.url}/log.gz", tmp_path / "log.gz", reset_after_1000)
    server.stop_after, server.reset = None, None
    assert get(server, tmp_path / "log.gz")[0] == SHA256
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        OSError(113, "No route to host"),
    ],
)
def test_errors_while_reading_are_network_errors(error, server, tmp_path, monkeypatch):
    def read(self, amount=None):
        raise error

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    with pytest.raises(DataError, match="cannot be reached"):
        get(server, tmp_path / "log.gz")


def test_a_full_disk_is_not_a_network_error(server, tmp_path):
    def progress(size, total):
        if size:
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot be written \(No space left .* Make room"):
        fetch(f"{server.url}/log.gz", tmp_path / "log.gz", progress)


def test_a_file_that_changed_on_the_server_is_downloaded_from_the_start(server, tmp_path):
    server.stop_after = 1000
    with pytest.raises(DataError):
        get(server, tmp_path / "log.gz")
    server.stop_after, server.etag = None, '"two"'
    server.content = gzip.compress(b"other" * 1000, mtime=0)
    get(server, tmp_path / "log.gz")
    assert (tmp_path / "log.gz").read_bytes() == server.content


def test_a_complete_part_that_was_not_renamed_is_used(server, tmp_path):
    (tmp_path / ".log.gz.part").write_bytes(CONTENT)
    (tmp_path / ".log.gz.part.version").write_text('"one"')
    assert get(server, tmp_path / "log.gz")[0] == SHA256


def test_a_damaged_file_is_removed(server, tmp_path):
    server.content = CONTENT[:-20] + bytes(20)
    with pytest.raises(DataError, match="damaged"):
        get(server, tmp_path / "log.gz")
    assert list(tmp_path.iterdir()) == []


def test_an_expected_checksum_is_compared(server, tmp_path):
    with pytest.raises(DataError, match="but 00ff according to --sha256"):
        get(server, tmp_path / "log.gz", sha256="00ff")
    assert get(server, tmp_path / "log.gz", sha256=SHA256.upper())[0] == SHA256


def test_an_unknown_name_is_a_data_error(server, tmp_path):
    with pytest.raises(DataError, match="answers 404"):
        get(server, tmp_path / "log.gz", "gone.gz")


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"cannot be reached .* put the file into"):
        fetch("http://127.0.0.1:1/log.gz", tmp_path / "log.gz", lambda *_: None)
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("http://no.such.host.invalid/log.gz", tmp_path / "log.gz", lambda *_: None)


def test_a_folder_that_cannot_be_written_is_a_data_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        get(server, tmp_path / "file" / "log.gz")


def test_the_command_downloads_the_categories_of_the_paper(server, tmp_path, monkeypatch, capsys):
    from recoach.cli import data

    monkeypatch.setattr(data, "AMAZON_2023", server.url)
    data.fetch("amazon-2023", output=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.gz")) == [
        "Baby_Products.jsonl.gz",
        "Industrial_and_Scientific.jsonl.gz",
        "Video_Games.jsonl.gz",
    ]
    assert capsys.readouterr().out.count(SHA256) == 3
    assert module.AMAZON_2023.startswith("https://mcauleylab.ucsd.edu/")
