"""MovieLens ratings without a header: `ratings.dat` (1M, 10M) and `u.data` (100K)."""

from collections.abc import Sequence

from recoach.data.readers.lines import LineLayout, read_sample
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_NAMES = ("user_id", "item_id", "rating", "timestamp")
_PATTERNS = {"user_id": r"\d+", "item_id": r"\d+", "rating": r"[0-5](\.[05])?", "timestamp": r"\d+"}
_COLONS = LineLayout("MovieLens user::item::rating::seconds", "::", _NAMES, _PATTERNS)
_TABS = LineLayout("MovieLens user, item, rating, seconds (tabs)", "\t", _NAMES, _PATTERNS)
_TAB_FILES = ("u.data", "ua.base", "ub.base", "ua.test", "ub.test")


def open_movielens(file: LogFile) -> Table:
    """Open ratings separated by `::` or by tabs."""
    layout = _COLONS if "::" in read_sample(file)[0] else _TABS
    return layout.open(file)


def is_movielens(name: str, lines: Sequence[str]) -> bool:
    """Return whether lines are `::` ratings, or tab-separated ones in a file named as MovieLens."""
    is_tab_file = name in (*_TAB_FILES, *(f"u{n}.{part}" for n in range(1, 6) for part in _PARTS))
    return _COLONS.matches(lines) or (is_tab_file and _TABS.matches(lines))


_PARTS = ("base", "test")
