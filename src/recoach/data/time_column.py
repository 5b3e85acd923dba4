"""Choose the column of times where several have usual names: the finest of those that agree."""

from typing import NamedTuple

import polars as pl

from recoach.data.readers.table import Table
from recoach.data.time_units import find_unit
from recoach.data.timestamps import SAMPLE_ROWS, time_readings
from recoach.errors import DataError

_STEPS = (86_400_000, 3_600_000, 60_000, 1000, 1)
"""Milliseconds of a day, an hour, a minute, a second and a millisecond."""
_SAME_TIME = 36 * 3_600_000
"""Two columns say the same if their times differ by at most this: a day, and a time zone."""
_AGREEING_SHARE = 0.9


class TimeChoice(NamedTuple):
    """The chosen column, and why each other candidate is left aside."""

    name: str
    left_aside: dict[str, str]


class _Sample(NamedTuple):
    """The times of one candidate in the first rows, and their resolution in milliseconds."""

    milliseconds: pl.Series
    resolution: int


def choose_time_column(table: Table, candidates: list[str]) -> TimeChoice:
    """Return which of the candidates, best name first, holds the times.

    The first whose values can be read is taken, or a finer one with the same times. If none can be
    read, the first is returned.
    """
    if len(candidates) == 1:
        return TimeChoice(candidates[0], {})
    rows = table.frame.select(candidates).head(SAMPLE_ROWS).collect()
    samples = {name: _read_sample(rows[name], name) for name in candidates}
    readable = {name: sample for name, sample in samples.items() if sample is not None}
    chosen = next(iter(readable), candidates[0])
    for name, sample in readable.items():
        best = readable[chosen]
        if sample.resolution < best.resolution and _agree(sample, best):
            chosen = name
    left_aside = {}
    for name in candidates:
        if name not in readable:
            left_aside[name] = f"{name} is not used: its values are no times"
        elif readable[name].resolution > readable[chosen].resolution:
            left_aside[name] = f"{name} is not used: {chosen} is finer"
        else:
            left_aside[name] = f"{name} is not used: the times are taken from {chosen}"
    del left_aside[chosen]
    return TimeChoice(chosen, left_aside)


def _read_sample(values: pl.Series, name: str) -> _Sample | None:
    """Return the times of the first rows; None if most of them cannot be read."""
    raw = values.alias("timestamp").to_frame().lazy()
    try:
        readings = time_readings(raw, name)
        exact = [raw.select(reading.convert(pl.col("timestamp"))).collect() for reading in readings]
        best = min(range(len(exact)), key=lambda way: exact[way]["timestamp"].null_count())
        if 2 * exact[best]["timestamp"].null_count() >= len(values):
            return None
        unit = find_unit(exact[best].lazy(), readings[best].unit, name)
    except DataError:
        return None
    times = exact[best].select(unit.to_milliseconds(pl.col("timestamp")))["timestamp"]
    known = times.drop_nulls()
    return _Sample(times, next(step for step in _STEPS if (known % step == 0).all()))


def _agree(first: _Sample, second: _Sample) -> bool:
    difference = (first.milliseconds - second.milliseconds).abs()
    return bool((difference <= _SAME_TIME).sum() >= _AGREEING_SHARE * len(difference))
