"""Which columns of a source hold users, items, times and what else a log may know."""

import re
from collections.abc import Mapping, Sequence

from recoach.data.readers.table import Table
from recoach.errors import DataError, clipped, listed, suggestion

_ITEM_WORDS = ("product", "movie", "book", "track", "video", "song", "article")
_SESSION_NAMES = (
    *("session_id", "session", "visit_id", "user_session", "sess_id", "ga_session_id"),
    *("session_key", "search_session_id"),
)

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        *("user_id", "user", "uid", "reviewer_id", "customer_id", "visitor_id", "reviewer"),
        *("user_name", "user_no", "user_key", "user_pseudo_id", "full_visitor_id", "member_id"),
        *("client_id", "account_id", "buyer_id", "viewer_id", "listener_id", "person_id"),
        *("household_key", "household_id", "profile_id", "msno", "steam_id", "cookie_id"),
        *("device_id", "customer", "visitor", "user_idx", "user_index", *_SESSION_NAMES),
    ),
    "item_id": (
        *("item_id", "item", "iid", "movie_id", "parent_asin", "asin", "product_id", "sid"),
        *("business_id", "book_id", "track_id", "article_id", "video_id", "news_id", "game_id"),
        *("app_id", "song_id", "anime_id", "recipe_id", "venue_id", "poi_id", "isbn", "aid"),
        *("stock_code", "sku", "sku_id", "goods_id", "course_id", "content_id", "show_id"),
        *("joke_id", "beer_id", "post_id", "photo_id", "place_id", "location_id", "doc_id"),
        *("document_id", "listing_id", "hotel_id", "restaurant_id", "gmap_id", "artist_id"),
        *("item_idx", "item_index", "track_idx", *_ITEM_WORDS),
    ),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "unix_review_time", "sort_timestamp", "date"),
        *("created_at", "event_time", "event_timestamp", "time_ms", "timestamp_ms", "t_dat"),
        *("unix_time", "unix_timestamp", "utc_timestamp", "utc_time", "review_time"),
        *("review_date", "review_timestamp", "rating_time", "rating_timestamp", "rating_date"),
        *("rated_at", "event_date", "event_datetime", "invoice_date", "order_date"),
        *("order_time", "purchase_date", "purchase_time", "transaction_date", "transaction_time"),
        *("action_time", "interaction_time", "behavior_time", "click_time", "view_time"),
        *("visit_time", "checkin_time", "check_in_time", "listened_at", "played_at", "read_at"),
        *("create_time", "creation_time", "created", "log_time", "server_time", "request_time"),
        *("date_added", "date_updated", "posted", "tstamp", "epoch", "eventdate", "date_time"),
        *("transaction_dt", "event_dt", "dt"),
    ),
    "rating": (
        *("rating", "ratings", "score", "overall", "stars", "weight", "book_rating"),
        *("review_rating", "user_rating", "rating_score", "review_score", "review_overall"),
    ),
    "event_type": (
        *("event_type", "event", "event_name", "behavior_type", "behaviour_type", "behavior"),
        *("behaviour", "action_type", "action", "interaction_type", "interaction"),
        *("user_action", "activity_type", "feedback_type", "type"),
    ),
    "value": (
        *("value", "revenue", "amount", "price", "sales", "purchase_amount", "sales_value"),
        *("total_price", "sale_price", "sales_price", "item_price", "unit_price"),
        *("purchase_revenue", "quantity", "qty"),
    ),
    "session_id": _SESSION_NAMES,
    "propensity": ("propensity", "propensity_score", "pscore", "action_prob"),
    "impression_id": (
        *("impression_id", "imp_id", "slate_id", "impression", "request_id", "page_view_id"),
    ),
    "position": ("position", "rank", "slot", "pos", "slot_id", "display_position"),
    "negative": (
        *("negative", "is_negative", "dislike", "is_dislike", "disliked", "skip", "is_skip"),
        *("skipped", "is_skipped", "is_hate", "not_interested", "is_return", "returned"),
    ),
}
"""Column name of Recoach -> names that are detected, best first, compared by `_squashed`."""

ID_COLUMNS = ("user_id", "item_id")


def check_mapping(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the mapping as a dict; an empty name leaves a column out.

    Raises:
        DataError: a key is not one of `USUAL_NAMES`, user_id or item_id is left out, or both are
            mapped to one column.
    """
    unknown = sorted(set(columns) - set(USUAL_NAMES))
    if unknown:
        raise DataError(
            f"columns: {unknown[0]!r} is not a column of Recoach. "
            f"{suggestion(unknown[0], USUAL_NAMES)}"
        )
    for column in ID_COLUMNS:
        if columns.get(column) == "":
            raise DataError(
                f"columns: {column} cannot be left out. Pass --column {column}=NAME with the name "
                "of a column."
            )
    if "user_id" in columns and columns["user_id"] == columns.get("item_id"):
        raise DataError(
            f"columns: user_id and item_id are both mapped to {columns['user_id']!r}. Map them to "
            "different columns."
        )
    return dict(columns)


def has_id_columns(names: Sequence[str], mapping: Mapping[str, str]) -> bool:
    """Return whether these names include a user and an item column."""
    detected = _detect(names, mapping)
    return all(detected.get(column) in names for column in ID_COLUMNS)


def find_columns(table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """Return column name of Recoach -> name in the table, for each that is mapped or detected.

    A column serves once: a session column without a user column holds the users.

    Raises:
        DataError: a mapped column is missing, or there is no user or no item column.
    """
    for column, source_name in mapping.items():
        if source_name and source_name not in table.names:
            raise DataError(
                f"{table.label}: there is no column {source_name!r}, which is mapped to {column}. "
                f"{_names_sentence(table.names)} Pass --column {column}=NAME with one of them."
            )
    detected = _detect(table.names, mapping)
    for column in ID_COLUMNS:
        if column not in detected:
            raise DataError(
                f"{table.label}: there is no {column} column. {_names_sentence(table.names)} "
                f"Pass --column {column}=NAME with one of them."
            )
    if "item_id" not in mapping:
        _check_histories(table, detected["item_id"])
    return detected


def _check_histories(table: Table, item_name: str) -> None:
    """Raise a DataError for rows that repeat a history before each item (`item_id_list`).

    RecBole's augmented files have them: their first items stand in the histories only, and the
    rows of a user are in no order of time.
    """
    histories = find_usual_name(table.names, (f"{item_name}_list", f"{item_name}_seq"))
    if histories is not None:
        raise DataError(
            f"{table.label}: column {histories!r} holds the items before {item_name!r}, and rows "
            "are read as one interaction each. Write one interaction a row, in order of time, or "
            f"pass --column item_id={item_name} to leave {histories} out."
        )


def time_candidates(names: Sequence[str], detected: Mapping[str, str]) -> list[str]:
    """Return the columns under usual names of times that no other column uses, best first."""
    used = {name for column, name in detected.items() if column != "timestamp"}
    free = [name for name in names if name not in used]
    return _matches(free, USUAL_NAMES["timestamp"])


def is_usual_name(name: str) -> bool:
    """Return whether a word is a usual name of a user, item, time or rating column.

    Words that are as likely to be values, such as `movie`, are not.
    """
    return _squashed(name) in _HEADER_NAMES


def find_usual_name(names: Sequence[str], usual_names: Sequence[str]) -> str | None:
    """Return the name that matches the first of `usual_names`; None without a match.

    Letter case, blanks, dots, slashes, hyphens and underscores are ignored.
    """
    return next(iter(_matches(names, usual_names)), None)


def _matches(names: Sequence[str], usual_names: Sequence[str]) -> list[str]:
    """Return the names that match a usual name, in the order of `usual_names`."""
    by_squashed: dict[str, str] = {}
    for name in names:
        if name in usual_names or _squashed(name) not in by_squashed:
            by_squashed[_squashed(name)] = name
    squashed = dict.fromkeys(_squashed(usual) for usual in usual_names)
    return [by_squashed[usual] for usual in squashed if usual in by_squashed]


def _squashed(name: str) -> str:
    return re.sub(r"[\s._/-]", "", name.lower())


_HEADER_NAMES = frozenset(
    _squashed(name)
    for column in ("user_id", "item_id", "timestamp", "rating")
    for name in USUAL_NAMES[column]
    if name not in _ITEM_WORDS
)


def _detect(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    detected = {column: name for column, name in mapping.items() if name}
    for column, usual_names in USUAL_NAMES.items():
        if column in mapping:
            continue
        free = [name for name in names if name not in detected.values()]
        name = find_usual_name(free, usual_names)
        if name is not None:
            detected[column] = name
    return detected


def _names_sentence(names: Sequence[str]) -> str:
    return f"The columns are {clipped(listed(names), 200)}."
