"""Divide rows into train, valid and test as RecBole does, by its setting `eval_args`.

RecBole orders the rows by time, or shuffles them with torch's generator, which it seeds just
before. It then takes the last rows of each user, or of the log. Source: RecBole 1.2.1,
`recbole/data/dataset/dataset.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from recoach.data.interactions import IntArray, LongArray
from recoach.data.protocol import ByRatio, Given, LeaveLastOut
from recoach.data.split import TEST, TRAIN, VALID, Parts
from recoach.errors import DataError

SEQUENTIAL = ("SASRec", "GRU4Rec", "GSAU")
"""Models that RecBole trains on one row for each prefix of a history."""
_DEFAULT = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
_DEFAULT_OF_SEQUENTIAL = {"split": {"LS": "valid_and_test"}, "order": "TO"}
_N_PARTS = 3


class SplitSettings(NamedTuple):
    """RecBole's `eval_args`."""

    kind: str
    """"LS" (leave one out), "RS" (by ratio), "TS" (by time) or "files"."""
    ratios: tuple[float, ...]
    """Of train, valid and test; they sum to 1. Empty for the kinds without ratios."""
    by_user: bool
    """Whether each user's rows are divided by ratio, or the log as a whole."""
    shuffles: bool
    """Whether the order is random (RO), or that of time (TO)."""
    mode: str
    """Candidates on validation: "full", or a number of sampled ones like "uni100"."""


def eval_settings(config: Mapping[str, Any]) -> SplitSettings:
    """Return the split of a checkpoint or YAML file; what it leaves out has RecBole's default.

    Raises:
        DataError: a split that RecBole does not have, or that leaves nothing to verify on.
    """
    given = config.get("eval_args") or {}
    if not isinstance(given, dict):
        raise DataError(f"RecBole's setting eval_args must be a table of settings, not {given!r}.")
    is_sequential = config.get("model") in SEQUENTIAL
    args = _DEFAULT | (_DEFAULT_OF_SEQUENTIAL if is_sequential else {}) | given
    mode: Any = args["mode"]
    mode = mode.get("valid", mode.get("test", "full")) if isinstance(mode, dict) else mode
    by_user = str(args["group_by"]).lower() == "user"
    if config.get("benchmark_filename"):
        if is_sequential:
            raise DataError(
                "RecBole's setting benchmark_filename: for sequential models RecBole reads files "
                "whose rows hold whole histories (item_id_list), which are not supported. Train on "
                "one .inter file."
            )
        return SplitSettings("files", (), by_user, shuffles=False, mode=str(mode))
    split, order = args["split"], args["order"]
    if order not in ("RO", "TO"):
        raise DataError(f"RecBole's setting eval_args.order must be RO or TO, not {order!r}.")
    if not isinstance(split, dict) or len(split) != 1:
        raise DataError(f"RecBole's setting eval_args.split has no single entry: {split!r}.")
    kind, value = next(iter(split.items()))
    _check(kind, value, order, is_sequential=is_sequential)
    ratios = () if kind == "LS" else tuple(float(ratio) / sum(value) for ratio in value)
    return SplitSettings(str(kind), ratios, by_user, order == "RO", str(mode))


def _check(kind: object, value: object, order: str, *, is_sequential: bool) -> None:
    if kind not in ("LS", "RS", "TS"):
        raise DataError(f"RecBole's setting eval_args.split has the unknown kind {kind!r}.")
    if kind == "LS" and value != "valid_and_test":
        raise DataError(
            f"RecBole's setting eval_args.split: LS: {value} leaves no validation or no test "
            "items; only valid_and_test is supported."
        )
    if kind != "LS":
        is_list = isinstance(value, list) and len(value) == _N_PARTS
        numbers = value if is_list and isinstance(value, list) else [None]
        if not all(isinstance(ratio, int | float) and ratio > 0 for ratio in numbers):
            raise DataError(
                f"RecBole's setting eval_args.split: {kind}: {value!r} must be the ratios of "
                "train, valid and test, three numbers above 0."
            )
    if order == "RO" and (is_sequential or kind == "TS"):
        raise DataError(
            "RecBole's setting eval_args.order: RO is not possible here: RecBole needs the order "
            f"of time for {'sequential models' if is_sequential else 'the split TS'}."
        )


def described_split(
    config: Mapping[str, Any], settings: SplitSettings
) -> LeaveLastOut | ByRatio | Given:
    """Return how Recoach describes RecBole's split; sequential models predict item after item."""
    if settings.kind == "LS" and not settings.shuffles:
        return LeaveLastOut()
    target = "successive" if config.get("model") in SEQUENTIAL else "all"
    if settings.kind == "RS" and settings.by_user:
        _, valid, test = settings.ratios
        order = "random" if settings.shuffles else "time"
        return ByRatio(valid_ratio=valid, test_ratio=test, order=order, target=target)
    return Given(valid="given", target=target)


def divide_rows(
    users: IntArray, times: npt.NDArray[np.float32] | None, config: Mapping[str, Any]
) -> Parts:
    """Return uint8[N], the part of each row, in the order of RecBole's rows.

    Args:
        users: int32[N], the user of each row.
        times: float32[N], the times as RecBole stores them; None if the split needs none.
        config: RecBole's settings.
    """
    settings = eval_settings(config)
    parts = np.full(len(users), TRAIN, dtype=np.uint8)
    rows = _ordered_rows(users, times, config, settings)
    if settings.kind == "RS" and not settings.by_user:
        groups = np.zeros(len(rows), dtype=np.int64)
    else:
        groups = users[rows].astype(np.int64)
    by_group = np.argsort(groups, kind="stable")
    rows, groups = rows[by_group], groups[by_group]
    counts = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(rows)) - starts[groups]
    if settings.kind == "TS" and times is not None:
        parts[rows] = _by_time(times[rows], groups, place, settings.ratios)
        return parts
    if settings.kind == "LS":
        n_test = (counts >= 2).astype(np.int64)
        n_valid = (counts >= 3).astype(np.int64)
    else:
        n_valid, n_test = _by_ratio(counts, settings.ratios)
    left = counts[groups] - place
    parts[rows[left <= (n_test + n_valid)[groups]]] = VALID
    parts[rows[left <= n_test[groups]]] = TEST
    return parts


def _ordered_rows(
    users: IntArray,
    times: npt.NDArray[np.float32] | None,
    config: Mapping[str, Any],
    settings: SplitSettings,
) -> LongArray:
    """Return the rows that RecBole divides, in its order; no first ones for sequential models."""
    if settings.shuffles:
        generator = torch.Generator().manual_seed(int(config.get("seed", 2020)))
        order: LongArray = torch.randperm(len(users), generator=generator).numpy()
        return order
    if times is None:
        raise DataError("RecBole's split by time needs a column of times, and none is loaded.")
    if config.get("model") not in SEQUENTIAL:
        by_time: LongArray = np.argsort(times, kind="stable")
        return by_time
    by_user = np.lexsort((times, users))
    rows: LongArray = by_user[np.append(False, np.diff(users[by_user]) == 0)]
    return rows[np.argsort(times[rows], kind="stable")]


def _by_ratio(counts: LongArray, ratios: tuple[float, ...]) -> tuple[LongArray, LongArray]:
    """Return (n_valid, n_test): rounded down, but one row where there is more than one."""
    n_valid, n_test = ((counts * ratio).astype(np.int64) for ratio in ratios[1:])
    n_train = counts - n_valid - n_test
    n_test_extra = (n_train > 1) & (n_test == 0) & (counts > 0)
    n_train, n_test = n_train - n_test_extra, n_test + n_test_extra
    n_valid_extra = (n_train > 1) & (n_valid == 0)
    return n_valid + n_valid_extra, n_test


def _by_time(
    times: npt.NDArray[np.float32], users: LongArray, place: LongArray, ratios: tuple[float, ...]
) -> Parts:
    """Return the parts of rows ordered by user and time: test after one moment of the log."""
    is_test = times > np.percentile(times, 100 * (1 - ratios[-1]))
    n_before = np.bincount(users[~is_test], minlength=int(users.max(initial=0)) + 1)
    n_train = (n_before * (ratios[0] / (1 - ratios[2]))).astype(np.int64)
    parts = np.where(place < n_train[users], TRAIN, VALID).astype(np.uint8)
    parts[is_test] = TEST
    return parts
