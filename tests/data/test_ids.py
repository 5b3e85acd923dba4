"""Ids that are missing, damaged or no ids are refused with their line; repairs are reported."""

from datetime import date

import polars as pl
import pytest

from recoach.data.config import PrepareConfig
from recoach.data.ingest import read_interactions, stream_interactions
from recoach.errors import DataError


def write(path, ids):
    """Write a log whose users have these ids."""
    rows = ['"{}",i{}\n'.format(text.replace('"', '""'), n) for n, text in enumerate(ids)]
    path.write_text("user_id,item_id\n" + "".join(rows))
    return path


REFUSED = {
    "NA among numbers": (["1", "2", "NA"], 4, "'NA', a marker of a missing value"),
    "null among numbers": (["null", "2", "3"], 2, "'null', a marker"),
    "NaN among numbers": (["1", "nan", "3"], 3, "'nan', a marker"),
    "Hive's null": (["1", "2", "\\N"], 4, "a marker of a missing value"),
    "NULL among text, repeated": (["a", "b", "NULL", "NULL"], 4, "'NULL', a marker"),
    "None among text, repeated": (["None", "None", "b"], 2, "'None', a marker"),
    "N/A among text, repeated": (["a", "N/A", "N/A"], 3, "'N/A', a marker"),
    "-1 among numbers": (["1", "2", "-1"], 4, "'-1', a marker"),
    "-1 among text, repeated": (["a", "-1", "-1"], 3, "'-1', a marker"),
    "question mark among numbers": (["1", "2", "?"], 4, "'?', a marker"),
    "dash among numbers": (["-", "2", "3"], 2, "'-', a marker"),
    "Excel's #NULL!": (["1", "#NULL!", "3"], 3, "'#NULL!', a marker"),
    "only missing": (["nan", "nan"], 2, "'nan', a marker"),
    "empty": (["a", "", "b"], 3, "is empty"),
    "blank": (["a", " ", "b"], 3, "is empty"),
    "decimals": (["1", "1.5"], 3, "'1.5', a decimal number"),
    "scientific notation": (["1.23457E+12", "1.23458E+12"], 2, "a decimal number"),
    "exponent": (["1e3", "2"], 2, "'1e3', a decimal number"),
    "true and false": (["true", "False"], 2, "'true', true or false"),
    "Python lists": (["['a']", "['b']"], 2, "a list or an object"),
    "Python tuples": (["(1, 2)", "('a',)"], 2, "a list or an object"),
    "JSON lists": (['["a"]', '["b"]'], 2, "a list or an object"),
    "objects": (['{"$oid": "5f"}'], 2, "a list or an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ids_that_cannot_be_used_are_refused(tmp_path, case):
    ids, line, reason = REFUSED[case]
    source = write(tmp_path / "a.csv", ids)
    with pytest.raises(DataError) as caught:
        read_interactions(source)
    assert str(caught.value).startswith(f"a.csv:{line}: column user_id is")
    assert reason in str(caught.value)
    with pytest.raises(DataError) as streamed:
        stream_interactions(source, tmp_path / "rows.parquet", PrepareConfig())
    assert str(streamed.value) == str(caught.value)


READ = {
    "one NA among text": (
        ["a", "b", "NA"],
        ["a", "b", "NA"],
        "user_id: 'NA' is read as an id, not as a missing value",
    ),
    "few among many": (
        [*map(str, range(3000)), "x", "null", "null"],
        [*map(str, range(3000)), "x", "null"],
        "'null' is read as an id",
    ),
    "-1 among other negative numbers": (["-5", "2", "-1"], ["-5", "2", "-1"], ""),
    "blanks around": (["a", " a", "b "], ["a", "b"], "user_id: blanks around 2 ids removed"),
    "floats of a program": (
        ["12.0", "13.0", "12.0"],
        ["12", "13"],
        "user_id: .0 at the end of 2 ids removed",
    ),
    "a number written in two ways": (["12", "13.0", "12.0"], ["12", "13"], ".0 at the end"),
    "versions": (["1.5", "v2", "1.0"], ["1.5", "v2", "1.0"], ""),
    "leading zeros": (
        ["0012", "12", "0013"],
        ["0012", "12", "0013"],
        "user_id: '0012' and '12' are different ids",
    ),
    "brackets in names": (["[ps4] wheel", "[1]", "x"], ["[ps4] wheel", "[1]", "x"], ""),
    "true among others": (["true", "x"], ["true", "x"], ""),
    "a name like a marker": (["Nancy", "nano", "1-1"], ["Nancy", "nano", "1-1"], ""),
}


@pytest.mark.parametrize("case", READ)
def test_unusual_ids_are_read_with_a_word(tmp_path, case):
    ids, expected, sentence = READ[case]
    source = write(tmp_path / "a.csv", ids)
    interactions = read_interactions(source)
    assert interactions.user_ids.to_list() == expected
    assert sentence in interactions.report.line()
    assert bool(sentence) == bool(interactions.report.notes)
    report = stream_interactions(source, tmp_path / "rows.parquet", PrepareConfig()).report
    assert report == interactions.report
    streamed = pl.read_parquet(tmp_path / "rows.parquet")
    assert streamed["user_id"].to_list() == interactions.frame()["user_id"].to_list()


def frame(ids, dtype=None):
    series = pl.Series(ids) if dtype is None else pl.Series(ids, dtype=dtype)
    return pl.DataFrame({"user_id": series, "item_id": ["x"] * len(series)})


@pytest.mark.parametrize(
    ("ids", "dtype", "expected"),
    [
        ([12.0, 13.0], None, ["12", "13"]),
        ([1e3], None, ["1000"]),
        ([2**63 + 5, 1], pl.UInt64, [str(2**63 + 5), "1"]),
        ([2**53 + 1, 2**53], pl.Int64, [str(2**53 + 1), str(2**53)]),
        (["3", "4"], pl.Enum(["3", "4"]), ["3", "4"]),
    ],
)
def test_typed_ids_become_text(ids, dtype, expected):
    assert read_interactions(frame(ids, dtype)).user_ids.to_list() == expected


def test_decimal_ids_without_a_fraction_are_whole_numbers():
    decimals = frame(["1", "2"]).with_columns(pl.col("user_id").cast(pl.Decimal(10, 2)))
    assert read_interactions(decimals).user_ids.to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([12.0, 2.0**53 + 2], r"frame, row 2: column user_id is 9007199254740994\.0"),
        ([12.0, 1.5], r"frame, row 2: column user_id is 1\.5"),
        ([12, -1], "frame, row 2: column user_id is -1, a marker of a missing value"),
        ([True, False], "column 'user_id' holds Boolean, which cannot be an id"),
        ([date(2020, 1, 1)], "column 'user_id' holds Date, which cannot be an id"),
        ([["a"]], "column 'user_id' holds List"),
        ([{"a": 1}], "column 'user_id' holds Struct"),
    ],
)
def test_typed_values_that_are_no_ids_are_refused(ids, message):
    with pytest.raises(DataError, match=message):
        read_interactions(frame(ids))


@pytest.mark.parametrize(
    ("user", "reason"),
    [('["a"]', "a list"), ('{"$oid": "a"}', "an object"), ("1.5", "a decimal"), ("true", "true")],
)
def test_json_values_that_are_no_ids_are_refused(tmp_path, user, reason):
    (tmp_path / "a.jsonl").write_text(f'{{"user_id": {user}, "item_id": "x"}}\n')
    with pytest.raises(DataError, match=reason):
        read_interactions(tmp_path / "a.jsonl")


def test_sessions_are_offered_where_the_user_is_missing(tmp_path):
    text = "session_id,item_id,user_id\n1,a,7\n2,b,\n"
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"a\.csv:3: .*--column user_id=session_id"):
        read_interactions(tmp_path / "a.csv")
    by_session = read_interactions(tmp_path / "a.csv", columns={"user_id": "session_id"})
    assert by_session.user_ids.to_list() == ["1", "2"]
    assert "session_id" not in by_session.columns


def test_an_id_may_be_the_name_of_its_column(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("user,item\nuser,i\nv,item\n")
    assert read_interactions(source).user_ids.to_list() == ["user", "v"]
