"""Any bytes give Interactions or a DataError, never another error."""

import gzip
import io
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recoach.data.ingest import read_interactions
from recoach.data.statistics import describe
from recoach.errors import DataError

FRAME = pl.DataFrame(
    {
        "user_id": ["ann", "bob", "ann", "ça va"],
        "item_id": [1, 2, 3, 2],
        "rating": [5.0, 1.5, 3.0, 4.0],
        "timestamp": [1_500_000_000, 1_500_000_100, 1_500_000_200, 1_500_000_300],
    }
)


def _parquet():
    buffer = io.BytesIO()
    FRAME.write_parquet(buffer)
    return buffer.getvalue()


def _inter():
    rows = ["user_id:token\titem_id:token\ttimestamp:float", "a\t1\t1.5", "b\t2\t2.5", "a\t2\t3"]
    return "\n".join(rows).encode()


def _zstd():
    pa = pytest.importorskip("pyarrow")
    return pa.Codec("zstd").compress(FRAME.write_csv().encode(), asbytes=True)


def _iso():
    rows = ["user,item,date", "a,1,2020-01-01", "b,1,2020-02-30 10:11:12", "a,2,2021-03-04"]
    return "\n".join(rows).encode()


FILES = {
    "a.csv": FRAME.write_csv().encode(),
    "b.csv": _iso(),
    "a.tsv": FRAME.write_csv(separator="\t").encode(),
    "a.jsonl": FRAME.write_ndjson().encode(),
    "a.inter": _inter(),
    "a.txt": b"ann 1 2 3\nbob 2 4\ncleo 1\n",
    "a.csv.gz": gzip.compress(FRAME.write_csv().encode()),
    "a.csv.zst": _zstd(),
    "a.parquet": _parquet(),
}
SNIPPETS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b'"',
    b",",
    b"\t",
    b"\n",
    b"\r",
    b"nan",
    b"-1e308",
    b"[" * 9999,
]
SNIPPETS += [b"9" * 30, b"1500000000000", b"{}", b"null", b"\xed\xa0\x80", b"user_id", b"'", b"\\"]
SNIPPETS += [b"true", b"0x1", b" ", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x" * 200_000]

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 12),
        st.one_of(st.sampled_from(SNIPPETS), st.binary(max_size=8)),
    ),
    min_size=1,
    max_size=6,
)


def apply_edits(content, edits):
    """Replace bytes by others."""
    for position, length, new in edits:
        start = int(position * len(content))
        content = content[:start] + new + content[start + length :]
    return content


def assert_read_or_rejected(path, content):
    path.write_bytes(content)
    try:
        log = read_interactions(path)
    except DataError as error:
        message = str(error)
    else:
        message = ""
        describe(log)
        log.frame()
        assert log.users.max() < log.n_users
        assert log.items.max() < log.n_items
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", FILES)
def test_an_edited_log_is_read_or_rejected(name, tmp_path):
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(EDITS)
    def check(edits):
        assert_read_or_rejected(tmp_path / name, apply_edits(FILES[name], edits))

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_very_many_edited_logs_are_read_or_rejected(name, tmp_path):
    generator = random.Random(name)
    for _ in range(11_200):  # 100,800 of nine formats
        edits = [
            (
                generator.random(),
                generator.randrange(13),
                generator.choice(SNIPPETS)
                if generator.random() < 0.5
                else generator.randbytes(generator.randrange(9)),
            )
            for _ in range(generator.randint(1, 6))
        ]
        assert_read_or_rejected(tmp_path / name, apply_edits(FILES[name], edits))


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_log_is_read_or_rejected(name, tmp_path):
    content = FILES[name]
    for end in np.linspace(0, len(content) - 1, 12, dtype=int):
        assert_read_or_rejected(tmp_path / name, content[:end])
