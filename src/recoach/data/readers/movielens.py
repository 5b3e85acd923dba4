"""MovieLens ratings without a header: `ratings.dat` (1M, 10M) and `u.data` (100K)."""

import re
from collections.abc import Sequence

from recoach.data.readers.lines import LineLayout, read_sample
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_NAMES = ("user_id", "item_id", "rating", "timestamp")
_PATTERNS = {"user_id": r"\d+", "item_id": r"\d+", "rating": r"[0-5](\.[05])?", "timestamp": r"\d+"}
_COLONS = LineLayout("user::item::rating::seconds", "::", _NAMES, _PATTERNS)
_TABS = LineLayout("user, item, rating, seconds (tabs)", "\t", _NAMES, _PATTERNS)
_TAB_FILE = re.compile(r"u(\.data|[1-5ab]\.(base|test))(\.gz|\.zst)?")


def open_movielens(file: LogFile) -> Table:
    """Open ratings separated by `::` or by tabs."""
    return (_COLONS if "::" in read_sample(file)[0] else _TABS).open(file)


def is_movielens(name: str, lines: Sequence[str]) -> bool:
    """Return whether lines are `::` ratings, or tab-separated ones in a file named as MovieLens."""
    return _COLONS.matches(lines) or (bool(_TAB_FILE.fullmatch(name)) and _TABS.matches(lines))
