"""Times become milliseconds with the right value and order, or are refused with their line."""

from datetime import UTC, date, datetime

import pandas as pd
import polars as pl
import pytest

from recoach.data.ingest import read_interactions
from recoach.errors import DataError


def log(path, values, name="timestamp"):
    """Write a log of one user with these times."""
    rows = [f'u,i{number},"{value}"\n' for number, value in enumerate(values)]
    path.write_text(f"user_id,item_id,{name}\n" + "".join(rows))
    return path


def read(tmp_path, values, name="timestamp"):
    return read_interactions(log(tmp_path / "a.csv", values, name))


def milliseconds(*parts, tz=UTC):
    return int(datetime(*parts, tzinfo=tz).timestamp()) * 1000


DAY = 86_400_000
FORMATS = {
    "whole-number days": ((20220421, 20220420), [(2022, 4, 21), (2022, 4, 20)]),
    "whole-number hours": ((2022042115, 2022042114), [(2022, 4, 21, 15), (2022, 4, 21, 14)]),
    "whole-number minutes": ((202204211530,), [(2022, 4, 21, 15, 30)]),
    "whole-number seconds": ((20220421153001,), [(2022, 4, 21, 15, 30, 1)]),
    "day first, as a day above 12 says": (
        ("21/04/2022", "01/05/2022"),
        [(2022, 4, 21), (2022, 5, 1)],
    ),
    "month first, as a day above 12 says": (
        ("04/05/2022 8:26", "05/13/2022 9:02"),
        [(2022, 4, 5, 8, 26), (2022, 5, 13, 9, 2)],
    ),
    "dots, always day first": (("03.04.2022", "01.05.2022"), [(2022, 4, 3), (2022, 5, 1)]),
    "morning and afternoon": (
        ("4/21/2022 3:30 PM", "4/21/2022 3:30 AM"),
        [(2022, 4, 21, 15, 30), (2022, 4, 21, 3, 30)],
    ),
    "slashes, year first": (("2022/04/21", "2022/04/20"), [(2022, 4, 21), (2022, 4, 20)]),
    "compact ISO": (("20220421T153000",), [(2022, 4, 21, 15, 30)]),
    "UTC as a word": (
        ("2019-10-01 00:00:01 UTC", "2019-10-01 00:00:00 UTC"),
        [(2019, 10, 1, 0, 0, 1), (2019, 10, 1)],
    ),
    "Amazon's reviewTime": (("09 13, 2009", "05 3, 2014"), [(2009, 9, 13), (2014, 5, 3)]),
    "Twitter, Goodreads, Foursquare": (
        ("Tue Apr 03 18:00:06 +0000 2012", "Wed Mar 22 11:37:04 -0700 2017"),
        [(2012, 4, 3, 18, 0, 6), (2017, 3, 22, 18, 37, 4)],
    ),
    "Steam": (("Posted November 5, 2011.",), [(2011, 11, 5)]),
    "month as a word": (("21 Apr 2022", "1 May 2022"), [(2022, 4, 21), (2022, 5, 1)]),
    "before 1970": (("1965-05-01", "1964-05-01"), [(1965, 5, 1), (1964, 5, 1)]),
    "the hour that summer time repeats": (
        ("2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00"),
        [(2020, 10, 25, 0, 30), (2020, 10, 25, 1, 30)],
    ),
    "blanks around numbers": ((" 1600000000", "1600000001 "), [(2020, 9, 13, 12, 26, 40)] * 1),
}


@pytest.mark.parametrize("case", FORMATS)
def test_a_format_is_read(tmp_path, case):
    values, expected = FORMATS[case]
    times = read(tmp_path, values).times.tolist()[: len(expected)]
    assert times == [milliseconds(*(*parts, 0, 0, 0)[:6]) for parts in expected]


def test_typed_times_are_read():
    aware = pl.Series([datetime(2020, 1, 1, 1)]).dt.replace_time_zone("Europe/Berlin")
    for times in (
        aware,
        pl.Series([date(2020, 1, 1)]),
        pl.Series([1_577_836_800], dtype=pl.UInt32),
        pl.Series([1_577_836_800.0]),
    ):
        frame = pl.DataFrame({"user": ["u"], "item": ["i"], "time": times})
        assert read_interactions(frame).times.tolist() == [milliseconds(2020, 1, 1)]
    zoned = pd.to_datetime(["2020-01-01 01:00+01:00"])
    frame = pd.DataFrame({"user": ["u"], "item": ["i"], "time": zoned})
    assert read_interactions(frame).times.tolist() == [milliseconds(2020, 1, 1)]


UNITS = {
    "seconds among milliseconds": ((1.6e12, 1.6e12 + 1, 1.6e12 + 2, 1.6e9, 1.6e9 + 1), 5),
    "milliseconds among seconds": ((1.6e9, 1.6e9 + 1, 1.6e9 + 2, 1.6e12), 5),
    "half of each": ((1.6e9, 1.6e9 + 1, 1.6e12, 1.6e12 + 1), 2),
    "seconds among microseconds": ((1.6e15, 1.6e15 + 1, 1.6e9), 4),
    "microseconds among milliseconds": ((1.6e12, 1.6e12 + 1, 1.6e15), 4),
    "nanoseconds among seconds": ((1.6e9, 1.6e9 + 1, 1.6e18), 4),
    "a date among seconds": ((1.6e9, 1.6e9 + 1, 20220421), 4),
    "a count among seconds": ((1.6e9, 1.6e9 + 1, 12345), 4),
    "thousands of seconds among seconds": ((1.6e9, 1.6e9 + 1, 1.6e6), 4),
    "a count among milliseconds": ((1.6e12, 1.6e12 + 1, 12345), 4),
    "the year 2200": ((1.6e9, 1.6e9 + 1, 7.3e9), 4),
}


@pytest.mark.parametrize("case", UNITS)
def test_two_units_in_one_column_are_refused(tmp_path, case):
    times, line = UNITS[case]
    with pytest.raises(DataError, match=rf"a\.csv:{line}: .* and is in another unit than most"):
        read(tmp_path, [int(time) for time in times])


REFUSED = {
    "a day that does not exist": (
        (20220421, 20220420, 20220431),
        r"a\.csv:4: .*'20220431', which is no date of the form YYYYMMDD",
    ),
    "0 among dates": ((20220421, 20220420, 0), r"a\.csv:4: .*'0', which is no date"),
    "months": ((202204, 202203), r"202204 can be months as well as seconds|20220[34].* months"),
    "years": ((2022, 2021), r"can be years as well as seconds"),
    "0 among times": ((1.6e9, 1.6e9, 0), r"a\.csv:4: .*'0', a marker of a missing time"),
    "0 for most times": ((0, 0, 0, 1.6e9), r"a\.csv:2: .*'0', a marker of a missing time"),
    "-1 among times": ((1.6e9, 1.6e9, -1), r"a\.csv:4: .*'-1', a marker"),
    "1970 among dates": (("2020-01-01", "1970-01-01"), r"a\.csv:3: .*a marker of a missing"),
    "MySQL's zero date": (("2020-01-01", "0000-00-00"), r"a\.csv:3: .*'0000-00-00'"),
    "the first year": (("2020-01-01", "0001-01-01"), r"a\.csv:3: .*no year from 1000 to 9999"),
    "NULL": ((1600000000, "NULL"), r"a\.csv:3: .*'NULL'.*--column timestamp="),
    "NaT": (("2020-01-01", "NaT"), r"a\.csv:3: .*'NaT'"),
    "zoned among naive": (
        ("2020-01-01T00:00:00", "2020-01-02T00:00:00", "2020-01-01T00:00:00Z"),
        r"a\.csv:4: .*with a time zone, unlike most times. Write all times with a zone",
    ),
    "naive among zoned": (
        ("2020-01-01 00:00:00", "2020-01-01 00:00:00+02:00", "2020-01-02 00:00:00+02:00"),
        r"a\.csv:2: .*without a time zone, unlike most",
    ),
    "the name of a zone": (("2019-10-01 00:00:01 EST",), r"a\.csv:2: .*EST"),
    "a region": (("2019-10-01 00:00:01 Europe/Berlin",), r"a\.csv:2: .*Europe/Berlin"),
    "day or month": (("03/04/2022", "01/05/2022"), r"could be day/month or month/day"),
    "day first and month first": (("13/04/2022", "01/25/2022"), r"a\.csv:3: .*'01/25/2022'"),
    "a year of two digits": (("21/04/22",), r"a\.csv:2: .*'21/04/22'"),
    "an ISO year of two digits": (("22-04-21",), r"a\.csv:2: .*'22-04-21'"),
    "a word": (("2020-01-01", "yesterday"), r"a\.csv:3: .*'yesterday'.*--column timestamp="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_time_or_two_times_is_refused(tmp_path, case):
    values, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, [int(v) if isinstance(v, float) else v for v in values])
    assert "\n" not in str(caught.value)


FINE = {
    "microseconds": ((1609459200000001, 1609459200000000), 1609459200000),
    "nanoseconds": ((1609459200000000002, 1609459200000000001), 1609459200000),
    "seconds with six decimals": (("1609459200.000002", "1609459200.000001"), 1609459200000),
    "ISO with six decimals": (
        ("2021-01-01 00:00:00.000002+00:00", "2021-01-01 00:00:00.000001+00:00"),
        1609459200000,
    ),
    "ISO with nine decimals": (
        ("2021-01-01T00:00:00.000000002", "2021-01-01T00:00:00.000000001"),
        1609459200000,
    ),
}


@pytest.mark.parametrize("case", FINE)
def test_times_finer_than_a_millisecond_keep_their_order(tmp_path, case):
    values, expected = FINE[case]
    interactions = read(tmp_path, values)
    assert interactions.frame()["item_id"].to_list() == ["i1", "i0"]
    assert interactions.item_ids.to_list() == ["i1", "i0"]  # numbered by first appearance
    assert interactions.times.tolist() == [expected] * 2
    assert "rows are put in order of time" in interactions.report.line()
    assert "all times are equal" not in interactions.report.line()


def test_fine_times_in_order_keep_the_order_of_the_file(tmp_path):
    interactions = read(tmp_path, (1609459300000000, 1609459200000001, 1609459200000002))
    assert interactions.frame()["item_id"].to_list() == ["i0", "i1", "i2"]


def test_small_numbers_are_called_seconds(tmp_path):
    interactions = read(tmp_path, (1111, 829), "time_stamp")
    assert interactions.times.tolist() == [1_111_000, 829_000]
    assert "times 829 to 1111, taken for seconds since 1970" in interactions.report.line()


def test_steps_of_a_simulation_may_be_0(tmp_path):
    assert read(tmp_path, (0, 5, 26_000_000)).times.tolist() == [0, 5000, 26_000_000_000]


def test_evenly_spread_numbers_are_one_unit(tmp_path):
    assert read(tmp_path, range(0, 10**9, 10**7)).times[1] == 10**10


def test_equal_times_are_said(tmp_path):
    line = read(tmp_path, (1600000000, 1600000000)).report.line()
    assert "all times are equal: file order is taken" in line


TWO_COLUMNS = {
    "a day before milliseconds": (
        "user_id,item_id,date,hourmin,time_ms\nu,a,20220421,1800,1650535400000\n"
        "u,b,20220421,900,1650503000000\n",
        "time_ms",
        "date is not used: time_ms is finer",
    ),
    "seconds before a day": (
        "user_id,item_id,date,timestamp\nu,a,2022-04-21,1650535400\n",
        "timestamp",
        "date is not used: timestamp is finer",
    ),
    "another time": (
        "user_id,item_id,date,created_at\nu,a,2022-04-21,2015-01-01 10:11:12\n",
        "date",
        "created_at is not used: the times are taken from date",
    ),
    "a time of day": (
        "user_id,item_id,date,time\nu,a,2020-01-02,10:00\nu,b,2020-01-01,11:00\n",
        "date",
        "time is not used: its values are no times",
    ),
}


@pytest.mark.parametrize("case", TWO_COLUMNS)
def test_the_finer_of_two_columns_of_times_is_taken(tmp_path, case):
    text, column, sentence = TWO_COLUMNS[case]
    (tmp_path / "a.csv").write_text(text)
    report = read_interactions(tmp_path / "a.csv").report
    assert report.columns["timestamp"] == column
    assert sentence in report.line()


def test_a_mapped_column_of_times_is_taken(tmp_path):
    (tmp_path / "a.csv").write_text(TWO_COLUMNS["a day before milliseconds"][0])
    interactions = read_interactions(tmp_path / "a.csv", columns={"timestamp": "date"})
    assert interactions.times.tolist() == [milliseconds(2022, 4, 21)] * 2
