"""Models of repeated and of popular items, and what all models without weights share."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from neighbour_logs import model_of, queries_of, scores_of

from recoach.models.neighbours.history_model import HistoryModel
from recoach.models.registry import MODELS

ROWS = [[0, 1], [1, 2], [1, 2, 4], [], [3, 3, 3, 3]]
N_ITEMS = 6
DAY = 86_400_000
HISTORY_MODELS = [name for name, entry in MODELS.items() if issubclass(entry.model, HistoryModel)]


def ranking(model, history):
    scores = scores_of(model, history)[0]
    assert len(set(scores.tolist())) == N_ITEMS
    return scores.argsort(descending=True).tolist()


def test_repeat_last_ranks_by_recency_then_by_popularity():
    model = model_of("repeat_last", ROWS, N_ITEMS)
    assert ranking(model, [4, 0, 4, 5]) == [5, 4, 0, 3, 1, 2]
    assert scores_of(model, [4, 0, 4, 5])[0].ceil().tolist()[4:] == [3, 4]


def test_session_popularity_ranks_by_occurrences_then_by_popularity():
    model = model_of("session_popularity", ROWS, N_ITEMS)
    assert ranking(model, [0, 5, 5, 2]) == [5, 2, 0, 3, 1, 4]


@pytest.mark.parametrize("name", HISTORY_MODELS)
def test_an_empty_history_gets_the_items_by_popularity_the_lower_first(name):
    model = model_of(name, ROWS, N_ITEMS)
    assert ranking(model, []) == [3, 1, 2, 0, 4, 5]


@pytest.mark.parametrize("name", HISTORY_MODELS)
def test_unknown_and_repeated_items_and_tiny_logs_have_finite_scores(name):
    model = model_of(name, ROWS, N_ITEMS)
    scores = scores_of(model, [5, 5], [5, 1, 5], [1] * 40, [])
    assert scores.shape == (4, N_ITEMS)
    assert bool(torch.isfinite(scores).all())
    for rows in ([], [[]], [[0]]):
        small = model_of(name, rows, 1)
        assert bool(torch.isfinite(scores_of(small, [0], [])).all())


@pytest.mark.parametrize("name", HISTORY_MODELS)
def test_states_that_share_a_row_have_the_scores_of_their_prefixes(name):
    model = model_of(name, ROWS, N_ITEMS)
    queries = queries_of([[1, 2, 0, 1]], N_ITEMS)
    shared = replace(queries, rows=torch.zeros(4).long(), ends=torch.tensor([4, 1, 0, 2]))
    expected = scores_of(model, [1, 2, 0, 1], [1], [], [1, 2])
    assert torch.allclose(model.score(shared), expected)


def test_recent_popularity_counts_the_last_days_of_train():
    rows, times = [[0, 1, 1], [2, 1, 0]], np.array([0, 8, 9.5, 1, 2.5, 10]) * DAY
    times = times.astype(np.int64)
    week = model_of("recent_popularity", rows, 4, times=times, days=7.5)
    assert scores_of(week, [])[0].round().tolist()[:3] == [1, 3, 0]
    assert scores_of(week, [])[0].argsort(descending=True).tolist() == [1, 0, 2, 3]
    decayed = model_of("recent_popularity", rows, 4, times=times, days=5, half_life=1.0)
    expected = torch.tensor([1, 0.25 + 0.5**0.5, 0, 0])
    assert torch.allclose(scores_of(decayed, [])[0], expected, atol=1e-5)


def test_recent_popularity_without_times_counts_the_end_of_the_file_and_says_so(caplog):
    model = model_of("recent_popularity", [[0, 0, 0], [1, 2]], 3, share=0.4)
    assert "The log has no times" in caplog.text
    assert "last 40 %" in caplog.text
    assert scores_of(model, [])[0].argsort(descending=True).tolist() == [1, 2, 0]


def test_an_interaction_without_a_time_is_the_oldest(caplog):
    times = [None, 0, 100 * DAY]
    model = model_of("recent_popularity", [[0, 2, 1]], 3, times=times)
    assert scores_of(model, [])[0].argsort(descending=True).tolist() == [1, 0, 2]
    assert caplog.text == ""
