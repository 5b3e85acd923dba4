"""The exposure log: what is written, rotated, dropped and read back."""

import threading
import time

import polars as pl
import pytest

from recoach.data.log_columns import COLUMN_TYPES
from recoach.errors import ConfigError, DataError
from recoach.serving.exposures import Exposure, ExposureLog, read_exposures


def exposure(number=0, **changes):
    values = {
        "impression_id": f"r{number}",
        "timestamp": 1_700_000_000_000 + number,
        "user_id": "ü1",
        "history_hash": None,
        "run": "A",
        "model": "tuned",
        "version": "one",
        "policy": "top-k",
        "item_ids": ["i1", "i2"],
        "scores": [0.5, 0.25],
        "propensities": [1.0, 1.0],
    }
    return Exposure(**values | changes)


def test_what_is_written_is_read_back_as_rows_of_a_log(tmp_path):
    log = ExposureLog(tmp_path / "new")
    log.write(exposure(1, user_id=None, history_hash="abc", propensities=[0.25, 1 / 3]))
    log.write(exposure(0))
    log.write(exposure(2, item_ids=[], scores=[], propensities=[]))
    log.close()
    assert (log.written, log.dropped) == (3, 0)
    frame = read_exposures(tmp_path / "new")
    for name in ("timestamp", "propensity", "impression_id", "position"):
        assert frame.schema[name] == COLUMN_TYPES[name]
    assert frame["impression_id"].to_list() == ["r0", "r0", "r1", "r1"]  # by time
    assert frame["position"].to_list() == [1, 2, 1, 2]
    assert frame["item_id"].to_list() == ["i1", "i2"] * 2
    assert frame["score"].to_list() == [0.5, 0.25] * 2
    assert frame["propensity"].to_list() == pytest.approx([1, 1, 0.25, 1 / 3])
    assert frame["user_id"].to_list() == ["ü1", "ü1", None, None]
    assert frame["history_hash"].to_list() == [None, None, "abc", "abc"]
    assert frame["timestamp"].to_list() == [1_700_000_000_000] * 2 + [1_700_000_000_001] * 2


def test_a_new_file_begins_when_one_is_full_and_on_a_new_day(tmp_path, monkeypatch):
    log = ExposureLog(tmp_path, max_bytes=1)
    for number in range(3):
        log.write(exposure(number))
        while log.written <= number:
            time.sleep(0.001)
    log.close()
    assert len(list(tmp_path.iterdir())) == 3
    assert read_exposures(tmp_path).height == 6
    by_day = ExposureLog(tmp_path, name="days")
    for number in range(2):
        by_day.write(exposure(number))
        while by_day.written <= number:
            time.sleep(0.001)
        by_day._day = "1970-01-01"  # the file is of another day
    by_day.close()
    assert len(list(tmp_path.glob("days-*"))) == 2


def test_a_slow_disk_never_blocks_and_what_is_dropped_is_counted(tmp_path, monkeypatch):
    may_write = threading.Event()
    write_batch = ExposureLog._write_batch

    def slow(self, exposures):
        may_write.wait(20)
        write_batch(self, exposures)

    monkeypatch.setattr(ExposureLog, "_write_batch", slow)
    log = ExposureLog(tmp_path, queue_size=5)
    start = time.monotonic()
    for number in range(100):
        log.write(exposure(number))
    assert time.monotonic() - start < 1
    may_write.set()
    log.close()
    assert log.dropped >= 80
    assert log.written + log.dropped == 100
    assert read_exposures(tmp_path).height == 2 * log.written


def test_a_full_disk_loses_whole_lines_and_they_are_counted(tmp_path, monkeypatch, caplog):
    log = ExposureLog(tmp_path)
    log.write(exposure(0))
    while not log.written:
        time.sleep(0.001)

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            return self.file.write(content[: len(content) // 2])

        def __getattr__(self, name):
            return getattr(self.file, name)

    log._file = FullDisk(log._file)
    log.write(exposure(1, item_ids=["x"] * 500, scores=[0.0] * 500, propensities=[1.0] * 500))
    while not log.dropped:
        time.sleep(0.001)
    log._file = log._file.file  # there is room again
    log.write(exposure(2))
    log.close()
    assert (log.written, log.dropped) == (2, 1)
    assert read_exposures(tmp_path)["impression_id"].to_list() == ["r0", "r0", "r2", "r2"]
    (file,) = tmp_path.iterdir()
    assert file.read_bytes().endswith(b"\n")
    assert "No space left" in caplog.text


def test_an_unfinished_last_line_is_skipped_and_another_one_is_refused(tmp_path):
    log = ExposureLog(tmp_path)
    log.write(exposure(0))
    log.close()
    (file,) = tmp_path.iterdir()
    line = file.read_bytes()
    file.write_bytes(line + line[:50])
    assert read_exposures(file).height == 2
    file.write_bytes(line + line[:50] + b"\n" + line)
    with pytest.raises(DataError, match=r"jsonl:2: this line is no exposure"):
        read_exposures(tmp_path)
    file.write_bytes(line.replace(b"[1.0, 1.0]", b"[1.0]"))
    with pytest.raises(DataError, match=r"jsonl:1: lists of different lengths"):
        read_exposures(tmp_path)


def test_a_log_that_cannot_be_written_or_read_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write there"):
        ExposureLog(tmp_path / "file")
    with pytest.raises(DataError, match="there is no exposure log"):
        read_exposures(tmp_path)
    with pytest.raises(DataError, match="there is no exposure log"):
        read_exposures(tmp_path / "nothing.jsonl")


def test_rewards_join_by_impression_and_item(tmp_path):
    log = ExposureLog(tmp_path)
    log.write(exposure(0, propensities=[0.5, 0.25]))
    log.close()
    clicks = pl.DataFrame({"impression_id": ["r0"], "item_id": ["i2"], "reward": [1.0]})
    joined = read_exposures(tmp_path).join(clicks, on=["impression_id", "item_id"], how="left")
    assert joined["reward"].fill_null(0).to_list() == [0, 1]
