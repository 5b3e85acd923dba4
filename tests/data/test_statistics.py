from datetime import date

import numpy as np
import polars as pl
import pytest

from recoach.data.interactions import Interactions
from recoach.data.statistics import describe


def log(times):
    columns = {} if times is None else {"timestamp": pl.Series(times, dtype=pl.Int64)}
    users = np.array([0, 0, 1, 0], dtype=np.int32)
    items = np.array([0, 1, 2, 0], dtype=np.int32)
    return Interactions(users, items, pl.Series(["a", "b"]), pl.Series(["x", "y", "z"]), columns)


def test_all_statistics_of_a_small_log():
    day = 86_400_000
    statistics = describe(log(np.array([3 * day, day - 1, 2 * day, day])))
    assert (statistics.users, statistics.items, statistics.interactions) == (2, 3, 4)
    assert statistics.average_length == 2
    assert statistics.density == pytest.approx(4 / 6)
    assert (statistics.first, statistics.last) == (date(1970, 1, 1), date(1970, 1, 4))
    assert statistics.repeated_pairs == 1


def test_without_times_there_are_no_dates():
    assert describe(log(None)).first is None


def test_times_before_1970_have_dates():
    assert describe(log(np.array([-1, 0, 0, 0]))).first == date(1969, 12, 31)


def test_an_empty_log_has_no_averages():
    statistics = describe(log(None).keep(np.zeros(4, dtype=np.bool_)))
    assert (statistics.users, statistics.average_length, statistics.density) == (0, 0.0, 0.0)
