"""Extend a dataset by newer events; users and items keep their numbers, new ones are appended."""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset, RaggedArray, assemble, join_rows, select
from recoach.data.filters import NO_RATINGS
from recoach.data.interactions import Interactions, LongArray
from recoach.data.log_columns import concatenate, take, with_missing
from recoach.data.protocol import ByTime, TargetConfig
from recoach.data.row_counts import RowCounts
from recoach.errors import DataError

BoolArray = npt.NDArray[np.bool_]
_KEY = ("timestamp", "event_type", "session_id", "impression_id", "position")
"""Columns that tell two events of a user and an item apart, where both logs have them."""
_NEEDED: Final = {
    "timestamp": "without times the order of the events is not known",
    "event_type": "rewards, weights and filters read the type of each event",
    "rating": "rewards and filters read the rating of each event",
}
"""Columns that new events must have where the log has them -> why; no event may lack a value."""


class Extension(NamedTuple):
    """A dataset with all events in train and none in valid and test."""

    dataset: Dataset
    counts: RowCounts


def extend(
    dataset: Dataset,
    new_events: Interactions,
    config: PrepareConfig | None = None,
    *,
    log_end: int | None = None,
) -> Extension:
    """Return a dataset with all events of another one and new events, all of them in train.

    The users and items of the dataset keep their numbers; others follow in the order in which they
    first appear in the new events. Each user's events are in the order of time, and of equal times
    the earlier dataset comes first; without times the new events come last. A row is known if the
    dataset has as many rows with the same user, item, time and kind of event as come up to it in
    the new events. Without times it is known if the pair of user and item is, unless the dataset
    has repeated pairs: then every row is new.

    Args:
        dataset: the log so far.
        new_events: the rows to add.
        config: the filters of the log so far. `min_rating` and `dedup` hold for new events too;
            `k_core` does not, because it would remove users and items that have numbers already.
        log_end: the time, in milliseconds, up to which the log so far was filtered; earlier rows
            that are not in the log were removed by the filters and stay out. None: no filters.

    An optional column that only the dataset has is missing in the added events; one that only they
    have is left out.

    Raises:
        DataError: the dataset has times, ratings or event types and the new events have not.
    """
    config = config or PrepareConfig(k_core=0)
    past = join_rows([dataset.train, dataset.valid, dataset.test])
    _check_columns(past, new_events, config)
    rejected = new_events.columns.get("negative")
    is_rejected = np.zeros(len(new_events), dtype=np.bool_)
    if rejected is not None:
        is_rejected = rejected.fill_null(value=False).to_numpy()
    known = np.where(
        is_rejected,
        _rejections_known(dataset, new_events),
        _is_known(dataset, past, new_events),
    )
    keep = ~known & _passes(new_events, config, log_end)
    added = new_events.keep(keep)
    user_ids, users = _appended(dataset.user_ids, added.user_ids, added.users)
    item_ids, items = _appended(dataset.item_ids, added.item_ids, added.items)
    is_event = ~is_rejected[keep]
    rows, is_added, n_late = _merged(past, added, (users, items, is_event), len(user_ids))
    rows, n_repeated = _deduplicated(rows, is_added, config, len(item_ids))
    table = dataset.item_table
    if table is not None:
        ids = pl.DataFrame({"item_id": item_ids})
        table = ids.join(table, on="item_id", how="left", maintain_order="left")
    empty = RaggedArray.empty(len(user_ids))
    extended = assemble(dataset.name, (user_ids, item_ids), (rows, empty, empty))
    extended = replace(
        extended,
        split=dataset.split,
        negatives=_negatives(dataset, past, (users, items, ~is_event), len(user_ids)),
        item_table=table,
        id_types=dataset.id_types,
    )
    counts = RowCounts(
        rows=len(new_events),
        new=len(added) - n_repeated,
        known=int(known.sum()),
        filtered=len(new_events) - int(known.sum()) - len(added) + n_repeated,
        late=n_late,
        new_users=len(user_ids) - dataset.n_users,
        new_items=len(item_ids) - dataset.n_items,
        missing_columns=tuple(sorted(past.columns.keys() - new_events.columns.keys())),
        unused_columns=_unused_columns(past, new_events),
    )
    return Extension(extended, counts)


def with_catalogue(dataset: Dataset, item_table: pl.DataFrame) -> Dataset:
    """Return the dataset with all items of a table, whose first rows are those of its own items."""
    rows = (dataset.train, dataset.valid, dataset.test)
    extended = assemble(dataset.name, (dataset.user_ids, item_table["item_id"].alias("")), rows)
    return replace(
        extended,
        split=dataset.split,
        negatives=dataset.negatives,
        item_table=item_table,
        id_types=dataset.id_types,
    )


def events_not_in(train: RaggedArray, earlier: RaggedArray) -> BoolArray:
    """Return bool[m], which events of train are not in the train part of an earlier dataset.

    The earlier one has the first users of the same numbers. Without times its events are the first
    of each user.
    """
    users = np.repeat(np.arange(len(train)), train.lengths)
    if "timestamp" not in train.columns:
        n_earlier = np.append(earlier.lengths, np.zeros(len(train) - len(earlier), dtype=np.int64))
        return np.arange(len(users)) - train.offsets[:-1][users] >= n_earlier[users]
    new, old = (
        pl.DataFrame(
            {
                "user": np.repeat(np.arange(len(rows)), rows.lengths),
                "item": rows.values,
                "timestamp": rows.columns["timestamp"],
            }
        )
        for rows in (train, earlier)
    )
    return ~_occur_in(new, old)


def hold_out_newest(
    dataset: Dataset, is_candidate: BoolArray, share: float
) -> tuple[Dataset, BoolArray]:
    """Return the dataset with the newest of some training events in valid instead of train.

    Each held-out event is a target after the ones before it (`target = "successive"`); the other
    settings of targets are those of the dataset's split.

    Args:
        dataset: everything is in train.
        is_candidate: bool[m], the events of train to choose from; of a user, only those after the
            last event that is not one are held out.
        share: of the candidates, the newest by time; without times the last of each user.

    Returns:
        The dataset, and bool[m], which events are held out.
    """
    train = dataset.train
    users = np.repeat(np.arange(len(train)), train.lengths)
    is_last = _are_last_of_user(is_candidate, train)
    held_out = np.zeros(len(users), dtype=np.bool_)
    candidates = np.flatnonzero(is_candidate)
    n_held_out = int(np.ceil(len(candidates) * share))
    if "timestamp" in train.columns:
        times = train.columns["timestamp"].to_numpy()[candidates]
        newest = np.argsort(times, kind="stable")[len(candidates) - n_held_out :]
        since = times[newest].min(initial=np.iinfo(np.int64).max)
        held_out[candidates] = times >= since
        if held_out[candidates].all():  # all times are equal
            held_out[candidates[: len(candidates) - n_held_out]] = False
    else:
        from_end = train.offsets[1:][users] - np.arange(len(users))
        n_candidates = np.bincount(users[candidates], minlength=len(train))
        held_out = is_candidate & (from_end <= np.ceil(n_candidates * share)[users])
    held_out &= is_last
    settings = {name: getattr(dataset.split, name) for name in TargetConfig.model_fields}
    split = ByTime(**settings | {"target": "successive"})
    rows = (select(train, ~held_out), select(train, held_out), dataset.test)
    ids = (dataset.user_ids, dataset.item_ids)
    result = replace(
        assemble(dataset.name, ids, rows),
        split=split,
        negatives=dataset.negatives,
        item_table=dataset.item_table,
        id_types=dataset.id_types,
    )
    return result, held_out


def _are_last_of_user(mask: BoolArray, rows: RaggedArray) -> BoolArray:
    """Return bool[m], whether an event and all later ones of its user are in the mask."""
    outside: LongArray = np.cumsum(~mask)
    n_outside = np.append(0, outside)[rows.offsets[1:]]
    result: BoolArray = mask & (outside == np.repeat(n_outside, rows.lengths))
    return result


def _check_columns(past: RaggedArray, new_events: Interactions, config: PrepareConfig) -> None:
    source = "the new events" if new_events.report is None else new_events.report.source
    for name, reason in _NEEDED.items():
        if name in past.columns and name not in new_events.columns:
            raise DataError(
                f"{source}: there is no column {name}, which the log of the run has; {reason}. Add "
                f"it, or map it with --column {name}=NAME."
            )
    if config.min_rating is not None and new_events.ratings is None:
        raise DataError(NO_RATINGS)


def _unused_columns(past: RaggedArray, new_events: Interactions) -> tuple[str, ...]:
    if not len(past.values):
        return ()
    return tuple(sorted(new_events.columns.keys() - past.columns.keys() - {"negative"}))


def _key_frame(users: pl.Series, items: pl.Series, columns: dict[str, pl.Series]) -> pl.DataFrame:
    texts = {
        name: values.cast(pl.String) if name == "event_type" else values
        for name, values in columns.items()
    }
    return pl.DataFrame({"user": users, "item": items, **texts})


def _is_known(dataset: Dataset, past: RaggedArray, new_events: Interactions) -> BoolArray:
    names = [name for name in _KEY if name in past.columns and name in new_events.columns]
    users = np.repeat(np.arange(len(past)), past.lengths)
    old = _key_frame(
        dataset.user_ids.gather(users),
        dataset.item_ids.gather(past.values),
        {name: past.columns[name] for name in names},
    )
    new = _key_frame(
        new_events.user_ids.gather(new_events.users),
        new_events.item_ids.gather(new_events.items),
        {name: new_events.columns[name] for name in names},
    )
    if "timestamp" not in names and old.is_duplicated().any():
        return np.zeros(len(new), dtype=np.bool_)
    return _occur_in(new, old)


def _occur_in(rows: pl.DataFrame, others: pl.DataFrame) -> BoolArray:
    """Return bool[N], whether a row is in another frame; equal rows as often as it has them."""
    counts = others.group_by(others.columns).len("count")
    place = rows.with_columns(pl.int_range(pl.len()).over(rows.columns).alias("place"))
    joined = place.join(
        counts, on=others.columns, how="left", nulls_equal=True, maintain_order="left"
    )
    result: BoolArray = joined.select(
        (pl.col("place") < pl.col("count").fill_null(0)).alias("occurs")
    )["occurs"].to_numpy()
    return result


def _passes(new_events: Interactions, config: PrepareConfig, log_end: int | None) -> BoolArray:
    """Return bool[N], which rows the filters of the run keep, repeated pairs aside."""
    keep = np.ones(len(new_events), dtype=np.bool_)
    if config.min_rating is not None and new_events.ratings is not None:
        keep &= new_events.ratings >= np.float32(config.min_rating)
    if log_end is not None and new_events.times is not None:
        keep &= new_events.times > log_end
    return keep


def _appended(
    ids: pl.Series, added_ids: pl.Series, codes: npt.NDArray[np.int32]
) -> tuple[pl.Series, npt.NDArray[np.int64]]:
    """Return ids followed by those of `added_ids` that are not among them, and the new codes."""
    joined = pl.concat([ids, added_ids.filter(~added_ids.is_in(ids.implode()))])
    numbers = pl.int_range(len(joined), eager=True)
    of_added = added_ids.replace_strict(joined, numbers, return_dtype=pl.Int64).to_numpy()
    return joined, of_added[codes]


def _merged(
    past: RaggedArray,
    added: Interactions,
    codes: tuple[LongArray, LongArray, BoolArray],
    n_users: int,
) -> tuple[RaggedArray, BoolArray, int]:
    """Return the rows of all users with the added events, which are new, and how many are late."""
    users, items, is_event = codes
    users, items = users[is_event], items[is_event]
    columns = take(added.columns, is_event)
    if len(past.values):
        columns = concatenate([past.columns, with_missing(columns, past.columns, len(items))])
    all_users = np.concatenate([np.repeat(np.arange(len(past)), past.lengths), users])
    is_added = np.arange(len(all_users)) >= len(past.values)
    values = np.concatenate([past.values, items.astype(np.int32)])
    if "timestamp" in columns:
        times = columns["timestamp"].to_numpy()
        order = np.lexsort((times, all_users))
        last = np.full(n_users, np.iinfo(np.int64).min)
        np.maximum.at(last, all_users[~is_added], times[~is_added])
        n_late = int((times[is_added] < last[users]).sum())
    else:
        order, n_late = np.argsort(all_users, kind="stable"), 0
    lengths = np.bincount(all_users, minlength=n_users)
    columns = {name: column for name, column in columns.items() if name != "negative"}
    rows = RaggedArray.from_lengths(lengths, values[order], take(columns, order))
    return rows, is_added[order], n_late


def _deduplicated(
    rows: RaggedArray, is_added: BoolArray, config: PrepareConfig, n_items: int
) -> tuple[RaggedArray, int]:
    """Return the rows with one event for each pair where the run asks for it.

    The second value is the number of added rows that are left out.
    """
    if config.dedup == "none":
        return rows, 0
    users = np.repeat(np.arange(len(rows), dtype=np.int64), rows.lengths)
    pairs = users * n_items + rows.values
    backwards = config.dedup == "last"
    first = np.unique(pairs[::-1] if backwards else pairs, return_index=True)[1]
    keep = np.zeros(len(pairs), dtype=np.bool_)
    keep[len(pairs) - 1 - first if backwards else first] = True
    return select(rows, keep), int((is_added & ~keep).sum())


def _rejections_known(dataset: Dataset, new_events: Interactions) -> BoolArray:
    """Return bool[N], whether the dataset has a rejection of the same user and item."""
    if dataset.negatives is None:
        return np.zeros(len(new_events), dtype=np.bool_)
    users = np.repeat(np.arange(dataset.n_users), dataset.negatives.lengths)
    old = pl.DataFrame(
        {
            "user": dataset.user_ids.gather(users),
            "item": dataset.item_ids.gather(dataset.negatives.values),
        }
    ).unique()
    new = pl.DataFrame(
        {
            "user": new_events.user_ids.gather(new_events.users),
            "item": new_events.item_ids.gather(new_events.items),
        }
    )
    joined = new.join(
        old.with_columns(known=pl.lit(value=True)),
        on=["user", "item"],
        how="left",
        maintain_order="left",
    )
    result: BoolArray = joined["known"].fill_null(value=False).to_numpy()
    return result


def _negatives(
    dataset: Dataset,
    past: RaggedArray,
    codes: tuple[LongArray, LongArray, BoolArray],
    n_users: int,
) -> RaggedArray | None:
    """Return the rejected items of all users; new ones come after the events that precede them."""
    users, items, is_rejected = codes
    old = dataset.negatives
    if old is None and not is_rejected.any():
        return None
    old = old or RaggedArray(
        np.zeros(dataset.n_users + 1, dtype=np.int64),
        np.empty(0, dtype=np.int32),
        {"after": pl.Series([], dtype=pl.Int64)},
    )
    order = np.argsort(users, kind="stable")
    is_event = ~is_rejected[order]
    n_events: LongArray = np.cumsum(is_event)
    before_user = np.append(0, n_events)[np.searchsorted(users[order], users[order])]
    length = np.append(past.lengths, np.zeros(n_users - len(past), dtype=np.int64))
    after = np.empty(len(users), dtype=np.int64)
    after[order] = length[users[order]] + n_events - is_event - before_user
    all_users = np.concatenate([np.repeat(np.arange(len(old)), old.lengths), users[is_rejected]])
    all_items = np.concatenate([old.values, items[is_rejected].astype(np.int32)])
    all_after = pl.concat([old.columns["after"], pl.Series(after[is_rejected], dtype=pl.Int64)])
    by_user = np.argsort(all_users, kind="stable")
    lengths = np.bincount(all_users, minlength=n_users)
    columns = {"after": all_after.gather(by_user)}
    return RaggedArray.from_lengths(lengths, all_items[by_user], columns)
