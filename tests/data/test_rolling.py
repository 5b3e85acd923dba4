"""Rolling windows: which events they train on, validate on and test."""

import numpy as np
import pytest

from recoach.data.protocol import ByTime, Rolling
from recoach.data.rolling import rolling
from recoach.data.targets import targets_of
from recoach.errors import DataError
from recoach.simulation.shop import make_log

LOG = make_log(np.arange(400) % 8, np.arange(400) % 7, (8, 7), np.arange(400) * 1000)


def times(part):
    return part.columns["timestamp"].to_numpy() // 1000


def test_windows_follow_each_other_and_train_on_all_events_before():
    windows = rolling(LOG, Rolling(windows=3, share=0.3, target="successive"))
    assert len(windows) == 3
    for number, window in enumerate(windows):
        start = 280 + 40 * number  # 400 events, 40 in each window
        assert sorted(times(window.test)) == list(range(start, start + 40))
        assert sorted(times(window.valid)) == list(range(start - 40, start))
        assert sorted(times(window.train)) == list(range(start - 40))
        assert len(targets_of(window, "test", "all").positions) == 40
        assert window.user_ids.equals(windows[0].user_ids)
        assert window.item_ids.equals(windows[0].item_ids)


def test_the_last_window_ends_with_the_log_and_keeps_the_settings_of_the_targets():
    splits = Rolling(windows=2, share=0.4, cold="drop", target="first").splits()
    assert [(split.at, split.until) for split in splits] == [
        (pytest.approx(0.6), pytest.approx(0.8)),
        (pytest.approx(0.8), None),
    ]
    assert splits[0].valid_at == pytest.approx(1 - 0.2 / 0.6)
    assert all(split.cold == "drop" and split.target == "first" for split in splits)
    assert all(isinstance(split, ByTime) for split in splits)


def test_windows_without_events_to_train_on_are_refused():
    with pytest.raises(ValueError, match="leaves no events to train on"):
        Rolling(windows=1, share=0.6).splits()


def test_a_log_without_times_has_no_windows():
    log = make_log(np.arange(40) % 4, np.arange(40) % 7, (4, 7))
    without = type(log)(log.users, log.items, log.user_ids, log.item_ids)
    with pytest.raises(DataError, match="needs times"):
        rolling(without)
