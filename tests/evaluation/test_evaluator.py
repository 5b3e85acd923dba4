import math

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.batches import histories
from recoach.data.split import RaggedArray, assemble, leave_last_out
from recoach.errors import ConfigError, DataError, ModelError
from recoach.evaluation import evaluator
from recoach.evaluation.evaluator import evaluate, masks_seen, top_lists
from recoach.models.base import Embeddings, Recommender
from recoach.models.neighbours.popularity import PopularityConfig
from recoach.models.registry import build_model
from recoach.simulation.toy_logs import popularity_world


class Table(Recommender):
    """Gives each user a fixed row of scores."""

    def __init__(self, dataset, scores, reads=0):
        super().__init__(PopularityConfig(), dataset.train, dataset.n_items)
        self.register_buffer("scores", torch.as_tensor(scores, dtype=torch.float32))
        self.reads = reads

    @property
    def history_length(self):
        return self.reads

    def embed(self, queries):
        return Embeddings(self.scores[queries.state_users], torch.eye(self.n_items))

    def tables(self):
        return {}


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def dataset_of(train, valid, test, n_items):
    ids = [pl.Series([str(i) for i in range(n)], dtype=pl.String) for n in (len(train), n_items)]
    return assemble("tiny", (ids[0], ids[1]), (ragged(train), ragged(valid), ragged(test)))


TINY = dataset_of(
    train=[[0, 1], [2, 3, 4], [5]],
    valid=[[2], [5], []],
    test=[[3, 4], [2], [0]],
    n_items=6,
)
# Best first: 0 1 2 3 4 5 for everybody.
DOWNWARDS = np.tile(np.arange(6)[::-1], (3, 1))


def test_ranks_by_hand_with_all_of_the_past_masked():
    found = evaluate(Table(TINY, DOWNWARDS), TINY, "test", ks=[1, 2])
    assert found.users.tolist() == [0, 1, 2]
    # User 0 has had 0, 1 and 2; user 1's target 2 was seen in training and is ranked all the same.
    assert found.ranks.tolist() == [1, 2, 3, 1]
    assert found.metrics["recall@2"].tolist() == [1, 0, 1]
    assert found.means()["recall@2"] == pytest.approx(2 / 3)


def test_validation_knows_the_training_past_alone_and_skips_users_without_an_item():
    found = evaluate(Table(TINY, DOWNWARDS), TINY, "valid", ks=[1])
    assert found.users.tolist() == [0, 1]
    assert found.ranks.tolist() == [1, 3]


def test_without_a_mask_the_seen_items_stay_ahead():
    found = evaluate(Table(TINY, DOWNWARDS), TINY, "test", ks=[1], mask_seen="none")
    assert found.ranks.tolist() == [4, 5, 3, 1]


@pytest.mark.parametrize(
    ("mask_seen", "reads", "masked"),
    [
        ("all", 0, True),
        ("all", 5, True),
        ("recbole", 0, True),
        ("recbole", 5, False),
        ("none", 0, False),
        ("none", 5, False),
    ],
)
def test_the_protocol_masks_by_what_a_model_reads(mask_seen, reads, masked):
    model = Table(TINY, DOWNWARDS, reads)
    found = evaluate(model, TINY, mask_seen=mask_seen, ks=[1])
    assert masks_seen(mask_seen, model) is masked
    assert found.protocol["seen_masked_for_this_model"] is masked
    assert found.ranks.tolist() == ([1, 2, 3, 1] if masked else [4, 5, 3, 1])


def test_ranks_are_the_same_however_many_users_are_asked_for_at_once(monkeypatch):
    dataset = leave_last_out(popularity_world(50, 40))
    model = Table(dataset, np.random.default_rng(0).random((50, 40)))
    whole = evaluate(model, dataset).ranks
    monkeypatch.setattr(evaluator, "_USERS_AT_ONCE", 7)
    assert evaluate(model, dataset).ranks.tolist() == whole.tolist()
    some = np.array([31, 4, 19])
    assert evaluate(model, dataset, users=some).ranks.tolist() == whole[some].tolist()


def test_ranks_equal_sorting_everything_by_hand():
    dataset = leave_last_out(popularity_world(30, 25))
    scores = np.random.default_rng(1).random((30, 25))
    found = evaluate(Table(dataset, scores), dataset, "test")
    past = histories(dataset, "test")
    for user, rank in zip(found.users, found.ranks, strict=True):
        order = [i for i in np.argsort(-scores[user]) if i not in past.row(int(user))]
        assert order.index(dataset.test.row(int(user))[0]) + 1 == rank


def test_popularity_is_ranked_by_its_counts():
    dataset = leave_last_out(popularity_world(200, 20))
    model = build_model("popularity", dataset)
    upside_down = Table(dataset, np.tile(-model.counts.numpy(), (200, 1)))
    good, bad = (evaluate(m, dataset).means()["ndcg@10"] for m in (model, upside_down))
    assert good > bad + 0.1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_diverged_model_is_an_error_not_a_number(broken):
    scores = DOWNWARDS.astype(float)
    scores[1, 2] = broken
    with pytest.raises(ModelError, match="Table yields non-finite"):
        evaluate(Table(TINY, scores), TINY)


def test_a_model_in_training_is_given_back_in_training():
    model = Table(TINY, DOWNWARDS).train()
    evaluate(model, TINY)
    assert model.training
    evaluate(model.eval(), TINY)
    assert not model.training


@pytest.mark.parametrize("ks", [[], [0, 5]])
def test_a_list_must_have_a_length(ks):
    with pytest.raises(ConfigError, match="ks"):
        evaluate(Table(TINY, DOWNWARDS), TINY, ks=ks)


def test_nobody_to_ask_is_an_error():
    empty = dataset_of([[0, 1]], [[]], [[2]], 3)
    with pytest.raises(DataError, match="valid"):
        evaluate(Table(empty, np.zeros((1, 3))), empty, "valid")


def test_an_evaluation_shows_itself_in_a_line():
    shown = repr(evaluate(Table(TINY, DOWNWARDS), TINY, ks=[2]))
    assert shown.startswith("Evaluation(3 users, test: ")
    assert "recall@2=0.6667" in shown


@pytest.mark.parametrize("at_once", [1, 2, 1024])
def test_lists_are_what_users_would_have_been_shown_best_first(at_once, monkeypatch):
    monkeypatch.setattr(evaluator, "_USERS_AT_ONCE", at_once)
    model = Table(TINY, DOWNWARDS).train()
    users = np.array([1, 0, 2])
    found = top_lists(model, TINY, users, 3)
    assert found.tolist() == [[0, 1, -1], [3, 4, 5], [0, 1, 2]]
    assert top_lists(model, TINY, users, 2, mask_seen="none").tolist() == [[0, 1]] * 3
    assert top_lists(model, TINY, users[:1], 9).tolist() == [[0, 1, *[-1] * 7]]
    assert model.training
