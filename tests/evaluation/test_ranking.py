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
    """Return user and item vectors whose products are these scores, NaN for `nan_items`."""
    items = torch.eye(len(scores[0]))
    items[list(nan_items)] = math.nan
    return torch.tensor(scores, dtype=torch.float32), items


def sorted_rank(scores, target, seen):
    """Return the target's rank by sorting the unmasked items; ties and NaN count against it."""

    def key(item):
        if math.isnan(scores[item]):
            return -math.inf if item == target else math.inf
        return scores[item]

    ranked = [item for item in range(len(scores)) if item == target or item not in seen]
    return sorted(ranked, key=lambda item: (-key(item), item == target)).index(target) + 1


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
    ranks = target_ranks(*vectors(scores, nan_items), pairs(targets), pairs(seen)).tolist()
    with_nan = [[math.nan if i in nan_items else s for i, s in enumerate(row)] for row in scores]
    expected = [
        sorted_rank(with_nan[state], target, seen[state])
        for state, row in enumerate(targets)
        for target in row
    ]
    assert ranks == expected


def test_with_constant_scores_the_target_is_ranked_last():
    assert target_ranks(*vectors([[1, 1, 1, 1]]), pairs([[2]])).tolist() == [4]


def test_a_target_with_a_nan_score_is_ranked_last():
    assert target_ranks(*vectors([[3, 2, 1]], [0]), pairs([[0]])).tolist() == [3]


def test_seen_items_are_left_out_of_the_ranking():
    users, items = vectors([[3, 2, 1]])
    assert target_ranks(users, items, pairs([[2]]), pairs([[0]])).tolist() == [2]


def test_a_target_in_the_seen_items_is_still_ranked():
    users, items = vectors([[3, 2, 1]])
    assert target_ranks(users, items, pairs([[0]]), pairs([[0, 1]])).tolist() == [1]


def test_ranks_do_not_depend_on_the_number_of_states_in_a_call():
    users, items = torch.randn(BLOCK_SIZE + 40, 16), torch.randn(300, 16)
    targets = (torch.arange(len(users)), torch.randint(300, (len(users),)))
    expected = target_ranks(users, items, targets)
    for states in (slice(0, 1), slice(200, 290)):
        part = (torch.arange(states.stop - states.start), targets[1][states])
        assert target_ranks(users[states], items, part).tolist() == expected[states].tolist()


def test_a_block_with_as_many_targets_as_rows_is_not_mistaken_for_one_target_per_row():
    users, items = torch.randn(BLOCK_SIZE // 2, 4), torch.randn(9, 4)
    rows = [[state % 9, (state + 4) % 9] for state in range(len(users))]
    alone = [
        target_ranks(users[state : state + 1], items, pairs([row]))
        for state, row in enumerate(rows)
    ]
    assert target_ranks(users, items, pairs(rows)).tolist() == torch.cat(alone).tolist()


@settings(max_examples=50, deadline=None)
@given(rankings(), st.integers(1, 9))
def test_top_items_equal_a_sorted_list(case, k):
    scores, _, seen, _ = case
    best = top_items(*vectors(scores), k, pairs(seen))
    for state, row in enumerate(scores):
        unseen = sorted((s for i, s in enumerate(row) if i not in seen[state]), reverse=True)
        top = [item for item in best.items[state].tolist() if item >= 0]
        assert [row[item] for item in top] == unseen[:k]
        assert len(set(top)) == len(top)
        assert not set(top) & set(seen[state])
        assert best.items.shape[1] == min(k, len(row))


def test_top_items_are_padded_with_minus_one():
    best = top_items(*vectors([[3, 2, 1], [1, 2, 3]]), 3, pairs([[0, 1], []]))
    assert best.items.tolist() == [[2, -1, -1], [2, 1, 0]]
    assert best.scores[0].tolist() == [1, -math.inf, -math.inf]


def test_top_items_of_the_second_block_use_its_own_masks():
    users, items = torch.randn(BLOCK_SIZE + 5, 4), torch.randn(9, 4)
    seen = (torch.arange(len(users)), torch.arange(len(users)) % 9)
    result = top_items(users, items, 3, seen)
    last = top_items(users[-1:], items, 3, (seen[0][-1:] * 0, seen[1][-1:]))
    assert result.items[-1].tolist() == last.items[0].tolist()


@pytest.mark.parametrize(
    ("start", "stop", "expected"), [(0, 1, 0), (1, 2, 2), (2, 5, 1), (0, 9, 4)]
)
def test_between_returns_the_slice_of_a_block(start, stop, expected):
    states = torch.tensor([1, 1, 4, 8])
    block = between((states,), start, stop)
    assert states[block].tolist() == [s for s in states.tolist() if start <= s < stop]
    assert block.stop - block.start == expected


def test_smaller_blocks_for_large_catalogues_give_the_same_result(monkeypatch):
    users, items = torch.randn(11, 4), torch.randn(50, 4)
    targets = (torch.arange(11).repeat_interleave(2), torch.arange(22))
    seen = (torch.tensor([0, 4, 10]), torch.tensor([3, 9, 49]))
    expected = target_ranks(users, items, targets, seen), top_items(users, items, 5, seen).items
    monkeypatch.setattr(ranking, "_MAX_SCORES", 3 * 50)
    result = target_ranks(users, items, targets, seen), top_items(users, items, 5, seen).items
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
