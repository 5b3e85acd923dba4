import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.dataset import RaggedArray, assemble
from recoach.data.queries import histories
from recoach.data.split import leave_last_out
from recoach.data.targets import targets_of
from recoach.errors import ConfigError, DataError, ModelError
from recoach.evaluation import evaluator, ranking
from recoach.evaluation.evaluator import evaluate, masks_seen, top_lists
from recoach.evaluation.metrics import MISS
from recoach.experiments.trainer import GRPOTrainer
from recoach.loaded import LoadedModel
from recoach.models.base import DotProductRecommender, Embeddings, Recommender
from recoach.models.neighbours.popularity import PopularityConfig
from recoach.models.registry import build_model
from toy_logs import popularity_world


class ScoreTable(DotProductRecommender):
    """A model with fixed scores for each user."""

    def __init__(self, dataset, scores, history_length=0):
        super().__init__(PopularityConfig(), dataset.train, dataset.n_items)
        self.register_buffer("scores", torch.as_tensor(scores, dtype=torch.float32))
        self._history_length = history_length

    @property
    def history_length(self):
        return self._history_length

    def embed(self, queries):
        return Embeddings(self.scores[queries.state_users], torch.eye(self.n_items))

    def parameter_groups(self):
        return {}


class Scorer(Recommender):
    """The same scores without vectors, computed for the items that are asked for."""

    scores_at_once = 8

    def __init__(self, dataset, scores, history_length=0):
        super().__init__(PopularityConfig(), dataset.train, dataset.n_items)
        self.register_buffer("scores", torch.as_tensor(scores, dtype=torch.float32))
        self.sizes = []

    def score(self, queries, items=None):
        scores = self.scores[queries.state_users]
        scores = scores if items is None else scores[:, items]
        self.sizes.append(scores.numel())
        return scores

    def parameter_groups(self):
        return {}


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def make_dataset(train, valid, test, n_items):
    ids = [pl.Series([str(i) for i in range(n)], dtype=pl.String) for n in (len(train), n_items)]
    return assemble("tiny", (ids[0], ids[1]), (ragged(train), ragged(valid), ragged(test)))


TINY = make_dataset(
    train=[[0, 1], [2, 3, 4], [5]],
    valid=[[2], [5], []],
    test=[[3, 4], [2], [0]],
    n_items=6,
)
# The ranking of every user is 0 1 2 3 4 5.
DESCENDING = np.tile(np.arange(6)[::-1], (3, 1))


def test_ranks_by_hand_with_the_whole_history_masked():
    evaluation = evaluate(ScoreTable(TINY, DESCENDING), TINY, "test", ks=[1, 2])
    # The history of user 0 is 0, 1, 2. The only target of user 1 is in the history: it is masked,
    # and the user has nothing left to predict.
    assert evaluation.users.tolist() == [0, 2]
    assert evaluation.ranks.tolist() == [1, 2, 1]
    assert evaluation.metrics["recall@2"].tolist() == [1, 1]
    assert evaluation.protocol["excluded"] == {"repeated items": 1}
    assert evaluation.metrics["auc"].tolist() == [1, 1]


def test_repeated_targets_are_evaluated_apart():
    model = ScoreTable(TINY, DESCENDING)
    evaluation = evaluate(model, TINY, "test", ks=[1, 2], repeats="repeat")
    assert evaluation.users.tolist() == [1]
    assert evaluation.ranks.tolist() == [3]
    assert evaluation.protocol["excluded"] == {"new items": 3}
    every = evaluate(model, TINY, "test", ks=[1, 2], repeats="all")
    assert every.targets.repeated.tolist() == [False, False, True, False]


def test_the_former_keyword_mask_seen_is_converted():
    model = ScoreTable(TINY, DESCENDING)
    for former, repeats in (("all", "new"), ("none", "all"), ("recbole", "recbole")):
        with pytest.warns(DeprecationWarning, match=f"repeats='{repeats}'"):
            old = evaluate(model, TINY, mask_seen=former)
        assert old.ranks.tolist() == evaluate(model, TINY, repeats=repeats).ranks.tolist()


def test_an_item_that_is_not_in_train_is_a_miss():
    cold = make_dataset([[0, 1], [1, 0]], [[], []], [[2], [2]], 3)
    evaluation = evaluate(ScoreTable(cold, [[0, 0, 9], [0, 0, 9]]), cold, ks=[1, 50])
    assert evaluation.ranks.tolist() == [MISS, MISS]
    assert evaluation.metrics["recall@50"].tolist() == [0, 0]
    assert evaluation.protocol["cold_targets"] == 2


def test_items_that_a_user_rejected_before_are_masked():
    negatives = replace(ragged([[0, 4], [], [1]]), columns={"after": pl.Series([3, 4, 1])})
    dataset = replace(TINY, negatives=negatives)
    evaluation = evaluate(ScoreTable(dataset, DESCENDING), dataset, "test", ks=[1], repeats="all")
    # User 0 has three events before the test items: the rejection after the fourth is later.
    assert evaluation.ranks.tolist() == [3, 4, 3, 1]
    assert (
        evaluation.ranks.tolist()
        != evaluate(
            ScoreTable(TINY, DESCENDING), TINY, "test", ks=[1], repeats="all"
        ).ranks.tolist()
    )


def test_validation_masks_the_training_history_only_and_skips_users_without_a_target():
    evaluation = evaluate(ScoreTable(TINY, DESCENDING), TINY, "valid", ks=[1])
    assert evaluation.users.tolist() == [0, 1]
    assert evaluation.ranks.tolist() == [1, 3]


def test_without_a_mask_seen_items_are_ranked_too():
    evaluation = evaluate(ScoreTable(TINY, DESCENDING), TINY, "test", ks=[1], repeats="all")
    assert evaluation.ranks.tolist() == [4, 5, 3, 1]


@pytest.mark.parametrize(
    ("repeats", "history_length", "ranks"),
    [
        ("new", 0, [1, 2, 1]),
        ("new", 5, [1, 2, 1]),
        ("recbole", 0, [1, 2, 3, 1]),
        ("recbole", 5, [4, 5, 3, 1]),
        ("all", 0, [4, 5, 3, 1]),
        ("all", 5, [4, 5, 3, 1]),
    ],
)
def test_the_recbole_protocol_masks_only_models_without_history(repeats, history_length, ranks):
    model = ScoreTable(TINY, DESCENDING, history_length)
    evaluation = evaluate(model, TINY, repeats=repeats, ks=[1])
    masked = ranks[0] == 1
    assert masks_seen(repeats, model) is masked
    assert evaluation.protocol["seen_masked_for_this_model"] is masked
    assert evaluation.ranks.tolist() == ranks


def test_ranks_do_not_depend_on_the_number_of_users_per_batch(monkeypatch):
    dataset = leave_last_out(popularity_world(50, 40))
    model = ScoreTable(dataset, np.random.default_rng(0).random((50, 40)))
    expected = evaluate(model, dataset).ranks
    monkeypatch.setattr(evaluator, "_STATES_AT_ONCE", 7)
    assert evaluate(model, dataset).ranks.tolist() == expected.tolist()
    users = np.array([4, 19, 31])
    assert evaluate(model, dataset, users=users).ranks.tolist() == expected[users].tolist()


def test_ranks_equal_sorting_all_unseen_items():
    dataset = leave_last_out(popularity_world(30, 25))
    scores = np.random.default_rng(1).random((30, 25))
    evaluation = evaluate(ScoreTable(dataset, scores), dataset, "test")
    past = histories(dataset, "test")
    for user, rank in zip(evaluation.users, evaluation.ranks, strict=True):
        order = [i for i in np.argsort(-scores[user]) if i not in past.row(int(user))]
        assert order.index(dataset.test.row(int(user))[0]) + 1 == rank


def test_popularity_ranks_items_by_their_counts():
    dataset = leave_last_out(popularity_world(200, 20))
    model = build_model("popularity", dataset)
    reverse = ScoreTable(dataset, np.tile(-model.counts.numpy(), (200, 1)))
    ndcg, reverse_ndcg = (evaluate(m, dataset).means()["ndcg@10"] for m in (model, reverse))
    assert ndcg > reverse_ndcg + 0.1


@pytest.mark.parametrize("block_size", [7, 256])
@pytest.mark.parametrize("repeats", ["new", "all"])
def test_a_model_without_vectors_has_the_ranks_and_lists_of_its_scores(
    repeats, block_size, monkeypatch
):
    monkeypatch.setattr(ranking, "_MAX_SCORES", block_size * 40)
    dataset = leave_last_out(popularity_world(50, 40))
    scores = np.random.default_rng(0).random((50, 40))
    model, scorer = ScoreTable(dataset, scores), Scorer(dataset, scores)
    users = np.array([31, 4, 19])
    for selected in (None, users):
        expected, result = (
            evaluate(m, dataset, repeats=repeats, users=selected).ranks for m in (model, scorer)
        )
        assert result.tolist() == expected.tolist()
    expected, result = (
        top_lists(m, dataset, targets_of(dataset, "test", repeats), 5) for m in (model, scorer)
    )
    assert result.tolist() == expected.tolist()


def test_a_model_without_vectors_is_called_for_as_many_scores_as_it_allows():
    scorer = Scorer(TINY, DESCENDING)
    evaluate(scorer, TINY, repeats="all")
    assert max(scorer.sizes) <= scorer.scores_at_once
    assert sum(scorer.sizes) == DESCENDING.size


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("kind", "what"), [(ScoreTable, "vectors"), (Scorer, "scores")])
def test_a_diverged_model_is_a_model_error(value, kind, what):
    scores = DESCENDING.astype(float)
    scores[1, 2] = value
    with pytest.raises(ModelError, match=f"{kind.__name__} yields non-finite {what}"):
        evaluate(kind(TINY, scores), TINY, repeats="all")


def test_evaluation_restores_the_training_mode():
    model = ScoreTable(TINY, DESCENDING).train()
    evaluate(model, TINY)
    assert model.training
    evaluate(model.eval(), TINY)
    assert not model.training


@pytest.mark.parametrize("ks", [[], [0, 5]])
def test_ks_must_be_positive(ks):
    with pytest.raises(ConfigError, match="ks"):
        evaluate(ScoreTable(TINY, DESCENDING), TINY, ks=ks)


@pytest.mark.parametrize("name", ["validation", "tset", "train", "all", "", None])
def test_a_part_other_than_valid_and_test_is_a_config_error(name):
    dataset = leave_last_out(popularity_world())
    model = build_model("popularity", dataset)
    loaded = LoadedModel(Path(), "base", model, dataset, "new")
    trainer = GRPOTrainer(build_model("sasrec", dataset, dim=8), train_dataset=dataset)
    for function in (
        lambda: evaluate(model, dataset, name),
        lambda: loaded.evaluate(name),
        lambda: trainer.evaluate(name),
        lambda: targets_of(dataset, name),
    ):
        with pytest.raises(ConfigError, match=f"no part {name!r} .*'valid'.*'test'"):
            function()
    with pytest.raises(ConfigError, match=r"no split 'tset'.*'valid', 'test' or 'all'"):
        histories(dataset, "tset")


def test_a_split_without_targets_is_a_data_error():
    empty = make_dataset([[0, 1]], [[]], [[2]], 3)
    with pytest.raises(DataError, match="valid"):
        evaluate(ScoreTable(empty, np.zeros((1, 3))), empty, "valid")


def test_repr_of_an_evaluation_has_the_mean_metrics():
    text = repr(evaluate(ScoreTable(TINY, DESCENDING), TINY, ks=[2], repeats="recbole"))
    assert text.startswith("Evaluation(3 states, test: ")
    assert "recall@2=0.6667" in text


@pytest.mark.parametrize("states_at_once", [1, 2, 1024])
def test_top_lists_by_hand(states_at_once, monkeypatch):
    monkeypatch.setattr(evaluator, "_STATES_AT_ONCE", states_at_once)
    model = ScoreTable(TINY, DESCENDING).train()
    targets = targets_of(TINY, "test", "recbole")
    masked = targets.select(np.array([True, True, False]))
    assert top_lists(model, TINY, masked, 3).tolist() == [[3, 4, 5], [0, 1, -1]]
    assert top_lists(model, TINY, targets_of(TINY, "test", "all"), 2).tolist() == [[0, 1]] * 3
    second = targets.select(np.array([False, True, False]))
    assert top_lists(model, TINY, second, 9).tolist() == [[0, 1, *[-1] * 7]]
    assert model.training
