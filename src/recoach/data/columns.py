"""Which columns of a source hold the users, items, ratings and timestamps."""

from collections.abc import Mapping, Sequence

from recoach.data.readers.table import Table
from recoach.errors import DataError, suggestion

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        *("user_id", "user", "userid", "uid", "reviewerid", "customer_id", "visitorid"),
        *("visitor_id", "session_id", "sessionid", "session"),
    ),
    "item_id": (
        *("item_id", "item", "itemid", "iid", "movieid", "movie_id", "parent_asin", "asin"),
        *("product_id", "productid", "sid", "business_id", "book_id", "track_id", "article_id"),
    ),
    "rating": ("rating", "ratings", "score", "overall", "stars", "weight"),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "unixreviewtime", "sort_timestamp"),
        *("date", "created_at", "event_time"),
    ),
}
"""Column name of Recoach -> lower-case names that are detected, best first."""

ID_COLUMNS = ("user_id", "item_id")


def check_mapping(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the mapping as a dict; DataError if a key is not one of `USUAL_NAMES`."""
    unknown = sorted(set(columns) - set(USUAL_NAMES))
    if unknown:
        raise DataError(
            f"columns: {unknown[0]!r} is not a column of Recoach. "
            f"{suggestion(unknown[0], USUAL_NAMES)}"
        )
    return dict(columns)


def has_id_columns(names: Sequence[str], mapping: Mapping[str, str]) -> bool:
    """Return whether these names include a user and an item column."""
    detected = _detect(names, mapping)
    return all(detected.get(column) in names for column in ID_COLUMNS)


def find_columns(table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """Return column name of Recoach -> name in the table, for each that is mapped or detected.

    Raises:
        DataError: a mapped column is missing, or there is no user or no item column.
    """
    for column, source_name in mapping.items():
        if source_name not in table.names:
            raise DataError(
                f"{table.label}: there is no column {source_name!r}, to which columns maps "
                f"{column}. {suggestion(source_name, table.names)}"
            )
    detected = _detect(table.names, mapping)
    for column in ID_COLUMNS:
        if column not in detected:
            raise DataError(
                f"{table.label}: there is no {column} column. {suggestion(column, table.names)} "
                f"Rename it to {column} or map it with columns={{{column!r}: NAME}}."
            )
    return detected


def find_usual_name(names: Sequence[str], usual_names: Sequence[str]) -> str | None:
    """Return the name that matches the first of `usual_names` in any case; None without a match."""
    by_lower_case = {name.lower(): name for name in reversed(names)}
    return next((by_lower_case[name] for name in usual_names if name in by_lower_case), None)


def _detect(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    unmapped = [name for name in names if name not in mapping.values()]
    detected = dict(mapping)
    for column, usual_names in USUAL_NAMES.items():
        name = find_usual_name(unmapped, usual_names)
        if column not in detected and name is not None:
            detected[column] = name
    return detected
