"""Episodes, discounts and returns of training histories, by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recoach.data.dataset import RaggedArray
from recoach.data.episodes import episodes_of, event_rewards, split_episodes
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from toy_logs import cycle

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
TIMES = [0, MINUTE, DAY, DAY + 30 * MINUTE, DAY + 61 * MINUTE, 5, 5 + 2 * DAY]
TYPES = pl.Enum(["view", "buy"])
HISTORIES = RaggedArray(
    np.array([0, 5, 5, 7]),
    np.arange(7, dtype=np.int32),
    {
        "timestamp": pl.Series(TIMES, dtype=pl.Int64),
        "event_type": pl.Series(["view", "view", "view", "buy", "view", "buy", None], dtype=TYPES),
    },
)
GOES_ON = np.array([True, True, False])


def test_a_users_history_is_one_episode_which_is_closed_if_nothing_follows():
    episodes = split_episodes(HISTORIES, GOES_ON)
    assert episodes.first.tolist() == [0, 0, 0, 0, 0, 5, 5]
    assert episodes.last.tolist() == [4, 4, 4, 4, 4, 6, 6]
    assert episodes.is_closed.tolist() == [False] * 5 + [True] * 2
    assert episodes.remaining.tolist() == [4, 3, 2, 1, 0, 1, 0]
    assert episodes.elapsed.tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_a_session_ends_after_a_longer_pause_and_the_last_one_is_closed_like_its_user():
    episodes = split_episodes(HISTORIES, GOES_ON, "session", 30)
    assert episodes.first.tolist() == [0, 0, 2, 2, 4, 5, 6]
    assert episodes.last.tolist() == [1, 1, 3, 3, 4, 5, 6]
    assert episodes.is_closed.tolist() == [True] * 4 + [False] + [True] * 2


def test_session_ids_end_sessions_where_the_log_has_them():
    ids = pl.Series(["a", "a", "a", "b", "b", "b", "b"])
    with_ids = replace(HISTORIES, columns={**HISTORIES.columns, "session_id": ids})
    episodes = split_episodes(with_ids, GOES_ON, "session", 30)
    # The two users share the id "b", and are two sessions.
    assert episodes.first.tolist() == [0, 0, 0, 3, 3, 5, 5]


def test_sessions_need_ids_or_times():
    bare = replace(HISTORIES, columns={})
    with pytest.raises(ConfigError, match="neither"):
        split_episodes(bare, GOES_ON, "session")
    assert split_episodes(bare, GOES_ON).days.tolist() == [0] * 7


def test_returns_by_hand():
    # The chain view, view, view, buy, view with rewards .2 and 1 (Xin et al. 2020).
    episodes = split_episodes(HISTORIES, GOES_ON)
    rewards = event_rewards(HISTORIES, {"view": 0.2, "buy": 1.0}, "a test")
    assert rewards.tolist() == [0.2, 0.2, 0.2, 1.0, 0.2, 1.0, 0.0]
    returns = episodes.returns(rewards, episodes.discounts(0.5, "event"))
    assert returns == pytest.approx([0.4875, 0.575, 0.75, 1.1, 0.2, 1.0, 0.0])


def test_a_discount_by_day_is_a_power_of_the_time_between_two_events():
    episodes = split_episodes(HISTORIES, GOES_ON)
    found = episodes.discounts(0.5, "day")
    by_hand = [0.5 ** (1 / 1440), 0.5 ** (1439 / 1440), 0.5 ** (30 / 1440), 0.5 ** (31 / 1440)]
    # The last event of the first user is open: a day is taken. The other user's ends the episode.
    assert found == pytest.approx([*by_hand, 0.5, 0.25, 0.0])


def test_returns_stop_at_the_end_of_a_session():
    episodes = split_episodes(HISTORIES, GOES_ON, "session", 30)
    returns = episodes.returns(np.ones(7), episodes.discounts(0.5, "event"))
    assert returns.tolist() == [1.5, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0]


def test_returns_equal_the_loop_on_a_random_log():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 50)
    rows = RaggedArray.from_lengths(lengths, np.zeros(lengths.sum(), dtype=np.int32))
    episodes = split_episodes(rows, rng.random(50) < 0.5)
    rewards, discounts = rng.random(lengths.sum()), episodes.discounts(0.9, "event")
    expected = rewards.copy()
    for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False):
        for event in range(stop - 2, start - 1, -1):
            expected[event] += 0.9 * expected[event + 1]
    assert episodes.returns(rewards, discounts) == pytest.approx(expected)


def test_a_dataset_tells_which_histories_go_on():
    dataset = leave_last_out(cycle(6, 5, length=5))
    assert not episodes_of(dataset).is_closed.any()


def test_no_events_are_no_episodes():
    episodes = split_episodes(RaggedArray.empty(3), np.zeros(3, dtype=np.bool_), "user")
    assert len(episodes.last) == len(episodes.is_closed) == 0
    assert len(episodes.returns(np.empty(0), episodes.discounts(0.5, "day"))) == 0


def test_weights_name_every_type_of_the_log():
    assert event_rewards(replace(HISTORIES, columns={}), {}, "x").tolist() == [1.0] * 7
    with pytest.raises(ConfigError, match="'buy' is missing"):
        event_rewards(HISTORIES, {"view": 1.0}, "x")
    with pytest.raises(ConfigError, match="'bye'"):
        event_rewards(HISTORIES, {"view": 1.0, "buy": 1.0, "bye": 1.0}, "x")
    with pytest.raises(ConfigError, match="reward 'return' needs event types"):
        event_rewards(replace(HISTORIES, columns={}), {"view": 1.0}, "reward 'return'")
