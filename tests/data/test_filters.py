import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.filters import deduplicate, k_core, rating_at_least
from recoach.data.interactions import Interactions, renumber
from recoach.errors import DataError


def log(pairs, times=None, ratings=None):
    columns = {}
    if times is not None:
        columns["timestamp"] = pl.Series(times, dtype=pl.Int64)
    if ratings is not None:
        columns["rating"] = pl.Series(ratings, dtype=pl.Float32)
    users, user_codes = renumber(np.array([user for user, _ in pairs]), 100)
    items, item_codes = renumber(np.array([item for _, item in pairs]), 100)
    return Interactions(
        users,
        items,
        pl.Series(user_codes).cast(pl.String),
        pl.Series(item_codes).cast(pl.String),
        columns,
    )


def pairs_of(interactions):
    return [(int(user), int(item)) for user, item in interactions.frame()[:, :2].rows()]


def naive_core(pairs, k):
    while True:
        users = [user for user, _ in pairs]
        items = [item for _, item in pairs]
        kept = [p for p in pairs if users.count(p[0]) >= k and items.count(p[1]) >= k]
        if kept == pairs:
            return kept
        pairs = kept


PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=50)


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_k_core_equals_a_naive_implementation(pairs, k):
    expected = naive_core(pairs, k)
    if expected:
        core = k_core(log(pairs), k)
        assert pairs_of(core) == expected
        assert pairs_of(k_core(core, k)) == expected
    else:
        with pytest.raises(DataError, match=f"the {k}-core is empty"):
            k_core(log(pairs), k)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_an_empty_core_names_the_largest_k_that_leaves_something(pairs):
    largest = max(k for k in range(60) if naive_core(pairs, k))
    with pytest.raises(
        DataError, match=rf"k_core = {largest}, the largest k that leaves something \("
    ):
        k_core(log(pairs), 60)


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.integers(1, 3))
def test_ids_stay_dense_and_in_order_of_first_appearance(pairs, k):
    if naive_core(pairs, k):
        core = k_core(log(pairs), k)
        for codes, ids in ((core.users, core.user_ids), (core.items, core.item_ids)):
            assert list(dict.fromkeys(codes.tolist())) == list(range(len(ids)))


def test_repeats_count_toward_the_core():
    assert pairs_of(k_core(log([(0, 0), (0, 0), (1, 1)]), 2)) == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("keep", "kept"), [("first", [5, 2, 1]), ("last", [2, 9, 3])])
def test_deduplication_goes_by_time(keep, kept):
    pairs = [(0, 0), (1, 1), (0, 0), (2, 2), (2, 2)]
    times = [5, 2, 9, 3, 1]
    assert sorted(deduplicate(log(pairs, times), keep).times.tolist()) == sorted(kept)


@pytest.mark.parametrize(("keep", "kept"), [("first", [10, 30]), ("last", [20, 30])])
@pytest.mark.parametrize("times", [None, [7, 7, 7]])
def test_deduplication_breaks_ties_by_file_order(keep, kept, times):
    repeats = log([(0, 0), (0, 0), (1, 0)], times, ratings=[10, 20, 30])
    assert deduplicate(repeats, keep).ratings.tolist() == kept


def test_the_threshold_itself_is_kept():
    kept = rating_at_least(log([(0, 0), (1, 1), (2, 2)], ratings=[3.9, 4, 5]), 4)
    assert pairs_of(kept) == [(1, 1), (2, 2)]


def test_a_rating_threshold_needs_ratings():
    with pytest.raises(DataError, match="needs a rating column"):
        rating_at_least(log([(0, 0)]), 4)


def test_a_threshold_above_all_ratings_names_the_highest():
    with pytest.raises(DataError, match="no rating reaches 9, the highest is 5"):
        rating_at_least(log([(0, 0)], ratings=[5]), 9)
