"""The assignment of users to the runs of an A/B test."""

import numpy as np
import pytest

from recoach.errors import ConfigError
from recoach.serving.split import Split, history_hash, keyed_hash


def test_shares_of_100000_users_are_those_given_and_users_keep_their_arm():
    users = [f"user-{number}" for number in range(100_000)]
    split = Split({"A": 0.6, "B": 0.3, "C": 0.1}, "salt")
    arms = [split.arm_of(user) for user in users]
    for arm, share in (("A", 0.6), ("B", 0.3), ("C", 0.1)):
        deviation = 4 * np.sqrt(share * (1 - share) / len(users))  # 1 in 16,000
        assert arms.count(arm) / len(users) == pytest.approx(share, abs=deviation)
    again = Split({"A": 0.6, "B": 0.3, "C": 0.1}, "salt")
    assert [again.arm_of(user) for user in users[:1000]] == arms[:1000]


def test_a_larger_share_keeps_the_users_that_an_arm_has():
    users = [f"user-{number}" for number in range(10_000)]
    first = Split({"old": 0.9, "new": 0.1}, "salt")
    later = Split({"old": 0.8, "new": 0.2}, "salt")
    new_users = {user for user in users if first.arm_of(user) == "new"}
    assert new_users <= {user for user in users if later.arm_of(user) == "new"}


def test_another_salt_gives_an_independent_assignment():
    users = [f"user-{number}" for number in range(10_000)]
    splits = [Split({"A": 0.5, "B": 0.5}, salt) for salt in ("one", "two")]
    same = np.mean([len({split.arm_of(user) for split in splits}) == 1 for user in users])
    assert same == pytest.approx(0.5, abs=0.02)


def test_an_arm_without_a_share_gets_no_user():
    split = Split({"A": 0.0, "B": 1.0}, "salt")
    assert {split.arm_of(str(number)) for number in range(1000)} == {"B"}


@pytest.mark.parametrize(
    "shares", [(0.5, 0.4), (1.2, -0.2), (float("nan"), 1.0), (float("inf"), 0.0), ()]
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ConfigError, match="--split"):
        Split(dict(zip("AB", shares, strict=False)), "salt")


def test_hashes_depend_on_salt_and_on_the_items_and_their_order():
    assert keyed_hash("s", "u") == keyed_hash("s", "u")
    assert len(keyed_hash("s", "u")) == 32
    assert keyed_hash("s", "u") != keyed_hash("t", "u")
    hashes = {
        history_hash("s", items)
        for items in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a"], ["2:ab"])
    }
    assert len(hashes) == 6
