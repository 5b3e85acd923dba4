import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.evaluation import ranking
from recoach.evaluation.ranking import BLOCK_SIZE, between, target_ranks, top_items


def pairs(rows):
    """Return (states, items) of a list of rows of items, sorted by state."""
    states = [state for state, row in enumerate(rows) for _ in row]
    items = [item for row in rows for item in row]
    return torch.tensor(states, dtype=torch.int64), torch.tensor(items, dtype=torch.int64)


def vectors(scores, nan_items=()):
    """Return users and items whose products are these scores, NaN in whole columns."""
    items = torch.eye(len(scores[0]))
    items[list(nan_items)] = math.nan
    return torch.tensor(scores, dtype=torch.float32), items


def sorted_rank(scores, target, seen):
    """Sort what may be shown, the worst place for the target among equals; NaN beats it."""

    def key(item):
        if math.isnan(scores[item]):
            return -math.inf if item == target else math.inf
        return scores[item]

    shown = [item for item in range(len(scores)) if item == target or item not in seen]
    return sorted(shown, key=lambda item: (-key(item), item == target)).index(target) + 1


@st.composite
def rankings(draw):
    n_items = draw(st.integers(1, 7))
    item = st.integers(0, n_items - 1)
    score = st.integers(-2, 2)
    scores = draw(
        st.lists(st.lists(score, min_size=n_items, max_size=n_items), min_size=1, max_size=5)
    )
    rows = st.lists(st.lists(item, max_size=4), min_size=len(scores), max_size=len(scores))
    seen = [sorted(set(row)) for row in draw(rows)]
    return scores, draw(rows), seen, sorted(draw(st.sets(item, max_size=2)))


@settings(max_examples=80, deadline=None)
@given(rankings())
def test_ranks_equal_a_sorted_list_with_ties_and_nan_against_the_target(case):
    scores, targets, seen, nan_items = case
    found = target_ranks(*vectors(scores, nan_items), pairs(targets), pairs(seen)).tolist()
    poisoned = [[math.nan if i in nan_items else s for i, s in enumerate(row)] for row in scores]
    expected = [
        sorted_rank(poisoned[state], target, seen[state])
        for state, row in enumerate(targets)
        for target in row
    ]
    assert found == expected


def test_a_constant_scorer_ranks_its_target_last_not_first():
    assert target_ranks(*vectors([[1, 1, 1, 1]]), pairs([[2]])).tolist() == [4]


def test_a_target_without_a_number_is_last():
    assert target_ranks(*vectors([[3, 2, 1]], [0]), pairs([[0]])).tolist() == [3]


def test_a_seen_item_is_ahead_of_nothing():
    users, items = vectors([[3, 2, 1]])
    assert target_ranks(users, items, pairs([[2]]), pairs([[0]])).tolist() == [2]


def test_a_target_that_was_seen_is_still_ranked():
    users, items = vectors([[3, 2, 1]])
    assert target_ranks(users, items, pairs([[0]]), pairs([[0, 1]])).tolist() == [1]


def test_ranks_do_not_depend_on_how_many_states_are_asked_for_at_once():
    users, items = torch.randn(BLOCK_SIZE + 40, 16), torch.randn(300, 16)
    targets = (torch.arange(len(users)), torch.randint(300, (len(users),)))
    whole = target_ranks(users, items, targets)
    for states in (slice(0, 1), slice(200, 290)):
        part = (torch.arange(states.stop - states.start), targets[1][states])
        assert target_ranks(users[states], items, part).tolist() == whole[states].tolist()


def test_as_many_targets_as_a_block_has_rows_keep_their_own_states():
    users, items = torch.randn(BLOCK_SIZE // 2, 4), torch.randn(9, 4)
    rows = [[state % 9, (state + 4) % 9] for state in range(len(users))]
    alone = [
        target_ranks(users[state : state + 1], items, pairs([row]))
        for state, row in enumerate(rows)
    ]
    assert target_ranks(users, items, pairs(rows)).tolist() == torch.cat(alone).tolist()


@settings(max_examples=50, deadline=None)
@given(rankings(), st.integers(1, 9))
def test_the_best_items_are_those_of_a_sorted_list(case, k):
    scores, _, seen, _ = case
    best = top_items(*vectors(scores), k, pairs(seen))
    for state, row in enumerate(scores):
        left = sorted((s for i, s in enumerate(row) if i not in seen[state]), reverse=True)
        shown = [item for item in best.items[state].tolist() if item >= 0]
        assert [row[item] for item in shown] == left[:k]
        assert len(set(shown)) == len(shown)
        assert not set(shown) & set(seen[state])
        assert best.items.shape[1] == min(k, len(row))


def test_places_without_an_item_left_are_minus_one():
    best = top_items(*vectors([[3, 2, 1], [1, 2, 3]]), 3, pairs([[0, 1], []]))
    assert best.items.tolist() == [[2, -1, -1], [2, 1, 0]]
    assert best.scores[0].tolist() == [1, -math.inf, -math.inf]


def test_the_best_items_beyond_the_first_block_are_of_their_own_states():
    users, items = torch.randn(BLOCK_SIZE + 5, 4), torch.randn(9, 4)
    seen = (torch.arange(len(users)), torch.arange(len(users)) % 9)
    whole = top_items(users, items, 3, seen)
    last = top_items(users[-1:], items, 3, (seen[0][-1:] * 0, seen[1][-1:]))
    assert whole.items[-1].tolist() == last.items[0].tolist()


@pytest.mark.parametrize(
    ("start", "stop", "expected"), [(0, 1, 0), (1, 2, 2), (2, 5, 1), (0, 9, 4)]
)
def test_between_finds_the_states_of_a_block(start, stop, expected):
    states = torch.tensor([1, 1, 4, 8])
    which = between(states, start, stop)
    assert states[which].tolist() == [s for s in states.tolist() if start <= s < stop]
    assert which.stop - which.start == expected


def test_a_catalogue_too_large_for_a_full_block_is_ranked_in_smaller_ones(monkeypatch):
    users, items = torch.randn(11, 4), torch.randn(50, 4)
    targets = (torch.arange(11).repeat_interleave(2), torch.arange(22))
    seen = (torch.tensor([0, 4, 10]), torch.tensor([3, 9, 49]))
    wanted = target_ranks(users, items, targets, seen), top_items(users, items, 5, seen).items
    monkeypatch.setattr(ranking, "_MAX_SCORES", 3 * 50)
    found = target_ranks(users, items, targets, seen), top_items(users, items, 5, seen).items
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
