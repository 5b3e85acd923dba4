"""Download public logs; an interrupted download resumes, a damaged file is detected.

The publisher gives no checksums. Checked are the announced length, the checksums inside the gzip
file and, after the first download, the SHA-256 in a file next to it that `sha256sum --check` reads.
"""

import gzip
import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from recoach.errors import DataError

AMAZON_2023: Final = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories"
)
"""Amazon Reviews 2023 (Hou et al. 2024), one gzipped JSONL file per category."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded and the total, None if the server does not announce it."""

_NETWORK_ERRORS: Final = (
    *(urllib.error.URLError, http.client.HTTPException, ConnectionError, ssl.SSLError),
    TimeoutError,
)
"""Errors of the network; every other OSError is an error of the disk."""

_CHUNK_SIZE = 1 << 20
_TIMEOUT = 60.0
"""Seconds."""


def fetch(url: str, target: Path, progress: Progress, *, sha256: str | None = None) -> str:
    """Download a gzip file to `target`, or check the existing one; return its SHA-256.

    An interrupted download leaves `.NAME.part`, which the next call continues if the server says
    that its file is still the same.

    `target` plus ".sha256" keeps the checksum, which must be `sha256` if that is given.

    Raises:
        DataError: the server cannot be reached or refuses, the file is truncated or damaged or has
            another checksum than expected, or the folder is not writable.
    """
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            _download(url, part, progress)
            _check_gzip(part, url)
            part.replace(target)
            _version_path(part).unlink(missing_ok=True)
        actual = _sha256(target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}). Make room or name a folder "
            "you may write to."
        ) from error
    checksum_path = target.with_name(f"{target.name}.sha256")
    stored = checksum_path.read_text().split()[0] if checksum_path.exists() else None
    for expected, origin in ((sha256, "--sha256"), (stored, checksum_path.name)):
        if expected and expected.lower() != actual:
            raise DataError(
                f"{target}: the SHA-256 is {actual}, but {expected} according to {origin}. Remove "
                "the file and fetch it again."
            )
    if not checksum_path.exists():
        checksum_path.write_text(f"{actual}  {target.name}\n")
    return actual


def _download(url: str, part: Path, progress: Progress) -> None:
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "recoach"})
    version_path = _version_path(part)
    version = version_path.read_text(errors="ignore") if version_path.exists() else ""
    if size and version:
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", version)  # the server sends a changed file from the start
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            size = size if response.status == http.client.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            total = size + int(length) if length else None
            headers = response.headers
            version_path.write_text(headers.get("ETag") or headers.get("Last-Modified") or "")
            with part.open("ab" if size else "wb") as file:
                progress(size, total)
                for chunk in _chunks(response):
                    file.write(chunk)
                    size += len(chunk)
                    progress(size, total)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all bytes are there; the gzip check decides
        raise DataError(
            f"{url}: the server answers {error.code} ({error.reason}). Check the name."
        ) from None
    except _NETWORK_ERRORS as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url}: cannot be reached ({reason}). Repeat the command when the network is back to "
            f"resume the download, or put the file into {part.parent} yourself."
        ) from None
    if total is not None and size != total:
        raise DataError(
            f"{url}: the download ended after {size:,} of {total:,} bytes. Repeat the command to "
            "resume it."
        )


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the content; any OSError while reading is raised as an error of the network."""
    try:
        while chunk := response.read(_CHUNK_SIZE):
            yield chunk
    except OSError as error:
        raise urllib.error.URLError(error) from None


def _check_gzip(part: Path, url: str) -> None:
    """Unpack the whole file; remove it and raise a DataError if it is damaged."""
    try:
        with gzip.open(part) as file:
            while file.read(_CHUNK_SIZE):
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        part.unlink()
        _version_path(part).unlink(missing_ok=True)
        raise DataError(f"{url}: the file is damaged ({error}). Fetch it again.") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_path(part: Path) -> Path:
    """Return the file with the ETag or date by which the server recognizes the same file."""
    return part.with_name(f"{part.name}.version")
