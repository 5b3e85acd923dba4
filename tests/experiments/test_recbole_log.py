"""RecBole's ids, order, filters and split, computed by hand."""

import numpy as np
import polars as pl
import pytest

from recoach.errors import DataError
from recoach.experiments.recbole.log import SavedIds, read_log, within

HEAD = "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO"}


def log(tmp_path, rows, head=HEAD):
    """Write rows like "a x 3" (user, item, time[, rating]) and return the file."""
    lines = ["\t".join([*row.split(), "5"][:4]) for row in rows]
    path = tmp_path / "log.inter"
    path.write_text(head + "\n".join(lines) + "\n")
    return path


def read(path, model="BPR", ids=None, **config):
    return read_log(path, {"model": model, "eval_args": SPLIT} | config, ids)


def parts(dataset):
    """Return the (train, valid, test) items of each user, as external ids."""
    items = dataset.item_ids.to_list()
    return {
        user: tuple(
            "".join(items[i] for i in part.row(row))
            for part in (dataset.train, dataset.valid, dataset.test)
        )
        for row, user in enumerate(dataset.user_ids)
    }


def test_ids_are_numbered_by_first_appearance_in_the_file(tmp_path):
    dataset = read(log(tmp_path, ["b y 9", "a x 1", "b x 2", "b z 1", "a y 7", "a z 8"]))
    assert dataset.user_ids.to_list() == ["b", "a"]
    assert dataset.item_ids.to_list() == ["y", "x", "z"]
    assert parts(dataset) == {"b": ("z", "x", "y"), "a": ("x", "y", "z")}


def test_short_histories_are_split_as_recbole_splits_them(tmp_path):
    rows = [
        "a w 1",
        "a x 2",
        "a y 3",
        "a z 4",
        "b w 1",
        "b x 2",
        "b y 3",
        "c x 1",
        "c y 2",
        "d z 1",
    ]
    path = log(tmp_path, rows)
    general = {"a": ("wx", "y", "z"), "b": ("w", "x", "y"), "c": ("x", "", "y"), "d": ("z", "", "")}
    assert parts(read(path)) == general
    prefixes = general | {"b": ("wx", "", "y"), "c": ("xy", "", "")}
    assert parts(read(path, "SASRec")) == prefixes


def test_timestamps_equal_in_single_precision_keep_file_order(tmp_path):
    path = log(tmp_path, ["a z 1500000010", "a y 1500000000", "a x 1499990000"])
    assert parts(read(path)) == {"a": ("x", "z", "y")}
    normalized = read(path, normalize_all=True)
    assert parts(normalized) == {"a": ("x", "y", "z")}
    assert parts(read(path, normalize_field=["timestamp"])) == parts(normalized)


@pytest.mark.parametrize(("keep", "expected"), [("first", "xyz"), ("last", "yzx"), (None, "xyxz")])
def test_repeated_pairs_are_kept_as_configured(keep, expected, tmp_path):
    rows = (
        ["a y 2", "a x 3", "a x 1", "a z 4"]
        if keep != "last"
        else ["a y 2", "a x 5", "a x 1", "a z 4"]
    )
    (items,) = parts(read(log(tmp_path, rows), rm_dup_inter=keep)).values()
    assert "".join(items) == expected


def test_with_rm_dup_inter_ids_are_numbered_after_sorting(tmp_path):
    path = log(tmp_path, ["a z 3", "a y 2", "a x 1", "a x 4"])
    assert read(path).item_ids.to_list() == ["z", "y", "x"]
    assert read(path, rm_dup_inter="first").item_ids.to_list() == ["x", "y", "z"]


def test_users_and_items_outside_the_intervals_are_dropped_repeatedly(tmp_path):
    rows = [f"u{user} i{item} {item}" for user in range(4) for item in range(4)]
    rows += ["u4 i0 1", "u4 i9 2", "u4 i1 3", "u5 i9 1"]
    path = log(tmp_path, rows)
    least = {"user_inter_num_interval": "[3,inf)", "item_inter_num_interval": "[3,inf)"}
    dataset = read(path, **least)
    assert (dataset.n_users, dataset.n_items) == (4, 4)
    most = read(path, user_inter_num_interval="[1,3]", item_inter_num_interval=None)
    assert most.user_ids.to_list() == ["u4", "u5"]
    with pytest.raises(DataError, match="no interaction passes the stored filters"):
        read(path, user_inter_num_interval="[9,inf)")


def test_rows_are_filtered_by_value(tmp_path):
    path = log(tmp_path, ["a w 1 1", "a x 2 3", "a y 3 4", "a z 4 5"])
    assert parts(read(path, val_interval={"rating": "[3,inf)"})) == {"a": ("x", "y", "z")}
    assert parts(read(path, val_interval={"timestamp": "(1,3]"})) == {"a": ("x", "", "y")}
    assert parts(read(path, val_interval={"item_id": ["w", "y", "z"]})) == {"a": ("w", "y", "z")}
    assert read(path).ratings.tolist() == [1, 3]


def test_ids_that_recbole_treats_as_missing_are_dropped(tmp_path):
    path = log(tmp_path, ["a x 1", "NA x 1", "a y 2", "a null 2", "a z 3"])
    assert parts(read(path)) == {"a": ("x", "y", "z")}


def test_the_settings_name_the_columns(tmp_path):
    path = log(tmp_path, ["a x 1", "a y 2", "a z 3"], HEAD.replace("user_id", "who"))
    assert parts(read(path, USER_ID_FIELD="who")) == {"a": ("x", "y", "z")}
    with pytest.raises(DataError, match="there is no column 'user_id'"):
        read(path)


def test_a_time_that_is_not_a_number_is_reported_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"log\.inter: line 3 has timestamp = 'soon'"):
        read(log(tmp_path, ["a x 1", "a y soon", "a z 3"]))


@pytest.mark.parametrize(
    "config",
    [
        {"eval_args": {"split": {"RS": [0.8, 0.2]}, "order": "RO"}},
        {"eval_args": {"split": {"RS": [0.8, 0.2, 0]}, "order": "RO"}},
        {"eval_args": {"split": {"TS": [0.8, 0.1, 0.1]}, "order": "RO"}},
        {"eval_args": SPLIT, "model": "SASRec", "benchmark_filename": ["train", "valid", "test"]},
        {"eval_args": {"split": {"LS": "test_only"}, "order": "TO"}},
        {"eval_args": {"order": "TO"}, "load_col": {"inter": ["user_id", "item_id"]}},
        {"benchmark_filename": ["train", "valid", "test"]},
        {"alias_of_item_id": ["other"]},
        {"field_separator": ","},
        {"rm_dup_inter": "middle"},
        {"user_inter_num_interval": "5"},
        {"item_inter_num_interval": "[a,b]"},
    ],
)
def test_unsupported_settings_are_rejected(config, tmp_path):
    path = log(tmp_path, ["a x 1", "a y 2", "a z 3"])
    with pytest.raises(DataError):
        read(path, **config)


def args(split, order, group_by="user"):
    return {"split": split, "order": order, "group_by": group_by}


RECBOLES_PARTS = {  # train, valid and test of each user in RecBole 1.2.1, by time
    "ratio, random": (
        ("BPR", args({"RS": [8, 1, 1]}, "RO")),
        {"a": ("ghijklmn", "f", "o"), "b": ("fhj", "i", "g")},
    ),
    "ratio, time": (
        ("BPR", args({"RS": [6, 2, 2]}, "TO")),
        {"a": ("fghijk", "lm", "no"), "b": ("fgh", "i", "j")},
    ),
    "ratio of the log, random": (
        ("BPR", args({"RS": [8, 1, 1]}, "RO", "none")),
        {"a": ("ghijklmn", "f", "o"), "b": ("fghij", "", "")},
    ),
    "ratio of the log, time": (
        ("BPR", args({"RS": [6, 2, 2]}, "TO", None)),
        {"a": ("fghij", "kl", "mno"), "b": ("fghi", "j", "")},
    ),
    "last, random": (
        ("BPR", args({"LS": "valid_and_test"}, "RO")),
        {"a": ("ghijklmn", "f", "o"), "b": ("fhj", "i", "g")},
    ),
    "time": (
        ("BPR", args({"TS": [0.6, 0.2, 0.2]}, "TO")),
        {"a": ("fghij", "kl", "mno"), "b": ("fgh", "ij", "")},
    ),
    "ratio, prefixes": (
        ("SASRec", args({"RS": [6, 2, 2]}, "TO")),
        {"a": ("fghijklm", "n", "o"), "b": ("fgh", "i", "j")},
    ),
}


@pytest.mark.parametrize("case", sorted(RECBOLES_PARTS))
def test_rows_are_divided_as_recbole_divides_them(case, tmp_path):
    (model, eval_args), expected = RECBOLES_PARTS[case]
    rows = [(step, user) for step in range(10) for user in ("a", "b") if user == "a" or step < 5]
    path = log(tmp_path, [f"{user} {chr(ord('f') + step)} {step}" for step, user in rows])
    assert parts(read(path, model, eval_args=eval_args, seed=2020)) == expected


def test_the_default_split_is_random_and_needs_no_times(tmp_path):
    rows = [f"a {item} 0" for item in "fghijklmno"]
    path = log(tmp_path, rows, HEAD.replace("timestamp", "clicked"))
    load_col = {"inter": ["user_id", "item_id"]}
    dataset = read_log(path, {"model": "BPR", "seed": 2020, "load_col": load_col})
    assert [len(part.values) for part in (dataset.train, dataset.valid, dataset.test)] == [8, 1, 1]
    assert dataset.split.kind == "ratio"
    assert dataset.split.order == "random"
    assert "timestamp" not in dataset.train.columns


def test_files_of_parts_are_read_without_filters(tmp_path):
    for name, rows in {"a": "u x 1\nv y 2\n", "b": "u y 3\n", "c": "v x 4\n"}.items():
        text = "user_id:token item_id:token timestamp:float\n" + rows
        (tmp_path / f"log.{name}.inter").write_text(text.replace(" ", "\t"))
    config = {"benchmark_filename": ["a", "b", "c"], "user_inter_num_interval": "[9,inf)"}
    for path in (tmp_path / "log.a.inter", tmp_path):
        dataset = read(path, **config, dataset="log")
        assert parts(dataset) == {"u": ("x", "y", ""), "v": ("y", "", "x")}


TIES = ["a x 1", "b y 1", "a y 1", "b x 2", "a z 2", "b z 3"]
GIVEN = SavedIds(
    pl.Series(["b", "a"]),
    pl.Series(["y", "x", "z", "not in the log"]),
    np.array([[0, 0], [1, 0], [1, 1], [0, 1], [1, 2], [0, 2]]),
)


def test_given_ids_number_the_log_and_order_equal_times(tmp_path):
    dataset = read(log(tmp_path, TIES), ids=GIVEN, rm_dup_inter="first")
    assert dataset.user_ids.to_list() == ["b", "a"]
    assert dataset.item_ids.to_list() == ["y", "x", "z", "not in the log"]
    assert parts(dataset) == {"b": ("y", "x", "z"), "a": ("y", "x", "z")}
    assert parts(read(log(tmp_path, TIES), rm_dup_inter="first"))["a"] == ("x", "y", "z")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"users": pl.Series(["b", "c"])}, "the user 'a' is not among the given ids"),
        ({"rows": GIVEN.rows[:5]}, "leave 6 rows of it, and the file of ids has 5 others"),
        ({"rows": GIVEN.rows[[0, 0, 1, 2, 3, 4]]}, "has 6 others"),
    ],
)
def test_ids_of_another_log_are_rejected(changes, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read(log(tmp_path, TIES), ids=GIVEN._replace(**changes), rm_dup_inter="first")


def test_intervals_have_recboles_syntax():
    values = np.arange(6)
    assert within(values, "[1,3)").tolist() == [False, True, True, False, False, False]
    assert within(values, "(0,1];[4,inf)").tolist() == [False, True, False, False, True, True]
