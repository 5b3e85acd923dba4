"""Refuse files that unpack to far more than their size, before they fill the memory.

A log is text or short columns, which compression makes 5 to 50 times smaller. A file that is more
than 100 times smaller than its content, and holds more than a gibibyte, is not accepted as a log.
"""

import zlib
from pathlib import Path
from typing import BinaryIO, Final

import polars as pl

from recoach.errors import DataError

MAX_RATIO: Final = 100
"""Unpacked bytes, or rows of a Parquet file, per byte of the file."""
ALWAYS_ALLOWED: Final = 1 << 30
"""Bytes, and rows of a Parquet file, that are accepted at any ratio."""
_MAX_GZIP_RATIO: Final = 1032
"""The most that a byte of a gzip file can unpack to (limit of the deflate format)."""
_CHUNK_SIZE: Final = 1 << 20
_ZSTD_MAGIC, _SKIPPABLE_MAGIC = b"\x28\xb5\x2f\xfd", 0x184D2A50
_MAX_ZSTD_BLOCK: Final = 1 << 17
"""The most bytes that a zstd block can unpack to."""


def check_unpacked_size(path: Path) -> None:
    """Refuse a .gz or .zst file that unpacks to too much; the sizes it declares are not trusted.

    Raises:
        DataError: it holds more than `MAX_RATIO` times its size and more than `ALWAYS_ALLOWED`.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    max_bytes = max(ALWAYS_ALLOWED, MAX_RATIO * size)
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b" and size * _MAX_GZIP_RATIO > max_bytes:
            unpacked = _gzip_size(file, max_bytes)
        elif magic == _ZSTD_MAGIC:
            unpacked = _max_zstd_size(file)
        else:
            return
    if unpacked > max_bytes:
        raise DataError(
            f"{path.name}: unpacks to over {max_bytes:,} bytes, more than {MAX_RATIO} times its "
            "size, which no log does. If you trust the file, unpack it and pass the plain file."
        )


def check_rows(path: Path, frame: pl.LazyFrame) -> None:
    """Refuse a Parquet file that declares far more rows than it has bytes."""
    rows = int(frame.select(pl.len()).collect().item())
    if rows > max(ALWAYS_ALLOWED, MAX_RATIO * path.stat().st_size):
        raise DataError(
            f"{path.name}: {rows:,} rows in {path.stat().st_size:,} bytes, more than {MAX_RATIO} "
            "a byte, which no log has. Check where the file comes from."
        )


def _gzip_size(file: BinaryIO, max_bytes: int) -> int:
    """Return the unpacked size of a gzip file, counted until it exceeds `max_bytes` or is damaged.

    Unpacks a chunk at a time and keeps none of them.
    """
    unpacked, decompressor = 0, zlib.decompressobj(wbits=31)
    while packed := file.read(_CHUNK_SIZE // 8):
        while packed and unpacked <= max_bytes:
            try:
                unpacked += len(decompressor.decompress(packed, _CHUNK_SIZE))
            except zlib.error:
                return unpacked  # the reader reports the damage
            packed = decompressor.unconsumed_tail
            if decompressor.eof:
                packed, decompressor = decompressor.unused_data, zlib.decompressobj(wbits=31)
        if unpacked > max_bytes:
            break
    return unpacked


def _max_zstd_size(file: BinaryIO) -> int:
    """Return an upper bound of the unpacked size of a zstd file, from its block headers."""
    max_size = 0
    while len(magic := file.read(4)) == 4:
        if int.from_bytes(magic, "little") & ~0xF == _SKIPPABLE_MAGIC:
            file.seek(int.from_bytes(file.read(4), "little"), 1)
        elif magic == _ZSTD_MAGIC:
            max_size += _max_frame_size(file)
        else:
            break  # the reader reports the damage
    return max_size


def _max_frame_size(file: BinaryIO) -> int:
    """Return an upper bound of the content of one zstd frame (RFC 8878), and go to its end."""
    descriptor = int.from_bytes(file.read(1), "little")
    single_segment, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    field_sizes = (
        (single_segment, 2, 4, 8)[descriptor >> 6],
        (0, 1, 2, 4)[descriptor & 3],
        1 - single_segment,
    )
    file.seek(sum(field_sizes), 1)
    max_size, is_last = 0, False
    while not is_last:
        header = file.read(3)
        if len(header) < 3:
            return max_size
        bits = int.from_bytes(header, "little")
        is_last, block_type, size = bool(bits & 1), bits >> 1 & 3, bits >> 3
        max_size += size if block_type in (0, 1) else _MAX_ZSTD_BLOCK
        file.seek(1 if block_type == 1 else size, 1)
    file.seek(4 * has_checksum, 1)
    return max_size
