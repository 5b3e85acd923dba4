"""Small files that unpack to a great deal are rejected before they are unpacked."""

import gzip
import io
import resource
import tracemalloc

import polars as pl
import pytest

from recoach.data import limits
from recoach.data.ingest import read_interactions
from recoach.data.limits import check_unpacked_size
from recoach.errors import DataError

HEAD = b"user_id,item_id\n"


def zstd(content, level=None):
    pa = pytest.importorskip("pyarrow")
    codec = pa.Codec("zstd", compression_level=level) if level else pa.Codec("zstd")
    return codec.compress(content, asbytes=True)


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_a_file_that_unpacks_to_too_much_is_rejected_without_unpacking(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(limits, "ALWAYS_ALLOWED", 1 << 20)
    ending = {"compress": "gz", "zstd": "zst"}[pack.__name__]
    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes(pack(HEAD + b"u,i\n" * (16 << 20)))
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=rf"a\.csv\.{ending}: unpacks to over .*100 times"):
        read_interactions(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_parts_behind_a_small_first_part_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ALWAYS_ALLOWED", 1 << 20)
    for pack in (gzip.compress, zstd):
        path = tmp_path / "a.csv"
        path.write_bytes(pack(HEAD) + pack(b"\n" * (300 << 20)))
        with pytest.raises(DataError, match="unpacks to over"):
            check_unpacked_size(path)


def test_a_log_that_compresses_well_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ALWAYS_ALLOWED", 1 << 10)
    rows = b"".join(b"user%d,item%d\n" % (n % 977, n * 7919 % 1013) for n in range(100_000))
    for name, pack in (("a.csv.gz", gzip.compress), ("a.csv.zst", zstd)):
        (tmp_path / name).write_bytes(pack(HEAD + rows))
        assert len(read_interactions(tmp_path / name)) == 100_000


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("size", [0, 1, 131_071, 131_072, 131_073, 1_000_000])
def test_zstd_block_headers_bound_the_unpacked_size(tmp_path, level, size):
    for content in (bytes(size), bytes(n * 7919 % 251 for n in range(size))):
        packed = zstd(content, level)
        max_size = limits._max_zstd_size(io.BytesIO(packed * 2))
        assert 2 * size <= max_size <= 2 * (size + 131_072)


def test_a_parquet_file_with_far_more_rows_than_bytes_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ALWAYS_ALLOWED", 1 << 10)
    path = tmp_path / "a.parquet"
    rows = 3_000_000
    pl.select(user_id=pl.repeat(1, rows), item_id=pl.repeat(2, rows)).write_parquet(path)
    with pytest.raises(DataError, match=r"a\.parquet: 3,000,000 rows in [\d,]+ bytes"):
        read_interactions(path)
