"""Split a log into train, valid and test: one row of items per user in each."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.dataset import Dataset, RaggedArray, assemble
from recoach.data.interactions import IdTypes, Interactions, LongArray
from recoach.data.log_columns import Columns, concatenate, take
from recoach.data.ordered_log import (
    OrderedLog,
    chronological,
    order_log,
    ordered_log,
    shuffle_ties,
)
from recoach.data.protocol import AnySplit, Auto, ByRatio, ByTime, ByUsers, Given, LeaveLastOut
from recoach.data.targets import check_target_events
from recoach.errors import ConfigError, DataError

Parts = npt.NDArray[np.uint8]
"""uint8[N], the part of each row of an ordered log, nondecreasing for each user."""
TRAIN, VALID, TEST, UNUSED = range(4)
_GIVEN = Given()
LEAK_QUANTILE = 0.9
"""A test target before this quantile of all times lies in what a split by time trains on."""


def leave_last_out(interactions: Interactions, name: str = "", *, test_items: int = 1) -> Dataset:
    """Hold out each user's last interaction for test and the one before for validation.

    File order breaks ties in time. A user with two rows has one in train and one in test, a user
    with one row has it in train.

    Args:
        interactions: the log.
        name: the name of the dataset.
        test_items: number of last interactions held out for test, fewer for users for whom no
            interaction would be left for validation and one for training.

    Raises:
        DataError: no user has three rows.
    """
    return split_log(interactions, LeaveLastOut(test_items=test_items), name)


def split_log(
    interactions: Interactions,
    split: Auto | AnySplit,
    name: str = "",
) -> Dataset:
    """Split a log.

    Args:
        interactions: the log.
        split: how; what it comes to is recorded in the dataset.
        name: the name of the dataset.

    Raises:
        ConfigError: a date of the split is none.
        DataError: a split by time without times, or a part would be empty.
    """
    return split_ordered_log(order_log(interactions), split, name)


def split_ordered_log(log: OrderedLog, split: Auto | AnySplit, name: str = "") -> Dataset:
    """Split an ordered log, see `split_log`."""
    if isinstance(split, Auto):
        return _split_automatically(log, name)
    if split.ties == "random":
        log = shuffle_ties(log, split.split_seed)
    match split:
        case LeaveLastOut():
            parts = _leave_last_out(log.counts, split.test_items)
        case ByTime():
            parts = _by_time(log, split)
        case ByRatio():
            log, parts = _by_ratio(log, split)
        case ByUsers():
            parts = _by_users(log.counts, split)
        case Given():
            raise ConfigError(
                'split: "given" is for a folder with train and test files, and this is one log. '
                'Use "time", "leave_last_out", "ratio" or "users".'
            )
    return divide(log, parts, split, name)


def _split_automatically(log: OrderedLog, name: str) -> Dataset:
    """Split by time where that leaves something to train, validate and test on."""
    if log.times is not None:
        with contextlib.suppress(DataError):
            dataset = split_ordered_log(log, ByTime(), name)
            before, train = dataset.train.lengths + dataset.valid.lengths, dataset.train.lengths
            # A target is the last event of a part: a part of two is a state with a history.
            can_test = ((before > 0) & (dataset.test.lengths > 0)) | (dataset.test.lengths > 1)
            can_select = ((train > 0) & (before > train)) | (dataset.valid.lengths > 1)
            if (train > 1).any() and can_select.any() and can_test.any():
                return dataset
    return split_ordered_log(log, LeaveLastOut(), name)


def hold_out(
    interactions: Interactions, n_valid: LongArray, n_test: LongArray, name: str = ""
) -> Dataset:
    """Hold out each user's last `n_test` rows for test and the `n_valid` before for validation.

    `n_valid` and `n_test` are int64[n_users] and together at most the number of a user's rows. File
    order breaks ties in time.
    """
    log = order_log(interactions)
    return divide(log, _last_parts(log.counts, n_valid, n_test), LeaveLastOut(), name)


def divide(log: OrderedLog, parts: Parts, split: AnySplit, name: str) -> Dataset:
    """Return the dataset whose part is given for each row of an ordered log.

    Raises:
        DataError: the split wants event types as targets that the log does not have.
    """
    check_target_events(log.columns, split.target_events)
    users = np.repeat(np.arange(len(log.counts)), log.counts)
    rows = []
    for part in (TRAIN, VALID, TEST):
        mask = parts == part
        lengths = np.bincount(users[mask], minlength=len(log.counts))
        columns = take(log.columns, log.rows[mask])
        rows.append(RaggedArray.from_lengths(lengths, log.items[mask], columns))
    dataset = assemble(name, (log.user_ids, log.item_ids), (rows[0], rows[1], rows[2]))
    return replace(dataset, split=split, negatives=log.negatives, id_types=log.id_types)


def leaked_share(dataset: Dataset) -> float | None:
    """Return the share of test events before the .9 quantile of all times; None without times.

    Under leave-last-out models train on what other users do after these events.
    """
    parts = (dataset.train, dataset.valid, dataset.test)
    if not all("timestamp" in part.columns for part in parts if len(part.values)):
        return None
    times = [part.columns["timestamp"].to_numpy() for part in parts if len(part.values)]
    if not len(dataset.test.values):
        return None
    moment = np.quantile(np.concatenate(times), LEAK_QUANTILE)
    return float((times[-1] <= moment).mean())


def from_parts(
    train: Interactions,
    valid: Interactions | None,
    test: Interactions,
    name: str = "",
    *,
    split: Given = _GIVEN,
) -> Dataset:
    """Join logs that are already split, such as RecBole's benchmark files.

    Ids that occur only in valid or test are kept, numbered after those of train. Without `valid`
    the split decides which training events are for validation. DataError if train or test has no
    rows.
    """
    for part, role in ((train, "train"), (test, "test")):
        if not len(part):
            raise DataError(
                f"{name or 'dataset'}: the {role} part has no interactions. Add at least one row."
            )
    kinds = (TRAIN, TEST) if valid is None else (TRAIN, VALID, TEST)
    logs = [train, test] if valid is None else [train, valid, test]
    user_ids, user_codes = _union([part.user_ids for part in logs])
    item_ids, item_codes = _union([part.item_ids for part in logs])
    orders = [chronological(part) for part in logs]
    users, items = (
        np.concatenate([codes[getattr(part, side)[order]] for part, codes, order in rows])
        for side, rows in (
            ("users", list(zip(logs, user_codes, orders, strict=True))),
            ("items", list(zip(logs, item_codes, orders, strict=True))),
        )
    )
    parts = np.repeat(np.array(kinds, dtype=np.uint8), [len(part) for part in logs])
    columns = concatenate(
        [take(part, order) for part, order in zip(_with_negatives(logs), orders, strict=True)]
    )
    # The parts stay in their order, also where times would mix them.
    by_user = np.argsort(users, kind="stable")
    columns = dict(take(columns, by_user))
    parts = parts[by_user]
    if "negative" in columns:
        parts = parts[~columns["negative"].fill_null(value=False).to_numpy()]
    ids = (user_ids, item_ids)
    log = ordered_log(
        ids, users[by_user].astype(np.int32), items[by_user].astype(np.int32), columns
    )
    log = log._replace(id_types=_common_types([part.id_types for part in logs]))
    if split.ties == "random":
        log = shuffle_ties(log, split.split_seed, parts)
    if valid is not None:
        split = split.model_copy(update={"valid": "given"})
    elif split.valid in ("last", "users"):
        _take_valid(log.counts, parts, split)
    return divide(log, parts, split, name)


def _with_negatives(logs: Sequence[Interactions]) -> list[Columns]:
    """Return the columns of logs; if one says which items are rejected, the others reject none."""
    if not any("negative" in log.columns for log in logs):
        return [log.columns for log in logs]
    return [{"negative": pl.repeat(False, len(log), eager=True), **log.columns} for log in logs]


def _leave_last_out(counts: LongArray, test_items: int) -> Parts:
    longest = int(counts.max(initial=0))
    if longest < 3:
        raise DataError(
            "users have too little history: holding out the last two interactions needs a user "
            f"with at least 3, the longest history here has {longest}. Use a longer log or weaker "
            "filters."
        )
    n_test = np.clip(counts - 2, counts >= 2, test_items).astype(np.int64)
    return _last_parts(counts, (counts >= 3).astype(np.int64), n_test)


def _last_parts(counts: LongArray, n_valid: LongArray, n_test: LongArray) -> Parts:
    lengths = np.stack((counts - n_test - n_valid, n_valid, n_test))
    return np.repeat(np.tile(np.arange(3, dtype=np.uint8), len(counts)), lengths.T.ravel())


def _by_time(log: OrderedLog, split: ByTime) -> Parts:
    times = log.times
    if times is None:
        raise DataError(
            "split: a split by time needs times, and this log has none. Map the column of times "
            'with --column timestamp=NAME, or use split = "leave_last_out".'
        )
    moment = _moment(times, split.at, "at")
    parts = np.where(times <= moment, TRAIN, TEST).astype(np.uint8)
    if split.until is not None:
        parts[times > _moment(times, split.until, "until")] = UNUSED
    before = parts == TRAIN
    if not before.any() or not (parts == TEST).any():
        side = "after" if before.any() else "before"
        raise DataError(
            f"split: no event is {side} {split.at!r}, where test begins. The log spans "
            f"{_date(times.min())} to {_date(times.max())}; choose split.at between them."
        )
    users = np.repeat(np.arange(len(log.counts)), log.counts)
    if split.valid == "time":
        parts[before & (times > _moment(times[before], split.valid_at, "valid_at"))] = VALID
    elif split.valid == "users":
        candidates = np.unique(users[before])
        n_valid = min(split.valid_users, len(candidates) // 2)
        drawn = np.random.default_rng(split.split_seed).permutation(candidates)[:n_valid]
        parts[before & np.isin(users, drawn)] = VALID
    else:
        _hold_out_last(users, parts)
    if not (parts == TRAIN).any() or not (parts == VALID).any():
        raise DataError(
            f"split: valid = {split.valid!r} leaves nothing for "
            f"{'validation' if (parts == TRAIN).any() else 'training'}. Use a longer log, or "
            "change split.valid or split.valid_at."
        )
    return parts


def _by_ratio(log: OrderedLog, split: ByRatio) -> tuple[OrderedLog, Parts]:
    """Return the parts, and the log with each user's rows in the order of the parts."""
    counts = log.counts
    n_test = np.floor(counts * split.test_ratio + 1e-9).astype(np.int64)
    n_valid = np.floor(counts * split.valid_ratio + 1e-9).astype(np.int64)
    parts = _last_parts(counts, n_valid, n_test)
    if not (parts == TEST).any():
        raise DataError(
            f"split: no user has enough interactions for test_ratio = {split.test_ratio:g}; the "
            f"longest history has {int(counts.max(initial=0))}. Use a larger ratio."
        )
    if split.order == "random":
        users = np.repeat(np.arange(len(counts)), counts)
        keys = np.random.default_rng(split.split_seed).permutation(len(users))
        random_order = np.lexsort((keys, users))
        places = np.lexsort((random_order, parts, users))  # each part in time order
        order = random_order[places]
        log = log._replace(items=log.items[order], rows=log.rows[order])
    return log, parts


def _by_users(counts: LongArray, split: ByUsers) -> Parts:
    """Return the parts of the rows: all rows of a user are in one part."""
    users = np.flatnonzero(counts)
    n_test, n_valid = (round(len(users) * r) for r in (split.test_ratio, split.valid_ratio))
    if not n_test or not n_valid or n_test + n_valid >= len(users):
        raise DataError(
            f"split: {len(users)} users cannot be divided into train, {split.valid_ratio:g} for "
            f"validation and {split.test_ratio:g} for test. Use a longer log or other ratios."
        )
    part_of = np.zeros(len(counts), dtype=np.uint8)
    drawn = np.random.default_rng(split.split_seed).permutation(users)
    part_of[drawn[:n_test]] = TEST
    part_of[drawn[n_test : n_test + n_valid]] = VALID
    return np.repeat(part_of, counts)


def _take_valid(counts: LongArray, parts: Parts, split: Given) -> None:
    """Turn training rows into validation rows, for parts without a validation part."""
    users = np.repeat(np.arange(len(counts)), counts)
    if split.valid == "last":
        _hold_out_last(users, parts)
        return
    train_users = np.unique(users[parts == TRAIN])
    n_valid = max(1, round(len(train_users) * split.valid_ratio))
    parts[(parts == TRAIN) & np.isin(users, train_users[-n_valid:])] = VALID


def _hold_out_last(users: LongArray, parts: Parts) -> None:
    """Turn the last training row of each user with two or more into a validation row."""
    rows = np.flatnonzero(parts == TRAIN)
    row_users = users[rows]
    is_last = np.append(row_users[1:] != row_users[:-1], True)
    has_more = np.append(False, row_users[1:] == row_users[:-1])
    parts[rows[is_last & has_more]] = VALID


def _moment(times: LongArray, at: float | str, key: str) -> float:
    """Return the last millisecond before a date, or a quantile of the times."""
    if not isinstance(at, str):
        if not 0 < at < 1:
            raise ConfigError(f"split.{key} must be a quantile between 0 and 1, not {at!r}.")
        return float(np.quantile(times, at))
    try:
        date = datetime.fromisoformat(at)
    except ValueError:
        raise ConfigError(
            f"split.{key} must be a quantile or a date like 2024-09-01, not {at!r}."
        ) from None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return date.timestamp() * 1000 - 1


def _date(milliseconds: int) -> str:
    days = np.datetime64(int(milliseconds), "ms").astype("datetime64[D]")
    return str(days)


def _common_types(types: Sequence[IdTypes]) -> IdTypes:
    """Return the types of the ids of all logs; text where they differ."""
    users, items = ({getattr(one, side) for one in types} for side in ("users", "items"))
    text = pl.String()
    return IdTypes(
        users.pop() if len(users) == 1 else text, items.pop() if len(items) == 1 else text
    )


def _union(vocabularies: Sequence[pl.Series]) -> tuple[pl.Series, list[LongArray]]:
    """Return the union in order of first appearance and int64[n] codes of each vocabulary in it."""
    union = pl.concat(vocabularies).unique(maintain_order=True)
    codes = pl.int_range(len(union), eager=True)
    return union, [ids.replace_strict(union, codes).to_numpy() for ids in vocabularies]
