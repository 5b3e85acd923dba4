"""Episodes of the training histories: which events follow each other, and what comes later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.dataset import Dataset, RaggedArray, event_types
from recoach.data.interactions import LongArray
from recoach.errors import ConfigError

EpisodeUnit = Literal["user", "session"]
DiscountUnit = Literal["event", "day"]
Doubles = npt.NDArray[np.float64]

_MINUTE: Final = 60_000
_DAY: Final = 24 * 60 * _MINUTE


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """The episodes of the training histories, whose m events are those of `train.values`."""

    first: LongArray
    """int64[m] the first event of each event's episode."""
    last: LongArray
    """int64[m] the last event of each event's episode, so far as it is in train."""
    is_closed: npt.NDArray[np.bool_]
    """bool[m] whether the event's episode ends in train. The last episode of a user who goes on
    later does not: what comes after it is not known."""
    days: Doubles
    """float64[m] days from the event before to this event; 0 for the first of a user, and for all
    in a log without times."""

    @property
    def remaining(self) -> LongArray:
        """int64[m], the number of events after each event in its episode."""
        return self.last - np.arange(len(self.last))

    @property
    def elapsed(self) -> LongArray:
        """int64[m], the number of events before each event in its episode."""
        return np.arange(len(self.first)) - self.first

    def discounts(self, discount: float, unit: DiscountUnit) -> Doubles:
        """Return float64[m], the factor from each event to the next one of its episode.

        Args:
            discount: of one event, or of one day.
            unit: which of both. Where the episode goes on after train, a day is taken.

        Returns:
            0 at the last event of a closed episode.
        """
        factors = np.full(len(self.last), discount, dtype=np.float64)
        if unit == "day":
            factors[:-1] = discount ** self.days[1:]
        is_last = self.remaining == 0
        factors[is_last] = np.where(self.is_closed[is_last], 0.0, discount)
        return factors

    def returns(self, rewards: Doubles, discounts: Doubles) -> Doubles:
        """Return float64[m], G = r + discount · G of the next event of the episode.

        Rewards after the end of train are not known and count as 0.

        Args:
            rewards: float64[m].
            discounts: as of `discounts`.
        """
        result, remaining = rewards.astype(np.float64, copy=True), self.remaining
        order = np.argsort(remaining, kind="stable")
        # All events with as many events after them at once: those that follow them are done.
        edges = np.flatnonzero(np.diff(remaining[order])) + 1
        for events in np.split(order, edges)[1:]:
            result[events] += discounts[events] * result[events + 1]
        return result


def episodes_of(dataset: Dataset, unit: EpisodeUnit = "user", session_gap: float = 30) -> Episodes:
    """Return the episodes of a dataset's training histories.

    Args:
        dataset: whether a user has validation or test events tells whether a history goes on.
        unit: `user`: a user's whole history is one episode. `session`: an episode ends where the
            column `session_id` changes, and in a log without it after `session_gap` minutes
            without an event.
        session_gap: minutes.

    Raises:
        ConfigError: sessions of a log that has neither session ids nor times.
    """
    train = dataset.train
    goes_on = dataset.valid.lengths + dataset.test.lengths > 0
    return split_episodes(train, goes_on, unit, session_gap)


def split_episodes(
    train: RaggedArray,
    goes_on: npt.NDArray[np.bool_],
    unit: EpisodeUnit = "user",
    session_gap: float = 30,
) -> Episodes:
    """Return the episodes of histories, see `episodes_of`.

    Args:
        train: n histories with their columns.
        goes_on: bool[n] whether a history has later events that are not in train.
        unit: see `episodes_of`.
        session_gap: minutes.
    """
    count = len(train.values)
    is_first = np.zeros(count, dtype=np.bool_)
    is_first[train.offsets[:-1][train.lengths > 0]] = True
    days = np.zeros(count)
    if "timestamp" in train.columns and count:
        times = train.columns["timestamp"].to_numpy()
        days[1:] = np.maximum(0, np.diff(times)) / _DAY
        days[is_first] = 0
    is_users_first = is_first
    if unit == "session":
        is_first = is_first | _session_starts(train, days, session_gap)
    numbers = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    stops = np.append(starts, count)[1:]
    ends_at_user = np.append(is_users_first, True)[stops]
    users = np.repeat(np.arange(len(train)), train.lengths)
    is_open = ends_at_user & goes_on[users[stops - 1]]
    return Episodes(starts[numbers], stops[numbers] - 1, ~is_open[numbers], days)


def _session_starts(train: RaggedArray, days: Doubles, session_gap: float) -> npt.NDArray[np.bool_]:
    """Return bool[m], whether a session begins with an event, apart from a user's first."""
    if "session_id" in train.columns:
        changes: npt.NDArray[np.bool_] = (
            train.columns["session_id"].ne_missing(train.columns["session_id"].shift(1)).to_numpy()
        )
        return changes
    if "timestamp" not in train.columns:
        raise ConfigError(
            "episode = 'session' needs the column `session_id` or the times of the events, and the "
            "data have neither; map one with --column, or use episode = 'user'."
        )
    return days * (_DAY / _MINUTE) > session_gap


def event_rewards(train: RaggedArray, weights: Mapping[str, float], what: str) -> Doubles:
    """Return float64[m], the weight of each event's type, 0 without a type; 1 without weights.

    Args:
        train: histories with the column `event_type` if there are weights.
        weights: of each event type of the log.
        what: what needs the types, for the error message.

    Raises:
        ConfigError: see `weights_of_types`.
    """
    if not weights:
        return np.ones(len(train.values))
    by_type = np.array([*weights_of_types(train, weights, what), 0.0])
    codes = train.columns["event_type"].to_physical().cast(pl.Int64)
    result: Doubles = by_type[codes.fill_null(len(by_type) - 1).to_numpy()]
    return result


def weights_of_types(train: RaggedArray, weights: Mapping[str, float], what: str) -> list[float]:
    """Return the weights in the order of the log's event types.

    Args:
        train: histories with the column `event_type`.
        weights: of each event type.
        what: what needs the types, for the error message.

    Raises:
        ConfigError: the log has no event types, one of them has no weight, or a weight is of a type
            that the log does not have.
    """
    types = event_types(train)
    if not types:
        raise ConfigError(
            f"{what} needs event types, and the data have none; map their column with "
            "--column event_type=NAME, or leave the weights out."
        )
    unknown = [name for name in weights if name not in types]
    missing = [name for name in types if name not in weights]
    if unknown or missing:
        wrong = (
            f"no event type is called {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing"
        )
        key = what if what.endswith("event_weights") else "event_weights"
        raise ConfigError(
            f"{key}: {wrong}. Give one weight for each type of the log "
            f"({', '.join(types)}), 0 for those that do not count."
        )
    return [weights[name] for name in types]
