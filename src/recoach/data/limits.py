"""Files that unpack to far more than they are: told before anything is unpacked into memory.

A log is text or short columns; it shrinks to a fifth, a tenth, a fiftieth. What shrinks to less
than a hundredth and would still take more than a gibibyte is no log.
"""

import zlib
from pathlib import Path
from typing import BinaryIO, Final

import polars as pl

from recoach.errors import DataError

LARGEST_RATIO: Final = 100
SMALL: Final = 1 << 30
"""Bytes, and rows of a Parquet file, that are unpacked whatever their ratio."""
_DEFLATE_RATIO: Final = 1032
"""What a gzip file can hold at the most, a byte of it."""
_CHUNK: Final = 1 << 20
_ZSTD, _SKIPPABLE = b"\x28\xb5\x2f\xfd", 0x184D2A50
_BLOCK: Final = 1 << 17
"""Bytes a block of zstd unpacks to at the most."""


def check_unpacked_size(path: Path) -> None:
    """Refuse a .gz or .zst that would unpack to a bomb, by its content and not by what it claims.

    Raises:
        DataError: it holds more than `LARGEST_RATIO` times its size, and more than `SMALL`.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    allowed = max(SMALL, LARGEST_RATIO * size)
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start[:2] == b"\x1f\x8b" and size * _DEFLATE_RATIO > allowed:
            held = _gzip_size(file, allowed)
        elif start == _ZSTD:
            held = _zstd_size(file)
        else:
            return
    if held > allowed:
        raise DataError(
            f"{path.name} would unpack to over {allowed:,} bytes, more than {LARGEST_RATIO} times "
            "its size: that is no log. If you trust it, unpack it yourself and give the plain file"
        )


def check_rows(path: Path, frame: pl.LazyFrame) -> None:
    """Refuse a Parquet file that claims to hold far more rows than bytes."""
    rows = int(frame.select(pl.len()).collect().item())
    if rows > max(SMALL, LARGEST_RATIO * path.stat().st_size):
        raise DataError(
            f"{path.name} has {rows:,} rows in {path.stat().st_size:,} bytes, more than "
            f"{LARGEST_RATIO} a byte: that is no log"
        )


def _gzip_size(file: BinaryIO, allowed: int) -> int:
    """Return how much a gzip file holds, or as soon as it is too much, so far; damage ends it."""
    held, unpacker = 0, zlib.decompressobj(wbits=31)
    while packed := file.read(_CHUNK // 8):
        while packed and held <= allowed:
            try:
                held += len(unpacker.decompress(packed, _CHUNK))
            except zlib.error:
                return held  # the reader says what is wrong
            packed = unpacker.unconsumed_tail
            if unpacker.eof:
                packed, unpacker = unpacker.unused_data, zlib.decompressobj(wbits=31)
        if held > allowed:
            break
    return held


def _zstd_size(file: BinaryIO) -> int:
    """Return how much a zstd file can hold at the most, by the heads of its blocks."""
    held = 0
    while len(magic := file.read(4)) == 4:
        if int.from_bytes(magic, "little") & ~0xF == _SKIPPABLE:
            file.seek(int.from_bytes(file.read(4), "little"), 1)
        elif magic == _ZSTD:
            held += _zstd_frame(file)
        else:
            break  # the reader says what is wrong
    return held


def _zstd_frame(file: BinaryIO) -> int:
    """Return what the blocks of one frame can hold (RFC 8878), and go to its end."""
    descriptor = int.from_bytes(file.read(1), "little")
    single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    sizes = (single, 2, 4, 8)[descriptor >> 6], (0, 1, 2, 4)[descriptor & 3]
    file.seek(1 - single + sum(sizes), 1)
    held, last = 0, False
    while not last:
        head = int.from_bytes(block := file.read(3), "little")
        if len(block) < 3:
            return held
        last, kind, size = bool(head & 1), head >> 1 & 3, head >> 3
        held += size if kind in (0, 1) else _BLOCK
        file.seek(1 if kind == 1 else size, 1)
    file.seek(4 * checksum, 1)
    return held
