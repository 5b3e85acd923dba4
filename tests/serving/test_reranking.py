"""Re-ranked lists in service: the same as offline, whatever else is in the batch."""

import numpy as np
import pytest

import recoach
from recoach.data.targets import targets_of
from recoach.errors import ConfigError
from recoach.evaluation.ranking import TopItems
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import build_reranker
from recoach.serving.exploration import ServedPolicy
from recoach.serving.recommend import UserBatch, rank_items
from recoach.serving.reranking import ListReranker, recommend_reranked
from recoach.serving.snapshot import ModelSnapshot

MMR = RerankConfig(by="mmr", knob=0.6, depth=8)


@pytest.fixture(scope="module")
def model(build, dataset):
    return build("sasrec", dataset)


def request(snapshot, user, k):
    return snapshot.build_query(user=user, history=None, k=k, exclude_seen=True, candidates=None)


def test_a_served_list_is_the_re_ranked_one(dataset, model):
    reranker = ListReranker(MMR, model, dataset)
    snapshot = ModelSnapshot(
        dataset, {"base": model}, list(dataset.item_ids), "one", rerankers={"base": reranker}
    )
    past, rows = snapshot.user_histories, np.arange(5)
    batch = UserBatch(past, rows, dataset.trained_users[rows], exclude_seen=True)
    top = rank_items(model, batch, 8)
    expected = build_reranker(MMR, ItemFeatures(dataset, model))(Candidates(*top), 4).items
    queries = [request(snapshot, user, 4) for user in dataset.user_ids[:5]]
    lists = [found.items.tolist() for found in snapshot.recommend("base", queries)]
    assert lists == expected.tolist()
    assert lists != top.items[:, :4].tolist()
    assert reranker.milliseconds > 0
    table = recommend_reranked(model, dataset, dataset.user_ids[:5].to_list(), reranker, k=4)
    ids = [[str(dataset.item_ids[item]) for item in row] for row in lists]
    assert [str(item) for item in table["item_id"]] == [item for row in ids for item in row]


def test_a_list_does_not_depend_on_the_others_of_its_batch_nor_on_k(dataset, model):
    snapshot = ModelSnapshot(
        dataset,
        {"base": model},
        list(dataset.item_ids),
        "one",
        rerankers={"base": ListReranker(MMR, model, dataset)},
    )
    users = dataset.user_ids[:3].to_list()
    together = snapshot.recommend(
        "base", [request(snapshot, user, k) for user, k in zip(users, (3, 13, 9), strict=True)]
    )
    for user, found, k in zip(users, together, (3, 13, 9), strict=True):
        (alone,) = snapshot.recommend("base", [request(snapshot, user, 13)])
        assert found.items.tolist() == alone.items.tolist()[:k]
    (plain,) = ModelSnapshot(dataset, {"base": model}, list(dataset.item_ids), "one").recommend(
        "base", [request(snapshot, users[0], 13)]
    )
    assert alone.items[8:].tolist() != []
    (first,) = snapshot.recommend("base", [request(snapshot, users[0], 13)])
    assert first.items[8:].tolist() == plain.items[8:].tolist()
    assert sorted(first.items[:8].tolist()) == sorted(plain.items[:8].tolist())


def test_limits_of_exposure_are_fitted_on_the_lists_of_the_users(dataset, model):
    cap = RerankConfig(by="exposure_cap", knob=0.075, depth=13)
    reranker = ListReranker(cap, model, dataset)
    lists = recommend_reranked(model, dataset, None, reranker, k=10)
    plain = recoach.recommend(model, dataset, k=10)

    def largest_share(table):
        weights = 1 / np.log2(table["rank"].to_numpy() + 1.0)
        sums = np.bincount(table["item_id"].rank("dense").to_numpy(), weights=weights)
        return sums.max() / sums.sum()

    assert largest_share(lists) < 0.08 < largest_share(plain)


def test_profiles_are_those_of_the_history_of_a_query(dataset, model):
    config = RerankConfig(by="calibration", knob=0.9, depth=12)
    reranker = ListReranker(config, model, dataset)
    top = TopItems(*(values[:2] for values in candidates_of_users(dataset, model)))
    histories = targets_of(dataset, "test").past
    one, other = (histories.take_rows(np.array(rows)) for rows in ([0, 1], [5, 6]))
    assert reranker(top, one, 5).items.tolist() != reranker(top, other, 5).items.tolist()


def candidates_of_users(dataset, model):
    past = targets_of(dataset, "test").past
    batch = UserBatch(past, np.arange(2), np.array([0, 1]), exclude_seen=False)
    return rank_items(model, batch, 12)


def test_the_log_names_the_re_ranker_and_exploring_refuses_it():
    assert ServedPolicy(None, "mmr(0.3)").name == "top-k, mmr(0.3)"
    assert ServedPolicy().name == "top-k"
    with pytest.raises(ConfigError, match="Leave --rerank out"):
        ServedPolicy(0.5, "mmr(0.3)")
