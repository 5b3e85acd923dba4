"""Files and folders whose paths have the characters of patterns, and texts in other encodings."""

from pathlib import Path

import polars as pl
import pytest

from recoach.data.benchmark import read_benchmark
from recoach.data.config import PrepareConfig
from recoach.data.files import read_parquet, read_text
from recoach.data.ingest import read_interactions
from recoach.data.item_table import read_item_table
from recoach.data.prepared import load_dataset, prepare
from recoach.errors import ConfigError, DataError

NAMES = ["a[1]", "[x]*", "what?", "{a,b}", "100%41", "two words", "~", "~root", "é", "#", "[!z]"]
ROWS = [(f"u{user}", f"i{(user + step) % 5}") for user in range(4) for step in range(4)]
DECOYS = ("a1", "x1", "whata", "a", "b")


def log_text(separator, header=True):
    lines = [f"user_id{separator}item_id"] if header else []
    return "\n".join([*lines, *(f"{user}{separator}{item}" for user, item in ROWS)]) + "\n"


CONTENTS = {
    ".csv": log_text(",").encode(),
    ".tsv": log_text("\t").encode(),
    ".inter": log_text("\t").replace("_id", "_id:token").encode(),
    ".jsonl": "".join(f'{{"user_id":"{u}","item_id":"{i}"}}\n' for u, i in ROWS).encode(),
}


@pytest.fixture(params=NAMES)
def folder(request, tmp_path, monkeypatch):
    """Return a relative folder with this name, beside folders that it would match as a pattern."""
    monkeypatch.chdir(tmp_path)
    for decoy in DECOYS:
        (tmp_path / decoy).mkdir()
        (tmp_path / decoy / f"{decoy}.csv").write_text("user_id,item_id\nwrong,wrong\n")
    path = Path(request.param)
    path.mkdir(exist_ok=True)
    return path


def test_a_log_is_the_named_file(folder):
    for suffix, content in CONTENTS.items():
        path = folder / f"{folder}{suffix}"
        path.write_bytes(content)
        assert read_interactions(path).user_ids.to_list() == ["u0", "u1", "u2", "u3"]
    pl.DataFrame(ROWS, schema=["user_id", "item_id"], orient="row").write_parquet(
        folder.absolute() / "log.parquet"
    )
    assert len(read_interactions(folder / "log.parquet")) == 16


def test_an_item_table_is_the_named_file(folder):
    (folder / f"{folder}.csv").write_text("item_id,title\ni0,Zero\n")
    table = read_item_table(folder / f"{folder}.csv", pl.Series(["i0", "i1"]))
    assert table["title"].to_list() == ["Zero", None]


@pytest.mark.parametrize("memory", [None, "1GB"])
def test_a_prepared_folder_is_written_and_read_where_it_is(folder, memory):
    if memory:
        pytest.importorskip("duckdb")
    (folder / "log.csv").write_bytes(CONTENTS[".csv"])
    written = prepare(folder / "log.csv", folder / f"p{folder}", PrepareConfig(k_core=0))
    output = folder / f"p{folder}"
    assert load_dataset(output).fingerprint == written.fingerprint
    if memory and "?" in str(folder):
        with pytest.raises(ConfigError, match=r"with a \? in its path"):
            prepare(folder / "log.csv", folder / "m", PrepareConfig(k_core=0), memory=memory)
        return
    other = prepare(
        folder / "log.csv", folder / f"m{folder}", PrepareConfig(k_core=0), memory=memory
    )
    assert other.fingerprint == written.fingerprint
    assert read_parquet(output / "users.parquet")["id"].to_list() == ["u0", "u1", "u2", "u3"]


def test_a_log_that_is_split_already_may_have_such_a_prefix(folder):
    for part in ("train", "test"):
        (folder / f"{folder}.{part}.inter").write_bytes(CONTENTS[".inter"])
    assert read_benchmark(folder / str(folder)).n_users == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_text_has_no_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("ü\r\nb".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "ü\r\nb"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_refused(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("é plain".encode(encoding))
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8 text; save the file as UTF-8\.$"):
        read_text(tmp_path / "a.txt")


def test_a_missing_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*gone\.txt: No such file"):
        read_text(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"Cannot read .*: Is a directory"):
        read_text(tmp_path)
