"""Small files that unpack to a great deal are refused before they do."""

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
def test_a_bomb_is_refused_and_never_held(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(limits, "SMALL", 1 << 20)
    ending = {"compress": "gz", "zstd": "zst"}[pack.__name__]
    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes(pack(HEAD + b"u,i\n" * (16 << 20)))
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=rf"a\.csv\.{ending} would unpack to over .*100 times"):
        read_interactions(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_bombs_within_and_after_a_real_log_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SMALL", 1 << 20)
    for pack in (gzip.compress, zstd):
        path = tmp_path / "a.csv"
        path.write_bytes(pack(HEAD) + pack(b"\n" * (300 << 20)))
        with pytest.raises(DataError, match="would unpack"):
            check_unpacked_size(path)


def test_real_logs_pass_though_they_shrink_well(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SMALL", 1 << 10)
    rows = b"".join(b"user%d,item%d\n" % (n % 977, n * 7919 % 1013) for n in range(100_000))
    for name, pack in (("a.csv.gz", gzip.compress), ("a.csv.zst", zstd)):
        (tmp_path / name).write_bytes(pack(HEAD + rows))
        assert len(read_interactions(tmp_path / name)) == 100_000


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("size", [0, 1, 131_071, 131_072, 131_073, 1_000_000])
def test_the_heads_of_zstd_blocks_tell_its_size(tmp_path, level, size):
    for content in (bytes(size), bytes(n * 7919 % 251 for n in range(size))):
        packed = zstd(content, level)
        held = limits._zstd_size(io.BytesIO(packed * 2))
        assert 2 * size <= held <= 2 * (size + 131_072)


def test_rows_out_of_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SMALL", 1 << 10)
    path = tmp_path / "a.parquet"
    rows = 3_000_000
    pl.select(user_id=pl.repeat(1, rows), item_id=pl.repeat(2, rows)).write_parquet(path)
    with pytest.raises(DataError, match=r"a\.parquet has 3,000,000 rows in [\d,]+ bytes"):
        read_interactions(path)
