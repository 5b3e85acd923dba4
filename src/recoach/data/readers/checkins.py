"""Check-ins at places: Gowalla, Brightkite and Foursquare."""

from collections.abc import Sequence

import polars as pl

from recoach.data.readers.lines import LineLayout, read_sample, to_iso, utf8_or_latin1
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_DEGREES = r"-?\d+(\.\d+)?([eE]-?\d+)?"
_TIME = r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d \+0000 \d{4}"
_ISO_TIME = {"timestamp": to_iso(pl.col("timestamp"), "%a %b %d %H:%M:%S %z %Y")}
_GOWALLA = LineLayout(
    "user, time, latitude, longitude, place (tabs)",
    "\t",
    ("user_id", "timestamp", "latitude", "longitude", "item_id"),
    {
        "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        "latitude": _DEGREES,
        "longitude": _DEGREES,
        "item_id": r"\S+",
    },
)
_CITY = LineLayout(
    "user, place, category id, category, latitude, longitude, minutes from UTC, time (tabs)",
    "\t",
    ("user_id", "item_id", "-", "_", "latitude", "longitude", "minutes", "timestamp"),
    {"latitude": _DEGREES, "longitude": _DEGREES, "minutes": r"-?\d+", "timestamp": _TIME},
    _ISO_TIME,
)
_WORLD = LineLayout(
    "user, place, time, minutes from UTC (tabs)",
    "\t",
    ("user_id", "item_id", "timestamp", "minutes"),
    {"timestamp": _TIME, "minutes": r"-?\d+"},
    _ISO_TIME,
)


def open_gowalla(file: LogFile) -> Table:
    """Open `loc-gowalla_totalCheckins.txt` or `loc-brightkite_totalCheckins.txt`."""
    return _GOWALLA.open(file)


def is_gowalla(_: str, lines: Sequence[str]) -> bool:
    """Return whether all lines are check-ins of Gowalla or Brightkite."""
    return _GOWALLA.matches(lines)


def open_foursquare(file: LogFile) -> Table:
    """Open `dataset_TSMC2014_NYC.txt` and `_TKY.txt`, or `dataset_WWW_Checkins_anonymized.txt`.

    Names of categories may be in Latin-1.
    """
    file = utf8_or_latin1(file)
    return (_CITY if read_sample(file)[0].count("\t") == 7 else _WORLD).open(file)


def is_foursquare(_: str, lines: Sequence[str]) -> bool:
    """Return whether all lines are check-ins of Foursquare, of a city or of the world."""
    return _CITY.matches(lines) or _WORLD.matches(lines)
