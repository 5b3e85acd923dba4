"""DuckDB and Spark give the same rows as the filters in memory."""

import importlib.util
import json
import re
import subprocess

import numpy as np
import polars as pl
import pytest

import recoach
from recoach.data.config import PrepareConfig
from recoach.data.log_columns import COLUMN_TYPES
from recoach.data.prepared import load_dataset, prepare
from recoach.data.protocol import ByRatio, ByTime, LeaveLastOut
from recoach.errors import ConfigError, DataError

TIMES = {
    "seconds": lambda t: (t + 1.6e9).astype(str),
    "milliseconds": lambda t: np.char.add((t.astype(int) + 1_600_000_000).astype(str), "500"),
    "dates": lambda t: (np.datetime64("2020-01-01") + t.astype(int)).astype(str),
    "none": None,
}


def log(path, seed=0, *, rows=600, users=40, items=30, time="seconds", rated=True):
    """Write a log with repeated pairs and many ties in time."""
    random = np.random.default_rng(seed)
    columns = {
        "user": np.char.add("u\u00e9", random.zipf(1.3, rows).clip(max=users).astype(str)),
        "item": random.integers(0, items, rows) ** 2,
    }
    if rated:
        columns["rating"] = random.integers(1, 11, rows) / 2
    if TIMES[time] is not None:
        columns["ts"] = TIMES[time](random.integers(0, 25, rows).astype(float))
    frame = pl.DataFrame(columns)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


def reason_without_spark():
    """Return why Spark cannot run, "" if it can."""
    if importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed (extra spark)"
    try:
        java = ["java", "-version"]
        output = subprocess.run(java, check=False, capture_output=True, text=True).stderr
    except FileNotFoundError:
        return "Java is not installed"
    version = re.search(r'version "(\d+)', output)
    return "" if version and int(version[1]) >= 17 else "Spark needs Java 17"


NO_SPARK = reason_without_spark()
needs_duckdb = pytest.mark.skipif(
    importlib.util.find_spec("duckdb") is None, reason="DuckDB is not installed (extra duckdb)"
)
IN_DUCKDB = pytest.param({"memory": "200MB"}, id="duckdb", marks=needs_duckdb)
needs_spark = pytest.mark.skipif(bool(NO_SPARK), reason=NO_SPARK)
IN_SPARK = pytest.param({"spark": "local[2]"}, id="spark", marks=[needs_spark, pytest.mark.slow])
each_engine = pytest.mark.parametrize("engine", [IN_DUCKDB, IN_SPARK])


def both(source, tmp_path, engine, **settings):
    """Return the datasets prepared in memory and by an engine."""
    config = PrepareConfig(**settings)
    prepare(source, tmp_path / "memory", config)
    prepare(source, tmp_path / "disk", config, **engine)
    return tmp_path / "memory", tmp_path / "disk"


def check_same(folders):
    manifests = [json.loads((folder / "dataset.json").read_text()) for folder in folders]
    assert manifests[0] == manifests[1]
    for name in ("users", "items", "train", "valid", "test"):
        expected, actual = (pl.read_parquet(folder / f"{name}.parquet") for folder in folders)
        assert expected.equals(actual)
        assert expected.schema == actual.schema
    expected, actual = (load_dataset(folder) for folder in folders)
    assert expected.fingerprint == actual.fingerprint
    assert not list(folders[0].parent.glob(".*"))  # no scratch folder remains


OPTIONS = [
    (None, "none", 3, 1),
    (None, "first", 0, 4),
    (2.5, "last", 0, 1),
    (2.5, "none", 3, 4),
    (None, "last", 3, 4),
    (2.5, "first", 3, 1),
]
"""Every pair of choices occurs in one of them."""


@each_engine
@pytest.mark.parametrize("options", OPTIONS)
def test_all_filters_and_splits_give_the_same_rows(options, tmp_path, engine):
    settings = dict(zip(("min_rating", "dedup", "k_core"), options[:3], strict=True))
    settings["split"] = LeaveLastOut(test_items=options[3])
    source = log(tmp_path / "log.csv", settings["k_core"])
    check_same(both(source, tmp_path, engine, **settings))


SPLITS = {
    "time": ByTime(at=0.8, valid_at=0.8),
    "random ties": LeaveLastOut(ties="random", split_seed=3),
    "random ratio": ByRatio(order="random", test_ratio=0.3),
}


@each_engine
@pytest.mark.parametrize("split", SPLITS)
def test_all_columns_and_rejections_are_the_same_under_all_splits(split, tmp_path, engine):
    rng = np.random.default_rng(5)
    n = 600
    frame = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(0, 30, n)],
            "item_id": [f"i{item}" for item in rng.integers(0, 20, n)],
            "timestamp": 1_600_000_000 + 3600 * rng.integers(0, 50, n),
            "event_type": rng.choice(["view", "buy", "skip"], n),
            "rating": rng.integers(1, 6, n),
            "price": rng.random(n).round(2),
            "session_id": [f"s{session}" for session in rng.integers(0, 90, n)],
            "propensity": (rng.random(n) + 0.01).clip(0.01, 1).round(3),
            "impression_id": [f"p{impression}" for impression in rng.integers(0, 50, n)],
            "position": rng.integers(0, 9, n),
        }
    )
    frame.write_csv(tmp_path / "log.csv")
    settings = {"k_core": 3, "negative_events": ("skip",), "split": SPLITS[split]}
    folders = both(tmp_path / "log.csv", tmp_path, engine, **settings)
    check_same(folders)
    rejected = [pl.read_parquet(folder / "negatives.parquet") for folder in folders]
    assert rejected[0].equals(rejected[1])
    assert len(rejected[0]) > 50
    dataset = load_dataset(folders[1])
    assert list(dataset.train.columns) == [name for name in COLUMN_TYPES if name != "negative"]


@each_engine
@pytest.mark.parametrize("time", TIMES)
def test_all_kinds_of_timestamps_give_the_same_rows(time, tmp_path, engine):
    source = log(tmp_path / "log.csv", time=time, rated=time != "none")
    check_same(both(source, tmp_path, engine, dedup="last", k_core=2))


@each_engine
def test_typed_dates_of_a_parquet_file_give_the_same_rows(tmp_path, engine):
    source = log(tmp_path / "log.parquet", time="dates")
    frame = pl.read_parquet(source).with_columns(pl.col("ts").str.to_datetime())
    frame.write_parquet(source)
    check_same(both(source, tmp_path, engine, dedup="first", k_core=2))


@each_engine
def test_half_milliseconds_are_rounded_to_even_in_both(tmp_path, engine):
    times = [1.6e12 + after for after in (3, 2.5, 4, 4.5)]
    frame = pl.DataFrame({"user": ["a"] * 4, "item": range(4), "ts": times})
    frame.write_parquet(tmp_path / "log.parquet")
    check_same(both(tmp_path / "log.parquet", tmp_path, engine, k_core=0))


@each_engine
@pytest.mark.parametrize("middle", [(9e10, 1.5e11), (9e10, 1.0e11), (1.2e11, 1.5e11), (1e10,)])
def test_both_use_the_same_median_to_find_the_unit_of_times(middle, tmp_path, engine):
    times = [1.0, *middle, 1.6e11]
    frame = pl.DataFrame({"user": ["a"] * len(times), "item": range(len(times)), "ts": times})
    frame.write_parquet(tmp_path / "log.parquet")
    check_same(both(tmp_path / "log.parquet", tmp_path, engine, k_core=0))


@pytest.mark.parametrize("engine", [IN_DUCKDB])
@pytest.mark.parametrize("ending", ["txt", "jsonl", "tsv", "inter"])
def test_all_formats_give_the_same_rows(ending, tmp_path, engine):
    path = tmp_path / f"log.{ending}"
    random = np.random.default_rng(1)
    frame = pl.DataFrame(
        {"user_id": random.integers(0, 9, 200), "item_id": random.integers(0, 9, 200)}
    )
    if ending == "txt":
        rows = frame.group_by("user_id", maintain_order=True).all().iter_rows()
        path.write_text("".join(f"{user} {' '.join(map(str, items))}\n" for user, items in rows))
    elif ending == "jsonl":
        frame.write_ndjson(path)
    elif ending == "tsv":
        path.write_text(
            "\n".join(["user_id\titem_id", *(f"{u}\t{i}" for u, i in frame.rows())]) + "\n\n"
        )
    else:
        rows = (f"{u}\t{i}" for u, i in frame.rows())
        path.write_text("\n".join(["user_id:token\titem_id:token", *rows]))
    check_same(both(path, tmp_path, engine, k_core=3, dedup="last"))


@pytest.mark.parametrize("engine", [IN_DUCKDB])
def test_a_simulated_shop_gives_the_same_rows(tmp_path, engine):
    recoach.shop(n_users=300, n_items=200, seed=4).interactions.frame().write_csv(
        tmp_path / "shop.csv"
    )
    check_same(both(tmp_path / "shop.csv", tmp_path, engine, k_core=5))


BAD = {
    "no id": "user,item\na,1\n,2\n",
    "empty id": 'user,item\na,1\n"",2\n',
    "no rating": "user,item,rating\na,1,4\nb,2,good\n",
    "infinite time": "user,item,ts\na,1,1\nb,2,inf\n",
    "header only": "user,item\n",
    "too short": "user,item\na,1\na,2\nb,2\n",
}


@each_engine
@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_logs_have_the_same_error_message(text, tmp_path, engine):
    (tmp_path / "log.csv").write_text(text)
    messages = []
    for options in ({}, engine):
        with pytest.raises(DataError) as error:
            prepare(tmp_path / "log.csv", tmp_path / "set", PrepareConfig(k_core=0), **options)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@each_engine
@pytest.mark.parametrize("settings", [{"k_core": 60}, {"min_rating": 6}])
def test_empty_results_have_the_same_error_message(settings, tmp_path, engine):
    messages = []
    for options in ({}, engine):
        source = log(tmp_path / "log.csv", rows=300)
        with pytest.raises(DataError) as error:
            prepare(source, tmp_path / "set", PrepareConfig(**settings), **options)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@each_engine
def test_a_rating_threshold_needs_ratings(tmp_path, engine):
    source = log(tmp_path / "log.csv", rated=False)
    with pytest.raises(DataError, match="needs a rating column"):
        prepare(source, tmp_path / "set", PrepareConfig(min_rating=2), **engine)


@needs_duckdb
@pytest.mark.parametrize("memory", ["4", "4 PB", "much", "-1GB", ""])
def test_a_memory_limit_must_be_a_size(memory, tmp_path):
    with pytest.raises(ConfigError, match=r"memory: .* is not a size. Write a size such as 4GB"):
        prepare(log(tmp_path / "log.csv"), tmp_path / "set", memory=memory)


def test_memory_and_spark_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="Give memory or spark, not both"):
        prepare(log(tmp_path / "log.csv"), tmp_path / "set", memory="4GB", spark="local[2]")


@needs_spark
@pytest.mark.slow
def test_an_unreachable_spark_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"Spark does not start on nowhere"):
        prepare(log(tmp_path / "log.csv"), tmp_path / "set", spark="nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@needs_duckdb
def test_too_little_memory_is_a_data_error(tmp_path):
    source = log(tmp_path / "log.csv", rows=40_000, users=9000, items=9000)
    with pytest.raises(DataError, match="Allow more memory than 1MB"):
        prepare(source, tmp_path / "set", PrepareConfig(k_core=0), memory="1MB")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
