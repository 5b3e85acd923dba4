"""Public logs, downloaded so that an interruption costs nothing and damage is noticed.

The publisher gives no checksums. What can be checked is: the announced length, the checksums
inside the gzip file, and, from the first download on, the SHA-256 that is kept beside the file in
the form `sha256sum --check` reads.
"""

import gzip
import hashlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from recoach.errors import DataError

AMAZON_2023: Final = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories"
)
"""The official place of Amazon Reviews 2023 (Hou et al. 2024), one gzipped JSONL a category."""

Progress = Callable[[int, int | None], None]
"""Told bytes present and bytes in all, None where the server does not say."""

_NETWORK: Final = (
    *(urllib.error.URLError, http.client.HTTPException, ConnectionError, ssl.SSLError),
    TimeoutError,
)
"""What goes wrong on the way; every other OSError is the disk's."""

_CHUNK = 1 << 20
_TIMEOUT = 60.0


def fetch(url: str, target: Path, progress: Progress, *, sha256: str | None = None) -> str:
    """Download a gzip file to `target`, or check the one that is there; return its SHA-256.

    What an interrupted download has left in `.NAME.part` is gone on with, as long as the server
    says that its file is still the same.

    Args:
        url: where the file is.
        target: where it goes; `target` plus ".sha256" keeps its checksum.
        progress: told how far the download is.
        sha256: what the checksum must be, where somebody knows.

    Raises:
        DataError: no network, a refusal, a file cut short or damaged, another checksum than
            expected, a folder that cannot be written.
    """
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            _download(url, part, progress)
            _check_gzip(part, url)
            part.replace(target)
            _note(part).unlink(missing_ok=True)
        found = _sha256(target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror or error}); make room or name a folder "
            "you may write to"
        ) from error
    kept = target.with_name(f"{target.name}.sha256")
    for expected, who in ((sha256, "--sha256"), (_kept(kept), kept.name)):
        if expected and expected.lower() != found:
            raise DataError(
                f"{target} has the SHA-256 {found}, {who} says {expected}; remove the file and "
                "fetch it again"
            )
    if not kept.exists():
        kept.write_text(f"{found}  {target.name}\n")
    return found


def _download(url: str, part: Path, progress: Progress) -> None:
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "recoach"})
    seal = _read_note(part)
    if there and seal:
        request.add_header("Range", f"bytes={there}-")
        request.add_header("If-Range", seal)  # a changed file comes whole
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            there = there if answer.status == http.client.PARTIAL_CONTENT else 0
            length = answer.headers.get("Content-Length")
            total = there + int(length) if length else None
            _write_note(part, answer.headers.get("ETag") or answer.headers.get("Last-Modified"))
            with part.open("ab" if there else "wb") as file:
                progress(there, total)
                for chunk in _chunks(answer):
                    file.write(chunk)
                    there += len(chunk)
                    progress(there, total)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the check that follows decides
        raise DataError(
            f"{url} answers {error.code} ({error.reason}); is the name right?"
        ) from None
    except _NETWORK as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url} cannot be reached ({reason}); with a network, give the same command again to "
            f"go on, or get the file elsewhere and put it at {part.parent}"
        ) from None
    if total is not None and there != total:
        raise DataError(
            f"{url} was cut off after {there:,} of {total:,} bytes; give the same command again to "
            "go on from there"
        )


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what comes; an error while reading is the network's, whatever its kind."""
    try:
        while chunk := answer.read(_CHUNK):
            yield chunk
    except OSError as error:
        raise urllib.error.URLError(error) from None


def _check_gzip(part: Path, url: str) -> None:
    try:
        with gzip.open(part) as file:
            while file.read(_CHUNK):
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        part.unlink()
        _note(part).unlink(missing_ok=True)
        raise DataError(f"{url} gave a damaged file ({error}); fetch it again") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(path: Path) -> str | None:
    return path.read_text().split()[0] if path.exists() else None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> str | None:
    try:
        note: Any = json.loads(_note(part).read_text())
        return str(note["seal"]) if note["seal"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_note(part: Path, seal: str | None) -> None:
    """Keep what tells the server's file from a later one."""
    _note(part).write_text(json.dumps({"seal": seal}))
